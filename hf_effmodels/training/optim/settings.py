"""Settings of optimizers and schedules that would be ignored, or fail in training, are refused before it starts."""

import copy
import inspect
import math

import torch
from torch.optim import SGD
from transformers import Trainer, TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler
from transformers.trainer_utils import SchedulerType

from .optimizers import OPTIMIZERS, optimizer_class_and_settings, read_optimizer_settings
from .schedules import cosine_over_warmup_schedule, inverse_decay_schedule, step_decay_schedule

# Of what kind a setting is, is not known: one of these changes any.
_OTHER_VALUES = ("0.5", "3", "true", "false", "float16")
# They are called without `lr_scheduler_kwargs`.
_WITHOUT_SETTINGS = (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP)
# What the trainer says itself.
_TAKEN = {"optimizer", "num_warmup_steps", "num_training_steps", "steps_per_epoch", "last_epoch"}
# Of a function that hands over what it is given, whatever that is: trying it out tells.
_ANY = {"kwargs"}
# Of the schedule that is tried out: some fail, or rise without end, at their last.
_STEPS = 10


def check_optimizer_settings(args: TrainingArguments) -> None:
    """ValueError where `args.optim_args` has a setting that the optimizer `args.optim` does not take."""
    settings = read_optimizer_settings(args.optim_args)
    for name, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--optim_args: got {value} for {name!r}, accepted are finite numbers.")
    try:
        optimizer_class_and_settings(args)
    except (TypeError, ValueError) as error:
        if str(error).startswith("--"):
            raise
        name = getattr(args.optim, "value", args.optim)
        raise ValueError(f"--optim_args: got {args.optim_args!r}, which {name} does not take ({error}).") from None
    if args.optim not in OPTIMIZERS:
        for name in settings:
            _check_is_read(args, name)


def _check_is_read(args: TrainingArguments, name: str) -> None:
    """transformers' optimizers take some settings each, and ignore the others: AdamW takes none."""
    pairs = dict(pair.split("=", 1) for pair in args.optim_args.replace(" ", "").split(","))

    def made_of(pairs: dict) -> tuple:
        changed = copy.copy(args)
        changed.optim_args = ",".join(f"{key}={value}" for key, value in pairs.items())
        return Trainer.get_optimizer_cls_and_kwargs(changed)

    try:
        usual = made_of(pairs)
    except ImportError as error:
        raise ValueError(f"--optim: {args.optim.value} cannot be used here: {error}") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if "model" in str(error):  # some choose their parameters by the model, which is not there yet
            return
        raise ValueError(f"--optim_args: got {args.optim_args!r}: {error}") from None
    for value in _OTHER_VALUES:
        try:
            if made_of({**pairs, name: value}) != usual:
                return
        except (ValueError, TypeError, AttributeError, KeyError):
            return  # it was looked at
    own = (
        "; --adam_beta1, --adam_beta2, --adam_epsilon and --weight_decay are arguments" if "adam" in args.optim else ""
    )
    raise ValueError(f"--optim_args: {args.optim.value} takes no {name!r}{own}.")


def check_schedule_settings(args: TrainingArguments) -> None:
    """ValueError where the schedule `args.lr_scheduler_type` cannot be made with `args.lr_scheduler_kwargs`."""
    name, settings = args.lr_scheduler_type, dict(args.lr_scheduler_kwargs or {})
    kind = str(getattr(name, "value", name))
    if kind == "warmup_cosine":
        accepted, make = {}, None
    elif kind == "step":
        accepted = inspect.signature(step_decay_schedule).parameters

        def make(optimizer):
            return step_decay_schedule(optimizer, 1, **settings)
    elif kind == "inverse_decay":
        accepted = inspect.signature(inverse_decay_schedule).parameters

        def make(optimizer):
            return inverse_decay_schedule(optimizer, **settings)
    elif kind == "cosine_over_warmup":
        accepted = {*inspect.signature(cosine_over_warmup_schedule).parameters} - {"min_lr"}  # an argument of its own

        def make(optimizer):
            return cosine_over_warmup_schedule(optimizer, 1, _STEPS, min_lr=args.min_lr, **settings)
    else:
        accepted = {} if name in _WITHOUT_SETTINGS else inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[name]).parameters

        def make(optimizer):
            return get_scheduler(name, optimizer, 1, _STEPS, scheduler_specific_kwargs=settings)

    known = set(accepted) - _TAKEN
    for key in settings:
        if key not in known and known != _ANY:
            listed = "are " + ", ".join(sorted(known)) if known else "is nothing"
            raise ValueError(f"--lr_scheduler_kwargs: {kind} takes no {key!r}, accepted {listed}.")
    if make is not None:
        _try_out(make, args.learning_rate, f"--lr_scheduler_kwargs: {kind} with {settings}")


def _try_out(make, learning_rate: float, what: str) -> None:
    optimizer = SGD([torch.zeros(1)], lr=learning_rate)
    try:
        schedule, rates = make(optimizer), []
        for _ in range(_STEPS):
            optimizer.step()
            schedule.step(*([1.0] if "metrics" in inspect.signature(schedule.step).parameters else []))
            rates.append(optimizer.param_groups[0]["lr"])
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
        raise ValueError(f"{what} cannot be made: {error}") from None
    for rate in rates:
        if not 0 <= rate < math.inf:
            raise ValueError(f"{what} leads to a learning rate of {rate}.")
