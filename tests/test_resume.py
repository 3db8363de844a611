"""A training that is killed, stopped or runs out of disk, in a process of its own, and then goes on: the same weights, the same lines."""
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import clean_environment

from epuredgm.core.errors import RunError
from epuredgm.train.checkpoints import find_checkpoint, list_checkpoints, load_checkpoint, load_latest

KILLS = int(os.environ.get("EPUREDGM_KILLS", "3"))  # the benchmark asks for twenty
STEPS = 156  # batches of the whole training

# Two players have an optimiser each, turns of their own, an average of one of them, and a buffer that no gradient moves.
MODELS = {
    "beta_vae": {"model": {"type": "beta_vae", "nf": 8, "nf_max": 16, "stem": 2, "stages": 2, "latent_dim": 4, "mask_warmup_epochs": 2, "kl_warmup_epochs": 3}},
    "wgan_gp": {"model": {"type": "wgan_gp", "nf": 8, "nf_max": 16, "stem": 2, "stages": 2, "latent_dim": 4, "n_critic": 3},
                "training": {"phases": {"critic": {"lr": 4e-4}, "generator": {"clip_grad_norm": 1.0}}}},
}

# Every part of the learner that has a state is on, and a checkpoint is written every 0.1 s: many a kill falls into one.
TRAIN = """
import json
import sys
import torch
from epuredgm.core.config import DataConfig, parse_config
from epuredgm.core.errors import EpureError
from epuredgm.core.registry import datasets
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Designs, Splits
from epuredgm.train.run import train

class Stripes(DataConfig): type: str = "stripes"

def stripes(n, *key):
    place = torch.rand(n, 2, 1, 1, generator=generator(*key)) * 12
    pixels = (255 * torch.exp(-(torch.arange(16.) - place).square() / 4)).to(torch.uint8)
    return Designs(DesignSpec(("one", "two"), conditions=("place",)), pixels.expand(n, 2, 16, 16), place[:, 0, 0] / 12)

@datasets.register("stripes", config=Stripes)
def build(config, statistics=None): return Splits(stripes(156, "train"), stripes(20, "val"))

given = json.loads(sys.argv[2])
config = parse_config({
    "model": given["model"], "data": {"type": "stripes"},
    "training": {"epochs": 4, "batch_size": 4, "accumulation_steps": 2, "lr": 1e-3, "scheduler": "cosine", "lr_warmup_steps": 5, "ema_decay": 0.9,
                 "log_every": 4, "checkpoint_minutes": 1 / 600, "keep_checkpoints": 2, "check_every": 2, "device": "cpu", **given.get("training", {})},
    "tracking": {"triplets": 0}, "run_dir": sys.argv[1]})
try: train(config, resume=True, progress=False)
except EpureError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


def start(run, family="beta_vae", **options):
    "A process that trains into the folder, from where it stands."
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(run), json.dumps(MODELS[family])], env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, **options)


def finish(process, timeout=180):
    "Exit status, and all that it said."
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def lines(run):
    "The whole lines of its metrics so far."
    try: return (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError: return []


def wait_for_lines(process, run, count):
    "Until so many lines are written, or the process has ended."
    deadline = time.monotonic() + 120
    while len(lines(run)) < count and process.poll() is None:
        assert time.monotonic() < deadline, f"only {len(lines(run))} of {count} lines came"
        time.sleep(0.002)


def result(run):
    "The weights and their average, bit by bit, what is best, and every line without its times."
    latest = find_checkpoint(run / "checkpoints")
    sums = {name: hashlib.sha256((latest / name).read_bytes()).hexdigest() for name in ("model.safetensors", "ema.safetensors")}
    records = [{name: value for name, value in json.loads(line).items() if name != "time_per_epoch"} for line in lines(run)]
    return latest.name, sums, find_checkpoint(run / "checkpoints", "best").name, records


def run_without_interruption(folder, family):
    "Train a family to its end."
    status, said = finish(start(folder, family))
    assert status == 0, said
    assert find_checkpoint(folder / "checkpoints").name == f"step-{STEPS}"
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    "The run that nothing happened to."
    return run_without_interruption(tmp_path_factory.mktemp("resume") / "uninterrupted", "beta_vae")


def stop(run, number):
    "Trains a while, sends a signal, and gives back the exit status and what was said."
    process = start(run)
    wait_for_lines(process, run, 30)
    process.send_signal(number)
    return finish(process)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    "A run that SIGTERM stopped, the exit status, and what was said."
    run = tmp_path_factory.mktemp("resume") / "stopped"
    return run, *stop(run, signal.SIGTERM)


def goes_on_to(run, uninterrupted, family="beta_vae"):
    "Resumes the run and holds its end against the other's."
    status, said = finish(start(run, family))
    assert status == 0, said
    assert result(run) == result(uninterrupted)


def killed_at_random_moments(run, uninterrupted, family):
    "Kills a training again and again, and lets it go on."
    seed = int(os.environ.get("EPUREDGM_KILL_SEED", time.time_ns() % 10**6))
    print(f"EPUREDGM_KILL_SEED={seed}")  # shown when the test fails
    moments, killed = random.Random(seed), 0
    part = STEPS // (KILLS + 1)  # in each life the run gets a part farther, so that it is still under way when it is killed
    for life in range(KILLS):
        process = start(run, family)
        wait_for_lines(process, run, life * part + moments.randint(1, part))
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        status, said = finish(process)
        assert status in (-signal.SIGKILL, 0), said
        killed += status == -signal.SIGKILL
        for path in list_checkpoints(run / "checkpoints"): load_checkpoint(path)  # whatever has the name of a checkpoint is whole
    assert killed > KILLS / 2
    goes_on_to(run, uninterrupted, family)
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]  # nothing half-written is left


def test_killed_at_random_moments(uninterrupted, tmp_path):
    killed_at_random_moments(tmp_path / "killed", uninterrupted, "beta_vae")


def test_two_players_killed_at_random_moments(tmp_path):
    killed_at_random_moments(tmp_path / "killed", run_without_interruption(tmp_path / "uninterrupted", "wgan_gp"), "wgan_gp")


def check_stopped(run, status, said, number, expected):
    "That a signal ended the process as it always does, after a checkpoint of the last step."
    assert status == expected, said
    checkpoint = load_latest(run / "checkpoints")
    assert checkpoint.step == json.loads(lines(run)[-1])["step"]
    assert f"stopped by {number.name}" in said and f"step-{checkpoint.step} is saved" in said


def test_sigterm_leaves_a_checkpoint_of_the_last_step(stopped, uninterrupted, tmp_path):
    run, status, said = stopped
    check_stopped(run, status, said, signal.SIGTERM, 128 + signal.SIGTERM)
    goes_on_to(shutil.copytree(run, tmp_path / "stopped"), uninterrupted)


def test_sigint_leaves_a_checkpoint_of_the_last_step(tmp_path):
    run = tmp_path / "interrupted"
    check_stopped(run, *stop(run, signal.SIGINT), signal.SIGINT, -signal.SIGINT)


def test_a_full_disk_leaves_the_previous_checkpoint(stopped, uninterrupted, tmp_path):
    run = shutil.copytree(stopped[0], tmp_path / "full")
    before = load_latest(run / "checkpoints")
    # A limit on the size of files: unprivileged, and the write fails in the middle of the file as on a full disk.
    limit = (before.path / "state.pt").stat().st_size // 2
    status, said = finish(start(run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))
    assert status == 2, said
    assert "could not be written" in said and f"{before.path.name} is untouched" in said, said
    assert load_latest(run / "checkpoints").step == before.step
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]  # the room is given back
    goes_on_to(run, uninterrupted)


def test_a_damaged_latest_checkpoint_is_not_passed_over(uninterrupted, tmp_path):
    run = shutil.copytree(uninterrupted, tmp_path / "damaged")
    older, latest = list_checkpoints(run / "checkpoints")[-2:]
    content = bytearray((latest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (latest / "model.safetensors").write_bytes(content)
    status, said = finish(start(run))
    assert status == 2 and "its SHA-256 differs" in said and f"{older.name} is whole" in said, said
    (run / "checkpoints" / "latest").write_text(older.name)
    goes_on_to(run, uninterrupted)


class Malicious:
    "Makes a folder when it is unpickled."

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def test_a_pickle_is_refused_and_not_executed(uninterrupted, tmp_path):
    run, proof = tmp_path / "pickled", tmp_path / "executed"
    shutil.copytree(uninterrupted, run)
    latest = find_checkpoint(run / "checkpoints")
    content = pickle.dumps(Malicious(proof), protocol=2)
    manifest = json.loads((latest / "manifest.json").read_text())
    manifest["files"]["state.pt"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (latest / "manifest.json").write_text(json.dumps(manifest))
    (latest / "state.pt").write_bytes(content)
    with pytest.raises(RunError, match="refused"): load_latest(run / "checkpoints")
    assert not proof.exists()
