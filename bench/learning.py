"""The cost of a training step: against a hand-written loop, against another library, and by precision and memory layout."""
import statistics
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import parse_config
from epuredgm.core.runs import RunFolder
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Designs, Splits
from epuredgm.models.contract import GenerativeModel, Phase
from epuredgm.train.loop import default_callbacks, training_step, updates_left
from epuredgm.train.precision import processor_flags, resolve_precision
from epuredgm.train.run import build_model
from epuredgm.train.state import TrainState
from epuredgm.train.trackers import make_trackers
from timing import Result, at_least, at_most, in_turn, median_difference, median_ratio

COMPONENTS = ("group_nc", "group_km", "bt", "fpu", "tpc")
LAYERS = {"nf": 32, "nf_max": 256, "latent_dim": 32}
TINY_LAYERS = {"nf": 4, "nf_max": 8, "latent_dim": 4}


def random_splits(n: int) -> Splits:
    "Drawings without meaning: what a step costs does not depend on what it sees."
    spec = DesignSpec(COMPONENTS, height=64, width=32)
    draw = np.random.default_rng(0)
    images = (draw.random((n, 5, 64, 32)) < 0.1).astype(np.uint8) * draw.integers(0, 256, (n, 5, 64, 32), dtype=np.uint8)
    designs = Designs(spec, torch.from_numpy(images))
    return Splits(designs, designs.subset(range(min(n, 128))))


def configuration(folder: Path, batch_size: int, model: dict, **training):
    "A configuration for these splits; the data section only names the components."
    return parse_config({
        "model": {"type": "beta_vae", **model},
        "data": {"type": "folder", "root_dir": str(folder), "component_dirs": list(COMPONENTS)},
        "training": {"batch_size": batch_size, "epochs": 1_000_000, **training},
        "tracking": {"triplets": 0},
        "run_dir": str(folder / "run"),
    })


class Training:
    "The training loop's own updates, one after the other, with its reading of metrics and its epochs."

    def __init__(self, model, splits: Splits, config):
        run = RunFolder.create(config.run_dir, config, overwrite=True)
        self.state, self.data = TrainState(model, config.training, len(splits.train)), splits
        self.callbacks = default_callbacks(self.state, splits, config, run, make_trackers(config, run), progress=False)
        self.callbacks.start(self.state)
        self.updates = iter(())

    def __call__(self, n: int = 1):
        for _ in range(n):
            if (following := next(self.updates, None)) is None:
                at = self.state.position
                self.state.position = type(at)(at.step, at.epoch + (at.batch > 0), 0)
                self.updates = updates_left(self.state, self.data.train)
                following = next(self.updates)
            self.callbacks.step(self.state, training_step(self.state, *following))


class HandWritten:
    "What a researcher would write: index, loss, backward, clip, step."

    def __init__(self, model, designs: Designs, config, precision: str):
        self.model = model.to(memory_format=torch.channels_last) if config.training.channels_last else model
        self.designs, self.config, self.dtype = designs, config, torch.bfloat16 if precision == "bf16" else None
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.training.lr, weight_decay=config.training.weight_decay, fused=True)
        self.random, self.order, self.at = torch.Generator().manual_seed(0), torch.randperm(len(designs)), 0
        self.model.train()

    def batch(self):
        size = self.config.training.batch_size
        if self.at + size > len(self.order):
            self.order, self.at = torch.randperm(len(self.order)), 0
        batch = self.designs.batch(self.order[self.at:self.at + size])
        self.at += size
        if self.config.training.channels_last:
            batch.x = batch.x.contiguous(memory_format=torch.channels_last)
        return batch

    def __call__(self, n: int = 1):
        for step in range(n):
            batch = self.batch()
            with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
                loss = self.model.losses(batch, Progress(step, 0, 0.0, 100), self.random)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.training.clip_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


