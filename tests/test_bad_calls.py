"Calls of a run with what it can't take: each ends in a sentence that names the argument, what came and what was expected."
from pathlib import Path

import numpy as np
import pytest
import torch

from epuredgm.core.config import parse_config
from epuredgm.core.errors import EpureError
from epuredgm.core.registry import models
from epuredgm.data.designs import build_data
from epuredgm.models.contract import LatentVariableModel
from epuredgm.train.run import Run, build_model

FAMILIES = {"beta_vae": {}, "ddpm": {}, "wgan_gp": {}, "wireframe_vae": {"data": {"type": "wireframes", "n": 12, "scale": 0.1}}}


@pytest.fixture(scope="module", params=FAMILIES)
def run(request, tmp_path_factory):
    "An untrained run."
    name, more = request.param, FAMILIES[request.param]
    data = more.get("data", {"type": "toy_epures", "n": 12, "n_val": 4, "image_size": [64, 32]})
    config = parse_config({"model": {"type": name, **models.get(name).small}, "data": data, "training": {"device": "cpu"}})
    splits = build_data(config.data)
    model = build_model(config, splits.spec).eval()
    model.fit_statistics(splits.train)
    made = Run(Path(tmp_path_factory.mktemp("run")), config, model, 0, splits.statistics, torch.device("cpu"))
    made.data = splits
    return made


def good(run):
    "Arguments that are right."
    x = run.data.val.batch([0]).x.repeat(2, 1, 1, 1)
    return {"x": x, "observed": torch.tensor([True] + [False] * (run.spec.n_components - 1)), "n": 2, "size": tuple(x.shape[-2:])}


class Posterior: mean = logvar = torch.zeros(2, 3)


COUNTS = [None, True, -1, 1.5, "3", float("nan"), [3], np.float64(2), 10**9, torch.ones(3)]
SIZES = [32, (32,), (0, 16), (-64, 32), (64.0, 32), "64x32", (True, 3), (64, 32, 1), (10**9, 10**9)]
GENERATORS = [np.random.default_rng(0), 0, "seed", [torch.Generator()]]
OBSERVED = [True, "all", 0.5, [0.5, 1], [None], [[True]] * 7, torch.ones(2, 9), torch.full((2, 5), torch.nan), np.ones((2, 2, 2), bool)]


def designs(x):
    yield from (None, 3, "x", x.numpy(), x.tolist(), [x], x[0], x[:, :, :0], x[:, :, :, :0], x.repeat(1, 3, 1, 1), (x * 255).byte(), x.bool(), x * 2, x - 1)
    yield from (torch.full_like(x, torch.nan), torch.full_like(x, torch.inf), x.to(torch.complex64), torch.full_like(x, -1e-3))


def conditions(k):
    yield from ("a", [None] * max(k, 1), object(), torch.zeros(2, k + 1), np.zeros((3, 2, k + 1)), [0.0] * (k + 1), torch.full((2, max(k, 1)), torch.nan), [float("inf")] * max(k, 1), {"a": 1})


def latents(d):
    yield from (None, 3, [0.0] * d, np.zeros((2, d)), Posterior(), torch.zeros(d), torch.zeros(2, d + 1), torch.zeros(2, d, 1), torch.full((2, d), torch.nan),
                torch.full((2, d), torch.inf), torch.zeros(2, d, dtype=torch.int64), torch.zeros(2, d, dtype=torch.complex64))


def refused(call, argument):
    with pytest.raises(EpureError) as caught: call()
    said = str(caught.value)
    assert argument in said and len(said) < 500 and any(word in said for word in ("expected", "give", "at most", "trained without")), said


def test_counts_sizes_and_generators(run):
    given = good(run)
    for n in COUNTS:
        refused(lambda: run.sample(n, size=given["size"]), "n")
        refused(lambda: run.complete(given["x"], given["observed"], n=n), "n")
    for size in SIZES: refused(lambda: run.sample(2, size=size), "size")
    for generator in GENERATORS:
        refused(lambda: run.sample(2, size=given["size"], generator=generator), "generator")
        refused(lambda: run.complete(given["x"], given["observed"], generator=generator), "generator")
    for sampler in (5, "none", ["prior"], ""): refused(lambda: run.sample(2, size=given["size"], sampler=sampler), "sampler")
    assert "GB" in pytest.raises(EpureError, run.sample, 10**9, size=given["size"]).value.args[0]


