"""MM-VAE+: what its page doesn't show, errors and edge cases."""
import pytest
import torch
from torch.distributions import Laplace, Normal

from epuredgm.blocks.gaussians import DiagonalNormal
from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import load_config, parse_config
from epuredgm.core.errors import ConfigError, DataError
from epuredgm.core.registry import models
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Batch, Designs, build_data
from epuredgm.models.mmvaeplus import ExpertsPosterior
from epuredgm.train.check_model import SPEC, check_learning, check_promises, small_batch, small_model
from epuredgm.train.export import GraphModule, check_answers


@pytest.mark.parametrize("options", [dict(estimator="elbo", likelihood="gaussian", likelihood_scale=0.3), dict(samples=1, unobserved="auxiliary"), dict(guidance_scale=2.0, stem=2, dropout_p=0.2)],
                         ids=["elbo", "auxiliary", "guided"])
def test_options_keep_the_promises(options):
    check_promises("mmvaeplus", options)


@pytest.mark.parametrize("options", [dict(estimator="elbo"), dict(likelihood="gaussian", likelihood_scale=0.3)], ids=["elbo", "gaussian"])
def test_options_learn(options):
    check_learning(small_model("mmvaeplus", options), small_batch(6))


@pytest.mark.parametrize("wrong, key", [(dict(samples=0), "samples"), (dict(likelihood_scale=0), "likelihood_scale"), (dict(private_dim=0), "private_dim"), (dict(estimator="iwae"), "estimator"),
                                        (dict(likelihood="continuous_bernoulli"), "likelihood"), (dict(guidance_scale=-1), "guidance_scale"), (dict(unobserved="posterior"), "unobserved"), (dict(max_mask_prob=0.5), "max_mask_prob")])
def test_a_wrong_option_is_named(wrong, key):
    with pytest.raises(ConfigError, match=key):
        parse_config(dict(model=dict(type="mmvaeplus") | wrong, data=dict(type="toy_epures")))


def test_one_picture_size_is_asked_for():
    with pytest.raises(ConfigError, match="data.image_size"):
        models.get("mmvaeplus").build(models.get("mmvaeplus").config(), DesignSpec(("a", "b")))


def test_attributes_are_not_ordered_by_latents_of_many_draws():
    entry = models.get("ar_vae")
    section = entry.config(type="ar_vae", vae=dict(type="mmvaeplus", **models.get("mmvaeplus").small), attributes=["section_width"])
    with pytest.raises(ConfigError, match="mmvaeplus can't be regularised.*beta_vae"):
        entry.build(section, SPEC)


# ---- what the data lack
def test_a_design_of_which_nothing_is_available_is_refused():
    model, batch = small_model("mmvaeplus"), small_batch(4)
    batch.available[2] = False
    for call in (lambda: model.losses(batch, Progress(), generator(0)), lambda: model.validate(batch, generator(0))):
        with pytest.raises(DataError, match="none for 1 of 4, the first in row 2; leave such designs out"):
            call()
    with pytest.raises(DataError, match="at least one component"):
        Designs(DesignSpec(SPEC.components, height=16, width=8), torch.zeros(2, 3, 16, 8, dtype=torch.uint8), available=torch.tensor([[True, False, True], [False] * 3]))


