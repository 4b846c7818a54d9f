"""Run the tutorials, write what they print into their pages, and make notebooks of them.

python scripts/render_tutorials.py [NAME ...]

A tutorial is a page in docs/tutorials: text and Python blocks. Under each block that says something stands its output,
behind `<!-- output -->`; the notebook beside the page has the same cells with the same outputs. A page ends with a
mark of the code that its outputs are of. The tests run the notebooks (with fewer steps, where a line says so), and
compare notebook, page and mark.
"""

import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"
#: Lines of an output that are shown.
_MOST = 9
_CODE = re.compile(r"```python\n(.*?)```\n((?:\n<!-- output -->\n(?:```text\n.*?```|!\[[^\n]*)\n)*)", re.DOTALL)
_OUTPUT = re.compile(r"<!-- output -->\n(?:```text\n(.*?)```|!\[[^\n]*\]\(([^\n]*)\))", re.DOTALL)
_MARK = re.compile(r"\n*<!-- outputs of the code [0-9a-f]+ -->\n*")


def mark_of(code: Sequence[str]) -> str:
    """What a page ends with whose outputs are those of this code, block by block."""
    return f"<!-- outputs of the code {hashlib.sha256(''.join(code).encode()).hexdigest()[:12]} -->"


def cells_of(page: Path) -> list[dict]:
    """The cells of a notebook with what stands on a page: its texts, its code and the outputs behind it."""
    text, cells, end = _MARK.sub("\n", page.read_text(encoding="utf-8")), [], 0
    for found in _CODE.finditer(text):
        cells += _markdown(text[end : found.start()])
        outputs = [_output(page, *one.groups()) for one in _OUTPUT.finditer(found[2])]
        code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs}
        cells.append(code | {"source": found[1].rstrip("\n")})
        end = found.end()
    cells += _markdown(text[end:])
    return [{"id": f"cell-{number}", **cell} for number, cell in enumerate(cells)]


def notebook_of(page: Path) -> str:
    """A page as a notebook (format 4.5)."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells_of(page), "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _markdown(text: str) -> list[dict]:
    return [{"cell_type": "markdown", "metadata": {}, "source": text.strip()}] if text.strip() else []


def _output(page: Path, text: str | None, picture: str | None) -> dict:
    if text is not None:
        return {"output_type": "stream", "name": "stdout", "text": text}
    content = base64.b64encode((page.parent / picture).read_bytes()).decode()
    return {"output_type": "display_data", "metadata": {}, "data": {"image/png": content}}


def rendered(page: Path) -> str:
    """The text of a page with the outputs that its code has now; run in an empty folder."""
    scope: dict = {}
    count = 0

    def run(found: re.Match) -> str:
        nonlocal count
        said, shown = _run(found[1], scope)
        block = f"```python\n{found[1]}```\n"
        lines = said.splitlines(keepends=True)
        if len(lines) > _MOST:  # what a run says on its way
            said = "...\n" + "".join(lines[-_MOST:])
        if said:
            block += f"\n<!-- output -->\n```text\n{said}```\n"
        if shown is not None:
            count += 1
            place = page.parent.parent / "images" / "tutorials" / f"{page.stem}-{count}.png"
            place.parent.mkdir(exist_ok=True)
            shown.save(place)
            block += f"\n<!-- output -->\n![What the code shows](../images/tutorials/{place.name})\n"
        return block

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text = _CODE.sub(run, _MARK.sub("\n", page.read_text(encoding="utf-8")))
            return f"{text}\n{mark_of([found[1] for found in _CODE.finditer(text)])}\n"
        finally:
            os.chdir(before)


def _run(code: str, scope: dict) -> tuple[str, object]:
    """What code prints, and the picture that its last line stands for, if it does."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(tree, "<cell>", "exec"), scope)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)
    return said.getvalue(), value if hasattr(value, "getbbox") else None


def main(names: list[str]) -> None:
    for page in sorted(TUTORIALS.glob("*.md")):
        if not names or page.stem in names:
            page.write_text(rendered(page), encoding="utf-8")
            page.with_suffix(".ipynb").write_text(notebook_of(page), encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
