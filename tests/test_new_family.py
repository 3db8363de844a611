"""A family costs one module and one configuration: two families that live in this test, through conformance, every command and the explorers."""
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, clean_environment

LINEAR = '''
"A linear-Gaussian model: pixels are an affine map of latents, and so is the posterior's mean of the observed pixels."
import torch
from torch import nn

from epuredgm.blocks.conditions import check_conditions
from epuredgm.blocks.gaussians import DiagonalNormal
from epuredgm.blocks.masks import check_observed, mask_components
from epuredgm.core.config import ModelConfig
from epuredgm.core.registry import models
from epuredgm.models.contract import LatentVariableModel, Phase, check_count, check_designs, in_eval_mode, keep_observed, sums


class LinearConfig(ModelConfig):
    type: str = "linear"
    latent_dim: int = 8


class Linear(LatentVariableModel):
    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.latent_dim, pixels = config.latent_dim, spec.planes * spec.height * spec.width
        self.encoder, self.decoder = nn.Linear(pixels, config.latent_dim), nn.Linear(config.latent_dim + spec.n_conditions, pixels)
        self.logvar = nn.Parameter(torch.full((config.latent_dim,), -2.0))

    def encode(self, x, observed=None):
        x = check_designs(x, self.spec).to(self.logvar.dtype)
        mean = self.encoder(mask_components(x, check_observed(observed, x, self.spec), self.spec).flatten(1))
        return DiagonalNormal(mean, self.logvar.expand_as(mean))

    def decode(self, z, cond=None, size=None):
        cond = check_conditions(cond, len(z), self.spec, z.device)
        known = z.new_zeros(len(z), self.spec.n_conditions) if cond is None else cond
        return self.decoder(torch.cat([z, known], 1)).sigmoid().unflatten(1, (self.spec.planes, self.spec.height, self.spec.width))

    def prior(self):
        return DiagonalNormal(torch.zeros_like(self.logvar)[None], torch.zeros_like(self.logvar)[None])

    def terms(self, batch, generator):
        posterior = self.encode(batch.x, batch.available)
        missed = (self.decode(posterior.sample(generator), batch.cond) - batch.x).square() * self.spec.planes_of(batch.available)
        return {"recon": missed.flatten(1).sum(1).mean(), "kl": posterior.kl().mean()}

    def loss(self, batch, progress, generator):
        terms = self.terms(batch, generator)
        return {"loss": terms["recon"] + 0.01 * terms["kl"], **{name: value.detach() for name, value in terms.items()}}

    def phases(self):
        return [Phase("main", list(self.parameters()), self.loss)]

    def validate(self, batch, generator):
        terms = self.terms(batch, generator)
        return sums({"objective": terms["recon"] + 0.01 * terms["kl"], **terms}, len(batch))

    @in_eval_mode
    def sample(self, n, cond=None, size=None, generator=None):
        check_count(n)
        return self.decode(torch.randn(n, self.latent_dim, generator=generator, device=self.logvar.device), cond)

    @in_eval_mode
    def complete(self, x, observed, cond=None, n=1, generator=None):
        x, cond = check_designs(x, self.spec), check_conditions(cond, len(x), self.spec, x.device)
        check_count(n)
        z = self.encode(x, observed).sample(generator, n).flatten(0, 1)
        drawn = self.decode(z, None if cond is None else cond.repeat(n, 1)).unflatten(0, (n, len(x)))
        return keep_observed(x, check_observed(observed, x, self.spec), drawn, self.spec)


@models.register("linear", config=LinearConfig, small=dict(latent_dim=4))
def build_linear(section, spec):
    return Linear(spec, section)
'''

PLAYERS = '''
"Two players: a picture that is moved along noise, against a linear critic; neither encodes."
import torch
from torch import nn

from epuredgm.blocks.adversarial import critic_loss, generator_loss, gradient_penalty
from epuredgm.blocks.conditions import check_conditions
from epuredgm.blocks.masks import check_observed
from epuredgm.core.config import ModelConfig, OptimizerConfig
from epuredgm.core.registry import models
from epuredgm.models.contract import GenerativeModel, Phase, check_count, check_designs, every, in_eval_mode, keep_observed, sums


class PlayersConfig(ModelConfig):
    type: str = "players"
    noise: int = 4


class Players(GenerativeModel):
    unit = ""

    def __init__(self, spec, config):
        super().__init__(spec, config)
        pixels = spec.planes * spec.height * spec.width
        self.picture, self.critic = nn.Linear(config.noise + spec.n_conditions, pixels), nn.Linear(pixels, 1, bias=False)
        self.register_buffer("designs_seen", torch.zeros((), dtype=torch.float64))

    def draw(self, n, cond, generator):
        weight = self.picture.weight
        z = torch.randn(n, self.config.noise, generator=generator, device=weight.device)
        known = weight.new_zeros(n, self.spec.n_conditions) if cond is None else cond
        return (10 * self.picture(torch.cat([z, known], 1))).sigmoid().unflatten(1, (self.spec.planes, self.spec.height, self.spec.width))

    def fake(self, batch, generator):
        return self.draw(len(batch.x), batch.cond, generator) * self.spec.planes_of(batch.available)

    def critic_terms(self, batch, progress, generator):
        fake = self.fake(batch, generator).detach()
        gap = critic_loss(self.critic(batch.x.flatten(1)), self.critic(fake.flatten(1)), "wasserstein")
        penalty = gradient_penalty(lambda x: self.critic(x.flatten(1)), batch.x, fake, generator)
        return {"loss": gap + 10 * penalty, "penalty": penalty.detach(), "seen": {"designs": batch.x.new_tensor(len(batch.x), dtype=torch.float64)}}

    def generator_terms(self, batch, progress, generator):
        return {"loss": generator_loss(self.critic(self.fake(batch, generator).flatten(1)), "wasserstein")}

    def phases(self):
        own = OptimizerConfig(optimizer="adam", betas=(0.5, 0.9), lr=0.003)
        return [Phase("critic", list(self.critic.parameters()), self.critic_terms, optimizer=own, averaged=False),
                Phase("generator", list(self.picture.parameters()), self.generator_terms, every(2, 1), own)]

    def after_phase(self, name, progress, seen, generator):
        if name == "critic":
            self.designs_seen += seen["designs"]

    def validate(self, batch, generator):
        with torch.no_grad():
            missed = (self.fake(batch, generator).mean(0) - batch.x.mean(0)).abs().mean()
        return sums({"objective": missed}, len(batch.x))

    @in_eval_mode
    def sample(self, n, cond=None, size=None, generator=None):
        check_count(n)
        return self.draw(n, check_conditions(cond, n, self.spec, self.picture.weight.device), generator)

    @in_eval_mode
    def complete(self, x, observed, cond=None, n=1, generator=None):
        x, cond = check_designs(x, self.spec), check_conditions(cond, len(x), self.spec, x.device)
        check_count(n)
        drawn = self.draw(n * len(x), None if cond is None else cond.repeat(n, 1), generator).unflatten(0, (n, len(x)))
        return keep_observed(x, check_observed(observed, x, self.spec), drawn, self.spec)


@models.register("players", config=PlayersConfig, small=dict(noise=2))
def build_players(section, spec):
    return Players(spec, section)
'''

