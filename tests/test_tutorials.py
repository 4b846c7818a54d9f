"""Every tutorial's notebook runs from its first cell to its last, offline; and shows what its code once showed.

To run them takes minutes: those tests are marked `tutorial`, and SUITE=tutorials runs them, as continuous integration
does.
"""

import json
import re
import runpy
import socket
from pathlib import Path

import pytest

from hf_effmodels.training import list_tasks

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
PAGES = sorted(TUTORIALS.glob("*.md"))


def code_of(notebook: Path) -> list[str]:
    """Its code cells, with as few steps as they say that the tests take: as they stand they train for minutes."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [re.sub(r"= \d+(?=  # the tests take (\d+)$)", r"= \1", one, flags=re.MULTILINE) for one in code]


@pytest.fixture
def offline(monkeypatch):
    """A connection to any other machine is an error."""
    connect = socket.socket.connect

    def within(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"a tutorial asks {address[0]} for something")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", within)


@pytest.mark.tutorial
@pytest.mark.draws
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_to_its_end(notebook, tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for number, code in enumerate(code_of(notebook), start=1):
        exec(compile(code, f"{notebook.name}, code cell {number}", "exec"), scope)


@pytest.fixture(scope="module")
def render():
    return runpy.run_path(str(TUTORIALS.parents[1] / "scripts" / "render_tutorials.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_notebook_has_the_cells_of_its_page_and_what_they_show(page, render):
    text, notebook = page.read_text(encoding="utf-8"), page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert notebook == render["notebook_of"](page), "run python scripts/render_tutorials.py"
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    cells = [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    assert [cell["source"] + "\n" for cell in cells] == code
    assert any(cell["outputs"] for cell in cells)
    assert render["mark_of"](code) in text, "its code has changed: run python scripts/render_tutorials.py"


def test_a_page_gets_what_its_code_says_and_shows_and_of_a_long_output_the_end(render, tmp_path):
    page = tmp_path / "docs" / "tutorials" / "a.md"
    (tmp_path / "docs" / "images").mkdir(parents=True)
    page.parent.mkdir()
    code = [
        "for number in range(12):\n    print(number)\n",
        "from PIL import Image\nImage.new('L', (2, 1))\n",
        "import os\nprint(os.listdir())\n",
    ]
    blocks = [f"```python\n{one}```\n" for one in code]
    old = f"{blocks[0]}\n<!-- output -->\n```text\nolder\n```\n"
    page.write_text(f"# A\n\n{old}\nText.\n\n{blocks[1]}\n{blocks[2]}\n<!-- outputs of the code 0123abcd -->\n")
    long = "...\n" + "".join(f"{number}\n" for number in range(3, 12))
    output, picture = "\n<!-- output -->\n```text\n{}```\n", "![What the code shows](../images/tutorials/a-1.png)\n"
    expected = f"# A\n\n{blocks[0]}{output.format(long)}\nText.\n\n{blocks[1]}\n<!-- output -->\n{picture}"
    expected += f"\n{blocks[2]}{output.format('[]' + chr(10))}\n{render['mark_of'](code)}\n"
    text = render["rendered"](page)
    assert text == expected
    page.write_text(text)
    assert render["rendered"](page) == text
    cells = json.loads(render["notebook_of"](page))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "markdown", "code", "code"]


def test_every_task_is_trained_in_a_tutorial():
    assert {p.stem for p in NOTEBOOKS} == {p.stem for p in PAGES}
    code = "".join("".join(code_of(notebook)) for notebook in NOTEBOOKS)
    missing = [task for task in list_tasks() if f'quickstart/{task}"' not in code and f'"{task}"' not in code]
    assert not missing
