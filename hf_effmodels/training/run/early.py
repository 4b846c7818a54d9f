"""Wrong arguments are told at once: before the task is imported, and with it torch, transformers and datasets.

What the dataclasses check themselves, in their `__post_init__`, is told when the task is there.
"""

import difflib
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import Field, fields
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

from ..._files import check_folder
from ..._imports import module_file
from ..._kinds import check_head, check_pipeline, has_head
from ..._model_place import check_model
from ..._places import check_apart, check_folder_or_id, check_place, is_reader, no_data_set
from ...models import names_in_source
from .arguments import ArgumentReader, read_mapping
from .held import check_free, read_resume
from .presets import unknown_model
from .recipes import read_yaml
from .source import NotShown, dataclasses_in, keys_of, literal, members_of

logger = logging.getLogger(__name__)

_OURS = Path(__file__).parent
#: Arguments that name a place.
_OF_MODELS = ("model", "models", "teacher", "encoder", "image_tokenizer", "detector")
_OF_DATA = ("dataset", "eval_dataset")
#: Arguments that take the names of an enumeration of transformers, or ours beside them.
_ENUMERATIONS = {
    "optim": ("training_args", "OptimizerNames"),
    "lr_scheduler_type": ("trainer_utils", "SchedulerType"),
    "logging_strategy": ("trainer_utils", "IntervalStrategy"),
    "eval_strategy": ("trainer_utils", "IntervalStrategy"),
    "save_strategy": ("trainer_utils", "SaveStrategy"),
    "hub_strategy": ("trainer_utils", "HubStrategy"),
}


def check_early(reader: ArgumentReader, task_folder: Path, tuple_name: str) -> None:
    """Read the arguments without importing the task, for what is wrong with them.

    Args:
        reader: the arguments.
        task_folder: where the task's modules are.
        tuple_name: `"TRAINING_ARGUMENTS"` or `"EVALUATION_ARGUMENTS"` of the task.

    Raises:
        ValueError: as `ArgumentReader.read`.
    """
    try:
        types = argument_types(task_folder, tuple_name)
    except NotShown:  # a task that is built in another way is imported before its arguments are looked at
        return
    mappings = _mappings_of(types)  # reading makes texts of them
    read = reader.read(*types)
    _check_names(read, mappings)
    _check_mappings(read, mappings)
    _check_output(read)
    if literal("TAKES_FILES", task_folder / "__init__.py") is False:
        _check_no_files(read)
    for arguments in read:
        if isinstance(model := getattr(arguments, "model", None), str):
            _check_model(model, task_folder)
            if tuple_name == "EVALUATION_ARGUMENTS" and model in (names_in_source() or ()):
                _say_random(model)
    _check_heads(read, task_folder / "__init__.py")
    _check_apart_from_data(read)
    _check_free(read)


@cache
def _say_random(preset: str) -> None:
    logger.warning("--model: the weights of %s, a preset, are random; name a trained model to measure one.", preset)


def _check_names(read: tuple, mappings: set[str]) -> None:
    for arguments in read:
        for name, value in vars(arguments).items():
            _check_name(name, value)
            for place in value if isinstance(value, list) else [value]:
                if not (name in mappings and _opens_mapping(place)):  # its places are the task's to read
                    _check_there(name, place)


def _mappings_of(types: Sequence[type]) -> set[str]:
    """Names of the arguments that take mappings."""

    def is_mapping(one: Field) -> bool:
        return any((get_origin(part) or part) is dict for part in get_args(one.type))

    return {one.name for each in types for one in fields(each) if is_mapping(one)}


def _check_mappings(read: tuple, mappings: set[str]) -> None:
    """What opens as a mapping closes as one, and what names no file is YAML."""
    for arguments in read:
        for name in sorted(mappings & vars(arguments).keys()):
            value = getattr(arguments, name)
            if isinstance(value, str) and (_opens_mapping(value) or not _could_be_name(name, value)):
                read_mapping(name, value, keys=object)


