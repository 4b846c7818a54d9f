"""Which values arguments take. A field says it itself, in its metadata, and it is checked here alone.

accepts: "[0, 1)"        an interval, as in mathematics: `[` and `]` belong to it, `(` and `)` do not
missing: "name a ..."    it has to be given; what to do about it
missing_with: {"segmenter": ("model",)}
                         only where all of these other arguments are at such a value, as in goes_with
secret: True             it is not written down with the other arguments of a run
goes_with: {"mixup": SET}
                         without one of these other arguments at such a value nothing would come of it: a tuple of
                         values, `SET` for any but 0, false and nothing, `Except("sgd")` for any but these. A tuple of
                         mappings: each of them holds.
multiple_of: ("scale", 2)
                         a multiple of the other argument's value, so many times
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import get_args, get_type_hints

#: The keys of a field's metadata that are ours; the others are argparse's.
OWN_METADATA = ("accepts", "missing", "missing_with", "secret", "goes_with", "multiple_of")

#: See `goes_with` above.
SET = "any but 0, false and nothing"


class Except(tuple):
    """All values but these, for `goes_with`."""


#: Of transformers' own `TrainingArguments`, which checks few of its values before it uses them.
TRANSFORMERS_ACCEPTS = {
    "per_device_train_batch_size": "[1, 1048576]",
    "per_device_eval_batch_size": "[1, 1048576]",
    "num_train_epochs": "(0, 1000000]",
    "max_steps": "[1, inf)",
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
#: Of the same, those that have a value for "not given", beside the interval.
_NOT_GIVEN = {"max_steps": -1}
_WORKERS = {"dataloader_num_workers": SET}
_CHECKPOINTING = {"gradient_checkpointing": SET, "activation_checkpointing": SET}
# Optimizers without moments by Adam's settings; those of bitsandbytes named lion have both, and divide by neither.
_NOT_BY_BETAS = (
    *("sgd", "schedule_free_sgd", "rmsprop", "rmsprop_tf", "adagrad", "adafactor", "lomo", "adalomo", "grokadamw"),
    *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor"),
    *("galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise"),
)
_LIONS = ("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit")
#: Of the same, those that would be ignored without another one.
TRANSFORMERS_GOES_WITH = {
    "eval_steps": {"eval_strategy": ("steps", "no")},
    "eval_delay": {"eval_strategy": ("steps", "epoch")},
    "save_steps": {"save_strategy": ("steps", "no")},
    "logging_steps": {"logging_strategy": ("steps", "no"), "eval_strategy": ("steps",)},
    "greater_is_better": {"metric_for_best_model": SET, "load_best_model_at_end": SET},
    "warmup_steps": {"lr_scheduler_type": Except(("constant", "step", "reduce_lr_on_plateau", "greedy"))},
    "optim_target_modules": {
        "optim": (
            *("galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise"),
            *("galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "apollo_adamw", "apollo_adamw_layerwise"),
        )
    },
    "gradient_checkpointing_kwargs": _CHECKPOINTING,
    "activation_checkpointing_kwargs": _CHECKPOINTING,
    "liger_kernel_config": {"use_liger_kernel": SET},
    "dataloader_persistent_workers": _WORKERS,
    "dataloader_prefetch_factor": _WORKERS,
    "dataloader_multiprocessing_context": _WORKERS,
    "hub_model_id": {"push_to_hub": SET},
    "hub_private_repo": {"push_to_hub": SET},
    "hub_revision": {"push_to_hub": SET},
    "trackio_space_id": {"report_to": ("trackio", "all")},
    "trackio_bucket_id": {"report_to": ("trackio", "all")},
    "trackio_static_space_id": {"report_to": ("trackio", "all")},
}
#: Of the same, those that do nothing beside some values of another, and are no fault there: one says the same of every
#: optimizer.
_ACTS_WITH = {
    "adam_beta1": {"optim": Except(_NOT_BY_BETAS)},
    "adam_beta2": {"optim": Except(_NOT_BY_BETAS)},
    "adam_epsilon": {"optim": Except((*_NOT_BY_BETAS, *_LIONS))},
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
        check_missing_with(f, vars(arguments))
    for f in fields(arguments):  # when the ranges of both have been looked at
        check_multiple_of(f, vars(arguments))


def check_field(f: Field, hint, value) -> None:
    """ValueError unless the field of a dataclass takes this value; `hint` is its type."""
    if "missing" in f.metadata and "missing_with" not in f.metadata and value in (None, ""):
        raise ValueError(f"--{f.name} is missing: {f.metadata['missing']}")
    accepts = f.metadata.get("accepts") or TRANSFORMERS_ACCEPTS.get(f.name)
    if value is not None and value == _NOT_GIVEN.get(f.name):
        return
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


def check_missing_with(f: Field, values: Mapping) -> None:
    """ValueError if an argument is not given that others, at their values, need.

    Args:
        f: its field.
        values: all arguments.
    """
    condition = f.metadata.get("missing_with")
    if condition is None or values[f.name] not in (None, ""):
        return
    if all(_holds(values[name], accepted) for name, accepted in condition.items()):
        raise ValueError(f"--{f.name} is missing: {f.metadata['missing']}")


def check_multiple_of(f: Field, values: Mapping) -> None:
    """ValueError if an argument that is given does not divide as another one asks for.

    Args:
        f: its field.
        values: all arguments.
    """
    if values[f.name] is None or "multiple_of" not in f.metadata:
        return
    other, times = f.metadata["multiple_of"]
    if values[f.name] % (unit := times * values[other]):
        words = f"{times} times --{other}"
        raise ValueError(f"--{f.name}: got {values[f.name]}, accepted are multiples of {unit} ({words}).")


def check_goes_with(f: Field, values: Mapping) -> None:
    """ValueError if an argument would be ignored beside the others.

    Args:
        f: its field.
        values: all arguments.
    """
    if _is_neutral(f, values[f.name]):
        return
    for condition in _conditions(f):
        known = {name: accepted for name, accepted in condition.items() if name in values}
        if known and not any(_holds(values[name], accepted) for name, accepted in known.items()):
            alternatives = " or ".join(_condition_in_words(name, accepted) for name, accepted in known.items())
            given = ", ".join(f"--{name} {shown(values[name])}" for name in known if values[name] is not None)
            given = f"not {given}" if given else "which is not given" if len(known) == 1 else "none of which is given"
            raise ValueError(f"--{f.name}: got {shown(values[f.name])}, which goes with {alternatives}, {given}.")


def acts(f: Field, values: Mapping) -> bool:
    """Whether an argument has an effect beside the others."""
    return all(
        any(_holds(values[name], accepted) for name, accepted in condition.items() if name in values)
        for condition in (*_conditions(f), _ACTS_WITH.get(f.name, {}))
        if not condition.keys().isdisjoint(values)
    )


def governing(f: Field) -> set[str]:
    """Names of the arguments without which this one would be ignored."""
    return {name for condition in _conditions(f) for name in condition}


def _conditions(f: Field) -> tuple[Mapping, ...]:
    conditions = f.metadata.get("goes_with") or TRANSFORMERS_GOES_WITH.get(f.name) or ()
    return conditions if isinstance(conditions, tuple) else (conditions,)


def _is_neutral(f: Field, value) -> bool:
    default = f.default_factory() if f.default_factory is not MISSING else f.default
    return value == default or value in (None, "", [], {})


def _holds(value, accepted) -> bool:
    if isinstance(value, list):
        return any(_holds(item, accepted) for item in value)
    if accepted is SET:
        return bool(value)
    value = getattr(value, "value", value)
    return value not in accepted if isinstance(accepted, Except) else value in accepted


def _condition_in_words(name: str, accepted) -> str:
    if accepted is SET:
        return f"--{name}"
    listed = " or ".join(str(value) for value in accepted if value is not None)
    return f"--{name} other than {listed}" if isinstance(accepted, Except) else f"--{name} {listed}"


def shown(value) -> str:
    """A value as it stands on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(getattr(value, "value", value))


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
