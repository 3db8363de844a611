"""A wheel is whole: installed alone, in an empty folder, it has its configurations and its commands."""
import pytest
from conftest import ROOT, copy_repository, run_process


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    "The folder into which a wheel of the repository was installed."
    folder = tmp_path_factory.mktemp("packaging")
    copy = copy_repository(folder / "repository")
    made = run_process("python", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", copy)
    assert made.returncode == 0, made.stderr
    (wheel,) = (folder / "wheels").iterdir()
    result = run_process("python", "-m", "pip", "install", "-q", "--no-deps", "--target", folder / "installed", wheel)
    assert result.returncode == 0, result.stderr
    return folder / "installed"


def epuredgm(installed, folder, *words):
    result = run_process("python", installed / "bin" / "epuredgm", *words, cwd=folder, PYTHONPATH=installed)
    return result.returncode, result.stdout + result.stderr


def test_a_wheel_carries_every_configuration(installed):
    shipped = {path.name: path.read_bytes() for path in (installed / "epuredgm" / "configs").iterdir()}
    assert shipped == {path.name: path.read_bytes() for path in (ROOT / "configs").iterdir()}


def test_configurations_are_listed_shown_and_copied_in_an_empty_folder(installed, tmp_path):
    status, said = epuredgm(installed, tmp_path, "configs", "list")
    assert status == 0 and {path.stem for path in (ROOT / "configs").iterdir()} == {line.split()[0] for line in said.splitlines()}
    source = (ROOT / "configs" / "vae_toy_test.yaml").read_text(encoding="utf-8")
    assert epuredgm(installed, tmp_path, "configs", "show", "vae_toy_test") == (0, source.rstrip("\n") + "\n")
    assert epuredgm(installed, tmp_path, "configs", "copy", "vae_toy_test", "mine")[0] == 0
    assert (tmp_path / "mine" / "vae_toy_test.yaml").read_text(encoding="utf-8") == source


def test_a_name_stands_for_a_configuration_in_an_empty_folder(installed, tmp_path):
    small = ("--set", "data.n=16", "data.n_val=8", "training.batch_size=8")
    status, said = epuredgm(installed, tmp_path, "train", "vae_toy_test", "--quiet", *small)
    assert status == 0, said
    assert (tmp_path / "runs" / "vae_toy_test" / "config.yaml").is_file()
    status, said = epuredgm(installed, tmp_path, "train", "vae_toy_tets")
    assert status == 2 and "vae_toy_tets" in said and "vae_toy_test" in said and "epuredgm configs list" in said
