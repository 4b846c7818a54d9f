"""The arguments of a run of any recipe, beyond transformers' own, and all arguments as a recipe."""

import difflib
import json
import math
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Literal

import torch
import yaml
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import ExplicitEnum

from ..optim.optimizers import OPTIMIZERS
from ..optim.settings import check_optimizer_settings, check_schedule_settings
from .arguments import read_mapping
from .held import read_resume
from .stock_arguments import in_words_of_the_command, read_stock_arguments
from .values import check_fields, is_secret


@dataclass
class RecipeArguments(TrainingArguments):
    """transformers' `TrainingArguments`, and:

    - the optimizers and the schedules of `optim/`;
    - weight decay only on tensors of two or more dimensions (not on biases and norms), unless told otherwise;
    - an exponential moving average of the weights, which is what is evaluated and saved;
    - runs that continue exactly after a kill, and output folders that are not mixed up.
    """

    output_dir: str | None = field(
        default=None,
        metadata={
            "missing": "name a folder for the model and its checkpoints.",
            "help": "Output folder; by default outputs/<model>-<data set>-<number>, a new one for each run.",
        },
    )
    optim: str = field(
        default="adamw_torch",
        metadata={
            "help": "lamb, adamp, rmsprop_tf, sgd (Nesterov momentum 0.9), or a name of transformers' OptimizerNames."
        },
    )
    optim_args: dict | str | None = field(
        default=None, metadata={"help": "Settings of the optimizer: a mapping, or such as 'momentum=0.9,eps=0.001'."}
    )
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "step (a decay every few epochs; lr_scheduler_kwargs: decay_epochs, decay_rate, warmup_epochs, "
            "warmup_lr), warmup_cosine (ConvNeXt's cosine, with min_lr and warmup_steps), cosine_over_warmup "
            "(TinyViT's, with min_lr, warmup_steps and lr_scheduler_kwargs: warmup_lr), inverse_decay (domain "
            "adaptation's, with lr_scheduler_kwargs: alpha, beta), or a name of transformers' "
            "SchedulerType."
        },
    )
    min_lr: float = field(
        default=0.0, metadata={"accepts": "[0, inf)", "help": "Learning rate at the end of a cosine schedule."}
    )
    weight_decay_on: Literal["weights", "all"] = field(
        default="weights",
        metadata={
            "goes_with": {"layer_decay": (None,)},
            "help": "What decays: tensors of two or more dimensions, or all, biases and norms as well.",
        },
    )
    learning_rate_factors: dict | str | None = field(
        default=None,
        metadata={
            "help": "Factors of the learning rate for parts of the model, by their path or a part of it: a mapping, "
            "such as {classifier: 10, stem: 0.1}."
        },
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "accepts": "(0, 1]",
            "help": "Factor of the learning rate from each stage to the one before it; 1 at the classifier.",
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "accepts": "[0, 1)",
            "help": "Decay per step of a moving average of weights and buffers. The average is evaluated and saved.",
        },
    )
    sync_batch_norm: bool = field(
        default=False,
        metadata={
            "help": "In several processes batch norms normalise by the batches of all of them: two processes train as "
            "one with twice the batch."
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "help": "true: go on from the newest whole checkpoint in output_dir. auto: the same, or start where there "
            "is none. Or a checkpoint's folder.",
            "nargs": "?",
            "const": "true",
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete the checkpoints and the model of the run that output_dir holds."}
    )
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers, such as trackio or tensorboard; all of those installed; or none."},
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "When to publish with push_to_hub: end, the finished model only."}
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "What the model card calls the training data; by default what --dataset says."},
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of the trained weights, for the model card, such as apache-2.0."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave this off: samples hold what is used."})

    def __post_init__(self):
        check_fields(self)
        read_stock_arguments(self)
        if self.push_to_hub and self.license is None:
            raise ValueError("--push_to_hub: --license is missing; name the licence of the trained weights.")
        self.resume_from_checkpoint = read_resume(self.resume_from_checkpoint)
        self.optim_args = _read_optim_args(self.optim_args)
        self.lr_scheduler_kwargs = read_mapping("lr_scheduler_kwargs", self.lr_scheduler_kwargs)
        self.learning_rate_factors = read_mapping("learning_rate_factors", self.learning_rate_factors)
        for path, factor in self.learning_rate_factors.items():
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
                raise ValueError(f"--learning_rate_factors: got {factor!r} for {path}, accepted are positive numbers.")
        if self.min_lr and self.lr_scheduler_type not in ("warmup_cosine", "cosine_over_warmup"):
            if self.lr_scheduler_type not in ("cosine", "cosine_with_min_lr"):
                raise ValueError(f"--min_lr goes with --lr_scheduler_type cosine, not {self.lr_scheduler_type}.")
            self.lr_scheduler_type = "cosine_with_min_lr"
            self.lr_scheduler_kwargs = {**self.lr_scheduler_kwargs, "min_lr": self.min_lr}
        if self.min_lr > self.learning_rate:
            raise ValueError(
                f"--min_lr: got {self.min_lr}, accepted are numbers from 0 to --learning_rate, {self.learning_rate}."
            )
        if self.disable_tqdm is None:
            self.disable_tqdm = not os.isatty(2)
        if not torch.accelerator.is_available():
            # transformers refuses bfloat16 on a machine without a GPU unless told that the CPU is meant.
            self.use_cpu = True
        # transformers is renaming it, and warns about the name that all its versions take.
        if self.gradient_checkpointing and hasattr(self, "activation_checkpointing"):
            self.activation_checkpointing = True
        own_names = _take_own_names(self)
        with in_words_of_the_command():
            super().__post_init__()
        for name, value in own_names.items():
            setattr(self, name, value)
        check_optimizer_settings(self)
        check_schedule_settings(self)
        if self.n_gpu > 1:
            raise ValueError(
                f"one process sees {self.n_gpu} GPUs: start one for each with accelerate launch, or choose one with "
                "CUDA_VISIBLE_DEVICES."
            )


