import importlib
import sys

import pytest

from hf_effmodels._imports import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that nobody has imported: says how often it has run."""
    (tmp_path / "seldom_imported.py").write_text("runs = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield "seldom_imported"
    sys.modules.pop("seldom_imported", None)


def test_a_module_is_followed_by_what_waits_for_it_once_and_whole(module):
    seen, finders = [], list(sys.meta_path)
    when_imported(module, lambda: seen.append(sys.modules[module].runs))
    importlib.import_module("colorsys")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"{module}_else")
    assert seen == []
    found = importlib.import_module(module)
    assert seen == [1] and sys.meta_path == finders
    importlib.reload(found)
    assert seen == [1]
    when_imported(module, lambda: seen.append("at once"))
    assert seen == [1, "at once"] and sys.meta_path == finders


@pytest.mark.parametrize("count", [2, 3])
def test_all_that_waits_for_a_module_is_called_in_the_order_in_which_it_came(count, module):
    seen = []
    when_imported(f"{module}_else", lambda: pytest.fail("it was not imported"))
    finders = list(sys.meta_path)
    for number in range(count):
        when_imported(module, lambda number=number: seen.append((number, sys.modules[module].runs)))
    importlib.import_module(module)
    assert seen == [(number, 1) for number in range(count)]
    assert sys.meta_path == finders  # what waits for another module waits on


@pytest.mark.parametrize("count", [1, 2])
def test_a_module_that_is_waited_for_keeps_its_own_loader(count, module):
    plain = type(importlib.import_module(module).__loader__)
    del sys.modules[module]
    for _ in range(count):
        when_imported(module, lambda: None)
    found = importlib.import_module(module)
    assert type(found.__loader__) is type(found.__spec__.loader) is plain


def test_a_module_that_is_not_there_is_missed_as_ever(module):
    when_imported("nowhere_at_all", lambda: pytest.fail("it was not imported"))
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        importlib.import_module("nowhere_at_all")
