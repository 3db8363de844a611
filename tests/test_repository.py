"""The repository as a whole: package and notebooks in step, nothing undefined, nothing heavy, everything documented."""
import ast
import filecmp
import json
import re
import shutil

import pytest
from conftest import ROOT, copy_repository, notebooks, run_process

HEAVY = ("torch", "torchvision", "torchmetrics", "wandb", "tensorboard", "sklearn", "scipy", "matplotlib", "accelerate", "pandas")


def tell(wrong):
    "The message of a failed check: one line for each thing that is wrong."
    return "\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return copy_repository(tmp_path_factory.mktemp("repository"))


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


# ---------------------------------------------------------------- notebooks and package in step
def test_export_is_in_step(repository):
    exported = repository / "epuredgm"
    before = repository / "before"
    shutil.copytree(exported, before)
    shutil.rmtree(exported)
    result = run_process("nbdev_export", cwd=repository)
    assert result.returncode == 0, result.stderr
    common = files(before) & files(exported)
    differing = [f"{name} differs from its notebook" for name in sorted(common) if not filecmp.cmp(before / name, exported / name, shallow=False)]
    missing = [f"{name} is not exported yet" for name in sorted(files(exported) - files(before))]
    orphans = [f"{name} has no notebook" for name in sorted(files(before) - files(exported))]
    wrong = differing + missing + orphans
    shutil.rmtree(before)
    assert not wrong, tell(wrong) + "\ncall make export"


def test_notebooks_are_clean(repository):
    for command in (("nbdev_clean",), ("python", ".ci/widgets.py")):
        result = run_process(*command, cwd=repository)
        assert result.returncode == 0, result.stderr
    wrong = [f"nbs/{path} is not clean" for path in notebooks() if (repository / "nbs" / path).read_bytes() != (ROOT / "nbs" / path).read_bytes()]
    assert not wrong, tell(wrong) + "\ncall make export"


def test_notebooks_have_a_title_and_no_errors():
    wrong = []
    for path in notebooks():
        cells = json.loads((ROOT / "nbs" / path).read_text(encoding="utf-8"))["cells"]
        # nbdev drops whatever else stands in the first cell
        if cells[0]["cell_type"] != "markdown" or not re.fullmatch(r"# .+\n+> .+\n*", "".join(cells[0]["source"])):
            wrong.append(f"nbs/{path}: the first cell is not `# Title` and `> one sentence` alone")
        errors = [output for cell in cells for output in cell.get("outputs", ()) if output["output_type"] == "error"]
        wrong += [f"nbs/{path}: a committed output is an error, {error['ename']}: {error['evalue']}" for error in errors]
    assert not wrong, tell(wrong)


def test_names_are_defined_and_imports_used():
    result = run_process("ruff", "check", "--no-cache", "--isolated", "--select", "F821,F401,E9", "--exclude", "bench/.pythae", "epuredgm", "tests", "bench", ".ci", "setup.py")
    assert result.returncode == 0, result.stdout + result.stderr


def test_public_classes_and_functions_have_docstrings():
    result = run_process("ruff", "check", "--no-cache", "--isolated", "--select", "D101,D103", "epuredgm")
    assert result.returncode == 0, result.stdout + result.stderr


QUESTION = re.compile(r"(What|Where|Which|Whether|How|Who|Whose)\b", re.IGNORECASE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def questions(source):
    "List (name, docstring) of everything in a source whose docstring opens with a question word."
    documented = [(node, ast.get_docstring(node) or "") for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    return [(getattr(node, "name", "the module"), text) for node, text in documented if QUESTION.match(text)]


def test_the_check_of_docstrings_sees_questions():
    source = """
"What a module holds."
class Box:
    "Where things are."
    def full(self) -> bool: "Whether nothing more goes in."
    def size(self) -> int: "Whatever is larger, height or width."
    def lid(self): return "How it is closed."
async def fill(box): "how a box is filled."
"""
    assert {name for name, _ in questions(source)} == {"the module", "Box", "full", "fill"}


def test_docstrings_say_what_a_thing_does_or_is():
    paths = sorted((ROOT / "epuredgm").rglob("*.py"))
    wrong = [f"{path.relative_to(ROOT)}:{name}: {text.splitlines()[0]}" for path in paths for name, text in questions(path.read_text(encoding="utf-8"))]
    assert not wrong, tell(wrong) + "\nopen with a verb in the imperative or a noun, not with a question word"


def test_rooms_import_only_from_rooms_above():
    result = run_process("lint-imports", "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


# ---------------------------------------------------------------- light imports
def loaded(code):
    "Which of the heavy libraries a process has loaded after running `code`."
    result = run_process("python", "-c", f"{code}\nimport sys, json\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))")
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


HELP = """
import sys
from epuredgm.cli import main
sys.argv = ["epuredgm", *{words}, "--help"]
try: main()
except SystemExit as stop: assert not stop.code, stop.code
"""


def test_the_check_for_loaded_libraries_sees_them():
    assert loaded("import PIL, numpy, scipy") == {"scipy"}


@pytest.mark.parametrize(
    "code",
    ["import epuredgm", "import epuredgm.core.config", "import epuredgm.core.registry", "import epuredgm.cli"]
    + [HELP.format(words=words) for words in ([], ["train"], ["sample"], ["evaluate"], ["classify"], ["params"], ["toy"], ["configs"], ["wireframes"], ["wireframes", "render"], ["demo"])],
    ids=["package", "config", "registry", "cli", "help", "train", "sample", "evaluate", "classify", "params", "toy", "configs", "wireframes", "render", "demo"],
)
def test_nothing_heavy_until_it_is_used(code):
    assert loaded(code) == set()


def test_only_torch_is_loaded():
    assert loaded("import epuredgm.all, epuredgm.plot.points, epuredgm.models.beta_vae, epuredgm.train.loop") <= {"torch"}


# ---------------------------------------------------------------- configurations, licence, words
CONFIGURATIONS = sorted(path.name for path in (ROOT / "configs").iterdir() if path.suffix in (".yaml", ".yml", ".json"))


def test_the_specified_configurations_ship():
    families = ("vae", "gmrf_mvae", "meta_vae")
    assert {"demo.yaml", *(f"{family}_{kind}.yaml" for family in families for kind in ("epure_full", "toy_test"))} <= set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configuration_loads(name):
    from epuredgm.core.config import dump_config, load_config, parse_config

    import yaml

    config = load_config(ROOT / "configs" / name)
    assert parse_config(yaml.safe_load(dump_config(config))) == config


def test_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


# Folders of one person's machine; a documented example names none of them.
FOLDERS = "|".join(("home", "mnt", "opt", "root", "tmp/w", "Users", "work", "workspace"))
ABSOLUTE = re.compile(rf"(?<![\w.~<:/])/(?:{FOLDERS})/[\w.-]|\b[A-Z]:\\+Users")
TEXT = (".py", ".md", ".ipynb", ".yml", ".yaml", ".ini", ".json", ".toml", ".css", ".txt", ".sh", "")


def test_no_absolute_paths(repository):
    wrong = []
    for path in sorted(repository.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix in TEXT:
            lines = enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
            wrong += [f"{path.relative_to(repository)}:{number}: {line.strip()[:160]}" for number, line in lines if ABSOLUTE.search(line)]
    assert not wrong, tell(wrong)
