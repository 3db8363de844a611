"""What a run folder, a configuration or an output may hold that somebody else wrote: links, bombs, half a launch; and what is killed in between."""
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import run_process
from training import SPEC, SPLITS, made, new_run, trained

from epuredgm.core.config import SamplingConfig, in_run_dir, load_config, parse_config, read_yaml
from epuredgm.core.errors import ConfigError, DataError, EpureError, RunError
from epuredgm.core.runs import RunFolder, checkpoint_folders, remove
from epuredgm.data.designs import Designs, Splits
from epuredgm.data.folders import write_designs
from epuredgm.explore.samples import samples_folder
from epuredgm.train.checkpoints import find_checkpoint, load_checkpoint

VALUES = {"model": {"type": "beta_vae"}, "data": {"type": "toy_epures"}, "run_dir": "runs/x"}


# ---------------------------------------------------------------- killed in between
def test_a_checkpoint_that_stands_aside_is_a_checkpoint(tmp_path):
    run = trained_run(tmp_path)
    os.rename(run.path / "checkpoints" / "step-2", run.path / "checkpoints" / ".step-2.aside")
    config = parse_config(VALUES)
    run.write_text("environment.json", "{}")
    run.write_text("config.yaml", "model: {type: beta_vae}\ndata: {type: toy_epures}\n")
    with pytest.raises(RunError, match="2 steps"): RunFolder.create(run.path, config)
    with RunFolder.create(run.path, config, resume=True): assert list(checkpoint_folders(run.path / "checkpoints")) == [2]
    assert load_checkpoint(find_checkpoint(run.path / "checkpoints", "best")).step == 2


# ---------------------------------------------------------------- what a training depends on
def trained_run(folder, **options):
    run = new_run(folder)
    trained(run, max_steps=2, batch_size=52, **options)
    return run


@pytest.mark.parametrize("table", ("images", "names", "attributes"))
@pytest.mark.parametrize("part", ("train", "val"))
def test_other_designs_under_the_same_names_are_refused(part, table, tmp_path):
    run, kept = trained_run(tmp_path), getattr(SPLITS, part)
    images, names = kept.images.clone(), list(kept.names)
    if table == "images": images[3, 0, 0, 0] ^= 1
    if table == "names": names[0] = "another"
    measures = {"attributes": torch.zeros(len(kept), 1), "attribute_names": ("width",)} if table == "attributes" else {}
    other = Splits(**{"train": SPLITS.train, "val": SPLITS.val, part: Designs(SPEC, images, names=names, **measures)})
    with pytest.raises(RunError, match=f"the {'training' if part == 'train' else 'held-out'} split is not what"): trained(run, splits=other, resume=True, batch_size=52)


def test_a_configuration_is_held_against_that_of_the_checkpoint(tmp_path):
    run = trained_run(tmp_path)
    with pytest.raises(RunError, match="training.lr was 0.003 and is 0.1 now"): trained(run, resume=True, batch_size=52, lr=0.1)


def test_what_shifts_the_last_bits_is_told(tmp_path):
    run, threads = trained_run(tmp_path), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=f"threads {threads} before and {threads + 1} now"): trained(run, resume=True, batch_size=52)
    finally: torch.set_num_threads(threads)
    environment = run.read_json("environment.json")
    assert environment["training"]["threads"] == threads  # what the first part computed with stays


def test_rows_that_are_missing_are_told(tmp_path):
    run = trained_run(tmp_path)
    (run.path / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="metrics.jsonl holds 0 bytes of the"): trained(run, resume=True, batch_size=52)


def test_more_epochs_of_a_cosine_are_told(tmp_path):
    run = trained_run(tmp_path, scheduler="cosine")
    with pytest.warns(UserWarning, match="training.epochs was 3 and is 4 now"): trained(run, resume=True, batch_size=52, scheduler="cosine", epochs=4)


def test_a_second_thread_is_refused(tmp_path):
    refused = []

    class Meanwhile(made().__class__):
        def validate(self, batch, generator):
            def other():
                try: trained(new_run(tmp_path), epochs=1)
                except RunError as error: refused.append(str(error))
            thread = threading.Thread(target=other)
            thread.start(); thread.join()
            return super().validate(batch, generator)

    trained(new_run(tmp_path), made(Meanwhile), epochs=1, batch_size=103)
    assert "another thread" in refused[0]


def test_settings_of_torch_around_a_training_change_nothing(tmp_path):
    def weights(run): return load_checkpoint(find_checkpoint(run.path / "checkpoints")).models["model"]
    plain, odd = trained_run(tmp_path), new_run(tmp_path)
    model = made()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(): trained(odd, model, max_steps=2, batch_size=52)
    finally: torch.set_default_dtype(torch.float32)
    for name, tensor in weights(plain).items(): assert torch.equal(weights(odd)[name], tensor)


