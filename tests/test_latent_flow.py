"""A flow over the latents of every kind of run: vectors, components' vectors, grids, single pictures; and what can't have one."""
import pytest
import torch

from epuredgm.core.config import parse_config
from epuredgm.core.errors import EpureError
from epuredgm.core.registry import models
from epuredgm.core.seeds import generator
from epuredgm.evaluate.report import evaluate
from epuredgm.train.prior import fit_prior
from epuredgm.train.run import load_run, train

SMALL = ["training.epochs=2", "training.batch_size=16", "training.ema_decay=0.5", "model.width=16", "model.layers=1", "model.channels=[8,16]", "model.embedding=8", "model.sampling_steps=3", "data.subsets=2"]


def trained(folder, family, data=None, **options):
    "A run of two epochs."
    return train(parse_config({
        "model": {"type": family, **models.get(family).small, **options}, "data": {"type": "toy_epures", "n": 48, "n_val": 24} | (data or {}),
        "training": {"epochs": 1, "batch_size": 16, "precision": "float32", "device": "cpu"}, "run_dir": str(folder)}), progress=False)


@pytest.mark.parametrize("family", ["beta_vae", "gmrf_mvae", "autoencoder_kl"])
def test_a_flow_draws_and_completes(tmp_path, family):
    run = trained(tmp_path / "run", family)
    fit_prior(run, SMALL, progress=False)
    batch, observed = run.data.val.batch(slice(0, 3)), torch.tensor([True, False, True, False, False])
    drawn = run.sample(3, batch.cond, "flow", generator("draw"))
    assert drawn.shape == batch.x.shape and drawn.min() >= 0 and drawn.max() <= 1
    assert torch.equal(drawn, load_run(run.path).sample(3, batch.cond, "flow", generator("draw")))
    completed = run.complete(batch.x, observed, batch.cond, 2, generator("complete"), "flow")
    kept = run.spec.planes_of(observed[None]).expand_as(batch.x)
    assert completed.shape == (2, *batch.x.shape) and torch.equal(completed[1][kept], batch.x[kept])
    assert not torch.equal(completed[0], completed[1])
    nothing = run.complete(batch.x, torch.zeros(5, dtype=torch.bool), None, 1, generator("complete"), "flow")
    assert torch.isfinite(nothing).all()


def test_a_report_measures_the_flow_beside_the_others(tmp_path):
    run = trained(tmp_path / "run", "beta_vae")
    assert "flow" not in evaluate(run, n=16, completions=2, sections=["drawings", "completion_by_flow"], write=False)["metrics"]["drawings"]
    fit_prior(run, SMALL, progress=False)
    report = evaluate(load_run(run.path), n=16, completions=2, sections=["drawings", "completion", "completion_by_flow"], write=False)["metrics"]
    assert {"aggregated", "prior", "flow"} <= set(report["drawings"])
    assert set(report["completion_by_flow"]["others"]) == set(report["completion"]["withheld"]["others"])


def test_components_that_the_data_lack_are_never_given(tmp_path):
    from epuredgm.train.prior import encode_in_part
    run = trained(tmp_path / "run", "beta_vae")
    designs = run.data.train
    designs.available[:, 1] = False
    table = encode_in_part(run, designs, subsets=3)
    assert not table.attributes[:, 1].any() and (table.attributes.sum(1) > 0).all()


def test_a_fit_is_resumed_and_replaced_as_runs_are(tmp_path):
    run = trained(tmp_path / "run", "beta_vae")
    first = fit_prior(run, [*SMALL, "training.max_steps=3"], progress=False)
    assert first.step == 3
    whole = fit_prior(run, SMALL, resume=True, progress=False)
    straight = fit_prior(run, SMALL, overwrite=True, progress=False)
    assert whole.step == straight.step == 12
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), straight.model.state_dict().values()))
    with pytest.raises(EpureError, match="resume"): fit_prior(run, SMALL, progress=False)


def test_what_has_no_latents_has_no_flow(tmp_path):
    run = trained(tmp_path / "run", "ddpm")
    with pytest.raises(EpureError, match="ddpm.*no latents"): fit_prior(run, SMALL, progress=False)
    with pytest.raises(EpureError, match="sampler.*prior"): run.sample(1, sampler="flow")
    with pytest.raises(EpureError, match="no latents"): run.complete(run.data.val.batch([0]).x, torch.ones(5, dtype=torch.bool), sampler="flow")
    with pytest.raises(EpureError, match="epuredgm prior"): trained(tmp_path / "vae", "beta_vae").sample(1, sampler="flow")
