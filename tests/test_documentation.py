"""The documentation can be made: every notebook is processed, listed, and the README says what the index says."""
import ast
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
    return run_process("python", "-c", ALL, cwd=repository, timeout=900, PATH=path, PYTHONWARNINGS="ignore")


# As the command nbdev_proc_nbs, without the farewell of a shell a notebook, which would collect garbage once each.
ALL = """
import os
from nbdev.quarto import nbdev_proc_nbs
nbdev_proc_nbs(n_workers=0)
os._exit(0)
"""
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
    sidebar = yaml.safe_load((ROOT / "nbs" / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    listed = list(sidebar_notebooks(sidebar))
    names = set(map(str, notebooks()))
    assert sorted(listed) == sorted(names), f"too few: {sorted(names - set(listed))}, too many: {sorted(set(listed) - names)}"
    parts = {part["section"]: part["contents"] for part in sidebar if isinstance(part, dict)}
    assert list(parts) == ["Guides", "Models", "Reference", "Contributing"]
    reference = [name for name in sidebar_notebooks(parts["Reference"]) if name.split("/")[0] in ROOMS]
    assert reference == sorted(reference, key=lambda name: (ROOMS.index(name.split("/")[0]), name)), "the reference has the rooms in their order, each in the order of its numbers"


# ---------------------------------------------------------------- faults that broke the site, or what it says
def cells_of(path, kind):
    return [cell | {"source": "".join(cell["source"])} for cell in json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def tell(wrong):
    return "\n" + "\n".join(wrong)


def kept_markdown(settings):
    "Tell whether the formats of a site can stand beside each other: CommonMark takes the name of HTML's intermediate file, which is deleted unless kept."
    formats = settings["format"]
    return "commonmark" not in formats or bool(formats["html"].get("keep-md"))


def test_commonmark_keeps_the_intermediate_file_of_html():
    assert kept_markdown(yaml.safe_load((ROOT / "_quarto.yml").read_text()))
    assert not kept_markdown({"format": {"html": {"toc": True}, "commonmark": "default"}})


def test_version_of_the_site_is_that_of_the_package():
    import epuredgm

    entries = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["navbar"]["right"]
    assert epuredgm.__version__ in [entry.get("text") for entry in entries]


DIRECTIVE = re.compile(r"^#\|\s*(\w+)", re.MULTILINE)


def mixes_imports(source):
    "Tell whether the documentation would execute a cell for its imports and with them what else it holds."
    directives = DIRECTIVE.findall(source)
    if {"export", "exports", "exporti", "eval"} & set(directives):
        return False
    try:
        kinds = {type(node) for node in ast.walk(ast.parse(source))}
    except SyntaxError:  # a magic, which keeps nbdev from looking into the cell as well
        return False
    return bool(kinds & {ast.Import, ast.ImportFrom}) and bool(kinds & {ast.Expr, ast.Assign})


def test_imports_stand_apart_from_other_code():
    assert mixes_imports("import os\nx = os.sep") and not mixes_imports("import os") and not mixes_imports("#| export\nimport os\nx = os.sep")
    exporting = [path for path in notebooks() if any("default_exp" in cell["source"] for cell in cells_of(path, "code"))]
    wrong = [f"nbs/{path}, cell {cell['id']}: {cell['source'].splitlines()[0]}" for path in exporting for cell in cells_of(path, "code") if mixes_imports(cell["source"])]
    assert not wrong, tell(wrong) + "\nthe documentation executes cells with imports: put the imports into a cell of their own"


def words_of_configurations():
    "Collect keys, choices and names that a configuration is written with."
    from epuredgm.core.config import Config, SamplingConfig, TrackingConfig, TrainingConfig
    from epuredgm.core.keys import key_rows
    from epuredgm.core.registry import datasets, models

    registered = [registry.get(name).config for registry in (models, datasets) for name in registry.names()]
    rows = [row for section in (Config, TrainingConfig, TrackingConfig, SamplingConfig, *filter(None, registered)) for row in key_rows(section)]
    return {*ROOMS, *models.names(), *datasets.names(), *(row[0] for row in rows), *(word for row in rows for word in re.findall(r"`(\w+)`", row[1]))}


def test_words_that_are_not_functions_are_not_linked_to_functions():
    from epuredgm._modidx import d

    home = {name.split(".")[-1]: path[0].split(".html")[0] for module in d["syms"].values() for name, path in module.items() if name.count(".") == 3}
    ambiguous = words_of_configurations() & set(home)
    found = [(path, word) for path in notebooks() for cell in cells_of(path, "markdown") for word in re.findall(r"`(\w+)`", cell["source"]) if word in ambiguous]
    wrong = [f"nbs/{path}: `{word}` is linked to a function" for path, word in found if re.sub(r"\d+[a-z]?_", "", str(path.with_suffix(""))) != home[word]]
    assert not wrong, tell(wrong) + "\nwrite <code>word</code> for a word of a configuration, `word()` for the function"


def test_links_between_notebooks_hold():
    wrong = []
    for path in notebooks():
        targets = [target for cell in cells_of(path, "markdown") for target in re.findall(r"\]\(([^)\s#]+\.(?:ipynb|png|svg))", cell["source"])]
        wrong += [f"nbs/{path}: {target}" for target in targets if not re.match(r"[a-z]+:", target) and not (ROOT / "nbs" / path.parent / target).exists()]
    assert not wrong, tell(wrong)


def test_pages_made_from_the_code_are_in_step(repository):
    pages = [path for path in notebooks() if path.parts[0] == "reference"]
    result = run_process("python", ".ci/reference.py", cwd=repository, PYTHONPATH=repository)
    assert result.returncode == 0, result.stderr
    wrong = [f"nbs/{path}" for path in pages if (repository / "nbs" / path).read_bytes() != (ROOT / "nbs" / path).read_bytes()]
    assert pages and not wrong, tell(wrong) + "\nwhat they show is older than the code: call make export"


def test_every_key_of_a_configuration_has_a_meaning():
    from epuredgm.core.config import SamplingConfig, TrackingConfig, TrainingConfig
    from epuredgm.core.keys import key_rows
    from epuredgm.core.registry import datasets, models

    registered = [registry.get(name).config for registry in (models, datasets) for name in registry.names()]
    wrong = [f"{section.__name__}.{row[0]}" for section in (TrainingConfig, TrackingConfig, SamplingConfig, *filter(None, registered)) for row in key_rows(section) if not row[4]]
    assert not wrong, tell(wrong) + "\na comment beside the key says what it means"


def test_without_quarto_the_site_says_so_in_one_line(repository):
    result = run_process("bash", ".ci/docs", cwd=repository, PATH="/usr/bin:/bin")
    assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1 and "quarto.org" in result.stderr


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
