"""Arguments: dataclasses, filled from a YAML recipe and the command line, which wins."""

import difflib
import importlib.util
import logging
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields
from functools import cache
from itertools import count
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin, get_type_hints

from ..._command_line import in_our_words
from .recipes import find_recipe, read_recipe, read_yaml
from .values import (
    OWN_METADATA,
    check_field,
    check_fields,
    check_goes_with,
    check_missing_with,
    check_multiple_of,
    check_value,
    governing,
    is_secret,
    read_secret,
)

logger = logging.getLogger(__name__)

#: Of recipes and calls that name none.
DEFAULT_TASK = "image-classification"


@dataclass
class ModelArguments:
    """Which model."""

    model: str | None = field(
        default=None,
        metadata={
            "missing": "name a preset (hf-effmodels list), a Hub id or a local folder.",
            "help": "A preset (hf-effmodels list), or of most tasks a type of transformers (vit), trained from random "
            "weights; or a model on the Hub or in a local folder, whose weights are fine-tuned.",
        },
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={
            "help": "Fields of the model's configuration to change: a mapping, such as {width_multiplier: 0.5}."
        },
    )
    num_channels: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 4]",
            "help": "Channels of the model's input, the model's own by default. Images follow: 1 is luminance, 2 "
            "luminance and alpha, 3 RGB, 4 RGB and alpha.",
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={"accepts": "[1, 65536]", "help": "Side of the square input in pixels, the model's own by default."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={"help": "Start layers whose shapes differ from the checkpoint's (such as another head) afresh."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that lies on the Hub."})

    def __post_init__(self):
        check_fields(self)
        self.model_config = read_mapping("model_config", self.model_config)


@dataclass
class SourceArguments:
    """Where a data set is, see `tables.load_splits`. Each task says what its `dataset` may be."""

    #: How the user has named the data set.
    argument = "--dataset"

    dataset: str | None = None
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set on the Hub."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Revision of the data set on the Hub."})
    data_files: dict | str | None = field(
        default=None, metadata={"help": "Files: a path or pattern, or a mapping of splits to them."}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the files, such as of imagefolder."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where data sets are cached."})

    def __post_init__(self):
        check_fields(self)
        if isinstance(self.data_files, str) and self.data_files.lstrip().startswith("{"):
            self.data_files = read_mapping("data_files", self.data_files)
        if isinstance(self.data_files, dict):
            _check_files(read_mapping("data_files", self.data_files))


def _check_files(files: Mapping) -> None:
    if not files:
        raise ValueError("--data_files: got no files, accepted are a path or a mapping of splits to paths.")
    for split, paths in files.items():
        if not paths or not all(isinstance(path, str) for path in (paths if isinstance(paths, list) else [paths])):
            raise ValueError(f"--data_files: got {paths!r} for {split}, accepted are a path or a list of paths.")


def read_mapping(name: str, value: dict | str | None, keys: type | tuple[type, ...] = str) -> dict:
    """A mapping given as such (YAML) or as text in YAML or JSON (command line), whose own keys are of these types."""
    try:
        mapping = read_yaml(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"--{name}: got {value!r}, which {error}") from None
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ValueError(f"--{name}: got {value!r}, accepted is a mapping such as '{{\"key\": 1}}'.")
    for key in mapping:
        if not isinstance(key, keys) or isinstance(key, bool):
            raise ValueError(f"--{name}: got the key {key!r} in {mapping}, accepted are names.")
    check_value(name, mapping, accepts=None, whole=False)
    return mapping


def check_fields_of(config, given: Mapping, argument: str = "--model_config") -> None:
    """ValueError for a field that a configuration does not have: it would be kept, and do nothing."""
    for name in given:
        if not hasattr(config, name) or callable(getattr(config, name)):
            near = difflib.get_close_matches(name, config.to_dict(), n=3)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise ValueError(f"{argument}: {type(config).__name__} has no field {name!r}{hint}.")


@contextmanager
def blaming_model_config(model_config: Mapping, model: str | None = None, **others) -> Iterator[None]:
    """Within it, building and trying out a model, any error is the ValueError that what was said of the model does not
    work: a configuration cannot know all values that its network has no use for.

    Args:
        model_config: value of `--model_config`.
        model: what is loaded; it is to blame where nothing was said of it.
        others: values of other arguments that change the configuration, by name; None stands for none.
    """
    given = {"model_config": model_config or None, **others}
    given = {name: value for name, value in given.items() if value is not None} or {"model": model}
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        # Of a configuration's check the reason alone, not which check it was.
        reason = error.__cause__ if type(error).__name__.startswith("StrictDataclass") and error.__cause__ else error
        said = " ".join(str(reason).split())[:300]
        if given == {"model": None} or "allocat" in said:  # a mistake in the code; not enough memory
            raise
        if "ignore_mismatched_sizes" in said:
            said = "its weights have other shapes; --ignore_mismatched_sizes true starts those afresh"
        elif reason is error:
            said = f"{type(error).__name__}: {said}"
        names, values = ", ".join(f"--{name}" for name in given), ", ".join(map(str, given.values()))
        raise ValueError(f"{names}: no model works with {values} ({said}).") from error


