"""A training that is killed before each of its writes, renames, removals and waits for the disk: the weights, rows and pointers of one that was not."""
import os
import sys
from unittest import mock

import pytest
import torch
from training import SPLITS, Tiny, assert_same, configured, made

from epuredgm.core import runs
from epuredgm.core.runs import RunFolder
from epuredgm.train.checkpoints import find_checkpoint
from epuredgm.train.loop import train_model
from epuredgm.train.trackers import JsonlTracker, Trackers

OBJECTIVES = (3.0, 1.0, 2.0)  # of the epochs: the second is the best


class Scripted(Tiny):
    "A model whose validations say what is written here."

    def __init__(self):
        super().__init__(width=4)
        self.register_buffer("done", torch.tensor(-1))

    def after_phase(self, name, progress, seen, generator): self.done += 1
    def figures(self, sums): return {"objective": OBJECTIVES[int(self.done)]}


# One batch an epoch: each is saved after the batch, and once more after its validation, under the same name.
OPTIONS = dict(epochs=len(OBJECTIVES), batch_size=len(SPLITS.train), checkpoint_minutes=1e-9, keep_checkpoints=1)


def train_into(folder, **options):
    config = configured(**OPTIONS | options)
    with mock.patch.object(runs, "environment", dict), RunFolder.create(folder, config, resume=True) as run:
        train_model(made(Scripted), SPLITS, config, run, Trackers([JsonlTracker()]), resume=True, progress=False)
    return run


def killed_before(count, folder):
    "Train in a process of its own, which ends without a word before its n-th change of the folder; False where it came to its end."
    if (child := os.fork()): return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = count

    def step(*_):
        nonlocal left
        if left == 0: os._exit(9)
        left -= 1

    def watch(event, arguments):
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")) and str(folder) in os.fsdecode(arguments[0]): step()

    try:
        os.fsync = step
        sys.addaudithook(watch)
        train_into(folder)
        os._exit(0)
    finally: os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("every", (7, pytest.param(1, marks=pytest.mark.slow)))
def test_killed_before_a_change_of_the_folder_it_ends_as_if_it_had_not_been(every, tmp_path):
    reference, count = train_into(tmp_path / "reference"), 0
    assert find_checkpoint(reference.path / "checkpoints", "best").name == "step-2"
    while killed_before(count, tmp_path / f"killed-{count}"):
        run = train_into(tmp_path / f"killed-{count}")
        assert_same(run, reference)
        assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["best", "latest", "step-2", "step-3"], count
        count += every
    assert count > 100
