"""Execute the pages that are made from the code itself, nbs/reference/*.ipynb, and store what they show.  Usage: reference.py [NOTEBOOK …]"""
import json
import sys
from pathlib import Path

from execnb.shell import CaptureShell

ROOT = Path(__file__).resolve().parent.parent


def with_outputs(notebook):
    "The notebook with the Markdown of its cells as they show it now; an error where a cell fails."
    shell = CaptureShell()
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        shown = shell.run("".join(cell["source"]))
        if shell.exc:
            raise shell.exc
        texts = ["".join(output["data"]["text/markdown"]) for output in shown if "text/markdown" in output.get("data", {})]
        plain = ["<IPython.core.display.Markdown object>"]
        cell["outputs"] = [
            {"data": {"text/markdown": text.splitlines(keepends=True), "text/plain": plain}, "execution_count": None, "metadata": {}, "output_type": "execute_result"} for text in texts
        ]
    return notebook


def written(notebook):
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted((ROOT / "nbs" / "reference").glob("*.ipynb"))):
        path.write_text(written(with_outputs(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
