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


def test_every_task_is_trained_in_a_tutorial():
    assert {p.stem for p in NOTEBOOKS} == {p.stem for p in PAGES}
    code = "".join("".join(code_of(notebook)) for notebook in NOTEBOOKS)
    missing = [task for task in list_tasks() if f'quickstart/{task}"' not in code and f'"{task}"' not in code]
    assert not missing
