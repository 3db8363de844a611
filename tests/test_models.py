"""Edge cases of the model families: what bad input gets, what a missing component changes, what files must hold."""

import pytest
import torch

from epuredgm.blocks.gaussians import DiagonalNormal
from epuredgm.blocks.perceptual import random_feature_weights
from epuredgm.blocks.schedules import Progress
from epuredgm.core.config import parse_config
from epuredgm.core.errors import ConfigError, DataError, EpureError, RunError
from epuredgm.core.registry import models
from epuredgm.core.seeds import generator
from epuredgm.core.spec import DesignSpec
from epuredgm.data.designs import Batch, Designs

SPEC = DesignSpec(("ring", "core", "edge"), height=16, width=8, conditions=("stiffness",), attributes=("area", "width"))
PAGE = DesignSpec(("page",))


def build(name, spec=SPEC, **options):
    entry = models.get(name)
    small = {**entry.small, **(dict(attributes=["area"]) if name == "ar_vae" else {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return entry.build(entry.config(type=name, **{**small, **options}), spec).eval()


@pytest.fixture
def batch():
    x = torch.rand(4, 3, 16, 8, generator=generator("designs"))
    return Batch(x, torch.rand(4, 1, generator=generator("conditions")), torch.ones(4, 3).bool(), attributes=torch.randn(4, 2, generator=generator("attributes")))


@pytest.mark.parametrize("model, wrong, key", [
    ("beta_vae", dict(latent_dim=0), "latent_dim"), ("beta_vae", dict(dropout_p=1), "dropout_p"), ("beta_vae", dict(stem=3), "stem"), ("beta_vae", dict(latent_dims=8), "latent_dims"),
    ("gmrf_mvae", dict(rank=0), "rank"), ("gmrf_mvae", dict(epsilon=1), "epsilon"), ("gmrf_mvae", dict(posterior="both"), "posterior"),
    ("meta_vae", dict(backbone=[]), "backbone"), ("meta_vae", dict(heads=[0]), "heads"), ("meta_vae", dict(stage1_epochs=0), "stage1_epochs"), ("meta_vae", dict(marginal_vae_paths=[]), "marginal_vae_paths"),
    ("autoencoder_kl", dict(attention_levels=[True]), "attention_levels"), ("autoencoder_kl", dict(num_res_blocks=[1, 2]), "num_res_blocks"), ("autoencoder_kl", dict(spatial_dims=3), "spatial_dims"),
    ("autoencoder_kl", dict(perceptual_layers=["relu9_9"]), "perceptual_layers"), ("autoencoder_kl", dict(kl_weight=-1), "kl_weight"),
    ("wireframe_vae", dict(pool_levels=[]), "pool_levels"), ("wireframe_vae", dict(grid=[64]), "grid"),
    ("ar_vae", dict(attributes=["area", "area"]), "attributes"), ("ar_vae", dict(attributes={"area": 1, "width": 1}), "attributes"), ("ar_vae", dict(attributes={}), "attributes"),
    ("ar_vae", dict(attributes=["area"], vae=dict(type="beta_vae", latent_dim=0)), "vae.latent_dim"), ("ar_vae", dict(attributes=["area"], vae=dict(type="betavae")), "beta_vae"),
])
def test_a_wrong_option_is_named(model, wrong, key):
    with pytest.raises(ConfigError, match=key):
        parse_config(dict(model=dict(type=model) | wrong, data=dict(type="toy_epures")))


@pytest.mark.parametrize("name", ["beta_vae", "gmrf_mvae", "meta_vae", "autoencoder_kl"])
def test_a_family_of_one_size_asks_for_it(name):
    with pytest.raises(ConfigError, match="data.image_size"):
        build(name, DesignSpec(("a", "b")))


def test_what_a_vae_refuses(batch):
    model = build("beta_vae")
    for wrong in (lambda: model.sample(-1), lambda: model.sample(2.5), lambda: model.sample(2, [1.0, 2.0]), lambda: model.sample(2, size=(32, 32)),
                  lambda: model.decode(torch.zeros(2, 3)), lambda: model.complete(batch.x[:, :2], [True, False, True]), lambda: model.complete(batch.x, [1, 0])):
        with pytest.raises(EpureError):
            wrong()


@pytest.mark.parametrize("name", ["beta_vae", "gmrf_mvae", "meta_vae", "autoencoder_kl", "ar_vae"])
def test_none_and_regions_and_precisions(name, batch):
    model = build(name)
    assert model.sample(0).shape == (0, 3, 16, 8) and model.complete(batch.x, [True, False, True], n=0).shape == (0, 4, 3, 16, 8)
    region = torch.rand(4, 3, 16, 8, generator=generator("region")) < 0.5
    assert torch.equal(model.complete(batch.x, region, n=2)[:, region], batch.x[region].expand(2, -1))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        completed = model.complete(batch.x.to(dtype), torch.tensor([True, False, True]))[0]
        assert torch.equal(completed[:, [0, 2]], batch.x.to(dtype)[:, [0, 2]].to(completed.dtype))


def test_large_requests_go_in_parts(batch):
    for name in ("beta_vae", "gmrf_mvae", "autoencoder_kl"):
        model = build(name)
        with torch.no_grad():
            whole, picture = model.encode(batch.x), model.reconstruct(batch.x)
            model.at_once = lambda size: 3
            assert type(model.encode(batch.x)) is type(whole)
            torch.testing.assert_close(model.encode(batch.x).mean, whole.mean, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(model.reconstruct(batch.x), picture, atol=1e-5, rtol=1e-4)


def test_padding_targets_and_what_the_data_lack_dont_count(batch):
    model = build("beta_vae", mask_objective="reconstruction", dropout_p=0.0)

    def recon(**changes):
        one = Batch(**{"x": batch.x, "cond": batch.cond, "available": batch.available, **changes})
        with torch.no_grad():
            return model.objective(one, one.available, None, 1.0, generator("recon"), ())["recon_loss"].item()
    some = torch.tensor([[True, False, True]] * 4)
    other = batch.x.clone()
    other[:, 1] = 1 - other[:, 1]
    assert recon(available=some, target=batch.x) == recon(available=some, target=other)
    assert recon(target=batch.x) != recon(target=other)
    valid = torch.ones(4, 1, 16, 8).bool()
    valid[..., 6:] = False
    padded = torch.where(valid, batch.x, torch.rand(4, 3, 16, 8, generator=generator("padding")))
    assert recon(valid=valid, target=batch.x) == recon(valid=valid, target=padded)


def test_a_mean_reduction_is_told_its_bound():
    assert "0.0625 nats" in " ".join(build("beta_vae", reduction="mean", beta=4.0).notes())
    for options in (dict(), dict(reduction="mean", beta=0.0), dict(reduction="mean", likelihood="laplace")):
        assert not build("beta_vae", **options).notes()


def test_a_network_posterior_asks_no_prior():
    with pytest.raises(EpureError, match="model.posterior"):
        build("gmrf_mvae", posterior="network").with_prior(None)


def test_posteriors_concatenate():
    for kind in ("lowrank", "cholesky"):
        model = build("gmrf_mvae", covariance=kind)
        x = torch.rand(5, 3, 16, 8, generator=generator("parts"))
        with torch.no_grad():
            whole, parts = model.encode(x), [model.encode(x[:2]), model.encode(x[2:])]
            joined = type(whole).cat(parts)
        torch.testing.assert_close(joined.mean, whole.mean)
        torch.testing.assert_close(joined.covariance.dense(), whole.covariance.dense())
        torch.testing.assert_close(joined.covariance.logdet(), whole.covariance.logdet())


# ---- Meta-VAE: marginal VAEs in files

def exported(model):
    return dict(zip("abc", model.export_pretrained().values()))


def test_marginal_vaes_go_from_one_training_to_another():
    giver, taker = build("meta_vae", DesignSpec(("a/b", "c", "d"), height=16, width=8)), build("meta_vae", DesignSpec(("a/b", "c", "d"), height=16, width=8), marginal_vae_paths=list("abc"), nf=8)
    files = giver.export_pretrained()
    assert list(files) == ["marginal_vae_a_b.pt", "marginal_vae_c.pt", "marginal_vae_d.pt"]
    taker.load_pretrained(dict(zip("abc", files.values())))
    assert all(torch.equal(a, b) for a, b in zip(giver.marginals.state_dict().values(), taker.marginals.state_dict().values()))
    assert [phase.name for phase in taker.phases()] == ["meta"] and not any(p.requires_grad for p in taker.marginals.parameters())
    assert taker.export_pretrained() == {} and not giver.pretrained_paths() and taker.pretrained_paths() == list("abc")


def test_a_file_that_does_not_fit_is_named():
    giver, taker = build("meta_vae"), build("meta_vae", marginal_vae_paths=list("abc"))
    for change, said in ((lambda files: files | {"a": None}, "a holds no marginal VAE"), (lambda files: files | {"a": files["b"]}, "a is the marginal VAE of 'core'"),
                         (lambda files: files | {"b": files["b"] | {"marginal_vae": files["b"]["marginal_vae"] | {"latent_dim": 99}}}, "latent_dim is 99 there"),
                         (lambda files: files | {"c": files["c"] | {"weights": dict(list(files["c"]["weights"].items())[1:])}}, "c is damaged")):
        with pytest.raises(RunError, match=said):
            taker.load_pretrained(change(exported(giver)))
    with pytest.raises(ConfigError, match="2 files"):
        build("meta_vae", marginal_vae_paths=["a", "b"])


def test_the_stages_of_a_meta_vae(batch):
    model = build("meta_vae", stage1_epochs=4, stage1_lr=0.01, stage1_batch_size=8)
    assert [(stage.start, stage.lr, stage.batch_size) for stage in model.stages()] == [(0, 0.01, 8), (4, None, None)]
    *first, meta = model.phases()
    for epoch, turns in ((0, [True] * 3 + [False]), (3, [True] * 3 + [False]), (4, [False] * 3 + [True])):
        assert [phase.when(Progress(epoch=epoch)) for phase in (*first, meta)] == turns
    assert sorted(id(p) for phase in (*first, meta) for p in phase.parameters) == sorted(map(id, model.parameters()))
    marginal = model.figures(model.validate(batch, generator("stage")))
    assert torch.equal(model.reconstruct(batch.x), model.reconstruct_marginals(batch.x))
    model.after_phase("meta", Progress(), {}, None)
    assert model.figures(model.validate(batch, generator("stage")))["objective"] != marginal["objective"]


# ---- penalties

def test_a_perceptual_term_without_weights_is_off_and_says_so(batch):
    model = build("autoencoder_kl", perceptual_weight=0.1)
    [path] = model.feature_paths()
    assert path.startswith("torch-cache:") and "looks for" in model.notes()[-1]
    model.load_feature_networks({})
    assert "is off" in model.notes()[-1] and "model.perceptual_weight" in model.notes()[-1] and "perceptual" not in model.losses(batch, Progress.end(), generator(0))
    with pytest.raises(RunError, match="vgg16"):
        model.load_feature_networks({path: {"decoder": torch.zeros(3)}})
    model.load_feature_networks({path: random_feature_weights("vgg16", generator=generator(1))})
    assert model.losses(batch, Progress.end(), generator(0))["perceptual"] > 0
    assert set(model.state_dict()) == set(build("autoencoder_kl").state_dict())


def test_a_critic_sees_only_what_the_data_hold(batch):
    model = build("autoencoder_kl", adversarial_weight=0.1, discriminator_channels=4, discriminator_layers=1, discriminator_start=2)
    main, critic = model.phases()
    assert [stage.start for stage in model.stages()] == [0, 2] and critic.name == "critic"

    def real(plane):
        target = batch.x.clone()
        target[:, plane] = 1 - target[:, plane]
        return critic.loss(Batch(batch.x, batch.cond, torch.tensor([[True, False, True]] * 4), target=target), Progress.end(), generator(0))["critic_real"].item()
    plain = critic.loss(Batch(batch.x, batch.cond, torch.tensor([[True, False, True]] * 4)), Progress.end(), generator(0))["critic_real"].item()
    assert real(1) == plain != real(0)
    assert "adversarial" not in model.validate(batch, generator(0))


def test_an_attribute_that_cannot_be_ordered_is_refused(batch):
    for wrong, said in ((dict(attributes=["are"]), "did you mean 'area'"), (dict(attributes={"area": 4}), "no latent dimension 4"),
                        (dict(vae=dict(type="ar_vae", attributes=["area"], vae=models.get("ar_vae").small["vae"])), "can't be regularised")):
        with pytest.raises(ConfigError, match=said):
            build("ar_vae", **wrong)
    model = build("ar_vae", attributes=["width", "area"], tolerance=0.5)

    def designs(values):
        return Designs(SPEC, torch.zeros(3, 3, 16, 8, dtype=torch.uint8), cond=torch.zeros(3, 1), attributes=values, attribute_names=SPEC.attributes)
    with pytest.raises(DataError, match="area is 1 for every"):
        model.fit_statistics(designs([[1.0, 5], [1, 6], [1, 7]]))
    with pytest.raises(DataError, match="width is known of 1"):
        model.fit_statistics(designs([[1.0, 5], [2, torch.nan], [3, torch.nan]]))
    model.fit_statistics(designs([[1.0, 5], [2, 5], [4, 6]]))
    torch.testing.assert_close(model.penalties[-1].tolerance, 0.5 * torch.tensor([[5.0, 5, 6], [1, 2, 4]]).std(1))
    with pytest.raises(DataError, match="no attributes"):
        model.losses(Batch(batch.x, batch.cond, batch.available), Progress(), generator(0))


def test_attributes_regularise_any_vae(batch):
    for name in ("gmrf_mvae", "meta_vae", "autoencoder_kl"):
        model = build("ar_vae", vae={"type": name, **models.get(name).small}, attributes={"width": 3})
        terms = model.phases()[-1].loss(batch, Progress.end(), generator(0))
        assert {"attribute_loss", "attribute_width"} <= set(terms) and model.section_name == "model.vae"


# ---- pages

def test_sizes_of_pages():
    model = build("wireframe_vae", PAGE)
    with pytest.raises(EpureError, match="give size"):
        model.sample(2)
    for bad in ((0, 5), (5,), (5.0, 5)):
        with pytest.raises(EpureError, match="height and width"):
            model.sample(2, size=bad)
    with pytest.raises(EpureError, match="67,108,864"):
        model.sample(1, size=(10**6, 10**6))
    fixed = build("wireframe_vae", DesignSpec(("page",), height=32, width=24))
    assert fixed.sample(2).shape == (2, 1, 32, 24)
    with pytest.raises(EpureError, match="32×24"):
        fixed.sample(2, size=(64, 24))


def test_posteriors_of_pages_are_rows():
    model = build("wireframe_vae", PAGE)
    with torch.no_grad():
        for size in ((1, 1), (7, 300), (96, 64)):
            x = torch.rand(1, 1, *size)
            assert isinstance(model.encode(x), DiagonalNormal) and model.reconstruct(x).shape == x.shape
        assert model.encode(torch.rand(0, 1, 64, 32)).mean.shape == (0, 8) and model.decode(torch.zeros(0, 8), size=(64, 32)).shape == (0, 1, 64, 32)
