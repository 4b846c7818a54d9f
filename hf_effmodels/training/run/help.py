"""The help of `train` and `evaluate`: what one needs first, and on demand everything, made from the arguments."""

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType
from typing import Literal, get_args, get_origin

from .arguments import DEFAULT_TASK
from .early import accepted_names
from .recipes import find_recipe, list_recipes

#: What most runs say, in this order, as far as the task has it; `-h` shows no more.
USUAL = (
    *("model", "detector", "teacher", "stored_labels", "losses", "tokenizer", "dataset", "data_files", "data_dir"),
    *("image_size", "block_size", "stage", "scale", "output_dir", "num_train_epochs", "max_steps", "learning_rate"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "bf16", "ema_decay"),
    *("seed", "resume_from_checkpoint", "overwrite_output_dir", "reparameterize", "deploy", "output", "overwrite"),
    *("reports", "license", "push_to_hub", "hub_model_id"),
)
#: Options that `ArgumentReader` reads before the task's own.
_FIRST = {"config": "A recipe: a name from the list, or a YAML file with these arguments.", "task": "What to learn."}
_COLUMN = 34


def help_text(
    program: str, task: str, tasks: Sequence[str], types: Sequence[type], *, full: bool, trains: bool
) -> str:
    """The help.

    Args:
        program: as the user called it.
        task: whose arguments `types` are.
        tasks: names of all tasks.
        types: dataclasses.
        full: all arguments, otherwise the usual ones.
        trains: of training, otherwise of evaluation.
    """
    groups = [(data.__name__, _own_first([f for f in fields(data) if f.init])) for data in types]
    count = sum(len(found) for _, found in groups)
    lines = [f"usage: {program} {'[--config RECIPE] ' if trains else ''}[--task TASK] [--ARGUMENT VALUE ...]", ""]
    lines += _wrapped(f"{'Train' if trains else 'Measure'} a model. Tasks: {', '.join(tasks)}.")
    if trains:
        lines += _wrapped(f"Recipes of {task}: {', '.join(_recipes_of(task)) or 'none'}.")
    lines += _argument("config", "FILE", _FIRST["config"], "none") if trains else []
    lines += _argument("task", "TASK", _FIRST["task"], DEFAULT_TASK)
    if full:
        for name, found in groups:
            lines += ["", f"{name}:", *(line for f in found for line in _field(f))]
    else:
        known = {f.name: f for _, found in groups for f in found}
        needed = [name for name, f in known.items() if f.metadata.get("missing") and name not in USUAL]
        lines += ["", f"The usual arguments of {task}:"]
        lines += [line for name in (*needed, *USUAL) if name in known for line in _field(known[name], brief=True)]
        lines += ["", f"--help-all shows all {count}, --task NAME -h those of another task."]
        if trains:
            lines += ["", "example:", f"  {program} --config quickstart/image-classification --output_dir out"]
        else:
            lines += ["", "example:", f"  {program} --task {task} --model out --dataset photos"]
    return "\n".join(lines) + "\n"


def _width() -> int:
    return min(110, max(60, shutil.get_terminal_size((100, 24)).columns))


def _own_first(found: list[Field]) -> list[Field]:
    """What is usual at the head of its group, in order."""
    order = {name: place for place, name in enumerate(USUAL)}
    return sorted(found, key=lambda f: order.get(f.name, len(order)))


def _wrapped(text: str) -> list[str]:
    return [*textwrap.wrap(text, _width(), break_on_hyphens=False), ""]


def _recipes_of(task: str) -> list[str]:
    """Names of the recipes that say this task, which most say in their first lines; the default one need not."""
    texts = {name: find_recipe(name).read_text(encoding="utf-8") for name in list_recipes()}
    named = {name: re.search(r"^task: *([\w-]+)", text, re.MULTILINE) for name, text in texts.items()}
    return [name for name, found in named.items() if (found[1] if found else DEFAULT_TASK) == task]


def _field(f: Field, brief: bool = False) -> list[str]:
    kind, text, default = described(f)
    if brief:
        return _argument(f.name, kind, re.split(r"(?<=\w)\.(?: |$)", _said(f))[0], default or "none")
    return _argument(f.name, kind, text, default)


def described(f: Field) -> tuple[str, str, str | None]:
    """Of an argument: what stands for its value, what it is with all that is accepted, and its default; None where
    there is none, "none" where that is nothing."""
    kind, choices = _kind(f)
    text = _said(f)
    if choices and not all(str(choice) in text for choice in choices):
        text = f"{text.rstrip('.')}. One of {', '.join(map(str, choices))}." if text else ""
    if accepts := f.metadata.get("accepts"):
        text = f"{text.rstrip('.')}; in {accepts}."
    return kind, text, _default(f)


def _said(f: Field) -> str:
    return " ".join((f.metadata.get("help") or "").split())


def _kind(f: Field) -> tuple[str, Sequence]:
    """The value's placeholder, and what it may be where that is a list."""
    kinds = [kind for kind in (get_args(f.type) or (f.type,)) if kind is not NoneType]
    if get_origin(f.type) is Literal:
        return f.name.upper(), get_args(f.type)
    kinds = [f.type] if get_origin(f.type) is list else kinds
    literal = next((kind for kind in kinds if get_origin(kind) is Literal), None)
    if literal is not None:
        return f.name.upper(), get_args(literal)
    several = next((kind for kind in kinds if get_origin(kind) is list), None)
    of = get_args(several)[0] if several else kinds[0]
    word = {bool: "true|false", int: "N", float: "X", dict: "MAPPING"}.get(get_origin(of) or of, "TEXT")
    return f"{word} ..." if several else word, f.metadata.get("choices") or accepted_names(f.name)


def _default(f: Field) -> str | None:
    made = f.default
    if f.default_factory is not MISSING:
        made = f.default_factory() if callable(f.default_factory) else MISSING
    if made is MISSING:
        return None
    if made is None or made == []:
        return "none"
    if isinstance(made, bool):
        return str(made).lower()
    return " ".join(map(str, made)) if isinstance(made, list | tuple) else str(made)


def _argument(name: str, kind: str, text: str, default: str | None) -> list[str]:
    told = " ".join(text.split())
    told += f" (default: {default})" if default not in (None, "none") else ""
    wrapped = textwrap.wrap(told.strip(), _width() - _COLUMN) or [""]
    head = f"  --{name} {kind}"
    if len(head) >= _COLUMN:
        return [head, *(" " * _COLUMN + line for line in wrapped)]
    return [head.ljust(_COLUMN) + wrapped[0], *(" " * _COLUMN + line for line in wrapped[1:])]
