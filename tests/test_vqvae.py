"""VQ-VAE: what its page doesn't show, errors and edge cases."""
import math

import pytest
import torch
from epuredgm.blocks.codebook import Codebook
from epuredgm.blocks.masked_tokens import UNKNOWN, draw_tokens
from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import load_config, parse_config
from epuredgm.core.errors import ConfigError, EpureError
from epuredgm.core.registry import models
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Batch, build_data
from epuredgm.train.check_model import SPEC, check_learning, check_promises, small_batch, small_model
from epuredgm.train.run import train


@pytest.mark.parametrize("options", [dict(tokens="joint"), dict(fsq_levels=[4, 4]), dict(decoding="autoregressive", estimator="rotation", likelihood="laplace"), dict(guidance_scale=2.0, stem=2, stages=1)],
                         ids=["joint", "fsq", "autoregressive", "guided"])
def test_options_keep_the_promises(options):
    check_promises("vqvae", options)


@pytest.mark.parametrize("options", [dict(tokens="joint"), dict(fsq_levels=[4, 4])], ids=["joint", "fsq"])
def test_options_learn(options):
    check_learning(small_model("vqvae", options), small_batch(6))


def test_a_codebook_larger_than_the_tokens_of_the_data_is_refused(tmp_path):
    config = parse_config({"model": {"type": "vqvae", **models.get("vqvae").small, "codebook_size": 4096}, "data": {"type": "toy_epures", "n": 16, "n_val": 4, "image_size": [32, 16]},
                           "training": {"epochs": 2}, "run_dir": str(tmp_path / "run")})
    with pytest.raises(ConfigError, match=r"model.codebook_size: .* 2560 tokens of the 16 training designs, got 4096; give fewer codes"):
        train(config, progress=False)


def test_a_collapsed_codebook_is_named_with_a_remedy():
    model = small_model("vqvae", dict(codebook_size=100))
    said = model.watch({"perplexity": 2.0}, Progress(epoch=3))
    assert "collapsed" in said and "2.0" in said and "model.dead_below" in said and "model.fsq_levels" in said
    assert model.watch({"perplexity": 50.0}, Progress(epoch=3)) is None
    assert model.watch({"perplexity": 2.0}, Progress(epoch=0)) is None and model.watch({}, Progress(epoch=3)) is None


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="prior_width"):
        parse_config({"model": {"type": "vqvae", "prior_width": 10, "prior_heads": 3}, "data": {"type": "toy_epures"}})


@pytest.mark.parametrize("tokens", [torch.zeros(2, 24), torch.zeros(2, 23).long(), torch.full((2, 24), UNKNOWN), torch.full((2, 24), 16), [1, 2]], ids=["floats", "few", "unknown", "large", "list"])
def test_what_is_no_row_of_tokens_is_not_decoded(tokens):
    with pytest.raises(EpureError, match=r"expected \(B, 24\) whole numbers from 0 to 15, got"):
        small_model("vqvae").decode(tokens)


def test_missing_components_count_nowhere():
    model = small_model("vqvae")
    batch = small_batch(4)
    batch.available[:, 1] = False
    other = Batch(torch.where(SPEC.planes_of(batch.available), batch.x, 1 - batch.x), batch.cond, batch.available)
    for phase in model.phases():
        first, second = (phase.loss(each, Progress(), generator(0)) for each in (batch, other))
        assert first["loss"] == second["loss"]
        first["loss"].backward()
        if "seen" in first:
            assert first["seen"]["clusters"][:, -1].sum() == batch.available.sum() * 8
    assert all((p.grad == 0).all() for part in (model.encoders[1], model.decoders[1]) for p in part.parameters())
    sums = model.validate(batch, generator(0))
    assert sums["codes"].sum() == batch.available.sum() * 8
    assert math.isclose(model.figures({name: value.item() if not value.dim() else value for name, value in sums.items()})["token_cost"], batch.available.sum().item() * 8 / 4 * math.log(16), rel_tol=1e-5)


def test_the_autoencoder_is_frozen_while_the_prior_is_trained():
    model, batch = small_model("vqvae"), small_batch(4)
    model.after_phase("prior", Progress(epoch=1), {}, generator(0))
    autoencoder, prior = model.phases()
    assert not set(map(id, autoencoder.parameters)) & set(map(id, prior.parameters))
    assert len(autoencoder.parameters) + len(prior.parameters) == len(list(model.parameters()))
    prior.loss(batch, Progress(epoch=1), generator(0))["loss"].backward()
    assert all(p.grad is None for p in autoencoder.parameters)
    assert model.stage == 1


def test_one_component_is_completed_from_regions():
    spec = DesignSpec(("page",), height=16, width=16)
    model = small_model("vqvae", spec=spec)
    region = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    region[:, :, 4:9, 4:9] = False
    known = model.encode(torch.rand(2, 1, 16, 16, generator=generator(0)), region) >= 0
    assert (known.view(2, 4, 4).logical_not() == torch.zeros(2, 4, 4).index_fill_(1, torch.tensor([1, 2]), 1).bool() & torch.zeros(2, 4, 4).index_fill_(2, torch.tensor([1, 2]), 1).bool()).all()


def test_an_update_without_vectors_keeps_the_codes_finite():
    codebook = Codebook(4, 2)
    for _ in range(3):
        codebook.update(torch.zeros(4, 3), torch.zeros(8, 3), generator(0))
    assert codebook.codes.isfinite().all()


def test_two_writers_of_a_slot_are_no_candidate():
    codebook = Codebook(2, 1)
    candidates = torch.tensor([[9.0, 2.0], [3.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    codebook.update(torch.zeros(2, 2), candidates, generator(0))
    assert (codebook.codes - 3).abs().min() < 1e-4 and (codebook.codes - 9).abs().min() > 1


def test_rows_are_drawn_by_themselves():
    def predict(tokens): return torch.zeros(*tokens.shape, 5)
    alone = torch.tensor([[UNKNOWN, 1, UNKNOWN, 2]])
    both = torch.cat([alone, torch.full((1, 4), UNKNOWN)]), torch.cat([alone, torch.full((1, 4), 3)])
    first, second = (draw_tokens(predict, tokens, 2, generator(0)) for tokens in both)
    assert torch.equal(first[0], second[0]) and torch.equal(second[1], both[1][1])


def test_full_configuration_has_about_the_size_that_was_asked():
    config = load_config("vqvae_epure_full")
    spec = DesignSpec(tuple("abcde"), height=64, width=32, conditions=tuple("wxyz"))
    model = models.get("vqvae").build(config.model, spec)
    prior = sum(p.numel() for p in model.prior.parameters())
    assert 2.2e6 < prior < 2.8e6


def test_data_that_lack_components_are_trained_on():
    data = build_data(parse_config({"model": {"type": "vqvae"}, "data": {"type": "toy_epures", "n": 8, "n_val": 4}}).data).train
    batch = data.batch(slice(0, 8))
    batch.available = torch.rand(batch.available.shape, generator=generator(0)) < 0.5
    batch.available[0] = False
    model = small_model("vqvae", spec=data.spec)
    assert all(phase.loss(batch, Progress(), generator(1))["loss"].isfinite() for phase in model.phases())