class _OwnSchedule(ExplicitEnum):
    STEP = "step"
    WARMUP_COSINE = "warmup_cosine"
    COSINE_OVER_WARMUP = "cosine_over_warmup"
    INVERSE_DECAY = "inverse_decay"


_OwnOptimizer = ExplicitEnum("_OwnOptimizer", {name.upper(): name for name in OPTIMIZERS}, module=__name__)


def _take_own_names(args: RecipeArguments) -> dict[str, ExplicitEnum]:
    """Optimizer and schedule, where they are ours, as fields to set again: transformers would refuse the names."""
    own = {}
    for name, ours, theirs, neutral in (
        ("optim", _OwnOptimizer, OptimizerNames, OptimizerNames.ADAMW_TORCH),
        ("lr_scheduler_type", _OwnSchedule, SchedulerType, SchedulerType.CONSTANT),
    ):
        value = getattr(args, name)
        names = [item.value for enum in (ours, theirs) for item in enum]
        if value not in names:
            near = difflib.get_close_matches(str(value), names, n=3) or sorted(names)
            raise ValueError(f"--{name}: got {str(value)!r}; nearest: {', '.join(near)}.")
        if value in list(ours):
            own[name] = ours(value)
            setattr(args, name, neutral)
    return own


def _read_optim_args(value: dict | str | None) -> str | None:
    """transformers takes `"key=value,..."` only."""
    if isinstance(value, dict) or (isinstance(value, str) and value.lstrip().startswith("{")):
        return ",".join(f"{key}={setting}" for key, setting in read_mapping("optim_args", value).items())
    return value


# They say how this process was started or what machine it found, not what is trained.
_NOT_RECORDED = frozenset(
    "dataloader_pin_memory disable_tqdm gradient_checkpointing_kwargs local_rank overwrite_output_dir "
    "resume_from_checkpoint use_cpu".split()
)


def resolved(*arguments) -> dict:
    """All arguments as plain YAML values, without secrets: a recipe that repeats the run."""
    values = {}
    for data in arguments:
        plain = data.to_dict() if isinstance(data, TrainingArguments) else vars(data)
        for f in fields(data):
            # None is left out where it is the default anyway, for a recipe of readable length.
            if _is_recorded(f) and not (plain[f.name] is None and f.default is None):
                values[f.name] = plain[f.name]
    return _plain(values)


def defaults_of(*types: type) -> dict:
    """The defaults of all arguments that `resolved` may record, as it would record them."""
    values = {}
    for f in (f for data in types for f in fields(data) if _is_recorded(f)):
        made = f.default_factory() if f.default_factory is not MISSING else f.default
        values[f.name] = None if made is MISSING else made
    return _plain(values)


def _is_recorded(f: Field) -> bool:
    return f.init and f.name not in _NOT_RECORDED and not is_secret(f)


def _plain(values: dict) -> dict:
    return yaml.safe_load(json.dumps(values, default=str))
