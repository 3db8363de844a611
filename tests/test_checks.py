"""Each check of the repository can fail: shown on small broken packages and notebooks."""
import json

import checks
import pytest
from conftest import run_process


@pytest.fixture
def package(tmp_path):
    "A writer of modules of a made-up package."
    folder = tmp_path / "epuredgm"

    def write(**sources):
        for name, source in {"__init__": "", **sources}.items():
            path = folder / (name.replace("__init__", "@").replace("__", "/").replace("@", "__init__") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        return folder

    return write


def test_cycle_is_found(package):
    graph = checks.import_graph(package(core__a="from epuredgm.core.b import x\n", core__b="import epuredgm.core.a\n"))
    assert checks.import_cycles(graph) == ["epuredgm.core.a → epuredgm.core.b → epuredgm.core.a"]


def test_relative_import_and_import_of_a_module_are_seen(package):
    graph = checks.import_graph(package(core__a="from . import b\n", core__b="from .a import x\n"))
    assert checks.import_cycles(graph)


def test_lazy_import_makes_no_cycle(package):
    graph = checks.import_graph(package(core__a="from epuredgm.core.b import x\n", core__b="def f():\n    import epuredgm.core.a\n"))
    assert not checks.import_cycles(graph) and not checks.room_order(graph)


def test_import_from_a_room_below_is_found(package):
    graph = checks.import_graph(package(core__a="from epuredgm.train.b import x\n", train__b=""))
    assert checks.room_order(graph) == ["epuredgm.core.a imports epuredgm.train.b, of a room below"]
    lazily = checks.import_graph(package(core__a="def f():\n    from epuredgm.train.b import x\n", train__b=""))
    assert checks.room_order(lazily)


def test_only_pictures_are_imported_lazily_from_below(package):
    top = checks.import_graph(package(train__a="from epuredgm.explore.pictures import x\n", explore__pictures=""))
    assert checks.room_order(top)
    lazily = checks.import_graph(package(train__a="def f():\n    from epuredgm.explore.pictures import x\n", explore__pictures=""))
    assert not checks.room_order(lazily)


def test_missing_comments_and_docstrings_are_found(package):
    good = 'def f(\n    x,  # (B,)\n    *,\n    y=(1, 2),  # two\n) -> int:  # one\n    "What it does."\n'
    bad = 'def g(x, y):  # both\n    "What it does."\n\ndef h(\n    x,  # (B,)\n) -> int:\n    return 1\n\nclass C:\n    "A class."\n    def m(self):\n        return 1\n'
    folder = package(core__a=good + bad)
    wrong = checks.undocumented(folder / "core" / "a.py", "core.a")
    assert wrong == ["core.a.g: no comment on x, y", "core.a.h: no docstring", "core.a.C.m: no docstring"]


def test_only_a_documented_class_says_itself(package):
    folder = package(core__a='def f(\n    spec: DesignSpec,\n    n: int,\n    other: "DesignSpec | None",\n    x: np.ndarray,\n    o: Annotated[int, Option(help="how many")],\n):\n    "What it does."\n')
    assert checks.undocumented(folder / "core" / "a.py", "core.a") == ["core.a.f: no comment on n, x"]


def test_absolute_paths_are_found(tmp_path):
    folders = "/".join(["", "home", "somebody", "data"]), "/".join(["", "root", "x"])
    (tmp_path / "a.py").write_text(f'DATA = "{folders[0]}"\n')
    (tmp_path / "b.md").write_text(f"see {folders[1]}\n")
    (tmp_path / "c.md").write_text("see runs/home/x and https://home/work/x\n")
    assert len(checks.absolute_paths(tmp_path)) == 2


def notebook(tmp_path, *cells):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": list(cells)}))
    return checks.notebook_form(path, "a.ipynb")


def test_form_of_notebooks(tmp_path):
    title = {"cell_type": "markdown", "source": ["# Title\n", "\n", "> A sentence."]}
    long = {"cell_type": "code", "outputs": [], "source": ["#| export\n", *[f"x{i} = {i}\n" for i in range(41)]]}
    failed = {"cell_type": "code", "outputs": [{"output_type": "error"}], "source": ["1/0"]}
    large = {"cell_type": "code", "outputs": [{"output_type": "stream", "text": "x" * 600_000}], "source": ["print(1)"]}
    assert notebook(tmp_path, title) == []
    assert "first cell" in notebook(tmp_path, long, title)[0]
    assert "41 lines" in notebook(tmp_path, title, long)[0]
    assert "is an error" in notebook(tmp_path, title, failed)[0]
    assert "kB" in notebook(tmp_path, title, large)[0]


def test_widgets_are_not_saved(tmp_path):
    title = {"cell_type": "markdown", "source": ["# Title\n", "\n", "> A sentence."]}
    widget = {"cell_type": "code", "outputs": [{"output_type": "execute_result", "data": {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "image/png": "a picture"}}], "source": ["Panel()"]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [title, widget], "metadata": {"widgets": {}}}))
    assert [line.split(": ")[1] for line in checks.notebook_form(path, "a.ipynb")] == ["the state of widgets is saved; call make export", "a committed output is a widget beside its picture"]
    result = run_process("python", ".ci/widgets.py", path)
    assert result.returncode == 0 and checks.notebook_form(path, "a.ipynb") == []
    assert json.loads(path.read_text())["cells"][1]["outputs"][0]["data"] == {"image/png": "a picture"}
