"""MM-VAE+ beside MultiVae's, with the same networks, weights and batch: the loss, the speed of a step, and what a step asks of the device."""
import statistics
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import torch

from epuredgm.blocks.likelihoods import make_likelihood
from epuredgm.core.seeds import generator
from epuredgm.data.designs import Splits
from epuredgm.models.mmvaeplus import MMVAEPlus
from epuredgm.train.run import build_model
from learning import COMPONENTS, Training, configuration, random_splits
from timing import Result, at_least, at_most, in_turn, median_ratio

SCALE = 0.75  # of the Laplace likelihood, as in the article
LAYERS = {"latent_dim": 32, "private_dim": 32, "nf": 16, "nf_max": 32, "stages": 1, "stem": 4, "samples": 10}
TINY_LAYERS = {"latent_dim": 4, "private_dim": 2, "nf": 4, "nf_max": 8, "stages": 1, "stem": 4, "samples": 2}
SYNCHRONISATIONS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")  # the host waits for a value


def install_multivae(folder: Path) -> None:
    "MultiVae into a folder of its own, with what it imports and isn't here already."
    if (folder / "multivae").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--target", str(folder), "multivae==1.0.3", "pythae==0.1.2", "cloudpickle", "nltk", "regex"]
    subprocess.run(command, check=True)


def multivae_model(model: MMVAEPlus, estimator: str):
    "MultiVae's MMVAE+ around copies of the same networks."
    from multivae.models.mmvaePlus import MMVAEPlus as Reference
    from multivae.models.mmvaePlus import MMVAEPlusConfig
    from multivae.models.nn.base_architectures import BaseMultilatentEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder

    d, e, config = model.config.latent_dim, model.config.private_dim, model.config
    everything = torch.ones(1, 1, dtype=torch.bool)

    class SameEncoder(BaseMultilatentEncoder):
        def __init__(self, layers):
            super().__init__()
            self.layers, self.latent_dim, self.style_dim = deepcopy(layers), d, e

        def forward(self, x):
            q = self.layers(x, everything.expand(len(x), -1))
            return ModelOutput(embedding=q.mean[:, :d], log_covariance=q.logvar[:, :d], style_embedding=q.mean[:, d:], style_log_covariance=q.logvar[:, d:])

    class SameDecoder(BaseDecoder):
        def __init__(self, layers):
            super().__init__()
            self.layers, self.latent_dim = deepcopy(layers), d + e

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    size = (model.spec.channels, model.spec.height, model.spec.width)
    theirs = Reference(
        MMVAEPlusConfig(n_modalities=len(COMPONENTS), latent_dim=d, modalities_specific_dim=e, input_dims={name: size for name in COMPONENTS}, K=config.samples, beta=config.beta,
                        prior_and_posterior_dist="normal", loss={"elbo": "iwae_looser", "dreg": "dreg_looser"}[estimator],
                        decoders_dist={name: "laplace" for name in COMPONENTS}, decoder_dist_params={name: {"scale": SCALE} for name in COMPONENTS}),
        encoders={name: SameEncoder(layers) for name, layers in zip(COMPONENTS, model.encoder.networks)},
        decoders={name: SameDecoder(layers) for name, layers in zip(COMPONENTS, model.decoder.networks)},
    )
    for i, name in enumerate(COMPONENTS):
        theirs.mean_priors[name].data.copy_(model.auxiliary.mean[i : i + 1])
        theirs.logvars_priors[name].data.copy_(model.auxiliary.logvar[i : i + 1])
    return theirs


def multivae_batch(batch):
    "The same designs, a tensor for each component."
    from multivae.data.datasets.base import MultimodalBaseDataset

    return MultimodalBaseDataset({name: part.contiguous() for name, part in zip(COMPONENTS, batch.x.split(1, 1))})


