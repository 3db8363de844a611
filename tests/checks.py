"""What is asked of the package's text, as functions of a folder: each returns the list of what is wrong, one line each."""
import ast

from conftest import ROOMS

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
