"""Dataclasses are read off source as importing it would make them, or it is said that the source shows none."""

from dataclasses import MISSING, fields
from textwrap import dedent
from typing import Literal

import pytest

from hf_effmodels.training.run import source
from hf_effmodels.training.run.help import _default
from hf_effmodels.training.run.source import NotShown, assigns, dataclasses_in, keys_of, literal, members_of

MODULE = """
    import os
    from dataclasses import dataclass, field
    from typing import ClassVar

    LARGEST = 7
    WAYS = ("fast", "slow")
    TABLE = {"one": 1, "two": 2, **os.environ}
    COMPUTED = LARGEST + 1

    class Way(Enum):
        FAST = "fast"
        SLOW = "slow"
        NUMBER = 3
        def said(self): ...

    @dataclass
    class Base:
        kept: ClassVar[int] = 3
        number: int = LARGEST
        changed: str = "base"

    @dataclass
    class One(Base):
        needed: str
        changed: str = "one"
        several: list[str] = field(default_factory=list, metadata={"help": "Some.", "unknown": os.sep})
        hidden: int = field(default=1, init=False)
        foreign: SomeEnum = SomeEnum.X
        foreign_list: list[SomeEnum] = field(default_factory=lambda: [])
        perhaps: float | None = None
        words: Literal["a", "b"] | int = "a"

    @dataclass
    class Two:
        x: int = 1
        changed: str = "two"

    @dataclass
    class OfBoth(Base, Two):
        pass

    @dataclass
    class Three:
        y: int = 1

    BOTH = (One, Two, Three)
    MIXED = (OfBoth,)
    PARTS = (*BOTH[1:],)
    MADE = make()
    LACKING = (Nowhere,)
"""


@pytest.fixture
def module(tmp_path):
    file = tmp_path / "task.py"
    file.write_text(dedent(MODULE))
    return file


def test_fields_are_those_of_the_bases_and_ones_own_with_what_the_module_shows_of_them(module):
    one, two, three = dataclasses_in("BOTH", [module], [])
    assert (one.__name__, two.__name__, three.__name__) == ("One", "Two", "Three")
    found = {f.name: f for f in fields(one)}
    assert [*found] == [*("number", "changed", "needed", "several", "foreign", "foreign_list", "perhaps", "words")], (
        "a variable of the class and what is computed are no arguments"
    )
    (mixed,) = dataclasses_in("MIXED", [module], [])
    assert {f.name: f.default for f in fields(mixed)} == {"x": 1, "changed": "base", "number": 7}, "the first base's"
    assert (found["number"].default, found["number"].type) == (7, int)
    assert found["changed"].default == "one" and found["needed"].default is MISSING
    assert found["several"].type == list[str] and found["several"].default_factory is list
    assert dict(found["several"].metadata) == {"help": "Some."}
    assert found["foreign"].type is str and found["foreign_list"].type == list[str]
    assert found["perhaps"].type == float | None and found["words"].type == Literal["a", "b"] | int


# Of PARTS: a slice of a name would be a slice of one class, and there would be no arguments at all.
@pytest.mark.parametrize("name", ["MADE", "LACKING", "NOWHERE", "PARTS"])
def test_what_is_built_in_another_way_is_not_shown(name, module):
    with pytest.raises(NotShown):
        dataclasses_in(name, [module], [])


def test_another_tasks_arguments_are_read_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_TASKS", tmp_path)
    (tmp_path / "other_task").mkdir()
    (tmp_path / "other_task" / "task.py").write_text(
        "class A:\n    x: int = 5\nclass C: pass\nclass D: pass\nTRAINING = (A, C, D)\n"
    )
    file = tmp_path / "mine.py"
    text = 'other = load_task("other-task")\nwhat = find("other-task")\nclass B(other.A):\n    y: int = 6\n'
    text += "SLICED = (*other.TRAINING[1:], *other.TRAINING[:1])\nMIDDLE = (*other.TRAINING[1:2],)\n"
    file.write_text(text + "TRAINING = (*other.TRAINING[:1], B)\nBROKEN = (*what.TRAINING,)\n")
    first, second = dataclasses_in("TRAINING", [file], [])
    assert [kind.__name__ for kind in dataclasses_in("SLICED", [file], [])] == ["C", "D", "A"]
    assert [kind.__name__ for kind in dataclasses_in("MIDDLE", [file], [])] == ["C"]
    assert [f.name for f in fields(first)] == ["x"] and [f.name for f in fields(second)] == ["x", "y"]
    with pytest.raises(NotShown):
        dataclasses_in("BROKEN", [file], [])


def test_single_values_are_read_off_a_module(module, tmp_path):
    assert members_of("Way", module) == ["fast", "slow"] and members_of("Nowhere", module) == []
    assert keys_of("TABLE", module) == ["one", "two"] and keys_of("LARGEST", module) == keys_of("NO", module) == []
    assert assigns("WAYS", module) and not assigns("ways", module)
    assert literal("WAYS", module) == ("fast", "slow") and literal("LARGEST", module) == 7
    assert literal("COMPUTED", module) is literal("NO", module) is literal("WAYS", tmp_path / "none.py") is None
    (tmp_path / "broken.py").write_text("def broken(:")
    assert literal("WAYS", tmp_path / "broken.py") is None
    with pytest.raises(NotShown):
        assigns("WAYS", tmp_path / "broken.py")


def test_help_says_defaults_as_the_command_line_takes_them():
    def said(**given):
        settings = {"default": MISSING, "default_factory": MISSING, **given}
        return _default(
            type("Field", (), {name: staticmethod(v) if callable(v) else v for name, v in settings.items()})
        )

    assert said() is None and said(default=None) == said(default_factory=list) == "none"
    assert (said(default=True), said(default=0.5), said(default=("a", 1))) == ("true", "0.5", "a 1")
    assert said(default_factory=lambda: ["x", "y"]) == "x y" and said(default_factory="made elsewhere") is None