CONFIGURATION = """
model: {type: %s}
data: {type: toy_epures, n: 96, n_val: 32}
training: {epochs: 2, batch_size: 16, ema_decay: 0.9}
run_dir: run
"""

CHECK = """
from epuredgm.train.check_model import SPECS, check_model
check_model({name!r}, specs=SPECS[:2])
"""

EXPLORE = """
from epuredgm.explore.curves import training_curves
from epuredgm.explore.demo import draw_pictures
from epuredgm.explore.interpolation import walk
from epuredgm.explore.latent_health import health_figure
from epuredgm.explore.latent_map import latent_map
from epuredgm.explore.latent_space import latent_space
from epuredgm.explore.responses import responses
from epuredgm.explore.traversals import traversal
from epuredgm.models.contract import LatentVariableModel
from epuredgm.train.run import load_run
run = load_run("run")
training_curves(run.path)
draw_pictures(run)
if isinstance(run.model, LatentVariableModel):
    space, x = latent_space(run), run.data.val.batch(slice(0, 4)).x
    assert len(walk(space, [0, 1, 2]).z) > 2 and len(latent_map(space).points) == len(space.designs) and responses(space).names
    assert health_figure(space) and traversal(run.model, x[:1]).isfinite().all()
"""

# One process a family, since importing torch takes longer than most of what is asked: a line of JSON with code goes in, exit status and words come out.
ANSWER = """
import io, json, sys, traceback
from contextlib import redirect_stderr, redirect_stdout
answers = sys.stdout
for line in sys.stdin:
    said, status = io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try: exec(json.loads(line), {})
        except SystemExit as end: status = end.code
        except BaseException: status = traceback.print_exc() or 1
    print(json.dumps([status, said.getvalue()]), file=answers, flush=True)
"""


@pytest.fixture(scope="module", params=["linear", "players"])
def family(request, tmp_path_factory):
    "A package with one module more, a folder with one configuration, and what runs code and commands there."
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(ROOT / "epuredgm", folder / "epuredgm", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "epuredgm" / "models" / f"{request.param}.py").write_text({"linear": LINEAR, "players": PLAYERS}[request.param])
    (folder / "family.yaml").write_text(CONFIGURATION % request.param)
    process = subprocess.Popen([sys.executable, "-c", ANSWER], cwd=folder, env=clean_environment(PYTHONPATH=folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(code):
        print(json.dumps(code), file=process.stdin, flush=True)
        status, said = json.loads(process.stdout.readline())
        assert status == 0, said
        return said

    def command(*arguments):
        return run(f"from epuredgm.cli import app; app({[str(argument) for argument in arguments]}, prog_name='epuredgm')")

    yield SimpleNamespace(name=request.param, folder=folder, run=run, command=command)
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def trained(family):
    family.command("train", "family.yaml", "--quiet")
    return family


def test_it_keeps_every_promise(family):
    family.run(CHECK.format(name=family.name))


def test_its_parameters_are_counted(family):
    assert family.name in family.command("params", "family.yaml")


@pytest.mark.parametrize("options", [["--mode", "unconditional"], ["--mode", "conditional"], ["--mode", "inpainting", "--mask-component", "1"],
                                     ["--mode", "cross_modal", "--source-comp", "0"]], ids=lambda options: options[1])
def test_it_is_sampled(trained, options):
    out = trained.folder / options[1]
    trained.command("sample", "run", *options, "--num-samples", "4", "--output-dir", out)
    assert list(out.rglob("*.png"))


def test_it_is_measured(trained):
    trained.command("evaluate", "run", "--n", "16")
    assert any(json.loads(path.read_text()) for path in (trained.folder / "run").rglob("*.json"))


def test_it_is_explored(trained):
    trained.run(EXPLORE)
