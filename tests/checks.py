"""What is asked of the package's text, as functions of a folder: each returns the list of what is wrong, one line each."""
import ast
import io
import json
import re
import tokenize

from conftest import LEFT_OUT, ROOMS

ORDER = (*ROOMS, "cluster", "cli", "all")
# Drawing from tensors only, so that rooms above may show what they have, inside a function.
LAZY_EXCEPTIONS = ("epuredgm.explore.pictures",)


# ---------------------------------------------------------------- imports
def modules(package):
    "Module name → file, for every module under the folder `package`."
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def _is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _import_nodes(node, lazy=False):
    "(import statement, whether it stands inside a function) for every one under `node`."
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, lazy
        elif not _is_type_checking(child):
            yield from _import_nodes(child, lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def _targets(node, module, is_package, known):
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
            base = ".".join([*kept, base] if base else kept)
        names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
    return {name for name in names if name in known}


def import_graph(package):
    "Module → (modules it imports at the top, modules it imports inside functions)."
    known = modules(package)
    graph = {}
    for name, path in known.items():
        top, lazy = set(), set()
        for node, inside in _import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
            (lazy if inside else top).update(_targets(node, name, path.name == "__init__.py", known))
        graph[name] = (top - {name}, lazy - {name})
    return graph


def import_cycles(graph):
    "Cycles among top-level imports, each as `a → b → a`."
    found, done = [], set()

    def visit(name, trail):
        if name in trail:
            cycle = [*trail[trail.index(name):], name]
            found.append(" → ".join(cycle))
            return
        if name in done:
            return
        for target in sorted(graph[name][0]):
            visit(target, [*trail, name])
        done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found


def room_order(graph):
    "Imports of a room below. Inside functions a picture may be drawn by any room."
    place = {room: index for index, room in enumerate(ORDER)}

    def room(module):
        parts = module.split(".")
        return place.get(parts[1]) if len(parts) > 1 else None

    wrong = []
    for name, (top, lazy) in graph.items():
        for target in sorted(top | (lazy - set(LAZY_EXCEPTIONS))):
            if None not in (room(name), room(target)) and room(target) > room(name):
                wrong.append(f"{name} imports {target}, of a room below")
    return wrong


# ---------------------------------------------------------------- documentation of functions
def _public(tree):
    "The names of `__all__`, or every defined name without an underscore."
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return set(ast.literal_eval(node.value))
    return {node.name for node in tree.body if hasattr(node, "name") and not node.name.startswith("_")}


def public_names(path):
    "The names in `__all__` of the module at `path`."
    return _public(ast.parse(path.read_text(encoding="utf-8")))


def _comments(text):
    return {token.start[0] for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT}


def _parameters(function):
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument for argument in named if argument is not None and argument.arg not in ("self", "cls")]


# What such a parameter holds (shape, unit, range, meaning) is not said by its type.
BARE_TYPES = {"str", "int", "float", "bool", "bytes", "dict", "list", "tuple", "set", "object", "Any", "Tensor", "ndarray", "Path", "Sequence", "Iterable", "Mapping", "Callable"}


