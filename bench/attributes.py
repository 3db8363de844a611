"""What an AR-VAE's attribute loss costs in a training step, and that it is the plain double loop."""
import math

import torch

from dependence import WAITING, Operators
from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import parse_config
from epuredgm.core.seeds import generator
from epuredgm.data.designs import build_data
from epuredgm.models.ar_vae import attribute_losses
from epuredgm.train.optim import build_optimizer
from epuredgm.train.run import build_model
from timing import Result, at_most, in_turn, median_ratio

BATCH, NAMES = 64, ["section_width", "section_height", "gum_gauge", "belt_width"]


def double_loop(z: torch.Tensor, attributes: torch.Tensor) -> list[float]:
    "The formula, pair by pair, in double precision."
    found = []
    for latents, values in zip(z.double().T.tolist(), attributes.double().T.tolist()):
        pairs = [abs(math.tanh(zi - zj) - (ai > aj) + (ai < aj)) for zi, ai in zip(latents, values) for zj, aj in zip(latents, values)]
        found.append(sum(pairs) / len(pairs))
    return found


def attribute_loss(tiny: bool) -> list[Result]:
    "Forward and backward of the loss of four attributes, beside the whole step of the β-VAE of the demo, 64 toy épures."
    rows, inside = 8 if tiny else BATCH, dict(type="beta_vae", latent_dim=32, nf=32, nf_max=64, stages=1, stem=4, dropout_p=0.0)
    config = parse_config({"model": {"type": "ar_vae", "attributes": NAMES, "vae": inside}, "data": {"type": "toy_epures", "n": rows, "n_val": 8}})
    splits, random = build_data(config.data), generator("bench", "attributes")
    batch, model = splits.train.batch(slice(None)), build_model(config, splits.spec)
    optimizer = build_optimizer(list(model.parameters()), config.training, torch.device("cpu"))
    z, attributes = torch.randn(rows, len(NAMES), generator=random, requires_grad=True), batch.attributes[:, : len(NAMES)]

    def step():
        optimizer.zero_grad()
        model.losses(batch, Progress.end(), random)["loss"].backward()
        optimizer.step()

    works = {"loss": lambda: attribute_losses(z, attributes).sum().backward(), "step": step}
    times = in_turn(works, 1 if tiny else 15, warm_up=1 if tiny else 3)
    apart = (attribute_losses(z, attributes).detach().double() - torch.tensor(double_loop(z.detach(), attributes), dtype=torch.float64)).abs().max()
    with Operators() as operators:
        works["loss"]()
    waits = sum(count for name, count in operators.counted.items() if name in WAITING)
    return [at_most("farthest from the double loop", float(apart), 1e-6, ""), at_most("of a training step", 100 * median_ratio(times, "loss", "step"), 2, "%"),
            at_most("waits for the device", float(waits), 0, "operators")]
