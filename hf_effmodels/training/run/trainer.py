"""transformers' Trainer with what the recipes need beyond it: see `RecipeArguments` for the list."""

import difflib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Sampler
from transformers import SchedulerType, Trainer, TrainerCallback, TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import ExplicitEnum

from ..optim.cosine import warmup_cosine_schedule
from ..optim.layer_decay import layer_decay_groups
from ..optim.optimizers import OPTIMIZERS, optimizer_class_and_settings
from ..optim.schedules import step_decay_schedule
from .arguments import read_mapping
from .averaging import ExponentialMovingAverage, copy_state, temporarily, unique_state
from .output_folder import WEIGHTS_WITHOUT_EMA

logger = logging.getLogger(__name__)


@dataclass
class RecipeArguments(TrainingArguments):
    """transformers' `TrainingArguments`, and:

    - the optimizers of `optimizers.py` and the schedule of `schedules.py`;
    - weight decay only on tensors of two or more dimensions (not on biases and norms);
    - an exponential moving average of the weights, which is what is evaluated and saved;
    - runs that continue exactly after a kill, and output folders that are not mixed up.
    """

    optim: str = field(
        default="adamw_torch",
        metadata={"help": "lamb, rmsprop_tf, sgd (Nesterov momentum 0.9), or a name of transformers' OptimizerNames."},
    )
    optim_args: dict | str | None = field(
        default=None, metadata={"help": "Settings of the optimizer: a mapping, or such as 'momentum=0.9,eps=0.001'."}
    )
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "step (a decay every few epochs; lr_scheduler_kwargs: decay_epochs, decay_rate, warmup_epochs, "
            "warmup_lr), warmup_cosine (ConvNeXt's cosine, with min_lr and warmup_steps), or a name of transformers' "
            "SchedulerType."
        },
    )
    min_lr: float = field(default=0.0, metadata={"help": "Learning rate at the end of a cosine schedule."})
    layer_decay: float | None = field(
        default=None,
        metadata={"help": "Factor of the learning rate from each stage to the one before it; 1 at the classifier."},
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay per step of a moving average of weights and buffers. The average is evaluated and saved."
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
    license: str | None = field(
        default=None, metadata={"help": "Licence of the trained weights, for the model card, such as apache-2.0."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Leave this off: samples hold what is used."})

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("--output_dir is missing.")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema_decay: got {self.ema_decay}, accepted are numbers from 0 to below 1.")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer_decay: got {self.layer_decay}, accepted are numbers above 0 and up to 1.")
        self.resume_from_checkpoint = _read_resume(self.resume_from_checkpoint)
        self.optim_args = _read_optim_args(self.optim_args)
        self.lr_scheduler_kwargs = read_mapping("lr_scheduler_kwargs", self.lr_scheduler_kwargs)
        if self.min_lr and self.lr_scheduler_type != "warmup_cosine":
            if self.lr_scheduler_type not in ("cosine", "cosine_with_min_lr"):
                raise ValueError(f"--min_lr goes with --lr_scheduler_type cosine, not {self.lr_scheduler_type}.")
            self.lr_scheduler_type = "cosine_with_min_lr"
            self.lr_scheduler_kwargs = {**self.lr_scheduler_kwargs, "min_lr": self.min_lr}
        if self.disable_tqdm is None:
            self.disable_tqdm = not os.isatty(2)
        if not torch.accelerator.is_available():
            # transformers refuses bfloat16 on a machine without a GPU unless told that the CPU is meant.
            self.use_cpu = True
        # transformers is renaming it, and warns about the name that all its versions take.
        if self.gradient_checkpointing and hasattr(self, "activation_checkpointing"):
            self.activation_checkpointing = True
        own_names = _take_own_names(self)
        super().__post_init__()
        for name, value in own_names.items():
            setattr(self, name, value)
        optimizer_class_and_settings(self)
        if self.n_gpu > 1:
            raise ValueError(
                f"one process sees {self.n_gpu} GPUs: start one for each with accelerate launch, or choose one with "
                "CUDA_VISIBLE_DEVICES."
            )


class _OwnSchedule(ExplicitEnum):
    STEP = "step"
    WARMUP_COSINE = "warmup_cosine"


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


def _read_resume(value: str | None) -> str | None:
    text = "" if value is None else str(value)
    if text.lower() in ("", "false", "no", "none"):
        return None
    return text.lower() if text.lower() in ("true", "auto") else text


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
            if f.init and f.name not in _NOT_RECORDED and not (plain[f.name] is None and f.default is None):
                values[f.name] = plain[f.name]
    values = {key: value for key, value in values.items() if not key.endswith("token")}
    return yaml.safe_load(json.dumps(values, default=str))


class EpochSampler(Sampler[int]):
    """Sample numbers in an order that depends on the seed and the epoch alone.

    In epoch e sample i comes out as e * n + i: with `divmod(number, n)` a data set knows the epoch of each sample it
    is asked for, in any worker process and after any restart.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True):
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter((self.epoch * self.length + order).tolist())


class RecipeTrainer(Trainer):
    """The Trainer of all recipes. Its training set is asked for the numbers of `EpochSampler`."""

    args: RecipeArguments

    def __init__(self, *, args: RecipeArguments, **kwargs):
        super().__init__(args=args, optimizer_cls_and_kwargs=optimizer_class_and_settings(args), **kwargs)
        if args.ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("--ema_decay needs whole weights in each process: it does not go with FSDP or DeepSpeed.")
        self.ema: ExponentialMovingAverage | None = None
        self._checkpoint_ema: dict[str, torch.Tensor] | None = None
        self._sampler: EpochSampler | None = None
        self._steps_per_epoch = 1
        self.add_callback(_Hooks(self))

    # Optimizer and schedule

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay: those with two or more dimensions, without what the model's own
        `no_weight_decay()` names."""
        kept = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
        return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2 and name not in kept]

    def set_initial_training_values(self, *args, **kwargs):
        values = super().set_initial_training_values(*args, **kwargs)
        self._steps_per_epoch = values[1]
        return values

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.args.layer_decay is not None and self.optimizer is None:
            chosen = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
            optimizer_class, settings = chosen
            groups = layer_decay_groups(
                model or self.model,
                self.args.layer_decay,
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
            self.optimizer = optimizer_class(groups, **settings)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.args.lr_scheduler_type == "step" and self.lr_scheduler is None:
            options = self.args.lr_scheduler_kwargs
            self.lr_scheduler = step_decay_schedule(optimizer or self.optimizer, self._steps_per_epoch, **options)
            self._created_lr_scheduler = True
        if self.args.lr_scheduler_type == "warmup_cosine" and self.lr_scheduler is None:
            self.lr_scheduler = warmup_cosine_schedule(
                optimizer or self.optimizer,
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps,
                min_lr=self.args.min_lr,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # Order of the samples

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        shuffle = self.args.train_sampling_strategy != "sequential"
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._sampler = EpochSampler(len(train_dataset or self.train_dataset), seed, shuffle)
        return self._sampler

    # The weights that are evaluated and saved

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """While training goes on, the model in the state in which it is evaluated and saved.

        That is the moving average of its weights, if there is one, and the mean over all processes of its batch-norm
        statistics (each process has seen other images). Afterwards it has, bit for bit, its training state again.
        """
        several = self.args.world_size > 1 and not self.is_fsdp_enabled and not self.is_deepspeed_enabled
        if not self.is_in_train or (self.ema is None and not several):
            yield
            return
        with temporarily(self.model) as state:
            self._set_evaluated_weights(state)
            yield

    @torch.no_grad()
    def _set_evaluated_weights(self, state: dict[str, torch.Tensor]) -> None:
        if self.ema is not None:
            copy_state(self.ema.state_dict(), state)
        if self.args.world_size > 1:
            for tensor in state.values():
                if not isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
                    dist.all_reduce(tensor)
                    tensor.div_(self.args.world_size)

    def evaluation_loop(self, *args, **kwargs):
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        # Data loaders draw random numbers: an evaluation must not change the training that follows.
        with self.evaluated_weights(), torch.random.fork_rng(devices):
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.evaluated_weights():
            super().save_model(output_dir, _internal_call)

    # Checkpoints and the Hub

    def create_model_card(self, *args, **kwargs) -> None:
        """Keep the card with the measured numbers (see `reports.py`); `push_to_hub` would replace it."""
        if not (Path(self.args.output_dir) / "README.md").is_file():
            super().create_model_card(*args, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        if self.ema is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            state = {name: tensor.detach().contiguous() for name, tensor in unique_state(self.model).items()}
            save_file(state, folder / WEIGHTS_WITHOUT_EMA, metadata={"format": "pt"})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        writers = len([*Path(resume_from_checkpoint).glob("rng_state*.pth")])
        if writers not in (0, self.args.world_size):
            logger.warning(
                "%s was written by %d processes, now there are %d: the order of the samples, and the size of a step "
                "unless per_device_train_batch_size makes up for it, differ from the run so far.",
                *(resume_from_checkpoint, writers, self.args.world_size),
            )
        training_weights = Path(resume_from_checkpoint) / WEIGHTS_WITHOUT_EMA
        if training_weights.is_file():
            state = unique_state(self.model)
            if self.args.ema_decay is not None:
                self._checkpoint_ema = {name: tensor.detach().clone() for name, tensor in state.items()}
            copy_state(load_file(training_weights), state)


class _Hooks(TrainerCallback):
    """What `RecipeTrainer` does at the events of a training run."""

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        if args.ema_decay is not None:
            trainer.ema = ExponentialMovingAverage(trainer.model, args.ema_decay, trainer._checkpoint_ema)
            trainer._checkpoint_ema = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer._sampler is not None:
            self.trainer._sampler.epoch = state.global_step // self.trainer._steps_per_epoch

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.ema is not None:
            self.trainer.ema.update()

    def on_train_end(self, args, state, control, **kwargs):
        """From here on the model is what was evaluated: the best checkpoint, which the Trainer has loaded, or the
        present average."""
        trainer = self.trainer
        best_is_loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if not best_is_loaded and not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled:
            trainer._set_evaluated_weights(unique_state(trainer.model))
        trainer.ema = None
