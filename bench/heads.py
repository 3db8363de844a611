"""What an epoch of a regression head costs after the first: against a plain loop over a table of latents."""
import time
from pathlib import Path

import numpy as np
import torch

from epuredgm.core.config import parse_config
from epuredgm.core.runs import RunFolder
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Splits
from epuredgm.train.latents import LatentTable
from epuredgm.train.loop import default_callbacks, train_epoch
from epuredgm.train.run import build_model
from epuredgm.train.state import TrainState
from epuredgm.train.trackers import make_trackers
from timing import Result, at_most, in_turn, median_ratio


class PlainLoop:
    "What a researcher would write for vectors: shuffle, index, loss, step; then both errors on the held-out ones, and the weights on disk."

    def __init__(self, model, train: LatentTable, val: LatentTable, config, file: Path):
        self.model, self.train, self.val, self.file, self.size = model, train, val, file, config.training.batch_size
        self.optimizer = torch.optim.AdamW(model.parameters(), config.training.lr, weight_decay=config.training.weight_decay, fused=True)

    def __call__(self):
        self.model.train()
        for indices in torch.randperm(len(self.train)).split(self.size):
            loss = self.model.loss(self.train.batch(indices), None, None)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        with torch.no_grad():
            for indices in torch.arange(len(self.val)).split(self.size):
                self.model.validate(self.val.batch(indices), None)
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, self.file)


class TrainingEpochs:
    "Epochs of the training loop, one per call, with everything that belongs to them: validation, records, checkpoints."

    def __init__(self, model, data: Splits, config, run):
        self.state, self.data = TrainState(model, config.training, len(data.train)), data
        self.callbacks = default_callbacks(self.state, data, config, run, make_trackers(config, run), progress=False)
        self.callbacks.start(self.state)

    def __call__(self): train_epoch(self.state, self.data, self.callbacks)


def random_table(rows: int, latent: int, seed: int) -> LatentTable:
    "Latents, and five targets that a network can find in them."
    draw = np.random.default_rng(seed)
    z, slope = draw.normal(size=(rows, latent)), np.random.default_rng(0).normal(size=(latent, 5))
    return LatentTable(DesignSpec(("latents",), latent, 1, 1), np.float32(z)[:, :, None, None], attributes=np.tanh(z @ slope / latent**0.5), attribute_names="abcde")


def head_epochs(tiny: bool, folder: Path) -> list[Result]:
    "An epoch over cached latents against the plain loop, in turn: same head, table and batches."
    rows, latent, rounds = (64, 8, 2) if tiny else (1600, 64, 20)
    config = parse_config({
        "model": {"type": "regression_head", "hidden_dims": [256, 128]},
        "data": {"type": "latents", "vae": {"checkpoint": "none"}, "targets": list("abcde"), "designs": {"type": "run"}}, "run_dir": str(folder / "head"),
        "training": {"epochs": 1_000_000, "batch_size": 16, "lr": 1e-4, "precision": "float32", "channels_last": False}})
    data = Splits(random_table(rows, latent, 1), random_table(max(8, rows // 10), latent, 2)).to("cpu")
    def head():
        model = build_model(config, data.spec)
        model.fit_statistics(data.train)
        return model
    run = RunFolder.create(config.run_dir, config, overwrite=True)
    training = TrainingEpochs(head(), data, config, run)
    start = time.perf_counter()
    times = in_turn({"training": training, "plain": PlainLoop(head(), data.train, data.val, config, folder / "plain.pt")}, rounds)
    details = {name: [round(one, 4) for one in values] for name, values in times.items()} | {"seconds": round(time.perf_counter() - start, 1)}
    what = f"epoch of a head on {rows} cached latents of {latent}, batches of 16, against a plain loop"
    return [at_most(what, median_ratio(times, "training", "plain"), 1.5, "×", **details)]
