"""The benchmarks run, at sizes that measure nothing; that of killed trainings is a test of its own, in test_resume.py."""
import json
import sys

import pytest
from conftest import ROOT, run_process

sys.path.insert(0, str(ROOT / "bench"))


@pytest.mark.xdist_group("bench")
def test_benchmarks_run_and_write_what_they_found(tmp_path):
    output = tmp_path / "results.json"
    result = run_process("python", "bench/run.py", "--tiny", "--skip", "pythae", "multivae", "kills", "--output", output, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    written = json.loads(output.read_text())
    assert written["tiny"] and written["machine"]["processor"]["cores"] and written["machine"]["packages"]["torch"]
    assert list(written["benchmarks"]) == ["step", "opening", "precision", "curves", "gaussians", "fields", "painting", "pages", "map", "tokens", "attributes", "head"]
    for rows in written["benchmarks"].values():
        assert rows and all(row["value"] is not None and row["what"] in result.stdout for row in rows)


@pytest.mark.xdist_group("bench")
def test_works_are_measured_in_turn():
    from timing import in_turn

    order = []
    times = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm_up=1)
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert [len(values) for values in times.values()] == [3, 3]


@pytest.mark.xdist_group("bench")
def test_medians_and_targets():
    from timing import at_least, at_most, median_difference, median_ratio

    times = {"a": [2.0, 3.0, 40.0], "b": [1.0, 2.0, 4.0]}
    assert median_ratio(times, "a", "b") == 2.0 and median_difference(times, "a", "b") == 1.0
    assert at_most("x", 1.0, 1.05, "×").reached and not at_most("x", 1.06, 1.05, "×").reached
    assert at_least("x", 1.3, 1.3, "×").reached and not at_least("x", 1.2, 1.3, "×").reached
