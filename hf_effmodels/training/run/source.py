"""Dataclasses and enumerations, read off the source that defines them: importing it takes seconds, for torch alone."""

import ast
import functools
import operator
from collections.abc import Iterable
from dataclasses import MISSING, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, Optional, Union

_TASKS = Path(__file__).parents[1] / "tasks"


class NotShown(Exception):
    """The source does not show it: only importing would."""


def dataclasses_in(tuple_name: str, files: Iterable[Path], others: Iterable[Path]) -> tuple[type, ...]:
    """What a module-level tuple of dataclasses, such as `TRAINING_ARGUMENTS`, holds: dataclasses with the same fields,
    types, defaults and metadata, but without methods.

    Args:
        tuple_name: the name that one of `files` assigns the tuple to.
        files: a package's.
        others: files that its dataclasses may inherit from, or come from.

    Raises:
        NotShown: it is built in another way than by naming classes that these files define, or the tuple (or a slice
            of it) of a task that one of them has from `load_task`.
    """
    found = {name: _fields(name, where) for name, where in _classes_of(tuple_name, tuple(files), tuple(others))}
    return tuple(make_dataclass(name, fields.values(), kw_only=True) for name, fields in found.items())


def _classes_of(
    tuple_name: str, files: tuple[Path, ...], others: tuple[Path, ...]
) -> list[tuple[str, tuple[Path, ...]]]:
    """Name of each class that the tuple holds, and the files that may define it."""

    def elements(node: ast.expr, file: Path) -> list[tuple[str, tuple[Path, ...]]]:
        match node:
            case ast.Tuple():
                return [found for element in node.elts for found in elements(element, file)]
            case ast.Name():
                return [(node.id, (*files, *others))]
            case ast.Starred():
                return elements(node.value, file)
            case ast.Subscript(value=ast.Attribute(), slice=ast.Slice(lower, upper, None)):
                ends = [None if end is None else ast.literal_eval(end) for end in (lower, upper)]
                return elements(node.value, file)[slice(*ends)]
            case ast.Attribute(value=ast.Name(id=name)):
                return _classes_of(node.attr, _files_of_task(name, file), others)
        raise NotShown(tuple_name)

    for file in files:
        node = _read(file).assigned.get(tuple_name) if tuple_name in _text(file) else None
        if node is not None:
            return elements(node, file)
    raise NotShown(tuple_name)


def _files_of_task(name: str, file: Path) -> tuple[Path, ...]:
    """The files of the task that a module of another one has under this name."""
    match _read(file).assigned.get(name):
        case ast.Call(func=ast.Name(id="load_task"), args=[ast.Constant(value=str(task))]):
            return tuple(sorted((_TASKS / task.replace("-", "_")).glob("*.py")))
    raise NotShown(name)


def members_of(enumeration: str, file: Path) -> list[str]:
    """The values of an enumeration of texts; empty if the file has none of that name."""
    found = _read(file).classes.get(enumeration)
    assigned = [node.value for node in found.body if isinstance(node, ast.Assign)] if found else []
    return [node.value for node in assigned if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def keys_of(dictionary: str, file: Path) -> list[str]:
    """The keys of a dictionary that a module assigns; empty if it has none of that name."""
    node = _read(file).assigned.get(dictionary)
    return [key.value for key in node.keys if isinstance(key, ast.Constant)] if isinstance(node, ast.Dict) else []


def assigns(name: str, file: Path) -> bool:
    """Whether a module assigns something to a name of its own."""
    return name in _read(file).assigned


def literal(name: str, file: Path) -> Any:
    """What a module assigns to a name; None where it is not written out, or there is no such module."""
    if not file.is_file():
        return None
    try:
        return ast.literal_eval(_read(file).assigned[name])
    except (NotShown, KeyError, ValueError):
        return None


class _Source:
    """Of a module: `classes` and `assigned` expressions by name."""

    def __init__(self, file: Path):
        body = ast.parse(_text(file)).body
        self.classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
        self.assigned = {}
        for node in body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.assigned[target.id] = node.value


@functools.cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@functools.cache
def _read(file: Path) -> _Source:
    try:
        return _Source(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise NotShown(file) from error


def _fields(class_name: str, files: tuple[Path, ...]) -> dict[str, tuple]:
    """Name -> (name, type, field) of a dataclass and those it inherits from."""
    likely = (file for file in files if f"class {class_name}" in _text(file))
    file = next((file for file in likely if class_name in _read(file).classes), None)
    if file is None:
        raise NotShown(class_name)
    source = _read(file)
    found = {}
    for base in reversed(source.classes[class_name].bases):
        where, name = files, ast.unparse(base)
        if isinstance(base, ast.Attribute):
            task, _, name = name.rpartition(".")
            where = (*_files_of_task(task, file), *files)
        found |= _fields(name, where)
    for node in source.classes[class_name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            shown = _field(node, source)
            if shown is not None:
                found[node.target.id] = (node.target.id, *shown)
    return found


def _field(node: ast.AnnAssign, source: _Source) -> tuple | None:
    """Type and field; None where it is no argument."""
    if ast.unparse(node.annotation).startswith("ClassVar"):
        return None
    given = {"default": node.value}
    if isinstance(node.value, ast.Call):
        given = {keyword.arg: keyword.value for keyword in node.value.keywords}
    metadata = given.pop("metadata", None)
    shown = {name: _evaluate(value, source) for name, value in given.items() if value is not None}
    if shown.pop("init", True) is False:
        return None
    if isinstance(metadata, ast.Dict):
        entries = zip(metadata.keys, metadata.values, strict=True)
        values = {key.value: _evaluate(value, source) for key, value in entries}
        shown["metadata"] = {key: value for key, value in values.items() if value is not MISSING}
    return _type(node.annotation, source), field(**shown)


class _Names(dict):
    """What names in annotations and defaults stand for: the builtins of typing, constants of the module."""

    def __init__(self, source: _Source):
        super().__init__(Any=Any, Literal=Literal, Optional=Optional, Union=Union)
        self.source = source

    def __missing__(self, name: str):
        if name not in self.source.assigned:
            raise KeyError(name)  # then it is looked for among Python's own
        return ast.literal_eval(self.source.assigned[name])


def _evaluate(node: ast.expr, source: _Source):
    """The value of an expression of constants, MISSING where it takes more than the module's own."""
    try:
        return eval(compile(ast.Expression(node), "<argument>", "eval"), {}, _Names(source))
    except (NameError, ValueError, TypeError, AttributeError):
        return MISSING


def _type(node: ast.expr, source: _Source):
    """The type of an annotation. Types and choices that are defined elsewhere are texts on a command line."""
    parts = [node]
    while isinstance(parts[0], ast.BinOp):
        parts[:1] = [parts[0].left, parts[0].right]
    return functools.reduce(operator.or_, [_part_of_type(part, source) for part in parts])


def _part_of_type(node: ast.expr, source: _Source):
    found = _evaluate(node, source)
    if found is MISSING and isinstance(node, ast.Subscript) and ast.unparse(node.value) == "list":
        return list[str]
    return str if found is MISSING else found