# ---------------------------------------------------------------- links
@pytest.mark.parametrize("resume", (False, True))
@pytest.mark.parametrize("name", (".lock", "metrics.jsonl", "checkpoints", "pictures"))
def test_a_link_in_a_run_is_not_written_through(name, resume, tmp_path):
    run, mine = RunFolder(tmp_path / "run"), tmp_path / "mine"
    for folder in (run.file("checkpoints/step-2/x").parent, mine, mine / "step-2"): folder.mkdir(exist_ok=True)
    for file, text in (("environment.json", "{}"), ("config.yaml", "model: {type: beta_vae}\ndata: {type: toy_epures}\n")): run.write_text(file, text)
    (mine / "precious").write_text("mine\n")
    remove(run.path / name)
    os.symlink(mine if name in ("checkpoints", "pictures") else mine / "precious", run.path / name)
    with suppress(RunError) if not resume else pytest.raises(RunError, match=name):  # a run that starts anew clears what it finds
        with RunFolder.create(run.path, parse_config(VALUES), resume=resume, overwrite=not resume) as folder:
            folder.append_metrics({"step": 1})
            folder.write_text("pictures/x.png", "x")
            folder.write_text("checkpoints/latest", "step-2")
    assert sorted(path.name for path in mine.rglob("*")) == ["precious", "step-2"] and (mine / "precious").read_text() == "mine\n"


def test_a_linked_folder_of_a_component_is_not_written_through(tmp_path):
    (tmp_path / "mine").mkdir(); (tmp_path / "out").mkdir()
    os.symlink(tmp_path / "mine", tmp_path / "out" / "left")
    with pytest.raises(DataError, match="out/left is a link"): write_designs(SPLITS.val, tmp_path / "out")
    assert not any((tmp_path / "mine").iterdir())


def test_a_run_says_where_its_samples_go_only_nearby(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def asked(place): return samples_folder(tmp_path / "elsewhere" / "run", SamplingConfig(samples_dir=place, mode="unconditional"))
    assert asked(None) == tmp_path / "elsewhere/run/samples/unconditional" and asked("drawn") == Path("drawn/unconditional")
    for place in ("/somewhere", "../drawn", "~/drawn"):
        with pytest.raises(EpureError, match="samples_dir.*--output_dir"): asked(place)


# ---------------------------------------------------------------- configurations
def test_aliases_that_stand_for_a_billion_values_are_refused_at_once():
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 10)) + "lr: *a9\n"
    with pytest.raises(ConfigError, match="aliases stand for more than"): read_yaml(bomb)
    assert read_yaml("a: &a [1, 2]\nb: *a\nc: &c {d: 1}\ne: {<<: *c, f: 2}") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}, "e": {"d": 1, "f": 2}}


def test_text_of_an_override_and_of_a_folder_stays_what_it_is(tmp_path):
    config = parse_config(VALUES, overrides=["run_dir=w/data #2", "training.lr=1e-3"])
    assert (config.run_dir, config.training.lr) == ("w/data #2", 1e-3)
    (tmp_path / "x.yaml").write_text("model: {type: beta_vae}\ndata: {type: toy_epures}\n")
    for name in ("data #2", "2024", "null", "a: b"): assert load_config(tmp_path / "x.yaml", run_dir=name).run_dir == name
    with pytest.raises(ConfigError, match="run_dir.*2024.*quotes"): parse_config(VALUES, overrides=["run_dir=2024"])
    with pytest.raises(ConfigError, match="run_dir"): in_run_dir(config, os.fsdecode(b"caf\xe9"))


@pytest.mark.parametrize("where", [lambda p: RunFolder.open(p), lambda p: load_config(p), lambda p: write_designs(SPLITS.val, p), lambda p: find_checkpoint(Path("none"), p)])
def test_a_home_of_nobody_is_a_sentence(where):
    with pytest.raises(ConfigError, match="~nosuchuser.*home folder"): where("~nosuchuser/x")


def test_the_home_folder_is_meant_wherever_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_designs(SPLITS.val, "~/out")
    assert (tmp_path / "out" / "left").is_dir()
    run = trained_run(tmp_path)
    assert find_checkpoint(Path("none"), f"~/{run.path.name}/checkpoints/step-2") == run.path / "checkpoints" / "step-2"


# ---------------------------------------------------------------- the command
def test_a_closed_stream_or_one_without_letters_stops_nothing(tmp_path):
    code = "import os, sys; from epuredgm.cli import open_streams; open_streams(); print('é', file=sys.stderr); print('é', open(os.devnull).fileno() > 2)"
    command = f'{sys.executable} -c "{code}"'
    result = run_process("bash", "-c", f"{command} 2>&-; {command}", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (result.stdout, result.stderr) == ("\\xe9 True\n" * 2, "\\xe9\n")
