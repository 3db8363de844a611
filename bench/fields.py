"""A whole training step of the GMRF-MVAE against a plain loop over its components."""
from copy import deepcopy

import torch
from torch.nn import functional as F

from dependence import BLOCKS, D, WAITING, Operators, listed_draw
from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import parse_config
from epuredgm.core.seeds import generator
from epuredgm.data.designs import Batch, build_data
from epuredgm.models.contract import count_parameters
from epuredgm.models.gmrf_mvae import GMRFMVAE
from epuredgm.train.optim import build_optimizer
from epuredgm.train.precision import resolve_precision
from epuredgm.train.run import build_model
from timing import Result, at_least, at_most, in_turn, median_ratio

SMALL = dict(nf=16, nf_max_e=32, nf_max_d=32, stages=1, stem=4, cond_features=64, latent_dim=D // BLOCKS)
WIDE = SMALL | dict(nf=64, nf_max_e=128, nf_max_d=128)  # the default number of channels; with 16, operators are too small to gain by half precision


def plain_loss(model: GMRFMVAE, batch: Batch, random: torch.Generator) -> torch.Tensor:
    "The loss as one would write it down: a loop over encoders, a plain covariance, a loop over decoders, one component kept at random."
    observed = F.one_hot(torch.randint(BLOCKS, (len(batch),), generator=random), BLOCKS).bool()
    shown = batch.x * observed[:, :, None, None]
    means, variances, recon = [], [], 0.0
    for c, (trunk, head) in enumerate(zip(model.encoder.trunks, model.encoder.heads)):
        seen = observed[:, c, None, None, None].float().expand(-1, 1, *batch.x.shape[2:])
        mean, raw, _ = head(trunk(torch.cat([shown[:, c : c + 1], seen], 1)).flatten(1)).chunk(3, 1)
        means.append(mean)
        variances.append(F.softplus(raw) + 1e-4)
    prior = model.prior
    posterior = torch.cat(means, 1), torch.cat(variances, 1), prior.coefficients.expand(len(batch), -1)
    z, kl = listed_draw(posterior, (prior.mean, F.softplus(prior.unconstrained) + 1e-4, prior.coefficients))
    for c, (decoder, part) in enumerate(zip(model.decoder.networks, z.split(D // BLOCKS, 1))):
        drawn = torch.sigmoid(decoder(part, batch.cond))
        recon = recon + F.mse_loss(drawn, batch.x[:, c : c + 1], reduction="none").sum((1, 2, 3)).mean()
    return recon + 0.5 * kl.mean()


def whole_step(tiny: bool) -> list[Result]:
    "A step by networks of the default width, which has to keep up, and by those of the demonstration, for comparison."
    slim = [Result(f"{result.what}, 16 channels", result.value, result.unit, details=result.details) for result in one_width(SMALL, tiny, 30)]
    return [*one_width(WIDE, tiny, 10), *slim]


def one_width(size: dict, tiny: bool, rounds: int) -> list[Result]:
    "Forward, backward and optimiser of 64 toy épures; the plain loop computes in float32, with a plain covariance, and matches no subsets."
    config = parse_config({"model": {"type": "gmrf_mvae", **size}, "data": {"type": "toy_epures", "n": 2 if tiny else 64, "n_val": 8}})
    splits = build_data(config.data)
    batch, random = splits.train.batch(slice(None)), generator("bench", "fields")
    plain = build_model(config.model_copy(update={"model": config.model.model_copy(update={"covariance": "dominance"})}), splits.spec)
    ours = build_model(config, splits.spec)
    swift = deepcopy(ours).to(memory_format=torch.channels_last)
    precision = resolve_precision("auto", torch.device("cpu"))
    half = {"bf16": torch.bfloat16}.get(precision)

    def stepping(model, loss):
        optimizer = build_optimizer(list(model.parameters()), config.training, torch.device("cpu"))

        def step():
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
        return step

    def by_default(model):
        with torch.autocast("cpu", half, enabled=half is not None):
            return model.losses(batch, Progress.end(), random)["loss"]

    works = {"plain": stepping(plain, lambda model: plain_loss(model, batch, random)),
             "float32": stepping(ours, lambda model: model.losses(batch, Progress.end(), random)["loss"]),
             "default": stepping(swift, by_default)}
    times = in_turn(works, 1 if tiny else rounds, warm_up=1 if tiny else 3)
    with Operators() as operators:
        works["default"]()
    waits = sum(count for name, count in operators.counted.items() if name in WAITING)
    sizes = {"parameters": count_parameters(ours)[0], "parameters of the plain loop": count_parameters(plain)[0], "precision": precision}
    faster = at_least if half is not None else lambda what, value, target, unit, **details: Result(what, value, unit, details=details)
    return [at_least("a step in float32 over the plain loop", median_ratio(times, "plain", "float32"), 1.0, "×", **sizes),
            faster("a step by default over the plain loop", median_ratio(times, "plain", "default"), 2.0, "×", **sizes),
            at_most("waits for the device", float(waits), 0, f"of {sum(operators.counted.values())} operators")]
