"""The documentation can be made: every notebook is processed, listed, and the README says what the index says."""
import importlib.util
import json
import os
import re

import pytest
import yaml
from conftest import ROOMS, ROOT, copy_repository, notebooks, run_process


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("documentation"))


def process_notebooks(repository, folder):
    "Run nbdev's processing with a stand-in for Quarto, which no package registry carries."
    stand_in = folder / "quarto"
    stand_in.write_text("#!/bin/sh\nexit 0\n")
    stand_in.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return run_process("nbdev_proc_nbs", "--n_workers", "0", cwd=repository, timeout=900, PATH=path, PYTHONWARNINGS="ignore")


EACH = """
import sys
from pathlib import Path
from nbdev.processors import FilterDefaults
from nbdev.serve_drv import main
for path in sys.argv[2:]:
    try: main((Path("nbs", path), Path(sys.argv[1], "out.ipynb"), FilterDefaults))
    except Exception as error: print(f"{path}: {error} {type(error.__cause__).__name__}: {error.__cause__}", file=sys.stderr)
"""


def every_failure(repository, folder, names):
    "What stops the documentation, of every notebook: nbdev itself stops at the first."
    return run_process("python", "-c", EACH, folder, *names, cwd=repository, PYTHONWARNINGS="ignore").stderr


def test_documentation_run(repository, tmp_path):
    before = (repository / "nbs" / "nbdev.yml").read_text()
    result = process_notebooks(repository, tmp_path)
    names = set(notebooks(repository))
    # The documentation runs cells that export and cells that import, no others: an importing cell may use only their names.
    assert result.returncode == 0, every_failure(repository, tmp_path, sorted(map(str, names))) or result.stderr[-4000:]
    processed = {path.relative_to(repository / "_proc") for path in (repository / "_proc").rglob("*.ipynb")}
    assert names and names == processed
    assert (repository / "nbs" / "nbdev.yml").read_text() == before, "nbs/nbdev.yml is out of step with settings.ini"


def sidebar_notebooks(contents):
    "The notebooks that a sidebar lists, in its order."
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        else:
            yield from [entry["href"]] if "href" in entry else []
            yield from sidebar_notebooks(entry.get("contents", []))


def test_sidebar_lists_every_notebook_in_the_order_of_the_rooms():
    sidebar = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())
    listed = list(sidebar_notebooks(sidebar["website"]["sidebar"]["contents"]))
    names = set(map(str, notebooks()))
    assert sorted(listed) == sorted(names), f"too few: {sorted(names - set(listed))}, too many: {sorted(set(listed) - names)}"
    rooms = [name.split("/")[0] for name in listed if name.split("/")[0] in ROOMS]
    assert rooms == sorted(rooms, key=ROOMS.index)
    for room in ROOMS:
        inside = [name for name in listed if name.startswith(f"{room}/")]
        assert inside == sorted(inside), f"the notebooks of {room} stand in the order of their numbers"


def make_readme(source, target):
    specification = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main(source, target)
    return target.read_text(encoding="utf-8")


def test_readme_is_in_step_with_the_index(tmp_path):
    made = make_readme(ROOT / "nbs" / "index.ipynb", tmp_path / "README.md")
    assert (ROOT / "README.md").read_text(encoding="utf-8") == made, "README.md is out of step with nbs/index.ipynb: call make readme"
    assert "base64" not in made and len(made) < 50_000


def test_links_of_the_readme_hold():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [*re.findall(r"\]\(([^)\s]+)", text), *re.findall(r"<img[^>]*src=\"([^\"]+)", text)]
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    missing = [target for target in local if not (ROOT / target).exists()]
    assert not missing


def test_readme_drops_pictures_and_hidden_cells_and_mends_links(tmp_path):
    import nbformat.v4 as v4

    picture = v4.new_output("display_data", data={"image/png": "iVBOR", "text/plain": "<Figure>"})
    cells = [
        v4.new_markdown_cell("# T\n[a](core/00_errors.ipynb) ![b](images/b.png) [c](https://c.org)"),
        v4.new_code_cell("#| hide\nsecret = 1"),
        v4.new_code_cell("#| eval: false\n6 * 7", outputs=[picture, v4.new_output("execute_result", data={"text/plain": "42"})]),
    ]
    source = tmp_path / "index.ipynb"
    source.write_text(json.dumps(v4.new_notebook(cells=cells)))
    text = make_readme(source, tmp_path / "README.md")
    assert "(nbs/core/00_errors.ipynb)" in text and "(nbs/images/b.png)" in text and "(https://c.org)" in text
    assert "secret" not in text and "iVBOR" not in text and "Figure" not in text and "eval" not in text
    assert "```python\n6 * 7\n```" in text and "    42" in text
