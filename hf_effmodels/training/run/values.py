"""Which values arguments take. A field says it itself, in its metadata, and it is checked here alone.

accepts: "[0, 1)"        an interval, as in mathematics: `[` and `]` belong to it, `(` and `)` do not
missing: "name a ..."    it has to be given; what to do about it
secret: True             it is not written down with the other arguments of a run
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import get_args, get_type_hints

#: The keys of a field's metadata that are ours; the others are argparse's.
OWN_METADATA = ("accepts", "missing", "secret")

#: Of transformers' own `TrainingArguments`, which checks few of its values before it uses them.
TRANSFORMERS_ACCEPTS = {
    "per_device_train_batch_size": "[1, 1048576]",
    "per_device_eval_batch_size": "[1, 1048576]",
    "num_train_epochs": "(0, 1000000]",
    "max_steps": "[-1, inf)",
    "learning_rate": "[0, inf)",
    "warmup_steps": "[0, inf)",
    "weight_decay": "[0, inf)",
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "[0, inf)",
    "gradient_accumulation_steps": "[1, inf)",
    "max_grad_norm": "[0, inf)",
    "label_smoothing_factor": "[0, 1)",
    "neftune_noise_alpha": "[0, inf)",
    "torch_empty_cache_steps": "[1, inf)",
    "logging_steps": "(0, inf)",
    "eval_steps": "(0, inf)",
    "eval_delay": "[0, inf)",
    "eval_accumulation_steps": "[1, inf)",
    "save_steps": "(0, inf)",
    "save_total_limit": "[0, inf)",
    "seed": "[0, 4294967295]",
    "data_seed": "[0, 4294967295]",
    "dataloader_num_workers": "[0, 1024]",
    "dataloader_prefetch_factor": "[1, 1024]",
    "ddp_bucket_cap_mb": "[1, inf)",
    "ddp_timeout": "[1, 100000000]",
}
# Beyond it, whole numbers do not pass through floating point, and nothing here counts so far.
_LARGEST = 2**53

_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


# transformers' own, and what all tasks have.
_SECRETS = frozenset(("token", "hub_token"))
_TOKEN = re.compile(r"[!-~]+")


def is_secret(f: Field) -> bool:
    """Whether the value of a dataclass's field is neither written down nor shown."""
    return f.name in _SECRETS or bool(f.metadata.get("secret"))


def read_secret(name: str, value: str | None) -> str | None:
    """A token without the white space around it (files end in a line end). The ValueError does not show it."""
    text = None if value is None else value.strip()
    if text and not _TOKEN.fullmatch(text):
        raise ValueError(f"--{name}: it has characters that no token has, such as white space (it is not shown here).")
    return text or None


def check_fields(arguments) -> None:
    """`check_field` for all fields of a dataclass object."""
    hints = get_type_hints(type(arguments))
    for f in fields(arguments):
        check_field(f, hints[f.name], getattr(arguments, f.name))


def check_field(f: Field, hint, value) -> None:
    """ValueError unless the field of a dataclass takes this value; `hint` is its type."""
    if "missing" in f.metadata and value in (None, ""):
        raise ValueError(f"--{f.name} is missing: {f.metadata['missing']}")
    accepts = f.metadata.get("accepts") or TRANSFORMERS_ACCEPTS.get(f.name)
    check_value(f.name, value, accepts, whole=int in (hint, *get_args(hint)))


def check_value(name: str, value, accepts: str | None, whole: bool) -> None:
    """ValueError unless the value, or each number in it (a list, a mapping), is finite and lies in the interval.

    Args:
        name: of the argument.
        value: texts and truth values pass.
        accepts: an interval, None for all numbers.
        whole: the argument takes whole numbers only, for the message.
    """
    for number in _numbers(value):
        if isinstance(number, float) and not math.isfinite(number):
            kind = "finite numbers"
        elif abs(number) > _LARGEST and isinstance(number, int):
            kind = f"whole numbers up to {_LARGEST}"
        elif accepts is not None and not _contains(accepts, number):
            kind = "whole numbers" if whole else "numbers"
        else:
            continue
        where = "" if isinstance(value, (int, float)) else f" in {value}"
        raise ValueError(f"--{name}: got {number}{where}, accepted are {kind}{_in_words(accepts)}.")


def _numbers(value) -> Iterable[int | float]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def _contains(accepts: str, number: float) -> bool:
    low, high = _bounds(accepts)
    above = number >= low if accepts[0] == "[" else number > low
    return above and (number <= high if accepts[-1] == "]" else number < high)


def _bounds(accepts: str) -> tuple[float, float]:
    _, low, high, _ = _INTERVAL.fullmatch(accepts).groups()
    return float(low), float(high)


def _in_words(accepts: str | None) -> str:
    """`"[0, 1)"` as `" from 0 to below 1"`."""
    if accepts is None:
        return ""
    (opening, low, high, closing), (_, upper) = _INTERVAL.fullmatch(accepts).groups(), _bounds(accepts)
    if math.isinf(upper):
        return f" from {low}" if opening == "[" else f" above {low}"
    if opening == "(":
        return f" between {low} and {high}" if closing == ")" else f" above {low} and up to {high}"
    return f" from {low} to {high}" if closing == "]" else f" from {low} to below {high}"
