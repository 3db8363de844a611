"""Every notebook runs, in process, as `nbdev_test` runs it: one test a notebook, longest first.

No test asserts a time: a busy machine is not a broken notebook. The summary lists the seconds, and pytest.ini stops a test that hangs.
"""
import atexit
import gc
import os
import re
import sys

from conftest import ROOMS, ROOT, notebooks

# What a page trains for its reader's eyes, a test trains for a moment, unless slow ones are asked for: in the notebook, what is found → what stands there instead.
FEW = {r"overrides = \[\] +#": 'overrides = ["data.n=128", "data.n_val=32"] #', r"designs = 64 ": "designs = 16 "}
SMALLER = {
    "cli.ipynb": {r'"stem": 2, "latent_dim": 8, ': '"stem": 4, "latent_dim": 8, ', r'"n": 256': '"n": 128', r'"n": 600': '"n": 200'},
    "evaluate/12_regression.ipynb": {r'"nf_max": 32, "latent_dim": 16': '"nf_max": 32, "stem": 4, "latent_dim": 16'},
    "evaluate/17_report.ipynb": {r'"nf_max": 32': '"nf_max": 32, "stem": 4'},
    "experiments/ar_vae.ipynb": {r'"data.n=256"': '"data.n=128"', r'"data.n_val=64"': '"data.n_val=32"', r'"training.epochs=6"': '"training.epochs=2"'},
    "experiments/autoencoder_kl.ipynb": FEW,
    "experiments/beta_vae.ipynb": FEW | {r"overrides = \[\] +#": 'overrides = ["data.n=128", "data.n_val=32", "model.stem=4"] #'},
    "experiments/families.ipynb": {r'"data.n=256"': '"data.n=128", "model.stem=4"', r"designs = 32 ": "designs = 16 "},
    "experiments/gmrf_mvae.ipynb": FEW,
    "experiments/meta_vae.ipynb": FEW,
    "experiments/polymnist.ipynb": {r'"data.n=600"': '"data.n=200"', r'"data.n_val=160"': '"data.n_val=48"',
                                    r"classifier_epochs = 6 ": "classifier_epochs = 2 ", r"designs = 160 ": "designs = 48 "},
    "experiments/regression_head.ipynb": {r"vae_overrides = \[\] ": 'vae_overrides = ["data.n=128", "model.stem=4"] ', r'"training.epochs=20"': '"training.epochs=5"'},
    "experiments/wgan_gp.ipynb": FEW,
    "explore/03_samples.ipynb": {r'"stem": 2': '"stem": 4', r'"n": 512': '"n": 128', r'"epochs": 6': '"epochs": 3'},
    "explore/04_demo.ipynb": {r'"n": 1024': '"n": 128', r'"epochs": 8': '"epochs": 2'},
    "guides/first_run.ipynb": {r'"data.n=\d+"': '"data.n=128"', r'"training.epochs=\d+"': '"training.epochs=2"'},
    "guides/measure.ipynb": {r'"n": 384': '"n": 128'},
    "guides/sampling.ipynb": {r'"data.n=\d+"': '"data.n=128"', r'"training.epochs=\d+"': '"training.epochs=2"'},
    "guides/walk.ipynb": {r'"n": 1024': '"n": 128', r'"epochs": 10': '"epochs": 2'},
    "models/04_autoencoder_kl.ipynb": {r"n=1000": "n=64", r"torch.bfloat16\)": "torch.bfloat16, enabled=False)"}}


def longest_first(paths, seconds):
    "Sort by the seconds of the last run; a notebook never timed goes first, later rooms, which train, before earlier ones."
    rooms = {room: place for place, room in enumerate(ROOMS)}
    return sorted(paths, key=lambda path: (-seconds.get(str(path), 1e9), -rooms.get(path.parts[0], len(rooms)), path))


def pytest_generate_tests(metafunc):
    if "notebook" in metafunc.fixturenames:
        cache = getattr(metafunc.config, "cache", None)
        paths = longest_first(notebooks(), cache.get("epuredgm/seconds", {}) if cache else {})
        metafunc.parametrize("notebook", [str(path) for path in paths])


def global_settings():
    "Collect what notebooks of one process share, and so must leave as they found it."
    import matplotlib
    import torch

    settings = {
        "working directory": os.getcwd(),
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": torch.get_default_device(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch gradients": torch.is_grad_enabled(),
        "torch seed": torch.initial_seed(),
        "torch threads": torch.get_num_threads(),
    }
    settings |= {f"environment variable {name}": value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # The shell that runs the notebook chooses a backend, and to be interactive, for its own use.
    settings |= {f"matplotlib {name}": value for name, value in matplotlib.rcParams.items() if "backend" not in name and name != "interactive"}
    return settings


def read_smaller(changes):
    "A reader of notebooks in the place of nbdev's, which makes these changes; every one has to find something."
    from nbdev.test import NBProcessor

    def read(path, **options):
        processor = NBProcessor(path, **options)
        for pattern, smaller in changes.items():
            counts = []
            for cell in processor.nb.cells:
                if cell.cell_type == "code":
                    cell.source, count = re.subn(pattern, smaller, cell.source)
                    counts.append(count)
            assert any(counts), f"tests/test_notebooks.py makes {path.name} smaller where it says {pattern}, and it does not"
        return processor

    return read


def execute(path, flags):
    "Run a notebook as nbdev does, leaving out cells flagged otherwise; True if every cell is sound."
    from nbdev.config import get_config
    from nbdev.test import test_nb

    return test_nb(path, skip_flags=get_config(path=ROOT).tst_flags.split(), force_flags=flags, basepath=ROOT)[0]


def let_go():
    "Free what the notebook made; its shell would keep it to the end of the process, and every collection of garbage would go through it again. What it registered keeps its namespace."
    from IPython.core.interactiveshell import InteractiveShell

    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    shell, InteractiveShell._instance = InteractiveShell._instance, None
    if shell is not None:  # a notebook that is not to be executed has none
        atexit.unregister(shell.atexit_operations)
        del shell
    gc.collect()
    gc.freeze()  # what is left are modules


def test_notebook_runs(notebook, request, capfd, monkeypatch):
    os.environ["IN_TEST"] = "1"
    flags = request.config.getoption("--flags").split()
    monkeypatch.setattr("nbdev.test.NBProcessor", read_smaller({} if "slow" in flags else SMALLER.get(notebook, {})))
    before, path = global_settings(), list(sys.path)
    passed = execute(ROOT / "nbs" / notebook, flags)
    sys.path[:] = path  # the runner itself adds to it
    let_go()
    assert passed, capfd.readouterr().err[-8000:]
    # a library that is imported may add variables of its own, which is not the notebook's doing
    after = global_settings()
    changed = sorted(name for name in before if name not in after or before[name] != after[name])
    assert not changed, f"the notebook changes settings that other notebooks share: {', '.join(changed)}"
