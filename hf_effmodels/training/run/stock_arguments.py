"""transformers' own `TrainingArguments`: texts that stand for mappings, values that nothing would come of, and its
errors in the words of the command line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from accelerate.utils import DynamoBackend
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig

from ...hub.card_text import check_license
from .arguments import read_mapping
from .values import shown

# Mappings, as such or as a text; those of the second line may be JSON files as well.
_MAPPINGS = (
    *("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "liger_kernel_config"),
    *("accelerator_config", "fsdp_config", "deepspeed"),
)
_FILES = ("accelerator_config", "fsdp_config", "deepspeed")
#: Argument -> the values it may have, and why no others.
_ONLY = {
    "prediction_loss_only": ((False,), "an evaluation measures more than the loss"),
    "batch_eval_metrics": ((False,), "metrics are those of the whole evaluation set"),
    "eval_do_concat_batches": ((True,), "metrics are those of the whole evaluation set"),
    "include_for_metrics": (([],), "each task knows what its metrics take"),
    "label_names": ((None, [], ["labels"]), "each task knows where its labels are"),
    "remove_unused_columns": ((False,), "samples hold what is used"),
    "length_column_name": (("length",), "samples are not grouped by length"),
    "train_sampling_strategy": (("random", "sequential"), "samples are not grouped by length"),
    "do_predict": ((False,), "hf-effmodels evaluate does that"),
    "hub_always_push": ((False,), "only the finished model is published"),
    "hub_strategy": (("end",), "only the finished model is published"),
}
_COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def read_stock_arguments(args: TrainingArguments) -> None:
    """Read the mappings among the arguments, and refuse what would be ignored or fail when training has begun.

    Raises:
        ValueError: names the argument, its value and what is accepted.
        OSError: a file that is not there.
    """
    for name, (accepted, reason) in _ONLY.items():
        value = getattr(args, name)
        if getattr(value, "value", value) not in accepted:
            listed = " or ".join(shown(value) for value in accepted if value not in (None, []))
            got = repr(value) if isinstance(value, str) else shown(value)
            raise ValueError(f"--{name}: got {got}, accepted is {listed or 'nothing'}: {reason}.")
    for name in _MAPPINGS:
        if getattr(args, name, None) is not None:
            setattr(args, name, _read(name, getattr(args, name)))
    if not args.dataloader_num_workers:  # of a recipe whose workers the command line has taken away
        args.dataloader_persistent_workers = False
    _check_accelerator(args.accelerator_config)
    _check_choice("torch_compile_mode", args.torch_compile_mode, _COMPILE_MODES)
    backends = [name.lower() for name in DynamoBackend.__members__]
    _check_choice("torch_compile_backend", args.torch_compile_backend, backends)
    try:
        check_license(getattr(args, "license", None))
    except ValueError as error:
        raise ValueError(f"--{error}") from None


def check_trackers(args: TrainingArguments) -> None:
    """ValueError where `--report_to` names none of transformers' trackers."""
    for tracker in args.report_to:
        _check_choice("report_to", tracker, ("none", "all", *INTEGRATION_TO_CALLBACK))


def _check_choice(name: str, value: str | None, accepted) -> None:
    if value is not None and value not in accepted:
        raise ValueError(f"--{name}: got {value!r}, accepted are {', '.join(accepted)}.")


def _read(name: str, value):
    if isinstance(value, str) and name in _FILES and not value.lstrip().startswith(("{", "[")):
        if not os.path.isfile(value):
            raise OSError(f"--{name}: got {value!r}, accepted are a mapping and the path of a JSON file.")
        return value
    return read_mapping(name, value) if isinstance(value, str | dict | list) else value


def _check_accelerator(config) -> None:
    if not isinstance(config, dict):
        return
    known = AcceleratorConfig.__dataclass_fields__
    for key, value in config.items():
        if key not in known:
            raise ValueError(f"--accelerator_config: there is no {key!r}, accepted are {', '.join(known)}.")
        accepted = dict if key == "gradient_accumulation_kwargs" else bool
        if value is not None and not isinstance(value, accepted):
            kind = "a mapping" if accepted is dict else "true or false"
            raise ValueError(f"--accelerator_config: {key}: got {value!r}, accepted is {kind}.")


@contextmanager
def in_words_of_the_command(kinds: type[Exception] = Exception) -> Iterator[None]:
    """Within it what transformers says of its arguments names them as the command line does; errors of these kinds
    that are neither a ValueError, an OSError nor an ImportError become a ValueError."""
    try:
        yield
    except kinds as error:
        if type(error) in (ValueError, ImportError):
            raise type(error)(named(str(error))) from error
        if isinstance(error, ValueError | OSError | ImportError):
            raise
        raise ValueError(f"{named(str(error))} ({type(error).__name__})") from error


_NAMES = sorted((f.name for f in fields(TrainingArguments) if "_" in f.name), key=len, reverse=True)
_MENTION = re.compile(rf"(?<![-\w])`?(?:args\.|--)?({'|'.join(_NAMES)})\b`?(?!=)")


def named(message: str) -> str:
    """A message of transformers in one line, with the arguments it mentions as the command line names them."""
    message = " ".join(message.split())
    if found := re.search(r"save and eval strategy to match.*IntervalStrategy\.(\w+).*SaveStrategy\.(\w+)", message):
        measured, saved = (name.lower() for name in found.groups())
        return (
            f"--save_strategy: got {saved}, but the best model is chosen among checkpoints, which are measured by "
            f"--eval_strategy {measured}; accepted are the same for both, and --load_best_model_at_end false."
        )
    if found := re.search(
        r"saving steps to be a round multiple .* found (\S+), .* round multiple of (\S+?)\.?$", message
    ):
        saved, measured = found.groups()
        return (
            f"--save_steps: got {saved}, but the best model is chosen among checkpoints, which are measured every "
            f"{measured} steps (--eval_steps); accepted are multiples of that, and --load_best_model_at_end false."
        )
    return _MENTION.sub(lambda match: f"--{match[1]}", message)
