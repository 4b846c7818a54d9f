"""A newcomer who follows docs/how-to/add-a-task.md, outside this package, ends with a task that keeps the contract."""

import re
import sys
from pathlib import Path

import pytest

from hf_effmodels.training import evaluate, list_tasks, main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-task.md"
FILES = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """A folder with the files of the page, on the path."""
    for name, text in FILES.findall(PAGE.read_text(encoding="utf-8")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "fill_level"]:
        del sys.modules[name]


def test_the_page_makes_a_task_that_trains_and_is_measured(newcomer, tmp_path):
    recipe = ["--config", str(newcomer / "fill-level.yaml"), "--report_to", "none"]
    results = main([*recipe, "--output_dir", str(tmp_path / "run")])
    assert results["eval_percent_off"] < 12, "always saying half full is 25 off on average"
    options = ["--task", "fill_level", "--model", str(tmp_path / "run"), "--output", str(tmp_path / "e.json")]
    assert evaluate(options)["percent_off"] == pytest.approx(results["eval_percent_off"], rel=1e-4)
    with pytest.raises(ValueError, match="--noise: got -1"):
        main([*recipe, "--noise", "-1", "--output_dir", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    assert "fill-level" not in list_tasks(), "it lies outside the package"


def test_the_pages_task_keeps_the_contract(newcomer):
    test = newcomer / "test_contract.py"
    recipe = f'    quickstart = "{newcomer / "fill-level.yaml"}"\n'
    test.write_text(test.read_text().replace('    task = "fill_level"\n', '    task = "fill_level"\n' + recipe))
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(newcomer), str(test)]
    assert pytest.main(options) == pytest.ExitCode.OK
