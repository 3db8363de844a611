"""A small model, its designs and runs: what the tests of training share."""
import itertools

import torch
from torch import nn

from epuredgm.blocks.gaussians import DiagonalNormal
from epuredgm.core.config import Config, DataConfig, ModelConfig, TrackingConfig, TrainingConfig
from epuredgm.core.runs import RunFolder
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Designs, Splits
from epuredgm.models.contract import GenerativeModel, LatentVariableModel, Phase, Stage, between, every, sums
from epuredgm.train.checkpoints import find_checkpoint, load_checkpoint
from epuredgm.train.loop import train_model
from epuredgm.train.trackers import JsonlTracker, Trackers

SPEC = DesignSpec(("left", "right"), height=8, width=8)


class Tiny(LatentVariableModel):
    "A two-layer VAE with all that is random in a training: latents, dropped units, masked components."

    def __init__(self, noise=1.0, dropout=0.1, width=24):
        super().__init__(SPEC)
        self.noise = noise
        self.into = nn.Sequential(nn.Flatten(), nn.Linear(128, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 8))
        with torch.no_grad(): self.into[-1].bias[4:] = -4.0  # latents that carry something from the beginning
        self.out = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 128), nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 2, 3, padding=1))

    def encode(self, x, observed=None): return DiagonalNormal(*self.into(x).chunk(2, 1))
    def decode(self, z, cond=None, size=None): return self.out(z).sigmoid()

    def terms(self, batch, generator, beta=1.0, mask=0.0):
        shown = torch.rand(len(batch), 2, 1, 1, generator=generator) >= mask
        posterior = self.encode(batch.x * shown)
        z = posterior.mean + self.noise * torch.randn(posterior.mean.shape, generator=generator) * (posterior.logvar / 2).exp()
        recon, kl = (self.decode(z) - batch.x).square().flatten(1).sum(1).mean() * 10, posterior.kl().mean()
        return {"loss": recon + beta * kl, "recon_loss": recon.detach(), "kl": kl.detach()}

    def losses(self, batch, progress, generator): return self.terms(batch, generator, min(1.0, 0.1 + progress.epochs_done / 3), 0.3)
    def phases(self): return [Phase("main", list(self.parameters()), self.losses)]

    def validate(self, batch, generator):
        terms = self.terms(batch, generator)
        return sums({"objective": terms.pop("loss"), **terms}, len(batch))


class TwoStages(Tiny):
    "The decoder for two epochs, then the encoder over the finished decoder."

    def __init__(self):
        super().__init__()
        self.register_buffer("second", torch.tensor(False))

    def stages(self): return [Stage("decoder", lr=1e-2, batch_size=32), Stage("encoder", 2)]

    def phases(self):
        return [Phase("decoder", list(self.out.parameters()), self.losses, between(stop=2)),
                Phase("encoder", list(self.into.parameters()), self.losses, between(2))]

    def after_phase(self, name, progress, seen, generator): self.second.fill_(name == "encoder")
    def export_pretrained(self): return {"decoder.pt": {"weights": {name: tensor.clone() for name, tensor in self.out.state_dict().items()}}}

    def validate(self, batch, generator):
        found = super().validate(batch, generator)
        return found if self.second else found | {"objective": found["objective"] - 1e6 * len(batch)}