def same_losses(model: MMVAEPlus, splits: Splits, draws: int) -> list[Result]:
    "The loss of either estimator beside MultiVae's, a design's nats with the constants of its pixels: how far apart, in standard errors of the difference."
    batch, results = splits.train.batch(slice(0, 8)), []
    constant = make_likelihood("laplace", 1, SCALE).constant * batch.x[0].numel()
    for estimator in ("elbo", "dreg"):
        theirs, inputs = multivae_model(model, estimator), multivae_batch(batch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ours = torch.stack([model.bound(batch, None, model.beta, generator("ours", i), estimator == "dreg")["loss"].detach() + constant for i in range(draws)])
            reference = torch.stack([theirs(inputs).loss.detach() / len(batch.x) for _ in range(draws)])
        error = ((ours.var() + reference.var()) / draws).sqrt()
        details = {"ours": ours.mean().item(), "multivae": reference.mean().item(), "standard error": error.item(), "draws": draws}
        results.append(at_most(f"loss ({estimator}) from MultiVae's", ((ours.mean() - reference.mean()).abs() / error).item(), 2.0, "standard errors", **details))
    return results


def operators(step) -> tuple[int, int]:  # of one step: operators, and synchronisations
    "Count what a step calls."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    counts = {event.key: event.count for event in profile.key_averages() if event.key.startswith("aten::")}
    return sum(counts.values()), sum(counts.get(name, 0) for name in SYNCHRONISATIONS)


class ByHand:
    "MultiVae's step in the plainest of loops, which costs it nothing of its trainer."

    def __init__(self, model, splits: Splits, batch_size: int):
        self.model, self.optimizer = model.train(), torch.optim.Adam(model.parameters(), lr=2e-4)
        self.batches = [multivae_batch(splits.train.batch(slice(i, i + batch_size))) for i in range(0, len(splits.train), batch_size)]
        self.at = 0

    def __call__(self):
        self.optimizer.zero_grad()
        self.model(self.batches[self.at % len(self.batches)]).loss.backward()
        self.optimizer.step()
        self.at += 1


def against_multivae(tiny: bool, folder: Path, installed: Path) -> list[Result]:
    "Losses, steps a second and operators of MM-VAE+ here and in MultiVae."
    install_multivae(installed)
    sys.path.append(str(installed))
    rounds, batch_size, layers = (1, 4, TINY_LAYERS) if tiny else (7, 16, LAYERS)
    splits = random_splits(4 * batch_size)
    section = {"type": "mmvaeplus", "likelihood": "laplace", "likelihood_scale": SCALE, "cond_drop": 0.0, **layers}
    trainings = {}
    for name, precision in (("float32", "float32"), ("auto", "auto")):
        config = configuration(folder / name, batch_size, section, precision=precision)
        trainings[name] = Training(build_model(config, splits.spec), splits, config)
    model = build_model(config, splits.spec)
    torch.nn.init.normal_(model.auxiliary.mean), torch.nn.init.normal_(model.auxiliary.logvar)
    results = same_losses(model, splits, draws=40)

    theirs, batch = ByHand(multivae_model(model, "dreg"), splits, batch_size), splits.train.batch(slice(0, batch_size))
    ours, waits = operators(lambda: model.bound(batch, None, model.beta, generator("count"), dreg=True)["loss"].backward())
    reference, their_waits = operators(lambda: theirs.model(theirs.batches[0]).loss.backward())
    results.append(Result("operators of a step", float(ours), "", details={"multivae": reference}))
    results.append(at_most("host synchronisations of a step", float(waits), 0.0, "", multivae=their_waits))

    times = in_turn({**trainings, "multivae": theirs}, rounds, warm_up=1 if tiny else 2)
    speed = {name: 1 / statistics.median(values) for name, values in times.items()}
    results += [Result(f"steps a second, {name}", value, "1/s") for name, value in speed.items()]
    results.append(at_least("float32 over MultiVae", median_ratio(times, "multivae", "float32"), 1.3, "×"))
    chosen, ratio = trainings["auto"].state.precision.name, median_ratio(times, "multivae", "auto")
    if chosen == "bf16":
        results.append(at_least(f"default precision ({chosen}) over MultiVae", ratio, 2.0, "×"))
    else:
        results.append(Result(f"default precision ({chosen}) over MultiVae; this processor has no bf16", ratio, "×"))
    return results
