"""The command line: exit status, what goes to standard error, and signals to a process of its own."""
import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, clean_environment, run_process

from epuredgm.cli import app

SMALL = {
    "model": {"type": "beta_vae", "nf": 4, "nf_max": 8, "stem": 4, "stages": 1, "latent_dim": 4},
    "data": {"type": "toy_epures", "n": 64, "n_val": 16},
    "training": {"epochs": 2, "batch_size": 16},
}


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def epuredgm(*arguments, cwd):
    "A command in this process, which has imported everything already."
    said = SimpleNamespace(stdout=io.StringIO(), stderr=io.StringIO())
    with contextlib.chdir(cwd), contextlib.redirect_stdout(said.stdout), contextlib.redirect_stderr(said.stderr), pytest.raises(SystemExit) as end:
        app([str(argument) for argument in arguments], prog_name="epuredgm")
    return SimpleNamespace(returncode=end.value.code or 0, stdout=said.stdout.getvalue(), stderr=said.stderr.getvalue())


def test_train_writes_the_run_named_after_the_file(configuration, tmp_path):
    def epuredgm(*arguments, cwd): return run_process("epuredgm", *arguments, cwd=cwd)
    result = epuredgm("train", configuration, "--set", "training.epochs=1", "data.n=32", "--quiet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "runs" / "small"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["n"] == 32
    assert (run / "checkpoints" / "latest").exists() and "runs/small" in result.stdout
    again = epuredgm("train", configuration, "--quiet", cwd=tmp_path)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "nothing.yaml"], "no such file"),
        (["train", "small.yaml", "--set", "training.lr=fast"], "should be a number (got 'fast')"),
        (["train", "small.yaml", "--set", "data.type=folder", "data.root_dir=nowhere"], "data."),
        (["sample", "runs/none"], "is not a run"),
        (["evaluate", "runs/none"], "is not a run"),
        (["params", "nothing.yaml"], "no such file"),
        (["sample", "runs/none", "--modle", "conditional"], "did you mean '--mode'?"),
        (["train"], "one configuration file"),
    ],
    ids=["file", "value", "section", "sample", "evaluate", "params", "option", "nothing"],
)
def test_a_mistake_gets_sentences_and_status_2(configuration, arguments, words):
    result = epuredgm(*arguments, cwd=configuration.parent)
    assert result.returncode == 2 and not result.stdout
    assert words in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == (3 if words == "data." else 1)  # a line a problem of a configuration


def wait_for(condition, process, seconds=300):
    end = time.time() + seconds
    while time.time() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["interrupted", "terminated"])
def test_a_signal_leaves_a_checkpoint_to_go_on_from(configuration, tmp_path, number, status):
    program = str(Path(sys.executable).parent / "epuredgm")
    command = [program, "train", str(configuration), "--set", "training.epochs=100000", "training.log_every=1", "training.check_every=100000", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "small" / "metrics.jsonl"
    try:
        assert wait_for(lambda: metrics.exists() and metrics.stat().st_size > 400, process), process.communicate()
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status, said
    assert "Traceback" not in said and "\r" not in said
    newest = (tmp_path / "runs" / "small" / "checkpoints" / "latest").read_text().strip()
    step = int(newest.removeprefix("step-"))
    resumed = epuredgm("train", configuration, "--set", f"training.max_steps={step + 3}", "training.epochs=100000", "--resume", "--quiet", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    steps = [record["step"] for record in map(json.loads, metrics.read_text().splitlines()) if "train/loss" in record]
    assert steps == list(range(1, step + 4))


def test_an_interrupted_sampling_is_not_in_the_way(configuration, tmp_path):
    assert epuredgm("train", configuration, "--set", "training.epochs=1", "--quiet", cwd=tmp_path).returncode == 0
    drawn = ("sample", "runs/small", "--num_samples", "3000", "--output_dir", "drawn")
    program, folder = str(Path(sys.executable).parent / "epuredgm"), tmp_path / "drawn"
    for number, status, left in ((signal.SIGINT, 130, False), (signal.SIGKILL, -signal.SIGKILL, True)):
        process = subprocess.Popen([program, *drawn], cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert wait_for(lambda: len(list(folder.glob("*/*.png"))) > 50, process), process.communicate()
            process.send_signal(number)
            _, said = process.communicate(timeout=300)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == status and "Traceback" not in said
        assert folder.exists() == left
    drawn = ("sample", "runs/small", "--num_samples", "2", "--output_dir", "drawn")
    refused = epuredgm(*drawn, cwd=tmp_path)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert epuredgm(*drawn, "--overwrite", cwd=tmp_path).returncode == 0
    assert len(list(folder.glob("*/*.png"))) == 10 and not (folder / ".samples.csv").exists()


def test_output_to_a_closed_pipe_is_no_traceback(configuration):
    command = f"{Path(sys.executable).parent / 'epuredgm'} --help | head -0"
    result = subprocess.run(["bash", "-c", command], env=clean_environment(), capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "Traceback" not in result.stderr
