"""A wheel is whole: installed alone, in an empty folder, it has its configurations and its commands, and the guides run."""
import ast
import json
import re
import shlex

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


GUIDES = sorted((ROOT / "nbs" / "guides").glob("*.ipynb"))


def code_of(guide):
    "The code that the page of a guide prints, and the code that it hides."
    cells = [cell for cell in json.loads(guide.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    return [source for source in sources if "#| hide" not in source], [source for source in sources if "#| hide" in source]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_prints_whatever_it_uses(guide):
    printed, hidden = code_of(guide)
    names = [node for source in printed for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    made = {getattr(node, "id", None) or getattr(node, "name", None) for source in hidden for node in ast.walk(ast.parse(source.replace("%", "#")))
            if isinstance(node, ast.FunctionDef) or isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    assert not {node.id for node in names if isinstance(node.ctx, ast.Load)} & (made - own)
    cells = json.loads(guide.read_text(encoding="utf-8"))["cells"]
    said = json.dumps([output.get("text", output.get("data", {}).get("text/plain")) for cell in cells for output in cell.get("outputs", [])])
    assert "/tmp" not in said and "/home" not in said


@pytest.mark.slow
@pytest.mark.parametrize("guide", [path for path in GUIDES if code_of(path)[0]], ids=lambda path: path.stem)
def test_a_guide_runs_as_printed_in_an_empty_folder(installed, guide, tmp_path):
    script = "\n".join(["from IPython.display import display", *code_of(guide)[0]])
    result = run_process("python", "-c", script, cwd=tmp_path, timeout=1800, PYTHONPATH=installed, MPLBACKEND="Agg")
    assert result.returncode == 0, result.stderr[-4000:]


# What a reader has when they type the commands of the pages: drawings, pictures with measures, layout trees.
FOLDERS = """
import json, torch
from pathlib import Path
from torchvision.io import write_png
from epuredgm.data.pages import write_pages
from epuredgm.data.toy_epures import write_toy_epures
for seed, name in enumerate(("epure", "other_epures", "not_measured")): write_toy_epures(f"data/{name}", n=40, seed=seed)
write_pages("trees", 5)
Path("data/pictures").mkdir()
random, measures = torch.Generator().manual_seed(0), {}
for number in range(40):
    width = int(torch.randint(8, 100, (), generator=random))
    picture = torch.zeros(1, 128, 128, dtype=torch.uint8)
    picture[:, 40:80, :width] = 255
    write_png(picture, f"data/pictures/{number:03}.png")
    measures[f"{number:03}.png"] = {"width": width, "area": 40 * width}
Path("data/measures.json").write_text(json.dumps(measures))
"""
# Full trainings of hours are shown that they start; what needs the files of others is drawn by the program.
LESS = {"train vae_epure_full": "--set training.max_steps=4", "train my_vae.yaml": "--set training.max_steps=4",
        "train config-vae": "--set training.max_steps=2 data.max_height=128",
        "classify polymnist_beta_vae": "--set data.images=null data.labels=null data.backgrounds=null data.n=200 data.n_val=50"}


def blocks_of(page, language):
    "The blocks of code in a language that the text of a page shows."
    text = ["".join(cell["source"]) for cell in json.loads(page.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "markdown"]
    return re.findall(rf"```{language}\n(.*?)```", "\n".join(text), re.DOTALL)


COMMANDS = {page: [line for line in "".join(blocks_of(page, "bash")).splitlines() if line.startswith("epuredgm ")] for page in (ROOT / "nbs" / "index.ipynb", *GUIDES)}
SMALL_DEMO = "train demo --quiet --set data.n=128 data.n_val=64 training.epochs=1 training.max_minutes=null".split()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, lines in COMMANDS.items() if lines], ids=lambda path: path.stem)
def test_the_commands_of_a_page_run_as_printed_in_an_empty_folder(installed, page, tmp_path):
    made = run_process("python", "-c", FOLDERS, cwd=tmp_path, PYTHONPATH=installed)
    assert made.returncode == 0, made.stderr
    if page.stem != "index": assert epuredgm(installed, tmp_path, *SMALL_DEMO)[0] == 0  # the first page makes it
    for block in blocks_of(page, "yaml"):
        if name := re.match(r"# (\w+\.yaml):", block): (tmp_path / name[1]).write_text(block)
    for line in COMMANDS[page]:
        words = shlex.split(line, comments=True)[1:]
        status, said = epuredgm(installed, tmp_path, *words, *shlex.split(LESS.get(" ".join(words[:2]), "")))
        assert status == 0, f"{line}\n{said[-4000:]}"
