"""Make README.md from nbs/index.ipynb.  Usage: readme.py [NOTEBOOK README]

Cells flagged `#| hide` are left out, directives are stripped, and pictures among the outputs are dropped: a picture that
the README is to show is a file beside the notebook that a text cell names. Links are rewritten to hold from the top folder.
"""
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(\S+?)(?::\s*(.*))?\s*$", re.MULTILINE)


def directives(cell):
    return dict(DIRECTIVE.findall(cell.source)) if cell.cell_type == "code" else {}


def without_pictures(output):
    "The output as text, or None where it is a picture or a page."
    data = output.get("data")
    if data is None:
        return output
    if any(kind.startswith("image/") for kind in data) or "text/plain" not in data and "text/markdown" not in data:
        return None
    output["data"] = {kind: value for kind, value in data.items() if kind in ("text/plain", "text/markdown")}
    return output


def visible(cell):
    "The cell as a reader of the README sees it, or None."
    flags = directives(cell)
    if "hide" in flags or flags.get("include") == "false":
        return None
    if cell.cell_type == "code":
        cell.source = DIRECTIVE.sub("", cell.source).strip("\n") if flags.get("echo") != "false" else ""
        shown = [] if flags.get("output") == "false" else [without_pictures(output) for output in cell.outputs]
        cell.outputs = [output for output in shown if output is not None]
    return cell if cell.source.strip() or cell.get("outputs") else None


def from_the_top(markdown, folder):
    "Relative links of a notebook in `folder` as they read in a file at the top."

    def rewrite(match):
        before, target, after = match.groups()
        elsewhere = re.match(r"[a-z]+:|#|/", target)
        return match.group(0) if elsewhere else f"{before}{(folder / target).as_posix()}{after}"

    markdown = re.sub(r"(\]\()([^)\s]+)(\s*(?:\"[^\"]*\")?\))", rewrite, markdown)
    return re.sub(r"(<img[^>]*src=\")([^\"]+)(\")", rewrite, markdown)


def readme(path):
    "The Markdown text of the notebook at `path`."
    notebook = nbformat.read(path, 4)
    folder = path.resolve().parent.relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else Path("nbs")
    notebook.cells = [cell for cell in map(visible, notebook.cells) if cell is not None]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = from_the_top(cell.source, folder)
    notebook.metadata["language_info"] = {"name": "python"}
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).replace("```python\n\n```\n", "")
    header = "<!-- Made from nbs/index.ipynb by `make readme`: change it there. -->\n\n"
    return header + re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def main(source=ROOT / "nbs" / "index.ipynb", target=ROOT / "README.md"):
    Path(target).write_text(readme(Path(source)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
