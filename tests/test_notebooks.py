"""Every notebook runs, in process, as `nbdev_test` runs it: one test a notebook, longest first.

Each has 60 seconds of the processor, which a busy machine does not change, and ten times that by the clock.
"""
import contextlib
import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path

from conftest import ROOMS, ROOT

NOTEBOOKS = ROOT / "nbs"
SECONDS = float(os.environ.get("EPUREDGM_NOTEBOOK_SECONDS", 60))


def notebooks():
    return sorted(
        str(path.relative_to(NOTEBOOKS))
        for path in NOTEBOOKS.rglob("*.ipynb")
        if not any(part.startswith((".", "_")) for part in path.relative_to(NOTEBOOKS).parts)
    )


def longest_first(names, seconds):
    "By the seconds of the last run; a notebook never timed goes first, later rooms, which train, before earlier ones."
    rooms = {room: place for place, room in enumerate(ROOMS)}
    later = len(rooms)
    return sorted(names, key=lambda name: (-seconds.get(name, SECONDS), -rooms.get(Path(name).parts[0], later), name))


def pytest_generate_tests(metafunc):
    if "notebook" in metafunc.fixturenames:
        cache = getattr(metafunc.config, "cache", None)
        seconds = cache.get("epuredgm/seconds", {}) if cache else {}
        metafunc.parametrize("notebook", longest_first(notebooks(), seconds))


class TooLong(BaseException):
    "Not an Exception, so that no cell catches it."


@contextlib.contextmanager
def time_limit(seconds):
    def stop(signum, frame):
        raise TooLong(f"the notebook was stopped after {seconds:.0f} seconds")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def global_settings():
    "What notebooks of one process share, and so must leave as they found it."
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


def changes(before, after):
    "Which settings differ; a library that is imported may add variables of its own, which is not the notebook's doing."
    return sorted(name for name in before if name not in after or before[name] != after[name])


def execute(path, flags):
    "Whether nbdev finds every cell of the notebook sound, leaving out cells flagged otherwise."
    from nbdev.config import get_config
    from nbdev.test import test_nb

    skipped = get_config(path=ROOT).tst_flags.split()
    return test_nb(path, skip_flags=skipped, force_flags=flags, basepath=ROOT)[0]


def processor_seconds():
    "What this process and those that it started have used so far."
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def close_figures():
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    gc.collect()


def test_notebook_runs(notebook, request, record_property, capfd):
    flags = request.config.getoption("--flags").split()
    os.environ["IN_TEST"] = "1"
    limit = SECONDS if not flags else 20 * SECONDS
    before, path, start, used = global_settings(), list(sys.path), time.time(), processor_seconds()
    with time_limit(10 * limit):
        passed = execute(NOTEBOOKS / notebook, flags)
    sys.path[:] = path  # the runner itself adds to it
    used = processor_seconds() - used
    record_property("notebook", notebook)
    record_property("seconds", round(used, 2))
    record_property("clock", round(time.time() - start, 2))
    close_figures()
    assert passed, capfd.readouterr().err[-8000:]
    assert used <= limit, f"the notebook took {used:.0f} seconds, {limit:.0f} are the limit: make it smaller, or flag its long cells slow"
    changed = changes(before, global_settings())
    assert not changed, f"the notebook changes settings that other notebooks share: {', '.join(changed)}"
