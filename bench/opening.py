"""How long a folder of drawings takes to open: the first time, against a plain parallel decode, and every time after."""
import os
import shutil
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from epuredgm.data.folders import FolderConfig, load_folder
from timing import Result, at_most, in_turn, median_ratio, seconds

COMPONENTS = ("pads", "aperture", "silk", "fab", "courtyard")


def make_folder(folder: Path, n: int, size: int = 128) -> None:
    "A folder in the layout of the data: n designs of five drawings, with their table."
    draw = np.random.default_rng(0)
    for component in COMPONENTS:
        (folder / component).mkdir(parents=True)
    rows = ["matching,train,weight"]
    for i in range(n):
        rows.append(f"{i:05d},{int(i % 10 > 0)},{i / n:.4f}")
        for component in COMPONENTS:
            picture = np.zeros((size, size), np.uint8)
            for top, left, height, width in draw.integers(0, size, (12, 4)):
                picture[top:top + height // 8 + 1, left:left + width // 8 + 1] = 255
            Image.fromarray(picture).save(folder / component / f"{i:05d}_{component}.png")
    (folder / "performances.csv").write_text("\n".join(rows) + "\n")


def layout_of(folder: Path) -> tuple[str, ...]:
    "The components of a folder: its sub-folders that hold pictures."
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.png"))))


def decode_some(paths: list[str], size: tuple[int, int]) -> np.ndarray:
    "Some files, one after the other."
    images = np.zeros((len(paths), *size), np.uint8)
    for position, path in enumerate(paths):
        with Image.open(path) as picture:
            images[position] = picture.convert("L").resize((size[1], size[0]), Image.Resampling.BOX)
    return images


def decode(paths: list[str], size: tuple[int, int], chunk: int = 500) -> np.ndarray:
    "The plain parallel decode: a pool of processes, which was faster than one of threads, and one array."
    parts = [paths[start:start + chunk] for start in range(0, len(paths), chunk)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(decode_some, parts, [size] * len(parts))))


def openings(folder: Path, cache: Path, rounds: int, size: tuple[int, int], what: str) -> list[Result]:
    "First and second opening of a folder, and the plain decode beside."
    components = layout_of(folder)
    config = FolderConfig(root_dir=str(folder), component_dirs=components, image_size=size, cache_dir=str(cache))
    paths = [str(path) for component in components for path in sorted((folder / component).glob("*.png"))]

    def first():
        shutil.rmtree(cache, ignore_errors=True)
        load_folder(config, progress=False)

    times = in_turn({"first": first, "plain": lambda: decode(paths, size)}, rounds)
    load_folder(config, progress=False)
    second = statistics.median(seconds(lambda: load_folder(config, progress=False)) for _ in range(5))
    plain = statistics.median(times["plain"])
    return [
        at_most(f"second opening of {len(paths)} PNGs, {what}", second, 0.3, "s"),
        at_most("first opening over a plain parallel decode", median_ratio(times, "first", "plain"), 1.5, "×",
                seconds={name: statistics.median(values) for name, values in times.items()}),
        Result("plain parallel decode", plain, "s"),
    ]


def opening(tiny: bool, folder: Path, data: Path | None = None) -> list[Result]:
    "A generated folder, and a real one where there is one."
    designs, rounds, size = (8, 1, (16, 16)) if tiny else (1600, 3, (64, 64))
    make_folder(folder / "generated", designs, 32 if tiny else 128)
    results = openings(folder / "generated", folder / "cache", rounds, size, "generated")
    if data is not None:
        results += openings(data, folder / "cache", rounds, size, data.name)
    return results