def _could_be_name(argument: str, value: str) -> bool:
    """Of a file, a folder or an id; or settings in a form of their own (`key=1`), which are YAML of a word."""
    if argument in (*_OF_MODELS, *_OF_DATA, "data_files") or os.path.exists(value):
        return True
    try:
        read_yaml(value)
    except ValueError:
        return False
    return True


def _opens_mapping(value) -> bool:
    return isinstance(value, str) and value.lstrip().startswith("{")


def _check_no_files(read: tuple) -> None:
    for arguments in read:
        for name in _OF_DATA:
            if isinstance(value := getattr(arguments, name, None), str) and os.path.isfile(value):
                raise no_data_set(f"--{name}", value)


def _check_output(read: tuple) -> None:
    """ValueError of an output folder in whose place, or above which, is a file, or that may not be written."""
    for arguments in read:
        if isinstance(folder := getattr(arguments, "output_dir", None), str):
            try:
                check_folder(folder, accepts_content=True)
            except OSError as error:
                raise ValueError(f"--output_dir: {str(error).removeprefix('folder: ')}.") from None


def _check_apart_from_data(read: tuple) -> None:
    """ValueError of an output folder in that of the data: what a run writes would be read as data by the next one."""
    values = {name: value for arguments in read for name, value in vars(arguments).items()}
    if not isinstance(folder := values.get("output_dir"), str):
        return
    for name in _OF_DATA:
        if not isinstance(place := values.get(name), str):
            continue
        argument, within = f"--{name}", values.get("data_dir") if name == "dataset" else None
        if isinstance(within, str):
            argument, place = "--data_dir", within if is_reader(place) else os.path.join(place, within)
        if os.path.isdir(place):
            check_apart("--output_dir", folder, argument, place, inside=False)


def _check_free(read: tuple) -> None:
    """`check_free` of where a new run writes; that of one that goes on is compared when the task is there."""
    for arguments in read:
        if isinstance(folder := getattr(arguments, "output_dir", None), str):
            if read_resume(getattr(arguments, "resume_from_checkpoint", "auto")) is None:
                check_free(Path(folder), arguments.overwrite_output_dir)


def _check_there(argument: str, value) -> None:
    """What can be no name but that of a file, a folder or an id; others may be built in or known to the task alone."""
    if argument not in (*_OF_MODELS, *_OF_DATA) or not isinstance(value, str):
        return
    if argument in _OF_MODELS and os.path.isdir(value):
        check_model(f"--{argument}", value)
    elif argument == "model" and os.path.isfile(value):  # others may be files of weights
        check_folder_or_id("--model", value)
    elif "/" in value or _opens_mapping(value):
        check_place(f"--{argument}", value)


def _check_heads(read: tuple, file: Path) -> None:
    """What `HEADS` of a module says: argument -> the Auto class, or the Auto classes, one of which has a class for the
    model in a folder that it names; None for a pipeline of diffusers, or a part of one."""
    heads = literal("HEADS", file) or {}
    # Then a model's folder gives its configuration alone.
    anew = any(getattr(arguments, "random_weights", False) for arguments in read)
    for argument, value in [(name, value) for arguments in read for name, value in vars(arguments).items()]:
        for place in value if isinstance(value, list | dict) else [value]:
            if argument not in heads or not isinstance(place, str) or place in (names_in_source() or (place,)):
                continue
            if not os.path.isdir(place):
                # What is trained may be built here; a mapping and what is made first are the task's to read.
                if argument != "model" and "/" not in place and ":" not in place:
                    check_place(f"--{argument}", place)
                continue
            for one in read:
                if (folder := getattr(one, "output_dir", None)) is not None:
                    check_apart("--output_dir", folder, f"--{argument}", place)
            if (accepted := heads[argument]) is None:
                check_pipeline(f"--{argument}", place)
                continue
            accepted = (accepted,) if isinstance(accepted, str) else accepted
            # A folder may be called as a type of model, which is built then.
            if not any(has_head(place, each) for each in accepted):
                check_head(f"--{argument}", place, *accepted, weights=not anew)


