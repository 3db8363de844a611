"""The rendering command as a process: killed in the middle it goes on from there, and every picture is whole."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import clean_environment, run_process
from PIL import Image

from epuredgm.data.layout_trees import paint_page, read_tree


def pages(folder, n):
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(n):
        boxes = [{"b": random.integers(0, 900, 4).tolist()} for _ in range(20)]
        (folder / f"{number}.json").write_text(json.dumps({"r": {"b": [0, 0, 900, 1200], "c": boxes}, "w": 900, "h": 1200}))


def render(folder, out, *more):
    return run_process("epuredgm", "wireframes", "render", folder, "--out", out, "--quiet", *more)


def test_killed_and_started_again_it_does_what_is_left(tmp_path):
    source, out = tmp_path / "pages", tmp_path / "out"
    pages(source, 150)
    (source / "bad.json").write_text("[")
    command = [str(Path(sys.executable).parent / "epuredgm"), "wireframes", "render", str(source), "--out", str(out), "--workers", "2", "--quiet"]
    process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*_visu.png"))) < 20 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 20 <= len(there), "nothing was rendered before the command was killed"
    time.sleep(0.5)  # its workers end by themselves
    again = render(source, out, "--workers", "2")
    assert again.returncode == 1, again.stderr
    assert "150 pages" not in again.stdout and "1 skipped" in again.stdout and "bad.json" in again.stdout
    assert sum(path.stat().st_mtime_ns == when for path, when in there.items()) >= len(there) - 4
    assert not list(out.glob(".*.tmp")) and len(list(out.glob("*.png"))) == 300
    for number in range(150):
        tree = read_tree(source / f"{number}.json")
        for name, gamma in (("linear", 1.0), ("visu", 2.0)):
            assert np.array_equal(np.asarray(Image.open(out / f"{number}_{name}.png")), paint_page(tree, gamma))


def test_exit_status_tells(tmp_path):
    pages(tmp_path / "pages", 2)
    assert render(tmp_path / "pages", tmp_path / "out").returncode == 0
    (tmp_path / "empty").mkdir()
    nothing = render(tmp_path / "empty", tmp_path / "out")
    assert nothing.returncode == 2 and nothing.stderr.count("\n") == 1 and "no JSON files" in nothing.stderr


def test_interrupted_it_stops_with_a_word(tmp_path):
    source, out = tmp_path / "pages", tmp_path / "out"
    pages(source, 400)
    command = [str(Path(sys.executable).parent / "epuredgm"), "wireframes", "render", str(source), "--out", str(out), "--workers", "2", "--quiet"]
    process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*_visu.png"))) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert not list(out.glob(".*.tmp"))
