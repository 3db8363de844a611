"""A training of two processes into one folder: they agree on every weight and every buffer, those that no gradient moves included."""
import json
import socket
from datetime import timedelta

import pytest
import torch
from accelerate import PartialState
from conftest import run_process

from epuredgm.core.errors import RunError
from epuredgm.train.distributed import Distributed

TRAIN = """
import hashlib
import json
import os
import sys
from pathlib import Path
from epuredgm.core.config import parse_config
from epuredgm.core.errors import RunError
from epuredgm.train.callbacks import Callback
from epuredgm.train.run import train

class Leave(Callback):
    "Leave what the model of this process holds at the end."

    def on_end(self, state):
        held = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state.model.state_dict().items()}
        held["train_gap"] = state.model.train_gap.tolist()
        leave("held", held)

def leave(name, value): Path(sys.argv[1], f"{name}_{os.environ['RANK']}.json").write_text(json.dumps(value))

config = parse_config({
    "model": {"type": "wgan_gp", "nf": 4, "nf_max": 8, "stem": 4, "stages": 1, "latent_dim": 4, "n_critic": 2},
    "data": {"type": "toy_epures", "n": 60, "n_val": 10},
    "training": {"epochs": 2, "batch_size": 8, "device": "cpu"}, "run_dir": f"{sys.argv[1]}/run"})
run = train(config, progress=False, callbacks=[Leave()])
leave("run", [str(run.path), run.step])
try: train(config, progress=False)
except RunError as error: leave("refused", str(error))
"""


def test_two_processes_agree_in_weights_and_buffers(tmp_path):
    (tmp_path / "training.py").write_text(TRAIN)
    result = run_process("torchrun", "--standalone", "--nproc_per_node", "2", tmp_path / "training.py", tmp_path, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stdout + result.stderr
    def left(name): return [json.loads((tmp_path / f"{name}_{rank}.json").read_text()) for rank in (0, 1)]
    first, second = left("held")
    assert first == second
    assert left("run")[0] == left("run")[1]
    main, other = left("refused")
    assert f"{tmp_path / 'run'} holds a run" in main and f"{tmp_path / 'run'}: the main process was refused" in other
    assert first["train_gap"][1] > 60  # designs of both processes were counted: 8 a batch, of which a share of 0.95 is kept


def test_processes_that_nobody_starts_are_awaited_for_a_while(monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items(): monkeypatch.setenv(name, value)
    PartialState._reset_state()
    try:
        with pytest.raises(RunError, match=f"process 0 of 2 did not find the others at 127.0.0.1:{port}.*unset WORLD_SIZE"): Distributed(torch.device("cpu"), timedelta(seconds=1))
    finally: PartialState._reset_state()
    assert f"waits for the others at 127.0.0.1:{port}" in capsys.readouterr().out
