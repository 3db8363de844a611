"""What the joint Gaussian costs in a training step: each parametrisation against a plain implementation, and what a step asks of the device."""
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from epuredgm.blocks.dependence import build_covariance, coefficient_count
from epuredgm.blocks.joint_gaussians import JointNormal, joint_kl
from timing import Result, at_least, at_most, in_turn, median_ratio

BLOCKS, D, BATCH, RANK = 5, 80, 32, 8
# steps in a turn: a millisecond's work is judged in a loop, not by how fast the caches forget the work before it
STEPS = 10
# operators through which the host waits for a device
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")


def said(kind: str, rows: int) -> list[torch.Tensor]:
    "What networks say of `rows` designs: means, variances and coefficients, with gradients."
    random = torch.Generator().manual_seed(rows)
    normal = lambda *shape: torch.randn(shape, generator=random)  # noqa: E731
    leaves = [normal(rows, D), torch.rand(rows, D, generator=random) + 0.1, 0.1 * normal(rows, coefficient_count(kind, BLOCKS, D, RANK))]
    return [leaf.requires_grad_() for leaf in leaves]


def ours(kind: str, q: list[torch.Tensor], p: list[torch.Tensor]) -> torch.Tensor:
    "A draw from the posterior, and its divergence from the prior."
    posterior, prior = (JointNormal(mean, build_covariance(kind, variance, numbers, BLOCKS), BLOCKS) for mean, variance, numbers in (q, p))
    return posterior.sample().square().sum() + joint_kl(posterior, prior).sum()


def listed_covariance(variance: torch.Tensor, numbers: torch.Tensor, epsilon: float = 0.9) -> torch.Tensor:
    "Assemble the covariance from diagonal matrices, plainly."
    d = D // BLOCKS
    blocks = [torch.diag_embed(part) for part in variance.split(d, 1)]
    v = torch.cat([torch.diagonal(block, dim1=1, dim2=2) for block in blocks], 1)
    M, k = torch.zeros(len(v), D, D), 0
    for i in range(BLOCKS):
        for j in range(i):
            block = numbers[:, k * d * d : (k + 1) * d * d].view(-1, d, d)
            M[:, i * d : (i + 1) * d, j * d : (j + 1) * d] = block
            M[:, j * d : (j + 1) * d, i * d : (i + 1) * d] = block.mT
            k += 1
    s = M.abs().sum(2) - M.diagonal(dim1=1, dim2=2).abs()
    alpha = torch.min(torch.ones_like(v), (v * epsilon) / (s + 1e-8)).sqrt().unsqueeze(2)
    return torch.diag_embed(v) + M * (alpha @ alpha.mT)


def listed_draw(q: list[torch.Tensor], p: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    "A plain step: assemble, `MultivariateNormal.rsample`, and the divergence by inverse and slogdet."
    (m, v, numbers), (mp, vp, prior_numbers) = q, p
    S, Sp = listed_covariance(v, numbers), listed_covariance(vp, prior_numbers)
    z = torch.distributions.MultivariateNormal(m, S).rsample()
    inverse, difference = torch.linalg.inv(Sp), (mp - m).unsqueeze(1)
    trace = (inverse @ S).diagonal(dim1=1, dim2=2).sum(1)
    distance = (difference @ inverse @ difference.mT).flatten()
    return z, 0.5 * (trace + distance - D + torch.linalg.slogdet(Sp)[1] - torch.linalg.slogdet(S)[1])


def listing(q: list[torch.Tensor], p: list[torch.Tensor]) -> torch.Tensor:
    "The loss that `ours` has."
    z, kl = listed_draw(q, p)
    return z.square().sum() + kl.sum()


class Operators(TorchDispatchMode):
    "Counts every operator that runs under it."

    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counted[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def joint_gaussians(tiny: bool) -> list[Result]:
    "Forward and backward of assembling, drawing and the divergence, 80 dimensions, 32 designs, by turns with the listing."
    given = {kind: (said(kind, BATCH), said(kind, 1)) for kind in ("dominance", "cholesky", "lowrank")}
    works = {kind: lambda kind=kind: ours(kind, *given[kind]).backward() for kind in given}
    works["listing"] = lambda: listing(*given["dominance"]).backward()
    loops = {name: lambda work=work: [work() for _ in range(STEPS)] for name, work in works.items()}
    times = in_turn(loops, 1 if tiny else 30, warm_up=1 if tiny else 3)
    results = []
    for kind, target in (("dominance", None), ("cholesky", 2.5), ("lowrank", 8.0)):
        ratio, what = median_ratio(times, "listing", kind), f"{kind} over the listing"
        results.append(Result(what, ratio, "×") if target is None else at_least(what, ratio, target, "×"))
    for kind in given:
        with Operators() as operators:
            works[kind]()
        waits = sum(count for name, count in operators.counted.items() if name in WAITING)
        results.append(at_most(f"{kind}: waits for the device", float(waits), 0, f"of {sum(operators.counted.values())} operators"))
    return results
