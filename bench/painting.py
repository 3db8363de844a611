"""How long a folder of layout trees takes to become pictures, and what of it is painting and what is PNG."""
import itertools
import shutil
import time
from pathlib import Path

from epuredgm.data.decoding import processors
from epuredgm.data.layout_trees import count_layers, paint_cells, tree_from
from epuredgm.data.pages import write_pages
from epuredgm.data.render import GAMMAS, png_of, render_folder, write_whole
from timing import Result, at_most, seconds


def copy_pages(source: Path, folder: Path, n: int) -> str:
    "n pages of a folder of real ones, else generated ones; in words what they are."
    found = sorted(source.rglob("*.json"))[:n]
    if not found:
        write_pages(folder, n)
        return f"{n} generated pages"
    folder.mkdir(parents=True)
    for number, path in enumerate(itertools.islice(itertools.cycle(found), n)):
        (folder / f"{number:05}.json").write_bytes(path.read_bytes())
    return f"{n} real screens"


def shares(folder: Path, out: Path, n: int) -> dict[str, float]:
    "Seconds of reading, painting, PNG coding and writing of some pages, one process."
    spent = dict.fromkeys(("reading", "painting", "PNG coding", "writing"), 0.0)
    out.mkdir()
    for path in sorted(folder.rglob("*.json"))[:n]:
        moments = [time.perf_counter()]
        tree = tree_from(path.read_bytes())
        moments.append(time.perf_counter())
        counts = count_layers(tree)
        cells = [paint_cells(counts, gamma) for gamma in GAMMAS.values()]
        moments.append(time.perf_counter())
        files = [png_of(each, "") for each in cells]
        moments.append(time.perf_counter())
        for name, data in zip(GAMMAS, files):
            write_whole(out / f"{path.stem}_{name}.png", data)
        moments.append(time.perf_counter())
        for name, before, after in zip(spent, moments, moments[1:]):
            spent[name] += after - before
    return spent


def painting(tiny: bool, folder: Path, real: Path) -> list[Result]:
    "Two pictures of each of 2,000 pages on all processors: from real screens where `real` holds some."
    n = 30 if tiny else 2000
    what = copy_pages(real, folder / "pages", n)
    workers = min(2, processors())
    taken = seconds(lambda: render_folder(folder / "pages", folder / "out", workers=workers, progress=False))
    again = seconds(lambda: render_folder(folder / "pages", folder / "out", workers=workers, progress=False))
    spent = shares(folder / "pages", folder / "one", min(n, 200))
    shutil.rmtree(folder)
    whole = sum(spent.values())
    return [
        at_most(f"{what} to both pictures, {workers} processes", taken, 60.0, "s"),
        Result("the same again, nothing left to do", again, "s"),
        *(Result(f"share of {name}", 100 * value / whole, "%", details={"ms a page": round(1000 * value / min(n, 200), 2)}) for name, value in spent.items()),
    ]
