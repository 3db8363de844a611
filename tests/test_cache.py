"""The cache of decoded pictures among processes: at the same moment, killed, interrupted, on a full disk."""
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import psutil
import pytest
from conftest import clean_environment
from PIL import Image

from epuredgm.data.cache import PictureFiles, decoded, open_cache

N, C, SIZE = 1500, 2, (64, 32)

OPEN = """
import hashlib, pathlib, pickle, sys, time, warnings
from epuredgm.data.cache import decoded
files, cache, start = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()), sys.argv[2], float(sys.argv[3])
time.sleep(max(0, start - time.time()))
images = decoded(files, cache)
print(hashlib.sha256(images.tobytes()).hexdigest(), images.shape)
"""


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    "Files of many drawings, their listing in a file for other processes, and the pixels that they hold."
    import pickle

    folder = tmp_path_factory.mktemp("drawings")
    pixels = np.random.default_rng(0).integers(0, 256, (N * C, *SIZE), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png", compress_level=0)
    files = listed(folder)
    listing = tmp_path_factory.mktemp("listing") / "files"
    listing.write_bytes(pickle.dumps(files))
    return files, listing, pixels.reshape(N, C, *SIZE)


def listed(folder):
    paths = tuple(str(folder / f"{i}.png") for i in range(N * C))
    stamps = tuple(f"{os.stat(path).st_size} {os.stat(path).st_mtime_ns}" for path in paths)
    return PictureFiles("drawings", str(folder), paths, stamps, C, SIZE)


def start(listing, cache, at=0.0, **options):
    command = [sys.executable, "-c", OPEN, str(listing), str(cache), str(at)]
    return subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def seen(pixels):
    return f"{hashlib.sha256(pixels.tobytes()).hexdigest()} {pixels.shape}"


def left_in(cache, files):
    return sorted(path.name for path in (cache / files.folder_name).iterdir())


def whole(files):
    return sorted([f"{files.key}.json", f"{files.key}.npy", "lock"])


def wait_for(condition, seconds=30.0):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


def test_processes_that_open_at_once_see_the_same_pixels(drawings, tmp_path):
    files, listing, pixels = drawings
    running = [start(listing, tmp_path, at=time.time() + 2) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in running]
    assert [out.strip() for out, _ in answers] == [seen(pixels)] * 4, answers
    assert left_in(tmp_path, files) == whole(files)
    # Whoever waited says so; nobody gave up on the cache.
    assert sum("another process is decoding" in errors for _, errors in answers) <= 3
    assert not any("can't be cached" in errors for _, errors in answers)


def test_a_process_killed_while_writing_leaves_nothing_that_is_read(drawings, tmp_path):
    files, listing, pixels = drawings
    folder, delays = tmp_path / files.folder_name, random.Random(0)
    killed = 0
    for turn in range(6):
        process = start(listing, tmp_path)
        assert wait_for(lambda: list(folder.glob(".*.tmp")) or process.poll() is not None)
        time.sleep(delays.uniform(0, 0.15))
        helpers = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        process.communicate(timeout=30)
        killed += process.returncode == -signal.SIGKILL
        images = open_cache(folder, files, files.key)
        assert images is None or np.array_equal(images, pixels)
        gone, alive = psutil.wait_procs(helpers, timeout=30)
        assert not alive, "a helper outlives its parent"
        for path in folder.glob("*.json"):
            path.unlink()  # the next turn writes again
    assert killed >= 3
    assert np.array_equal(decoded(files, tmp_path), pixels)
    assert left_in(tmp_path, files) == whole(files)


def test_an_interrupt_ends_at_once_and_cleans_up(drawings, tmp_path):
    files, listing, _ = drawings
    folder = tmp_path / files.folder_name
    for _ in range(10):  # on a busy machine it may be done before it is interrupted: then once more
        process = start(listing, tmp_path, start_new_session=True)
        assert wait_for(lambda: list(folder.glob(".*.tmp")) or process.poll() is not None)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        if process.returncode:
            break
        for path in folder.glob(f"{files.key}.*"):
            path.unlink()
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt") <= 1 and "BrokenPipe" not in errors, errors
    assert left_in(tmp_path, files) == ["lock"]


def test_a_full_disk_costs_the_cache_not_the_run(drawings, tmp_path):
    files, listing, pixels = drawings
    limit = pixels.nbytes // 2
    process = start(listing, tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    answer, errors = process.communicate(timeout=60)
    assert answer.strip() == seen(pixels), errors
    assert "can't be cached (File too large)" in errors
    assert left_in(tmp_path, files) == ["lock"]


def test_a_cache_folder_that_cannot_be_written(drawings, tmp_path):
    files, _, pixels = drawings
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="can't be cached") as said:
        assert np.array_equal(decoded(files, tmp_path / "file" / "cache"), pixels)
    assert len(said) == 1


def test_a_cache_folder_that_others_filled_is_read_without_writing(drawings, tmp_path):
    files, _, pixels = drawings
    decoded(files, tmp_path)
    folder = tmp_path / files.folder_name
    (folder / "lock").unlink()
    folder.chmod(0o555)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decoded(files, tmp_path), pixels)
    assert not (folder / "lock").exists()
    folder.chmod(0o755)


def test_the_data_folder_is_never_written(drawings, tmp_path):
    from epuredgm.core.spec import DesignSpec
    from epuredgm.data.folders import FolderConfig, load_folder, write_designs
    import torch

    pixels = torch.from_numpy(drawings[2][:20])
    root = tmp_path / "data"
    write_designs(pixels, root, spec=DesignSpec(("a", "b")), columns={"train": [int(i > 4) for i in range(20)]})
    folders = [root, root / "a", root / "b"]
    before = [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))]
    for folder in folders:
        folder.chmod(0o555)
    config = FolderConfig(root_dir=str(root), component_dirs=("a", "b"), cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        splits = load_folder(config, progress=False)
        assert torch.equal((splits.train.batch(slice(None)).x * 255).round().to(torch.uint8), pixels[5:])
    assert [(path, path.stat().st_mtime_ns) for path in sorted(root.rglob("*"))] == before
    for folder in folders:
        folder.chmod(0o755)