class OneLayer(GenerativeModel):
    "The least that is a model: what remains is the training loop."

    def __init__(self, spec):
        super().__init__(spec)
        self.layer = torch.nn.Linear(spec.height * spec.width, 1)

    def phases(self): return [Phase("main", list(self.parameters()), self.losses)]

    def losses(self, batch, progress, generator):
        "A squared error of nothing in particular."
        loss = self.layer(batch.x.flatten(2)).square().mean()
        return {"loss": loss, "recon_loss": loss.detach()}


def step_overhead(tiny: bool, folder: Path) -> list[Result]:
    "A training step against a hand-written one: same model, batch, data and precision, in turn."
    pairs, batch_size = (3, 8) if tiny else (20, 128)  # a step is six seconds where there is no bf16
    splits = random_splits(4 * batch_size if tiny else 2048)
    config = configuration(folder / "full", batch_size, TINY_LAYERS if tiny else LAYERS, log_every=1)
    model = build_model(config, splits.spec)
    training = Training(deepcopy(model), splits, config)
    by_hand = HandWritten(model, splits.train, config, training.state.precision.name)
    times = in_turn({"training": training, "hand": by_hand}, pairs, warm_up=2)
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    full = at_most("training step over a hand-written one", median_ratio(times, "training", "hand"), 1.05, "×",
                   pairs=pairs, milliseconds=medians, precision=training.state.precision.name, batch_size=batch_size)

    pairs, steps = 3 * pairs, 20
    config = configuration(folder / "one", batch_size, {}, precision="float32", log_every=steps, channels_last=False)
    training = Training(OneLayer(splits.spec), splits, config)
    by_hand = HandWritten(OneLayer(splits.spec), splits.train, config, "float32")
    times = in_turn({"training": lambda: training(steps), "hand": lambda: by_hand(steps)}, pairs, warm_up=2)
    medians = {name: 1000 / steps * statistics.median(values) for name, values in times.items()}
    one = at_most("the same with one layer, more", 1000 / steps * median_difference(times, "training", "hand"), 1.0, "ms",
                  pairs=pairs, steps=steps, milliseconds=medians)
    return [full, one]


def precision(tiny: bool, folder: Path) -> list[Result]:
    "Designs a second by precision and memory layout, and what `auto` chose."
    emulated = resolve_precision("auto", torch.device("cpu")) == "float32"  # then a step with bf16 takes a minute
    rounds, batch_size = (1, 8) if tiny else (1 if emulated else 8, 128)
    splits, works, trainings = random_splits(4 * batch_size), {}, {}
    for number in ("float32", "bf16"):
        for layout in (True, False):
            name = f"{number}, {'channels_last' if layout else 'contiguous'}"
            config = configuration(folder / name.replace(", ", "-"), batch_size, TINY_LAYERS if tiny else LAYERS, precision=number, channels_last=layout)
            works[name] = trainings[name] = Training(build_model(config, splits.spec), splits, config)
    times = in_turn(works, rounds)
    speed = {name: batch_size / statistics.median(values) for name, values in times.items()}
    results = [Result(f"designs a second, {name}", value, "1/s") for name, value in speed.items()]
    chosen = resolve_precision("auto", torch.device("cpu"))
    best = max(("float32", "bf16"), key=lambda number: speed[f"{number}, channels_last"])
    flags = sorted(processor_flags() & {"avx512_bf16", "amx_bf16", "amx_tile", "avx512f"})
    results.append(Result(f"`auto` is {chosen}; the faster one over the other", max(
        speed[f"{best}, channels_last"] / speed[f"{other}, channels_last"] for other in ("float32", "bf16")), "×",
        f"auto is the faster one ({best})", chosen == best, {"flags": flags}))
    return results


