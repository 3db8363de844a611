"""Every notebook runs, in process, as `nbdev_test` runs it: one test a notebook, longest first.

No test asserts a time: a busy machine is not a broken notebook. The summary lists the seconds, and pytest.ini stops a test that hangs.
"""
import atexit
import gc
import os
import sys

from conftest import ROOMS, ROOT, notebooks


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


def test_notebook_runs(notebook, request, capfd):
    os.environ["IN_TEST"] = "1"
    before, path = global_settings(), list(sys.path)
    passed = execute(ROOT / "nbs" / notebook, request.config.getoption("--flags").split())
    sys.path[:] = path  # the runner itself adds to it
    let_go()
    assert passed, capfd.readouterr().err[-8000:]
    # a library that is imported may add variables of its own, which is not the notebook's doing
    after = global_settings()
    changed = sorted(name for name in before if name not in after or before[name] != after[name])
    assert not changed, f"the notebook changes settings that other notebooks share: {', '.join(changed)}"
