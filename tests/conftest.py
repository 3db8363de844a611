"""Flags, the order of the notebooks, the report at the end, and copies of the repository to work in."""
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("core", "plot", "data", "blocks", "models", "train", "evaluate", "explore")
LONG = ("test_resume", "test_documentation", "test_bench", "test_browser")  # minutes on one worker each
LEFT_OUT = (".git", ".venv", "runs", "samples", "wandb", "build", "dist", "_docs", "_proc", "*.egg-info")

# Two workers share two cores: more threads than cores make both slower. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# IPython keeps files of its own; tests leave nothing outside the repository.
os.environ["IPYTHONDIR"] = str(ROOT / "build" / "ipython")
Path(os.environ["IPYTHONDIR"]).mkdir(parents=True, exist_ok=True)


# A shell that runs the tests in its background has them ignore interruptions, and they would hand that down to the processes they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--flags", default="", help="flags of cells and tests to run that are left out otherwise: slow cuda")


def pytest_collection_modifyitems(config, items):
    "Leave out flagged tests that nobody asked for; keep the tests of one file, notebooks apart, on one worker."
    asked = config.getoption("--flags").split()
    for item in items:
        for flag in ("slow", "cuda"):
            if item.get_closest_marker(flag) and flag not in asked:
                item.add_marker(pytest.mark.skip(reason=f"flagged {flag}: run with --flags {flag}"))
        if item.path.stem != "test_notebooks" and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    # The longest groups first, then notebooks, the longest of them first; short tests fill the gaps at the end.
    order = (*LONG, "test_notebooks")
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else len(order))


def pytest_terminal_summary(terminalreporter, config):
    "Report the seconds of each notebook, which order the next run."
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, []) if "test_notebook_runs[" in report.nodeid]
    seconds = {report.nodeid.split("[")[1].removesuffix("]"): round(report.duration, 2) for report in reports}
    if not seconds:
        return
    if getattr(config, "cache", None):
        config.cache.set("epuredgm/seconds", config.cache.get("epuredgm/seconds", {}) | seconds)
    terminalreporter.section("seconds a notebook")
    for name in sorted(seconds, key=seconds.get, reverse=True):
        terminalreporter.write_line(f"{seconds[name]:6.1f}  {name}")


def notebooks(root=ROOT):
    "List the notebooks of a copy of the repository, as paths below its folder nbs."
    paths = (path.relative_to(root / "nbs") for path in (root / "nbs").rglob("*.ipynb"))
    return sorted(path for path in paths if not any(part.startswith((".", "_")) for part in path.parts))


def clean_environment(**more):
    "The environment for a process of its own: without the marks that nbdev's in-process test and make leave."
    left_out = ("IN_TEST", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    return environment | {name: str(value) for name, value in more.items()}


def run_process(*command, cwd=ROOT, timeout=600, **more):
    "Run a command of this environment and return its result; `more` adds environment variables."
    program = Path(sys.executable).parent / command[0]
    command = [str(program) if program.exists() else command[0], *map(str, command[1:])]
    return subprocess.run(
        command, cwd=cwd, env=clean_environment(**more), timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def copy_repository(folder):
    "The repository without what git ignores, to export, clean or break there."

    def ignored(directory, names):
        top = Path(directory).resolve() == ROOT
        patterns = shutil.ignore_patterns("__pycache__", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".pythae", *(LEFT_OUT if top else ()))
        return patterns(directory, names) | ({"data"} & set(names) if top else set())

    shutil.copytree(ROOT, folder, ignore=ignored, symlinks=True, dirs_exist_ok=True)
    return Path(folder)
