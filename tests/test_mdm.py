"""Multinomial diffusion: what its page doesn't show, errors and edge cases."""
import pytest
import torch
from epuredgm.blocks.label_maps import LabelMap
from epuredgm.blocks.multinomial import StepImportance, categorical_kl, draw_labels
from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import parse_config
from epuredgm.core.errors import ConfigError
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Batch, Designs, build_data
from epuredgm.train.check_model import SPEC, check_learning, check_promises, small_batch, small_model


@pytest.mark.parametrize("options", [dict(observed_input=False, resampling_steps=2), dict(guidance_scale=2.0, cross_entropy=0.1), dict(labels=2, stem=2, full_channels=4, schedule="linear"),
                                     dict(sampling_steps=100)], ids=["resampling", "guided", "two labels", "every step"])
def test_options_keep_the_promises(options):
    check_promises("mdm", options)


def test_a_model_without_observed_input_learns():
    check_learning(small_model("mdm", dict(observed_input=False)), small_batch(6))


@pytest.mark.parametrize("options, said", [(dict(labels=256), r"model.labels.*255.*256"), (dict(labels=1), "model.labels"), (dict(ink_levels=1), "model.ink_levels"), (dict(schedule="square"), "model.schedule")])
def test_a_wrong_option_is_named(options, said):
    with pytest.raises(ConfigError, match=said):
        parse_config({"model": {"type": "mdm", **options}, "data": {"type": "toy_epures"}})


def noise(channels=3):
    spec = DesignSpec(("a", "b"), channels, 16, 16)
    return Designs(spec, torch.randint(256, (4, 2 * channels, 16, 16), dtype=torch.uint8, generator=generator("noise")))


def test_overlaps_that_the_labels_do_not_hold_are_refused():
    designs = noise(1)
    model = small_model("mdm", spec=designs.spec, options=dict(labels=3))
    with pytest.raises(ConfigError, match="model.labels: expected at least 4, .*overlap.* 4 ways at 2 levels .*got 3; give more labels"):
        model.fit_statistics(designs)


def test_more_than_255_labels_are_refused():
    designs = noise()
    model = small_model("mdm", spec=designs.spec, options=dict(ink_levels=5))
    with pytest.raises(ConfigError, match="model.ink_levels: .*255 labels.*at 5 levels .*fewer levels.*ddpm"):
        model.fit_statistics(designs)


def test_planes_that_no_number_holds_are_refused():
    with pytest.raises(ConfigError, match="model.ink_levels: .*64 planes.*got 2"):
        LabelMap(64, 16, 2)


def test_blank_designs_are_a_label():
    label_map = LabelMap(2, 4)
    label_map.fit([torch.zeros(1, 2, 3, 3)])
    assert label_map.used.tolist() == [True, False, False, False]
    assert not label_map(torch.ones(1, 2, 3, 3)).any()


def test_labels_beyond_the_combinations_are_never_drawn():
    model = small_model("mdm", dict(labels=50, ink_levels=2))
    model.label_map.fit([torch.eye(3)[None, :, :, None]])
    drawn = model.label_map(model.sample(8, generator=generator(0)))
    assert model.label_map.used.sum() == 4 and drawn.max() < 4


def test_missing_components_count_nowhere():
    model, batch = small_model("mdm"), small_batch(4)
    batch.available[:, 1] = False
    other = Batch(torch.where(SPEC.planes_of(batch.available), batch.x, 1 - batch.x), batch.cond, batch.available)
    first, second = (model.loss(each, Progress(), generator(0)) for each in (batch, other))
    assert first["loss"] == second["loss"]
    nothing = torch.zeros_like(batch.available)
    allowed = model.allowed(batch.x * SPEC.planes_of(batch.available), nothing, batch.available)
    assert not allowed[:, model.label_map.inks[:, 1] > 0].any() and allowed[:, 0].all()


def test_a_design_that_is_observed_costs_nothing():
    model, batch = small_model("mdm"), small_batch(4)
    batch.available[:] = True
    terms = model.terms(batch, batch.available, None, torch.tensor([1, 5, 10, 20]), generator(0))
    assert (terms["kl"].abs() < 1e-4).all() and (terms["cross_entropy"].abs() < 1e-4).all()


def test_padding_counts_nowhere():
    model, batch = small_model("mdm"), small_batch(4)
    batch.valid = torch.zeros(4, 1, 16, 8, dtype=torch.bool)
    assert model.loss(batch, Progress(), generator(0))["loss"] == 0


def test_completions_contradict_nothing_that_is_observed():
    model, batch = small_model("mdm"), small_batch(4)
    region = torch.rand(4, 3, 16, 8, generator=generator("region")) < 0.5
    everything = torch.ones(4, 3, dtype=torch.bool)
    drawn = model.draw(batch.x, region, None, generator(0))
    assert model.allowed(batch.x, region, everything).gather(1, model.label_map(drawn)[:, None]).all()


def test_guidance_is_one_at_one_and_asks_for_conditions():
    model, batch = small_model("mdm"), small_batch(2)
    for p in model.network.parameters(): p.data.add_(0.1 * torch.randn(p.shape, generator=generator("weights", *p.shape)))
    everything, nothing = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    x, t = torch.zeros(2, 8, 16, 8), torch.tensor([3, 9])
    x[:, 0] = 1
    known = model.evidence(batch.x, nothing, everything), model.allowed(batch.x, nothing, everything)
    with torch.no_grad():
        told, untold, none, doubled = (model.surroundings(x, t, *known, cond, guidance=g) for cond, g in ((batch.cond, 1.0), (None, 2.0), (batch.cond, 0.0), (batch.cond, 2.0)))
    expected = told.square() / untold
    assert torch.allclose(none, untold, atol=1e-5) and not torch.allclose(told, untold, atol=1e-4)
    assert torch.allclose(doubled, (expected / expected.nansum(1, keepdim=True)).nan_to_num(), atol=1e-4)


def test_a_label_without_probability_is_never_drawn():
    p = torch.zeros(1, 4, 1_000_000)
    p[:, 1:3] = torch.tensor([1e-7, 1 - 1e-7])[None, :, None]
    assert set(draw_labels(p, generator(0)).unique().tolist()) <= {1, 2}
    assert categorical_kl(p, p).abs().max() < 1e-6


def test_steps_that_were_not_seen_keep_their_average():
    importance = StepImportance(4)
    importance.update(**importance.statistics(torch.tensor([1, 1, 3]), torch.tensor([1.0, 3.0, 2.0])))
    assert importance.squares.tolist() == [5, 1, 4, 1] and importance.seen.tolist() == [2, 0, 1, 0]
    assert torch.equal(importance.probabilities(), torch.full((4,), 0.25))
    for _ in range(10): importance.update(**importance.statistics(torch.arange(1, 5), torch.tensor([9.0, 3.0, 1.0, 0.0])))
    p = importance.probabilities()
    assert (p.diff() < 0).all() and p[-1] >= 0.01 / 4 and abs(p.sum() - 1) < 1e-6


def test_data_that_lack_components_are_trained_on():
    data = build_data(parse_config({"model": {"type": "mdm"}, "data": {"type": "toy_epures", "n": 8, "n_val": 4}}).data).train
    batch = data.batch(slice(0, 8))
    batch.available = torch.rand(batch.available.shape, generator=generator(0)) < 0.5
    batch.available[0] = False
    model = small_model("mdm", spec=data.spec)
    model.fit_statistics(data)
    assert model.loss(batch, Progress(), generator(1))["loss"].isfinite()
