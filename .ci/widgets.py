"""Takes widgets out of notebooks' outputs where a picture stands beside them: without a kernel it is the picture that can be seen."""
import json
import sys
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"


def without_widgets(notebook: dict) -> bool:
    "Removes saved views that have a picture, and all saved state, in place; whether there were any."
    found = notebook["metadata"].pop("widgets", None) is not None
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found |= "image/png" in data and data.pop(VIEW, None) is not None
    return found


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted((Path(__file__).resolve().parent.parent / "nbs").rglob("*.ipynb"))):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if without_widgets(notebook):
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
