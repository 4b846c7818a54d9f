"""What to do with a trained model: commands that can be pasted."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..._exported import is_codeless
from ..._licenses import PLACEHOLDER
from .arguments import DEFAULT_TASK
from .publishing import HUB_FOLDER
from .recipe_arguments import defaults_of
from .results import FREE_KEYS, ResultsArguments

#: Where results go, which is said here, and how fast they come.
_OF_RESULTS = frozenset(ResultsArguments.__dataclass_fields__)
#: Of the arguments about the model, which lies in the folder by then, those that an evaluation needs all the same.
_OF_THE_MODEL = ("stage",)


def next_commands(
    config: Mapping,
    evaluation_types: Sequence[type],
    evaluation: Mapping | None = None,
    predict: Sequence[str] | None = None,
) -> list[list[str]]:
    """The words of the commands that evaluate, predict with and publish what a run has left.

    Args:
        config: the resolved arguments of the run.
        evaluation_types: the dataclasses of its task's evaluation.
        evaluation: arguments of the evaluation that differ from those of the run.
        predict: what stands behind the model's name to predict; None where nothing is predicted.
    """
    folder = Path(str(config["output_dir"]))
    place = _as_word(folder)
    task = [] if config["task"] == DEFAULT_TASK else ["--task", str(config["task"])]
    data = _data({**config, **(evaluation or {})}, evaluation_types)
    results = ["--output", _as_word(folder / "evaluation.json")]
    commands = [["hf-effmodels", "evaluate", *task, "--model", place, *data, *results]]
    if predict is not None:
        inputs = [_as_word(word) if word.startswith(str(folder)) else word for word in predict]
        commands.append(["hf-effmodels", "predict", place, *inputs])
    published = folder / HUB_FOLDER if (folder / HUB_FOLDER).is_dir() else folder
    if published != folder or is_codeless(folder):
        licence = [] if config.get("license") else ["--license", PLACEHOLDER]
        commands.append(
            ["hf-effmodels", "publish", _as_word(published), f"your-name/{_hub_name(folder.name)}", *licence]
        )
    return commands


def _as_word(path: Path) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _hub_name(name: str) -> str:
    """A name as the Hub takes it: letters, digits, `-`, `_` and `.`, none of the marks twice in a row or at an end."""
    joined = re.sub(r"([-.])[-.]+", r"\1", re.sub(r"[^A-Za-z0-9_.-]+", "-", name))
    return joined.strip("-.")[:96].rstrip("-.") or "model"


def _data(config: Mapping, evaluation_types: Sequence[type]) -> list[str]:
    """The arguments that name the data and say how is measured, as far as they are not the defaults."""
    names = [
        name
        for kind in evaluation_types
        for name in kind.__dataclass_fields__
        if ("model" not in kind.__dataclass_fields__ or name in _OF_THE_MODEL)
        and not (issubclass(kind, ResultsArguments) and (name in _OF_RESULTS or name in FREE_KEYS))
    ]
    defaults = defaults_of(*evaluation_types)
    return argument_words({name: config.get(name) for name in names}, defaults)


def argument_words(given: Mapping, defaults: Mapping) -> list[str]:
    """`--name value` for each argument that is neither at its default nor None or empty."""
    told = {name: value for name, value in given.items() if value not in (None, defaults.get(name), [], {})}
    return [word for name, value in told.items() for word in _words(f"--{name}", value)]


def _words(option: str, value) -> list[str]:
    if isinstance(value, list | tuple):
        return [option, *map(str, value)]
    word = json.dumps(value) if isinstance(value, Mapping | bool) else str(value)
    return [f"{option}={word}"] if word.startswith("-") else [option, word]