def test_missing_components_count_nowhere():
    model, batch = small_model("mmvaeplus"), small_batch(4)
    batch.available[:, 1] = False
    other = Batch(torch.where(SPEC.planes_of(batch.available), batch.x, 1 - batch.x), batch.cond, batch.available)
    first, second = (model.losses(each, Progress(), generator(0)) for each in (batch, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    first["loss"].backward()
    assert all((p.grad == 0).all() for part in (model.encoder.networks[1], model.decoder.networks[1]) for p in part.parameters())
    assert (model.auxiliary.mean.grad[1] == 0).all() and model.auxiliary.mean.grad[0].abs().sum() > 0


def test_experts_that_are_missing_are_no_part_of_the_bound():
    model, batch = small_model("mmvaeplus", dict(cond_drop=0.0, samples=400)), small_batch(1)
    batch.available[:] = torch.tensor([[True, False, True]])
    spec = DesignSpec(("ring", "edge"), height=16, width=8, conditions=SPEC.conditions)
    alone = small_model("mmvaeplus", dict(cond_drop=0.0, samples=400), spec)
    for part in ("encoder", "decoder"):
        for mine, theirs in zip(getattr(alone, part).networks, (getattr(model, part).networks[i] for i in (0, 2))):
            mine.load_state_dict(theirs.state_dict())
    two = Batch(batch.x[:, [0, 2]], batch.cond, torch.ones(1, 2).bool())
    with torch.no_grad():
        a, b = model.bound(batch, None, 1.0, generator(0))["elbo"], alone.bound(two, None, 1.0, generator(1))["elbo"]
    assert abs(a - b) < 0.5, (a, b)


def test_padding_and_targets_count_as_in_every_vae():
    model, batch = small_model("mmvaeplus"), small_batch(3)
    valid = torch.ones(3, 1, 16, 8).bool()
    valid[..., 6:] = False

    def recon(x, **changes):
        with torch.no_grad():
            return model.bound(Batch(batch.x, batch.cond, batch.available, target=x, **changes), None, 1.0, generator(0))
    padded = torch.where(valid, batch.x, 1 - batch.x)
    first, second = recon(batch.x, valid=valid), recon(padded, valid=valid)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert recon(batch.x)["recon_loss"] != recon(padded)["recon_loss"]


def test_data_that_lack_components_are_trained_on():
    data = build_data(parse_config({"model": {"type": "mmvaeplus"}, "data": {"type": "toy_epures", "n": 8, "n_val": 4}}).data).train
    batch = data.batch(slice(0, 8))
    batch.available = torch.rand(batch.available.shape, generator=generator(0)) < 0.4
    batch.available[:, 3] = True
    model = small_model("mmvaeplus", dict(samples=3), data.spec)
    terms = model.losses(batch, Progress(), generator(1))
    terms["loss"].backward()
    assert all(value.isfinite() for value in terms.values()) and all(p.grad.isfinite().all() for p in model.parameters())


# ---- the posterior
def posterior(n=4, seen=((1, 1, 1), (1, 0, 0), (0, 1, 1), (0, 0, 0))):
    draw = DiagonalNormal(torch.randn(n, 3, 5, generator=generator("mean")), torch.randn(n, 3, 5, generator=generator("logvar")) - 1)
    return ExpertsPosterior.of(draw, torch.tensor(seen).bool(), 3)


def test_draws_have_the_moments_that_are_told():
    q = posterior()
    drawn = q.sample(generator("moments"), 40_000)
    torch.testing.assert_close(drawn.mean(0), q.mean, atol=0.06, rtol=0.0)
    torch.testing.assert_close(drawn.var(0), q.logvar.exp(), atol=0.1, rtol=0.05)
    assert (q.mean[3] == 0).all() and q.logvar[3].abs().max() < 1e-6
    assert q.kl_per_dimension().shape == (4, 9) and q.kl_per_dimension()[3].abs().max() < 1e-6


def test_any_noise_picks_an_expert_that_is_observed():
    q = posterior(seen=((0, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)))
    far = DiagonalNormal(torch.where(q.weights[..., None] > 0, 0.0, 1e6).expand(-1, -1, 3).contiguous(), torch.full((4, 3, 3), -30.0))
    for place in (-20.0, -5.6, -1e-9, 0.0, 0.43, 5.6, 20.0, torch.finfo(torch.float32).max):
        noise = torch.zeros(4, q.noise_size())
        noise[:, -1] = place
        assert ExpertsPosterior(far, q.private, q.weights).from_noise(noise)[:, :3].abs().max() < 1e-3, place


def test_posteriors_concatenate():
    q = posterior()
    parts = [ExpertsPosterior(DiagonalNormal(q.shared.mean[rows], q.shared.logvar[rows]), DiagonalNormal(q.private.mean[rows], q.private.logvar[rows]), q.weights[rows])
             for rows in (slice(0, 1), slice(1, 4))]
    joined = ExpertsPosterior.cat(parts)
    assert torch.equal(joined.mean, q.mean) and torch.equal(joined.logvar, q.logvar) and torch.equal(joined.sample(generator(0)), q.sample(generator(0)))


def test_private_latents_that_are_not_observed_are_drawn_as_configured():
    batch, observed = small_batch(3), torch.tensor([True, False, False])
    for name in ("prior", "auxiliary"):
        model = small_model("mmvaeplus", dict(unobserved=name)).eval()
        with torch.no_grad():
            model.auxiliary.mean.fill_(7.0), model.auxiliary.logvar.fill_(-8.0)
            q = model.posterior(batch.x, observed.expand(3, -1))
        mean, logvar = (7.0, -8.0) if name == "auxiliary" else (0.0, 0.0)
        assert (q.private.mean[:, 1:] == mean).all() and (q.private.logvar[:, 1:] == logvar).all() and (q.private.mean[:, 0] != mean).all()


# ---- the bound
def test_a_draw_costs_what_the_distributions_say():
    model, batch = small_model("mmvaeplus", dict(likelihood="gaussian", likelihood_scale=0.4, cond_drop=0.0)).eval(), small_batch(2)
    batch.available[:] = True
    with torch.no_grad():
        q = model.encoder(batch.x, batch.available, batch.cond)
        z, w, latents = model.draw(q, generator(0))
        plain = model.reconstruction(latents, batch, None)[1]
        k, b, i = 1, 0, 2
        picture = model.likelihood.mean(model.decoder(latents[k, b, i][None], batch.cond[:1]))
        assert torch.isclose(plain[k, b, i], -Normal(picture, 0.4).log_prob(batch.x[:1]).sum(), rtol=1e-4)
        experts = torch.stack([Normal(q.shared.mean[b, j], q.shared.std[b, j]).log_prob(z[k, b, i]).sum() for j in range(3)])
        own = Normal(q.private.mean[b, i], q.private.std[b, i]).log_prob(w[k, b, i]).sum()
        assert torch.isclose(q.log_prob(z, w)[k, b, i], experts.exp().mean().log() + own, rtol=1e-4)


@pytest.mark.parametrize("name, distribution", [("gaussian", Normal), ("laplace", Laplace)])
def test_the_scale_of_a_likelihood_is_its_own(name, distribution):
    model = small_model("mmvaeplus", dict(likelihood=name, likelihood_scale=0.75))
    output, x = torch.randn(2, 3, 4, 4, generator=generator(0)), torch.rand(2, 3, 4, 4, generator=generator(1))
    torch.testing.assert_close(model.likelihood.nll(output, x) + model.likelihood.constant, -distribution(output.sigmoid(), 0.75).log_prob(x), atol=1e-5, rtol=1e-5)


def test_the_posterior_of_dreg_learns_through_its_draws_alone():
    model, batch = small_model("mmvaeplus", dict(cond_drop=0.0, samples=3)), small_batch(2)
    draw = model.draw
    model.draw = lambda q, random: tuple(part.detach() for part in draw(q, random))
    for dreg in (False, True):
        model.zero_grad()
        model.bound(batch, None, 1.0, generator(0), dreg)["loss"].backward()
        learned = [p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters()]
        assert any(learned) is not dreg


def test_one_draw_has_one_value_by_either_estimator():
    model, batch = small_model("mmvaeplus", dict(samples=1)), small_batch(3)
    values = [model.bound(batch, None, 0.7, generator(0), dreg)["loss"] for dreg in (False, True)]
    torch.testing.assert_close(*values)


def test_a_step_asks_the_device_for_nothing():
    model, batch = small_model("mmvaeplus"), small_batch(3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model.losses(batch, Progress(), generator(0))["loss"].backward()
    asked = {event.key for event in profile.key_averages()} & {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}
    assert not asked


# ---- use
def test_guidance_moves_away_from_what_no_condition_draws():
    batch = small_batch(2)
    plain, guided = (small_model("mmvaeplus", dict(guidance_scale=scale)).eval() for scale in (1.0, 3.0))
    guided.load_state_dict(plain.state_dict())
    z = torch.randn(2, plain.latent_dim, generator=generator(0))
    with torch.no_grad():
        told, untold = plain.outputs(z, batch.cond), plain.outputs(z)
        torch.testing.assert_close(guided.outputs(z, batch.cond), untold + 3 * (told - untold))
        assert torch.equal(guided.outputs(z), untold)


def test_graphs_are_what_users_call():
    for options in (dict(guidance_scale=2.0), dict(unobserved="auxiliary")):
        model = small_model("mmvaeplus", options).eval()
        for name, graph in model.graphs().items():
            module = GraphModule(model, graph, {condition: {"mean": 0.5, "std": 2.0} for condition in SPEC.conditions})
            with torch.no_grad():
                check_answers(module, name, module)


def test_full_configuration_has_about_the_size_that_was_asked():
    config = load_config("mmvaeplus_epure_full")
    model = models.get("mmvaeplus").build(config.model, DesignSpec(tuple("abcde"), height=64, width=32, conditions=tuple("wxyz")))
    assert 6.5e6 < sum(p.numel() for p in model.parameters()) < 7.5e6
    assert (config.model.likelihood, config.model.likelihood_scale, config.model.samples) == ("laplace", 0.75, 10)
