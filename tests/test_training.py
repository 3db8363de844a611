"""Training: interrupted anywhere it ends as if it had not been; phases, stages, signals, crashes, and what isn't finite."""
import itertools
import math
import signal
from copy import deepcopy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training import EVERYTHING, SPEC, SPLITS, Tiny, TwoPlayers, TwoStages, assert_same, configured, made, new_run, trained

from epuredgm.core.errors import ConfigError, DataError, RunError, TrainingError
from epuredgm.data.designs import Designs, Splits
from epuredgm.models.contract import Phase, every
from epuredgm.train.callbacks import Callback
from epuredgm.train.checkpoints import find_checkpoint, list_checkpoints, load_checkpoint
from epuredgm.train.loop import training_step, updates_left, validate
from epuredgm.train.state import TrainState
from epuredgm.train.trackers import Tracker


def state_of(model=None, **options): return TrainState(model or made(), configured(**options).training, len(SPLITS.train))


# ---------------------------------------------------------------- interrupted anywhere
@pytest.fixture(scope="module")
def references(tmp_path_factory):
    "An uninterrupted run of each kind of model."
    folder, runs = tmp_path_factory.mktemp("references"), {}
    for kind in (Tiny, TwoStages, TwoPlayers):
        runs[kind] = new_run(folder)
        trained(runs[kind], made(kind), **options_of(kind))
    return runs


def options_of(kind): return EVERYTHING | (dict(epochs=5, scheduler="cosine") if kind is TwoStages else {})


@pytest.mark.parametrize("kind, steps", [*((Tiny, s) for s in (2, 4, 6, 7, 9, 13, 14, 20)), *((TwoStages, s) for s in (2, 6, 8, 10, 17)),
                                         *((TwoPlayers, s) for s in (2, 4, 7, 11, 14))])
def test_stopped_and_resumed_it_ends_as_if_it_had_not_been(kind, steps, references, tmp_path):
    run = new_run(tmp_path)
    stopped = trained(run, made(kind), **options_of(kind), max_steps=steps)
    assert (stopped.reason, stopped.step) == ("max_steps", steps)
    trained(run, made(kind), resume=True, **options_of(kind))
    assert_same(run, references[kind])


class Crash(BaseException):
    "An error that no handler catches."


class Dying(Tracker):
    def __init__(self, after): self.left = after

    def log(self, record, step, epoch):
        self.left -= 1
        if self.left < 0: raise Crash


@pytest.mark.parametrize("after", (0, 3, 8, 12))
@pytest.mark.parametrize("kind", (Tiny, TwoPlayers))
def test_crashed_and_resumed_it_ends_as_if_it_had_not_been(kind, after, references, tmp_path):
    run = new_run(tmp_path)
    with pytest.raises(Crash): trained(run, made(kind), trackers=[Dying(after)], **options_of(kind) | dict(checkpoint_minutes=1e-9, log_every=1))
    trained(run, made(kind), resume=True, **options_of(kind))
    assert_same(run, references[kind])


class Signals(Tracker):
    "Send a signal when a step is logged."

    def __init__(self, number, at): self.number, self.at = number, at

    def log(self, record, step, epoch):
        if step == self.at and "train/loss" in record: signal.raise_signal(self.number)