class ArgumentReader:
    """The program's arguments, read in two steps: the task decides which dataclasses take the rest.

    Attributes:
        task: value of `--task` or of the recipe's `task`.
        config_file: the recipe's file, None without one.
        outer: filled dataclasses of a task that this one is a part of, see `FilledReader`.
    """

    outer: tuple = ()

    def __init__(self, argv: Sequence[str], program: str | None = None):
        """
        Args:
            argv: the arguments.
            program: what its help calls it; by default the script's name.
        """
        self._program = program or Path(sys.argv[0]).name
        first = _Parser(add_help=False, allow_abbrev=False)
        first.add_argument("--config")
        first.add_argument("--task")
        chosen, self._argv = first.parse_known_args([str(word) for word in argv])
        self.config_file = None if chosen.config is None else find_recipe(chosen.config)
        self._recipe = {} if self.config_file is None else read_recipe(self.config_file)
        named = self._recipe.pop("task", None)
        self._recipe.pop("contents", None)  # of the record of a run, which is a recipe
        self.task = chosen.task or named or DEFAULT_TASK
        if not isinstance(self.task, str):
            raise ValueError(f"{self.config_file}: task: got {self.task!r}, accepted is the name of a task.")

    def asks_for_help(self) -> str | None:
        """How much help is asked for, "-h" or "--help-all"; None for none."""
        if "--help-all" in self._argv or "--help_all" in self._argv:
            return "--help-all"
        return "-h" if "-h" in self._argv or "--help" in self._argv else None

    def read(self, *dataclass_types: type) -> tuple:
        """One filled dataclass per type.

        Raises:
            ValueError: an unknown key (with close matches), a value of the wrong type or out of range, or what a
                dataclass refuses.
        """
        hints = {name: hint for data in dataclass_types for name, hint in get_type_hints(data).items()}
        known = {f.name: f for data in dataclass_types for f in fields(data) if f.init}
        for key in self._recipe:
            if key not in known:
                raise ValueError(f"{self.config_file}: unknown key {key!r}{_near(key, known)}")
        parser = _parser_class()(dataclass_types, allow_abbrev=False, prog=self._program)
        # The words of a command line cannot be an empty list or a mapping's values; lists are read item by item, since
        # an item such as --seed would be taken for an argument.
        argv, unset = _without_null(self._argv, hints, known)
        words, defaults = [], {}
        for key, value in self._recipe.items():
            if value is None or isinstance(value, list | dict):
                defaults[key] = _read_entry(f"{self.config_file}: {key}", value, hints[key], known[key])
            else:
                words.append(f"--{key}={value}")
        parser.set_defaults(**defaults)
        values, left_over = parser.parse_known_args(words + argv)
        for name in unset:
            setattr(values, name, None)
        for word in left_over:
            if word.startswith("-") and not _is_number(word):
                name = word.split("=")[0]
                raise ValueError(f"unknown argument {name!r}{_near(name.lstrip('-'), known, '--')}")
        if left_over:
            shown = ["hf_..." if word.startswith("hf_") else word for word in left_over]
            raise ValueError(f"one value too many for its key, or a value without a key: {' '.join(shown)}")
        if "output_dir" in known and values.output_dir is None:
            values.output_dir = self._new_folder(values)
        for name, f in known.items():
            if is_secret(f):
                setattr(values, name, read_secret(name, getattr(values, name)))
            check_field(f, hints[name], getattr(values, name))
            check_missing_with(f, vars(values))
        for f in known.values():  # when the ranges of both have been looked at
            check_multiple_of(f, vars(values))
        self._check_nothing_is_ignored(known, vars(values))
        return tuple(
            data(**{f.name: getattr(values, f.name) for f in fields(data) if f.init}) for data in dataclass_types
        )

    def _new_folder(self, values) -> str:
        """Where a run goes that names no folder: beside those that are there."""
        if getattr(values, "resume_from_checkpoint", None) in ("true", "auto"):
            raise ValueError("--resume_from_checkpoint: of which run? Name its folder with --output_dir.")
        named = [getattr(values, name, None) for name in ("model", "detector", "method", "dataset")]
        lasts = [
            re.sub(r"\.(txt|jsonl?|csv|parquet)$", "", Path(name).name) for name in named if isinstance(name, str)
        ]
        parts = [re.sub(r"[^\w.-]+", "_", last).strip("._") for last in lasts]
        stem = "-".join(filter(None, parts)) or self.task
        return next(name for number in count(1) if not Path(name := f"outputs/{stem}-{number}").exists())

    def _check_nothing_is_ignored(self, known: Mapping[str, Field], values: Mapping) -> None:
        """Of the command line it is refused; of a recipe, parts of which serve more than one use, it is said, and not
        where the command line has put it out of use."""
        words = (word for word in self._argv if word.startswith("--"))
        given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in words}
        for name, f in known.items():
            if name in given:
                check_goes_with(f, values)
            elif name in self._recipe and not governing(f) & given:
                try:
                    check_goes_with(f, values)
                except ValueError as error:
                    _warn(f"{self.config_file}: nothing comes of {error}")