def _check_model(name: str, task_folder: Path) -> None:
    """As `presets.names_preset`, where the task asks that; of the presets it knows all tasks'."""
    file, presets = task_folder / "models.py", names_in_source()
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if presets is None or "presets import names_preset" not in text or name in presets:
        return
    types: list[str] = []
    if "MAPPING" in text:  # what is built there may be a type of transformers, too
        mapping = module_file("transformers.models.auto.auto_mappings")
        types = re.findall(r'\("([\w.-]+)", ', mapping.read_text(encoding="utf-8")) if mapping.is_file() else [name]
    if name in types:
        return
    if "/" not in name and not os.path.exists(name):
        raise unknown_model(name, [*presets, *types])
    check_place("--model", name)


def by_place(argv: Sequence[str], *names: str) -> list[str]:
    """A command line whose first words, up to the first argument, stand for arguments of these names, in order.

    Raises:
        ValueError: more such words than names.
    """
    words = list(argv)
    count = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    if count > len(names):
        raise ValueError(f"one value too many: {words[len(names)]!r}")
    given = [word for pair in zip((f"--{name}" for name in names), words[:count], strict=False) for word in pair]
    return [*given, *words[count:]]


def look_at(
    reader: ArgumentReader, file: Path, tuple_name: str = "ARGUMENTS", beside: Sequence[str] = ()
) -> tuple | None:
    """Read the arguments of a command without importing what they are for, for what is wrong with them.

    Args:
        reader: the arguments.
        file: has a tuple of dataclasses, which it, a file `beside` it or a task's module defines; and `HEADS`, where
            arguments name models.
        tuple_name: what it calls them.
        beside: names of such files.

    Returns:
        The dataclasses, filled, without their methods; None where only importing shows them.

    Raises:
        ValueError: as `ArgumentReader.read`.
    """
    others = (*sorted(_OURS.parent.glob("*/**/*.py")), module_file("transformers.training_args"))
    try:
        types = dataclasses_in(tuple_name, (file, *map(file.with_name, beside)), others)
    except NotShown:
        return None
    mappings = _mappings_of(types)  # reading makes texts of them
    read = reader.read(*types)
    _check_names(read, mappings)
    _check_mappings(read, mappings)
    if literal("TAKES_FILES", file) is False:
        _check_no_files(read)
    _check_heads(read, file)
    return read


def argument_types(task_folder: Path, tuple_name: str) -> tuple[type, ...]:
    """The dataclasses of a task, as its source shows them; see `dataclasses_in`."""
    shared = (*sorted(_OURS.parent.glob("*/**/*.py")), module_file("transformers.training_args"))
    return dataclasses_in(tuple_name, tuple(sorted(task_folder.glob("*.py"))), shared)


@cache
def accepted_names(argument: str) -> tuple[str, ...]:
    """The names that an argument accepts; empty where it takes any."""
    if argument not in _ENUMERATIONS:
        return ()
    module, enumeration = _ENUMERATIONS[argument]
    names = members_of(enumeration, module_file(f"transformers.{module}"))
    if argument == "optim":
        names += keys_of("OPTIMIZERS", _OURS.parent / "optim" / "optimizers.py")
    if argument == "lr_scheduler_type":
        names += members_of("_OwnSchedule", _OURS / "recipe_arguments.py")
    return tuple(names)


def _check_name(argument: str, value) -> None:
    names = accepted_names(argument)
    if not names or not isinstance(value, str) or value in names:
        return
    near = difflib.get_close_matches(value, names, n=3)
    hint = f"nearest: {', '.join(near)}" if near else f"accepted are {', '.join(sorted(names))}"
    quotes = '; YAML reads no and off as false: write "no"' if value == "False" and "no" in names else ""
    raise ValueError(f"--{argument}: got {value!r}; {hint}{quotes}.")
