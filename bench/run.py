"""Every benchmark, as a table and as bench/results.json.

    make bench                              everything; twenty minutes on two cores
    make bench BENCH="--only precision"     one of them
    make bench BENCH="--data FOLDER"        the opening of a real folder as well
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from attributes import attribute_loss  # noqa: E402
from dependence import joint_gaussians  # noqa: E402
from experts import against_multivae  # noqa: E402
from fields import whole_step  # noqa: E402
from heads import head_epochs  # noqa: E402
from learning import against_pythae, loss_curves, precision, step_overhead  # noqa: E402
from maps import latent_maps  # noqa: E402
from opening import opening  # noqa: E402
from pages import page_batches  # noqa: E402
from painting import painting  # noqa: E402
from timing import Result  # noqa: E402
from tokens import nearest_code_search  # noqa: E402

from epuredgm.core.runs import environment  # noqa: E402


def kills(tiny: bool) -> list[Result]:
    "`kill -9` at random moments, then resume: as many trials as asked, each has to end with the weights of the uninterrupted run."
    trials = 1 if tiny else 20
    start = time.time()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/test_resume.py::test_killed_at_random_moments"]
    result = subprocess.run(command, env=os.environ | {"EPUREDGM_KILLS": str(trials)}, capture_output=True, text=True, cwd=HERE.parent)
    passed = re.search(r"(\d+) passed", result.stdout)
    tail = result.stdout.splitlines()[-1] if result.stdout else result.stderr[-300:]
    details = {"tests": int(passed[1]) if passed else 0, "seconds": round(time.time() - start, 1), "pytest": tail}
    return [Result(f"resume after {trials} kills, tests failed", float(result.returncode != 0), "", "0", result.returncode == 0, details)]


def table(results: dict[str, list[Result]]) -> str:
    "What was measured, beside what it should reach."
    rows = [("benchmark", "figure", "target", "reached")]
    for name, found in results.items():
        for result in found:
            figure = "–" if result.value is None else f"{result.value:.4g} {result.unit}".strip()
            reached = "" if result.reached is None else "yes" if result.reached else "NO"
            rows.append((f"{name}: {result.what}", figure, result.target, reached))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def main() -> int:
    "Measure, print, write; exit status 1 where a target is missed."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["step", "pythae", "multivae", "opening", "precision", "curves", "gaussians", "fields", "attributes", "head", "painting", "pages", "map", "tokens", "kills"]
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the benchmarks run")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which ones")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="which ones not")
    parser.add_argument("--data", type=Path, help="a real folder of designs, for `opening`")
    parser.add_argument("--pages", type=Path, default=HERE.parent / "data" / "wireframes" / "compact", help="a folder of real layout trees, for `painting`; generated pages where there is none")
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="where the figures go")
    asked = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        benchmarks = {
            "step": lambda: step_overhead(asked.tiny, folder / "step"),
            "pythae": lambda: against_pythae(asked.tiny, folder / "pythae", HERE / ".pythae"),
            "multivae": lambda: against_multivae(asked.tiny, folder / "multivae", HERE / ".pythae"),
            "opening": lambda: opening(asked.tiny, folder / "opening", asked.data),
            "precision": lambda: precision(asked.tiny, folder / "precision"),
            "curves": lambda: loss_curves(asked.tiny, folder / "curves"),
            "gaussians": lambda: joint_gaussians(asked.tiny),
            "fields": lambda: whole_step(asked.tiny),
            "painting": lambda: painting(asked.tiny, folder / "painting", asked.pages),
            "pages": lambda: page_batches(asked.tiny),
            "map": lambda: latent_maps(asked.tiny),
            "tokens": lambda: nearest_code_search(asked.tiny),
            "attributes": lambda: attribute_loss(asked.tiny),
            "head": lambda: head_epochs(asked.tiny, folder / "head"),
            "kills": lambda: kills(asked.tiny),
        }
        for name, benchmark in benchmarks.items():
            if name in asked.only and name not in asked.skip:
                print(f"{name} …", file=sys.stderr, flush=True)
                results[name] = benchmark()
    print(table(results))
    found = {name: [asdict(result) for result in rows] for name, rows in results.items()}
    asked.output.write_text(json.dumps({"tiny": asked.tiny, "machine": machine(), "benchmarks": found}, indent=1) + "\n")
    missed = [row for rows in results.values() for row in rows if row.reached is False]
    return 1 if missed and not asked.tiny else 0


def machine() -> dict:
    "Where the figures come from."
    import torch

    facts = environment()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kept = {name: facts[name] for name in ("time", "python", "epuredgm", "packages", "platform", "processor", "package_git")}
    return kept | {"memory_gb": round(memory, 1), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    sys.exit(main())