class TwoPlayers(GenerativeModel):
    "A generator of points and its critic: rates, turns and averages of their own, a lazy penalty, a controller."

    def __init__(self):
        super().__init__(SPEC)
        self.generator, self.critic = nn.Linear(4, 128), nn.Sequential(nn.Linear(128, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.register_buffer("level", torch.zeros(()))

    def phases(self):
        from epuredgm.core.config import OptimizerConfig
        critic = list(self.critic.parameters())
        return [Phase("critic", critic, self.critic_loss, optimizer=OptimizerConfig(lr=2e-3, betas=(0.0, 0.9)), averaged=False),
                Phase("penalty", critic, self.penalty, every(3), by="critic", averaged=False),
                Phase("generator", list(self.generator.parameters()), self.generator_loss, every(2, 1))]

    def fake(self, n, generator): return self.generator(torch.randn(n, 4, generator=generator)).sigmoid()

    def critic_loss(self, batch, progress, generator):
        real, fake = self.critic(batch.x.flatten(1)), self.critic(self.fake(len(batch), generator).detach())
        return {"loss": fake.mean() - real.mean(), "seen": {"real": real.sum(), "n": torch.tensor(float(len(batch)))}}

    def penalty(self, batch, progress, generator):
        x = batch.x.flatten(1).requires_grad_()
        return {"loss": torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)[0].square().sum(1).mean()}

    def generator_loss(self, batch, progress, generator): return {"loss": -self.critic(self.fake(len(batch), generator)).mean()}

    def after_phase(self, name, progress, seen, generator):
        if name == "critic": self.level.lerp_(seen["real"] / seen["n"] + 0.01 * torch.randn((), generator=generator), 0.1)

    def validate(self, batch, generator):
        return {"n": torch.tensor(float(len(batch))), "real": batch.x.flatten(1).sum(0), "fake": self.fake(len(batch), generator).sum(0)}

    def figures(self, sums): return {"objective": float((sums["real"] - sums["fake"]).square().sum() / sums["n"] ** 2)}
    def sample(self, n, cond=None, size=None, generator=None): return self.fake(n, generator).view(n, 2, 8, 8)


def make_designs(n, *key):
    "Gradients at random angles and heights."
    angle, height = torch.rand(2, n, 1, 1, generator=generator(*key))
    u = torch.linspace(-1, 1, 8)
    left = torch.sigmoid(6 * (torch.cos(6 * angle) * u + torch.sin(6 * angle) * u[:, None] + height - 0.5))
    pixels = torch.stack([left, left.flip(2) * height], 1)
    return Designs(SPEC, (pixels * 254).round().to(torch.uint8), names=[f"design_{i}" for i in range(n)])


SPLITS = Splits(make_designs(103, "train"), make_designs(37, "validation"))  # no batch size divides them
EVERYTHING = dict(epochs=3, batch_size=16, accumulation_steps=2, ema_decay=0.8, scheduler="plateau", patience=1, lr_warmup_steps=5, log_every=3, keep_checkpoints=1)
numbers = itertools.count()


def new_run(folder):
    run = RunFolder(folder / f"run_{next(numbers)}")
    run.path.mkdir()
    return run


def made(kind=Tiny, **options):
    "A model with the same first weights every time."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**options)


def configured(triplets=8, **options):
    training = TrainingConfig(**{"device": "cpu", "precision": "float32", "weight_decay": 0.0, "epochs": 3, "batch_size": 8, "lr": 3e-3, "log_every": 5, **options})
    return Config(model=ModelConfig(type="tiny"), data=DataConfig(type="waves"), training=training, tracking=TrackingConfig(triplets=triplets))


def trained(run, model=None, splits=SPLITS, resume=False, trackers=(), callbacks=(), **options):
    return train_model(model or made(), splits, configured(**options), run, Trackers([JsonlTracker(), *trackers]), callbacks, resume, progress=False)


def result(run):
    "Weights, averages and lines of a run, without its times."
    checkpoint = load_checkpoint(find_checkpoint(run.path / "checkpoints", "latest"))
    best = find_checkpoint(run.path / "checkpoints", "best").name
    lines = [{name: value for name, value in record.items() if name != "time_per_epoch"} for record in run.read_metrics()]
    return checkpoint.models, lines, best, {name: checkpoint.state[name] for name in ("position", "best", "plateau", "averaged")}


def assert_same(run, reference):
    "That a run ended as another did, to the last bit."
    (models, *rest), (expected, *expected_rest) = result(run), result(reference)
    for name, weights in expected.items():
        for key, tensor in weights.items(): assert torch.equal(models[name][key], tensor), key
    assert rest == expected_rest