def loss_curves(tiny: bool, folder: Path) -> list[Result]:
    "Whether bf16 learns as float32 does: the loss of both over the same batches and noise."
    steps, batch_size = (4, 8) if tiny else (60, 64)
    splits, curves = random_splits(4 * batch_size), {}
    for number in ("float32", "bf16"):
        config = configuration(folder / number, batch_size, TINY_LAYERS if tiny else {**LAYERS, "stem": 2}, precision=number, log_every=1)
        training, seen = Training(build_model(config, splits.spec), splits, config), []
        for _ in range(steps):
            training()
            seen.append(RunFolder.open(config.run_dir).read_metrics()[-1]["train/loss"])
        curves[number] = seen
    late = slice(steps // 2, None)
    difference = statistics.mean(curves["bf16"][late]) / statistics.mean(curves["float32"][late]) - 1
    return [at_most("loss with bf16 beside float32, off by", abs(difference), 0.02, "", curves=curves)]


def install_pythae(folder: Path) -> None:
    "pythae into a folder of its own, without its requirements: those are here already."
    if (folder / "pythae").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--target", str(folder), "pythae==0.1.2", "imageio"]
    subprocess.run(command, check=True)


def pythae_trainer(model, images: torch.Tensor, batch_size: int, folder: Path):
    "pythae's trainer on a β-VAE made of the same layers."
    import logging

    from pythae.data.datasets import BaseDataset
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.getLogger("pythae").setLevel(logging.ERROR)
    everything = torch.ones(1, len(COMPONENTS), dtype=torch.bool)

    class SameEncoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.layers = model.encoder

        def forward(self, x):
            posterior = self.layers(x, everything.expand(len(x), -1))
            return ModelOutput(embedding=posterior.mean, log_covariance=posterior.logvar)

    class SameDecoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers, self.likelihood = model.decoder, model.likelihood

        def forward(self, z):
            return ModelOutput(reconstruction=self.likelihood.mean(self.layers(z)))

    theirs = BetaVAE(BetaVAEConfig(input_dim=tuple(images.shape[1:]), latent_dim=model.latent_dim, beta=4.0), encoder=SameEncoder(), decoder=SameDecoder())
    training = BaseTrainerConfig(output_dir=str(folder), per_device_train_batch_size=batch_size, learning_rate=2e-4, no_cuda=True)
    trainer = BaseTrainer(theirs, train_dataset=BaseDataset(images, torch.zeros(len(images))), training_config=training, callbacks=[])
    trainer.prepare_training()
    # Its bars and messages go; what is measured is its training step.
    trainer.callback_handler.callbacks = [one for one in trainer.callback_handler.callbacks if "Progress" not in type(one).__name__ and "Metric" not in type(one).__name__]
    return trainer


def against_pythae(tiny: bool, folder: Path, installed: Path) -> list[Result]:
    "Designs per second of this training and of pythae's trainer, same layers and data, an epoch each in turn."
    install_pythae(installed)
    sys.path.append(str(installed))
    rounds, batch_size, batches = (1, 8, 2) if tiny else (5, 128, 3)
    splits, layers = random_splits(batches * batch_size), TINY_LAYERS if tiny else LAYERS
    # pythae's model completes nothing: here neither, so that both compute the same.
    plain = {**layers, "mask_input": False, "mask_objective": "reconstruction", "max_mask_prob": 0.0, "cond_drop": 0.0}
    trainings = {}
    for name, number in (("float32", "float32"), ("auto", "auto")):
        config = configuration(folder / name, batch_size, plain, precision=number)
        trainings[name] = Training(build_model(config, splits.spec), splits, config)
    images = splits.train.batch(slice(0, len(splits.train))).x
    trainer = pythae_trainer(build_model(configuration(folder / "theirs", batch_size, plain), splits.spec), images, batch_size, folder)
    works = {name: (lambda steps=training: steps(batches)) for name, training in trainings.items()} | {"pythae": lambda: trainer.train_step(1)}
    times = in_turn(works, rounds)
    speed = {name: batches * batch_size / statistics.median(values) for name, values in times.items()}
    chosen = trainings["auto"].state.precision.name
    results = [Result(f"designs a second, {name}", value, "1/s") for name, value in speed.items()]
    results.append(at_least("float32 over pythae", median_ratio(times, "pythae", "float32"), 1.3, "×"))
    ratio = median_ratio(times, "pythae", "auto")
    if chosen == "bf16":
        results.append(at_least(f"default precision ({chosen}) over pythae", ratio, 2.0, "×"))
    else:
        results.append(Result(f"default precision ({chosen}) over pythae; this processor has no bf16", ratio, "×"))
    return results
