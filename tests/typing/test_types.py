"""Types of the public names: complete, and a type checker finds users' mistakes by them and nothing else."""

import inspect
import re
from pathlib import Path

import pytest

import hf_effmodels
from hf_effmodels import edge, hub, prediction
from hf_effmodels.demo.command import open_app
from hf_effmodels.hub.space import publish_space, write_space

HERE = Path(__file__).parent
FUNCTIONS = [getattr(hf_effmodels, name) for name in hf_effmodels.__all__ if not name.startswith("_")]
FUNCTIONS += [getattr(hub, name) for name in hub.__all__ if name != "ConversionError"]
FUNCTIONS += [
    edge.export,
    edge.load,
    edge.load_source,
    prediction.load_predictor,
    open_app,
    publish_space,
    write_space,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_every_argument_and_the_result_of_a_public_function_has_a_type(function):
    signature = inspect.signature(function)
    without = [name for name, one in signature.parameters.items() if one.annotation is inspect.Parameter.empty]
    assert not without and signature.return_annotation is not inspect.Signature.empty


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """File -> lines with an error."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed: pip install mypy")
    root, cache = HERE.parent.parent, tmp_path_factory.mktemp("mypy")
    files = [str(HERE / name) for name in ("user_code.py", "wrong_code.py")]
    out, err, _ = api.run(["--config-file", str(root / "mypy.ini"), "--cache-dir", str(cache), *files])
    assert not err and "Found" in out, out + err
    lines: dict[str, set[int]] = {}
    for file, line in re.findall(r"(\w+\.py):(\d+): error", out):
        lines.setdefault(file, set()).add(int(line))
    return lines, out


def test_a_type_checker_accepts_what_users_write(found):
    assert "user_code.py" not in found[0], found[1]


def test_a_type_checker_finds_every_mistake(found):
    lines = (HERE / "wrong_code.py").read_text(encoding="utf-8").splitlines()
    assert found[0]["wrong_code.py"] == {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