def test_designs(run):
    given, latent = good(run), isinstance(run.model, LatentVariableModel)
    for x in designs(given["x"]):
        refused(lambda: run.complete(x, given["observed"]), "x ")
        if latent:
            refused(lambda: run.encode(x), "x ")
            refused(lambda: run.reconstruct(x), "x ")
    for observed in OBSERVED:
        refused(lambda: run.complete(given["x"], observed), "observed")
        if latent: refused(lambda: run.encode(given["x"], observed), "observed")


def test_conditions(run):
    given, k = good(run), run.spec.n_conditions
    for cond in conditions(k):
        refused(lambda: run.sample(2, cond, sampler="prior", size=given["size"]), "cond")
        refused(lambda: run.complete(given["x"], given["observed"], cond), "cond")
        refused(lambda: run.conditions(cond), "values")
        refused(lambda: run.units(cond), "cond")
    for values in (0.5, None, True, [True] * k, ["1"] * k, [], [[1.0], [1.0, 2.0]], "a" * 10_000): refused(lambda: run.conditions(values), "values")


def test_latents(run):
    if not isinstance(run.model, LatentVariableModel):
        for call in (lambda: run.encode(good(run)["x"]), lambda: run.decode(torch.zeros(2, 3)), lambda: run.reconstruct(good(run)["x"])):
            with pytest.raises(EpureError, match="no latents"): call()
        return
    for z in latents(run.model.latent_dim): refused(lambda: run.decode(z), "z ")
    for size in SIZES: refused(lambda: run.decode(torch.zeros(2, run.model.latent_dim), size=size), "size")


def test_other_kinds_of_numbers_are_taken(run):
    "float64 and half are float32 afterwards; lists and arrays of conditions, of masks, whole numbers of NumPy."
    given = good(run)
    x, observed, k = given["x"].round(), given["observed"], run.spec.n_conditions
    known = run.conditions(np.zeros((2, k))) if k else None
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        out = run.complete(x.to(dtype), observed.tolist(), None if known is None else known.tolist(), np.int64(1), torch.Generator().manual_seed(0))
        assert out.dtype == torch.float32 and out.shape == (1, *x.shape) and torch.equal(out[0][:, :run.spec.channels], x[:, :run.spec.channels])
        if isinstance(run.model, LatentVariableModel):
            z = run.encode(x.to(dtype)).mean
            assert z.dtype == torch.float32 and run.decode(z.to(dtype), size=given["size"]).isfinite().all()
    assert run.sample(np.int64(1), size=list(given["size"]), sampler="prior", generator=torch.Generator().manual_seed(0)).shape == (1, *x.shape[1:])
    assert len(run.sample(0, size=given["size"], sampler="prior")) == 0


def test_an_ar_vae_draws_the_sizes_of_the_vae_inside():
    from epuredgm.core.spec import DesignSpec

    entry = models.get("ar_vae")
    inside = {"type": "wireframe_vae", **models.get("wireframe_vae").small}
    model = entry.build(entry.config(vae=inside, attributes=["depth"]), DesignSpec(("page",), attributes=("depth",)))
    model.seen_sizes.copy_(torch.arange(32, 32 + 64)[:, None].expand(64, 2))
    assert len({model.resolve_size(None, torch.Generator().manual_seed(seed)) for seed in range(20)}) > 5


def test_a_feature_network_without_classifiers_is_told(run):
    from epuredgm.evaluate.report import judges

    assert judges(run, run.data.val, None, "classifier") == (None, None, {})
    for features in ("inception", "weights.pth", lambda x: x): refused(lambda: judges(run, run.data.val, None, features), "--features")


def test_a_run_whose_data_are_elsewhere_says_so(tmp_path):
    config = parse_config({"model": {"type": "beta_vae"}, "data": {"type": "folder", "root_dir": "nowhere/designs", "component_dirs": ["a"]}})
    refused(lambda: Run(tmp_path, config, None, 0, {}, torch.device("cpu")).data, "another folder")