def _says_itself(argument):
    "Whether the type of a parameter is a class that is documented where it stands, or carries the help of the command line."
    if argument.annotation is None:
        return False
    if "help=" in ast.unparse(argument.annotation):
        return True
    nodes = list(ast.walk(argument.annotation))
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    names = {node.id for node in nodes if isinstance(node, ast.Name)} | {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {name for text in texts for name in re.findall(r"\w+", text)}
    return bool(names) and not names & BARE_TYPES


def _without_comment(function, commented):
    "Names of parameters that need a comment of their own and have none."
    lines = {argument.arg: argument.end_lineno for argument in _parameters(function) if not _says_itself(argument)}
    shared = [argument.end_lineno for argument in _parameters(function)]
    return [name for name, line in lines.items() if line not in commented or shared.count(line) > 1]


def undocumented(path, module):
    "Functions without a docstring or a comment per parameter; classes, and methods of more than a line, without a docstring."
    text = path.read_text(encoding="utf-8")
    tree, commented, wrong = ast.parse(text), _comments(text), []
    public = _public(tree)
    for node in tree.body:
        if getattr(node, "name", None) not in public:
            continue
        if isinstance(node, ast.FunctionDef):
            missing = _without_comment(node, commented)
            if missing:
                wrong.append(f"{module}.{node.name}: no comment on {', '.join(missing)}")
        documented = [node]
        if isinstance(node, ast.ClassDef):
            # A method of a base carries the words for those that take its place.
            methods = [child for child in node.body if isinstance(child, ast.FunctionDef) and not child.name.startswith("_") and not node.bases]
            documented += [method for method in methods if method.body[0].lineno > method.lineno]
        for item in documented:
            if not ast.get_docstring(item):
                wrong.append(f"{module}.{node.name}{'' if item is node else '.' + item.name}: no docstring")
    return wrong


# ---------------------------------------------------------------- text files and notebooks
TEXT = {".py", ".md", ".ipynb", ".yml", ".yaml", ".ini", ".json", ".toml", ".css", ".txt", ".sh", ""}
# Folders of one person's machine; a documented example names none of them.
FOLDERS = "|".join(("home", "mnt", "opt", "root", "tmp/w", "Users", "work", "workspace"))
ABSOLUTE = re.compile(rf"(?<![\w.~<:/])/(?:{FOLDERS})/[\w.-]|\b[A-Z]:\\+Users")


def text_files(root):
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") and part not in (".ci", ".gitignore", ".github") for part in parts)
        left_out = parts[0] in LEFT_OUT or parts[0] == "data" or "__pycache__" in parts or any(part.endswith(".egg-info") for part in parts)
        if path.is_file() and not path.is_symlink() and not hidden and not left_out and path.suffix in TEXT and parts[0] != "LICENSE":
            yield path


def absolute_paths(root):
    "Lines that name a folder of the machine that they were written on."
    wrong = []
    for path in text_files(root):
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            match = ABSOLUTE.search(line)
            if match:
                wrong.append(f"{path.relative_to(root)}:{number}: {line[max(0, match.start() - 30):match.end() + 50].strip()}")
    return wrong


def notebooks(root):
    folder = root / "nbs"
    for path in sorted(folder.rglob("*.ipynb")):
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts):
            yield path


def _source(cell):
    return "".join(cell["source"])


def _directives(source):
    return set(re.findall(r"^#\s*\|\s*(\w+)", source, re.MULTILINE))


def notebook_form(path, name):
    "Title and sentence first; export cells short enough to read; no failed output; a file that a browser opens."
    notebook, wrong = json.loads(path.read_text(encoding="utf-8")), []
    cells = notebook["cells"]
    if "widgets" in notebook.get("metadata", {}):
        wrong.append(f"{name}: the state of widgets is saved; call make export")
    if not cells or cells[0]["cell_type"] != "markdown" or not re.match(r"# .+\n\s*\n?> .+", _source(cells[0])):
        wrong.append(f"{name}: the first cell is not `# Title` and `> one sentence`")
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        source = _source(cell)
        lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#|")]
        if _directives(source) & {"export", "exports", "exporti"} and len(lines) > 40:
            wrong.append(f"{name}: an export cell of {len(lines)} lines, 40 are the limit: {lines[0]}")
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            wrong.append(f"{name}: a committed output is an error: {lines[0] if lines else ''}")
        if any({"application/vnd.jupyter.widget-view+json", "image/png"} <= set(output.get("data", {})) for output in cell["outputs"]):
            wrong.append(f"{name}: a committed output is a widget beside its picture: {lines[0] if lines else ''}; call make export")
    size = path.stat().st_size
    if size > 500_000:
        wrong.append(f"{name}: {size / 1000:.0f} kB, 500 are the limit")
    return wrong