@pytest.mark.parametrize("at", (4, 7))
@pytest.mark.parametrize("number, raised", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_does_its_work_after_the_checkpoint(number, raised, at, references, tmp_path, capsys):
    run, handlers = new_run(tmp_path), [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(raised) as stop: trained(run, trackers=[Signals(number, at)], **EVERYTHING)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    if raised is SystemExit: assert stop.value.code == 143
    assert f"epuredgm train {run.path} --resume" in capsys.readouterr().out
    trained(run, resume=True, **EVERYTHING)
    assert_same(run, references[Tiny])


def test_a_signal_within_a_validation_leaves_only_that_to_do(references, tmp_path):
    class Interrupted(Tiny):
        times = 0

        def validate(self, batch, generator):
            Interrupted.times += 1
            if Interrupted.times == 5: signal.raise_signal(signal.SIGTERM)
            return super().validate(batch, generator)

    run = new_run(tmp_path)
    with pytest.raises(SystemExit): trained(run, made(Interrupted), **EVERYTHING)
    assert load_checkpoint(find_checkpoint(run.path / "checkpoints")).state["position"] == {"step": 14, "epoch": 1, "batch": 7}
    trained(run, resume=True, **EVERYTHING)
    assert_same(run, references[Tiny])


def test_more_epochs_of_a_finished_run_are_as_if_asked_for_at_once(references, tmp_path):
    run = new_run(tmp_path)
    trained(run, **EVERYTHING | dict(epochs=2))
    trained(run, resume=True, **EVERYTHING)
    assert_same(run, references[Tiny])
    assert trained(run, resume=True, **EVERYTHING).step == 21  # nothing is left to do
    assert_same(run, references[Tiny])


# ---------------------------------------------------------------- updates
class NothingIsRead(TorchDispatchMode):
    "Refuse what would make the processor wait for a device."

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", (Tiny, TwoPlayers))
def test_a_step_asks_the_device_for_nothing(kind):
    state = state_of(made(kind), accumulation_steps=2, ema_decay=0.9)
    with state.random.isolated(), NothingIsRead():
        for update, batches in itertools.islice(updates_left(state, SPLITS.train), 4): training_step(state, update, batches)
        with pytest.raises(AssertionError): torch.zeros(1).item()  # the guard guards


def test_four_batches_of_8_train_as_batches_of_32(tmp_path):
    class Plain(Tiny):
        def losses(self, batch, progress, generator): return self.terms(batch, generator)

    ends = []
    for options in (dict(batch_size=8, accumulation_steps=4), dict(batch_size=32)):
        run = new_run(tmp_path)
        trained(run, made(Plain, noise=0.0, dropout=0.0), **options)
        ends.append(load_checkpoint(find_checkpoint(run.path / "checkpoints")).models["model"])
    for name in ("out.0.weight", "out.4.weight"): torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-3, atol=1e-4)


def test_each_phase_moves_its_own_parameters_at_its_turns():
    class TwoPhases(Tiny):
        def phases(self):
            def alone(*arguments): return {"loss": self.losses(*arguments)["loss"]}
            return [Phase("encoder", list(self.into.parameters()), self.losses), Phase("decoder", list(self.out.parameters()), alone, every(2))]

    state, moved, terms = state_of(made(TwoPhases)), [], []
    with state.random.isolated():
        for update, batches in itertools.islice(updates_left(state, SPLITS.train), 4):
            before = deepcopy(state.model.state_dict())
            terms.append(set(training_step(state, update, batches)))
            moved.append({name.split(".")[0] for name, tensor in state.model.state_dict().items() if not torch.equal(tensor, before[name])})
    assert moved == [{"into", "out"}, {"into"}] * 2
    assert terms[0] == {"loss_encoder", "loss_decoder", "grad_norm_encoder", "grad_norm_decoder", "recon_loss", "kl"}


def test_two_players_have_rates_of_their_own(tmp_path):
    run = new_run(tmp_path)
    trained(run, made(TwoPlayers), epochs=1, lr_warmup_steps=0, phases={"generator": {"lr": 1e-5, "clip_grad_norm": 0}})
    record = run.read_metrics()[1]
    assert (record["train/lr_critic"], record["train/lr_generator"]) == (2e-3, 1e-5)
    assert "train/grad_norm_critic" in record and "train/grad_norm_generator" not in record
    with pytest.raises(ConfigError, match="generatr.*generator"): state_of(made(TwoPlayers), phases={"generatr": {"lr": 1}})


def test_only_averaged_parameters_are_kept_twice(tmp_path):
    run = new_run(tmp_path)
    trained(run, made(TwoPlayers), epochs=1, ema_decay=0.9)
    assert set(load_checkpoint(find_checkpoint(run.path / "checkpoints")).models["ema"]) == {"generator.weight", "generator.bias"}


def test_a_stage_leaves_its_average_and_exports_its_parts(tmp_path, references):
    run = new_run(tmp_path)
    outcome = trained(run, made(TwoStages), **options_of(TwoStages) | dict(keep_checkpoints=9, pretrained_dir=str(tmp_path / "parts")))
    records = [record for record in run.read_metrics() if "train/lr" in record]
    rates = [record["train/lr"] for record in records]
    assert len(records) == 2 * 2 + 3 * 4 and outcome.best.epoch > 2 and outcome.best.value > 0  # the first stage's objective is far lower
    assert math.isclose(rates[0], 1e-2 / 5) and math.isclose(rates[4], 3e-3 / 5)
    border, end = (load_checkpoint(find_checkpoint(run.path / "checkpoints", which)).models for which in (8, "latest"))
    for name, tensor in torch.load(tmp_path / "parts/decoder.pt", weights_only=True)["weights"].items():
        for weights in (border["model"], border["ema"], end["model"], end["ema"]): assert torch.equal(weights[f"out.{name}"], tensor), name


# ---------------------------------------------------------------- validation
def test_a_validation_may_take_gradients():
    class Penalised(Tiny):
        def validate(self, batch, generator):
            with torch.enable_grad():
                x = batch.x.clone().requires_grad_()
                penalty = torch.autograd.grad(self.into(x).sum(), x)[0].square().sum()
            return {"n": torch.tensor(float(len(batch))), "objective": penalty}

    assert validate(state_of(made(Penalised, dropout=0.0)), SPLITS.val)["objective"] > 0


def test_sums_do_not_depend_on_the_batch_size():
    class Brightness(TwoPlayers):
        def figures(self, sums): return {"objective": float(sums["real"].square().sum() / sums["n"] ** 2)}  # no mean over batches

    figures = [validate(state_of(made(Brightness), validation_batch_size=size), SPLITS.val)["objective"] for size in (5, 37)]
    assert math.isclose(*figures, rel_tol=1e-6) and math.isclose(figures[0], SPLITS.val.batch(slice(None)).x.double().mean(0).square().sum().item(), rel_tol=1e-6)


# ---------------------------------------------------------------- callbacks
def test_a_callback_measures_stops_and_is_resumed(tmp_path):
    class Mine(Callback):
        def __init__(self): self.seen, self.moments = 0, []
        def on_start(self, state): self.moments.append("start")
        def on_step(self, state, terms): self.seen += 1; float(terms["loss"])
        def measure(self, state): return {"negative_step": -float(state.position.step)}

        def on_validation(self, state, figures):
            self.moments.append(sorted(figures)[:2])
            if state.position.epoch == 2: state.stop = "enough"

        def on_end(self, state): self.moments.append("end")
        def close(self): self.moments.append("close")
        def state_dict(self): return {"seen": self.seen}
        def load_state_dict(self, state): self.seen = state["seen"]

    run, mine, model = new_run(tmp_path), Mine(), made()
    model.selected_by = "negative_step"
    outcome = trained(run, model, callbacks=[mine])
    assert (outcome.reason, outcome.epoch, outcome.best.epoch) == ("enough", 2, 2)
    assert mine.moments == ["start", ["kl", "negative_step"], ["kl", "negative_step"], "end", "close"] and mine.seen == 26
    again = Mine()
    trained(run, callbacks=[again], resume=True)
    assert again.seen == 39


def test_budgets_and_patience(tmp_path):
    stopped = trained(new_run(tmp_path), optimizer="sgd", lr=1e-12, epochs=50, early_stopping=3, batch_size=103)
    assert (stopped.reason, stopped.epoch - stopped.best.epoch) == ("early_stopping", 3)
    assert trained(new_run(tmp_path), epochs=10**6, max_minutes=1e-3).reason == "max_minutes"
    run = new_run(tmp_path)
    assert trained(run, epochs=0).step == 0 and len(list_checkpoints(run.path / "checkpoints")) == 1


def test_a_collapse_is_told_once(tmp_path, capsys):
    class Collapsing(Tiny):
        def watch(self, figures, progress): return "posterior collapse" if figures["kl"] < 1e9 else None

    run = new_run(tmp_path)
    assert str(trained(run, made(Collapsing))).endswith("posterior collapse")
    assert capsys.readouterr().out.count("posterior collapse") == 1
    assert [record["epoch"] for record in run.read_metrics() if "event" in record] == [1]


def test_a_training_that_diverges_says_so(tmp_path):
    class Rising(Tiny):
        def losses(self, batch, progress, generator):
            terms = super().losses(batch, progress, generator)
            return terms | {"loss": terms["loss"] * (1 + 10 * progress.updates)}

    run = new_run(tmp_path)
    assert "the training diverges: loss is" in str(trained(run, made(Rising), lr=1e-6, epochs=1)) and [record for record in run.read_metrics() if "event" in record]
    assert "diverges" not in str(trained(new_run(tmp_path), epochs=1))


def test_pictures_of_reconstructions(tmp_path):
    class Album(Tracker):
        takes_pictures = True
        def __init__(self): self.kept = []
        def pictures(self, name, images, step, epoch): self.kept.append((name, len(images), images[0].shape[2], step, epoch))

    album = Album()
    trained(new_run(tmp_path), trackers=[album], epochs=2, batch_size=16, triplets=20)
    assert album.kept == [("train/triplets", 16, 3, 1, 1 / 7), ("val/triplet_step", 20, 3, 7, 1), ("train/triplets", 16, 3, 8, 1 + 1 / 7), ("val/triplet_step", 20, 3, 14, 2)]


# ---------------------------------------------------------------- what isn't finite, and what doesn't fit
def test_a_term_that_is_not_finite_names_step_and_designs(tmp_path):
    class Poisoned(Tiny):
        def losses(self, batch, progress, generator):
            terms = super().losses(batch, progress, generator)
            bad = (batch.x[:, 0, 0, 0] == 1).any() & (progress.epoch >= 1)
            return terms | {"kl": terms["kl"].masked_fill(bad, math.nan), "loss": terms["loss"].masked_fill(bad, math.nan)}

    pixels = SPLITS.train.images.clone()
    pixels[10, 0, 0, 0] = 255
    run = new_run(tmp_path)
    with pytest.raises(TrainingError) as error:
        trained(run, made(Poisoned), Splits(Designs(SPEC, pixels, names=SPLITS.train.names), SPLITS.val), batch_size=4, checkpoint_minutes=1e-9)
    for part in ("kl became nan", "design_10", "epoch 2", "step-", "training.lr"): assert part in str(error.value)
    last = load_checkpoint(find_checkpoint(run.path / "checkpoints"))
    assert last.step == run.read_metrics()[-1]["step"]
    assert all(tensor.isfinite().all() for tensor in last.models["model"].values())


@pytest.mark.parametrize("clip, named", [(None, "into.1.weight"), (1.0, "grad_norm")])
def test_a_broken_gradient_of_a_finite_loss_is_found_before_it_is_saved(clip, named, tmp_path):
    class Broken(Tiny):
        def losses(self, batch, progress, generator):
            terms = super().losses(batch, progress, generator)
            return terms | {"loss": terms["loss"] + (self.into[1].weight[0, 0] * 0).sqrt()}

    run = new_run(tmp_path)
    with pytest.raises(TrainingError, match=named): trained(run, made(Broken), clip_grad_norm=clip, max_steps=1)
    assert not list_checkpoints(run.path / "checkpoints")


def test_a_figure_that_is_not_finite_ends_the_run(tmp_path):
    class Endless(Tiny):
        def figures(self, sums): return super().figures(sums) | {"kl": math.inf}

    with pytest.raises(TrainingError, match="val/kl became inf in epoch 1"): trained(new_run(tmp_path), made(Endless))


@pytest.mark.parametrize("precision, tolerance", [("bf16", 0.02), ("fp16", 0.3)])
def test_other_precisions_learn_as_float32_does(precision, tolerance, tmp_path):
    ends = [trained(new_run(tmp_path), epochs=4, precision=each).best.value for each in ("float32", precision)]
    assert ends[1] < ends[0] * (1 + tolerance)


def test_a_resume_says_why_it_cannot(tmp_path):
    run = new_run(tmp_path)
    trained(run, max_steps=4)
    with pytest.raises(RunError, match="batch_size 8 before and 16 now"): trained(run, resume=True, batch_size=16)
    with pytest.raises(RunError, match="into.1.weight"): trained(run, made(width=12), resume=True)
    with pytest.raises(RunError, match="resume it"): trained(run)
    with pytest.raises(DataError, match="0 and 37"): trained(new_run(tmp_path), splits=Splits(SPLITS.train.subset(range(0)), SPLITS.val))


def test_a_checkpoint_of_the_first_edition_is_refused_in_a_sentence(tmp_path):
    from epuredgm.train.checkpoints import save_checkpoint
    run = new_run(tmp_path)
    save_checkpoint(run.path / "checkpoints", 4, made().state_dict(), {"position": {"step": 4, "epoch": 0, "batch": 4}, "order": {}, "selection": {}})
    with pytest.raises(RunError, match="step-4 lacks .*another version.*train anew"): trained(run, resume=True)




# ---------------------------------------------------------------- planned by the clock
def test_a_planned_training_is_resumed_as_it_was_planned(tmp_path, monkeypatch):
    from epuredgm.core.config import load_config, parse_config
    from epuredgm.train.run import load_run, train

    class Stop(Callback):
        def on_step(self, state, terms): state.stop = "enough" if state.position.step == 7 else state.stop

    small = dict(type="beta_vae", nf=4, nf_max=4, stages=1, stem=4, latent_dim=2, mask_warmup_epochs=3)
    values = dict(model=small, data=dict(type="toy_epures", n=32, n_val=8), training=dict(epochs="auto", max_minutes=10, batch_size=8, precision="float32", device="cpu", scheduler="cosine"))
    speeds = iter(([100.0], [100.0], [1.0]))
    monkeypatch.setattr("epuredgm.train.plan.seconds_per_epoch", lambda *_, **__: next(speeds))
    whole = train(parse_config(values | {"run_dir": str(tmp_path / "whole")}), progress=False)
    config = parse_config(values | {"run_dir": str(tmp_path / "stopped")})
    assert train(config, progress=False, callbacks=[Stop()]).outcome.reason == "enough"
    resumed = train(config, resume=True, progress=False)
    assert len(list(speeds)) == 1  # resuming measures nothing
    stored = load_config(tmp_path / "stopped" / "config.yaml")
    assert (stored.training.epochs, stored.training.max_minutes, stored.model.mask_warmup_epochs) == (5, None, 1)
    first, second = (load_run(run.path, "latest", "cpu").model.state_dict() for run in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
