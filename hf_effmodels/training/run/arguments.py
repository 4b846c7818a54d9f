"""Arguments: dataclasses, filled from a YAML recipe and the command line, which wins."""

import difflib
import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from .recipes import find_recipe


@dataclass
class ModelArguments:
    """Which model."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "A preset (hf-effmodels list), trained from random weights; or a model on the Hub or in a local "
            "folder, whose weights are fine-tuned."
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
            "help": "Channels of the model's input, the model's own by default. Images follow: 1 is luminance, 2 "
            "luminance and alpha, 3 RGB, 4 RGB and alpha."
        },
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the square input in pixels, the model's own by default."}
    )
    ignore_mismatched_sizes: bool = field(
        default=False,
        metadata={"help": "Start layers whose shapes differ from the checkpoint's (such as another head) afresh."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that lies on the Hub."})

    def __post_init__(self):
        if not self.model:
            raise ValueError("--model is missing: name a preset (hf-effmodels list), a Hub id or a local folder.")
        self.model_config = read_mapping("model_config", self.model_config)
        for name in ("num_channels", "image_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")


@dataclass
class SourceArguments:
    """Where a data set is, see `tables.load_splits`. Each task says what its `dataset` may be."""

    dataset: str | None = None
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set on the Hub."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Revision of the data set on the Hub."})
    data_files: dict | str | None = field(
        default=None, metadata={"help": "Files: a path or pattern, or a mapping of splits to them."}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the files, such as of imagefolder."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where data sets are cached."})

    def __post_init__(self):
        if isinstance(self.data_files, str) and self.data_files.lstrip().startswith("{"):
            self.data_files = read_mapping("data_files", self.data_files)


def read_mapping(name: str, value: dict | str | None) -> dict:
    """A mapping given as such (YAML) or as text in YAML or JSON (command line)."""
    try:
        mapping = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ValueError(f"--{name}: got {value!r}, which is not valid YAML or JSON ({error}).") from None
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ValueError(f"--{name}: got {value!r}, accepted is a mapping such as '{{\"key\": 1}}'.")
    return mapping


class ArgumentReader:
    """The program's arguments, read in two steps: the task decides which dataclasses take the rest.

    Attributes:
        task: value of `--task` or of the recipe's `task`.
        config_file: the recipe's file, None without one.
    """

    def __init__(self, argv: Sequence[str]):
        first = _Parser(add_help=False, allow_abbrev=False)
        first.add_argument("--config")
        first.add_argument("--task")
        chosen, self._argv = first.parse_known_args(list(argv))
        self.config_file = None if chosen.config is None else find_recipe(chosen.config)
        self._recipe = {} if self.config_file is None else _read_recipe(self.config_file)
        self.task = chosen.task or self._recipe.pop("task", None) or "image-classification"
        self._recipe.pop("task", None)

    def read(self, *dataclass_types: type) -> tuple:
        """One filled dataclass per type.

        Raises:
            ValueError: an unknown key (with close matches), a value of the wrong type, or what a dataclass refuses.
        """
        keys = [f.name for data in dataclass_types for f in fields(data) if f.init]
        for key in self._recipe:
            if key not in keys:
                raise ValueError(f"{self.config_file}: unknown key {key!r}{_near(key, keys)}")
        parser = _RecipeParser(dataclass_types, allow_abbrev=False, prog=Path(sys.argv[0]).name)
        # A command line cannot say null or an empty list, where the dataclass has another default.
        parser.set_defaults(**{key: value for key, value in self._recipe.items() if value in (None, [])})
        words = [word for key, value in self._recipe.items() for word in _as_words(key, value)]
        left_over = parser.parse_known_args(words + self._argv)[1]
        for word in left_over:
            if word.startswith("--"):
                raise ValueError(f"unknown argument {word.split('=')[0]!r}{_near(word[2:].split('=')[0], keys, '--')}")
        if left_over:
            raise ValueError(f"one value too many for its key, or a value without a key: {' '.join(left_over)}")
        return parser.parse_args_into_dataclasses(words + self._argv, look_for_args_file=False)


class _Parser(ArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


class _RecipeParser(HfArgumentParser):
    # argparse would print two hundred lines of usage and leave the program.
    def error(self, message: str):
        raise ValueError(message)


def _read_recipe(path: Path) -> dict:
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is not valid YAML: {error}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"--config: {path} holds {type(recipe).__name__}, accepted is a mapping of keys to values.")
    return recipe


def _as_words(key: str, value) -> list[str]:
    """A recipe's entry as command-line words, so that both are checked by the same parser."""
    if value in (None, []):
        return []
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def _near(word: str, keys: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(word.replace("-", "_"), keys, n=3, cutoff=0.6)
    return f"; nearest: {', '.join(prefix + key for key in near)}" if near else "; --help lists the known ones"