@cache
def _warn(message: str) -> None:
    """Once: arguments are read early, and again when the task is there."""
    logger.warning(message)


class FilledReader:
    """What a task hands to the one that it builds on: arguments that have been read already.

    Args:
        task: the outer task's name, which the run is recorded under.
        outer: the dataclasses that are the outer task's own; they are recorded with the run.
        arguments: those of the inner task.
    """

    def __init__(self, task: str, outer: tuple, arguments: Sequence):
        self.task, self.outer = task, outer
        self._arguments = list(arguments)

    def read(self, *dataclass_types: type) -> tuple:
        """One filled dataclass per type, or of a type derived from it, as `ArgumentReader.read`."""
        return tuple(next(a for a in self._arguments if isinstance(a, data)) for data in dataclass_types)


class _Parser(ArgumentParser):
    # argparse would print two hundred lines of usage and leave the program.
    def error(self, message: str):
        raise ValueError(in_our_words(message))


@cache
def _parser_class() -> type:
    """transformers' HfArgumentParser; its module is read by itself, since all of transformers takes seconds."""
    if "transformers" in sys.modules:
        from transformers import HfArgumentParser
    else:
        file = Path(importlib.util.find_spec("transformers").origin).with_name("hf_argparser.py")
        spec = importlib.util.spec_from_file_location("_hf_effmodels_hf_argparser", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        HfArgumentParser = module.HfArgumentParser

    class RecipeParser(HfArgumentParser):
        error = _Parser.error

        def add_argument(self, *names, **kwargs):
            kwargs = {key: kwargs[key] for key in kwargs if key not in OWN_METADATA}
            if dict in (kwargs.get("type"), get_origin(kwargs.get("type"))):  # of a text it would make nothing
                kwargs["type"] = str
            return super().add_argument(*names, **kwargs)

    return RecipeParser


def _without_null(argv: Sequence[str], hints: Mapping, known: Mapping[str, Field]) -> tuple[list[str], set[str]]:
    """The words of a command line without `--name null`, which takes back what a recipe says as it would itself; and
    these names. An argument that has no value for nothing keeps the word, which its type refuses."""
    left, unset, at = [], set(), 0
    while at < len(argv):
        option, joined, value = argv[at].partition("=")
        name = option.removeprefix("--").replace("-", "_")
        count = 1 if joined else 2
        alone = joined or at + 2 >= len(argv) or argv[at + 2].startswith("--")  # no list that begins so
        value = value if joined else "".join(argv[at + 1 : at + 2])
        if option.startswith("--") and value == "null" and alone and _may_be_none(known.get(name), hints.get(name)):
            unset.add(name)
            at += count
            continue
        if option.startswith("--"):  # the last one counts
            unset.discard(name)
        left.append(argv[at])
        at += 1
    return left, unset


def _may_be_none(f: Field | None, hint) -> bool:
    return f is not None and not is_secret(f) and (f.default is None or NoneType in get_args(hint))


def _read_entry(where: str, value: list | dict | None, hint, f: Field):
    """A recipe's value that is more than one word, as its field takes it."""
    kinds = get_args(hint) or (hint,)
    if value is not None and is_secret(f):
        raise ValueError(f"{where}: accepted is a text (it is not shown here).")
    if value is None:
        if _may_be_none(f, hint):
            return None
        raise ValueError(f"{where}: got null, but it has no value that stands for nothing.")
    if isinstance(value, dict):
        if any(kind is dict or get_origin(kind) is dict for kind in kinds):
            return value
        raise ValueError(f"{where}: got {value}, accepted is no mapping.")
    items = next((get_args(kind) for kind in (hint, *kinds) if get_origin(kind) is list), None)
    if items is None:
        raise ValueError(f"{where}: got {value}, accepted is one value; a list is one value too many.")
    return [_read_item(where, item, items[0], f.metadata.get("choices")) for item in value]


def _read_item(where: str, item, kind: type, choices: Sequence | None):
    try:
        if item is None or isinstance(item, list | dict | bool) and kind is not bool:
            raise ValueError
        if isinstance(item, float) and kind is int:  # which would cut it off
            raise ValueError
        read = kind(item)
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: got {item!r} in the list, which is no {kind.__name__}.") from None
    if choices is not None and read not in choices:
        raise ValueError(f"{where}: got {read!r} in the list, accepted are {', '.join(map(repr, choices))}.")
    return read


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _near(word: str, keys: Iterable[str], prefix: str = "") -> str:
    word, keys = word.replace("-", "_"), list(keys)
    # `batch_size` is that of training or of evaluation.
    longer = [key for key in keys if key.endswith(f"_{word}")][:3] if len(word) > 3 else []
    near = longer or difflib.get_close_matches(word, keys, n=3, cutoff=0.6)
    return f"; nearest: {', '.join(prefix + key for key in near)}" if near else "; --help lists the known ones"
