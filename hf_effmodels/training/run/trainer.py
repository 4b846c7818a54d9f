"""transformers' Trainer with what the recipes need beyond it: see `RecipeArguments` for the list."""

import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import find_batch_size
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME

from ..._files import mapping_in, write_text
from ..data.seeded import SeededDataset, data_seed
from ..optim.layer_decay import layer_decay_groups
from ..optim.module_rates import rate_factors, scale_rates
from ..optim.optimizers import optimizer_class_and_settings
from ..optim.schedules import (
    cosine_over_warmup_schedule,
    inverse_decay_schedule,
    step_decay_schedule,
    warmup_cosine_schedule,
)
from ..optim.weight_decay import decaying_parameters
from .added_losses import AddedLoss, AddedLosses, samples_of
from .averaging import ExponentialMovingAverage, copy_state, temporarily, unique_state
from .finite import check_finite
from .narrow_convolutions import keep_narrow_convolutions_sound
from .output_folder import WEIGHTS_WITHOUT_EMA, making_no_folder, what_is_missing
from .preflight import check_trainable
from .publishing import find_repository, is_own, publish_run
from .recipe_arguments import RecipeArguments
from .sampling import EpochSampler, SharedBatches
from .stock_arguments import check_trackers, in_words_of_the_command
from .synchronised_norms import left_out, synchronise_batch_norms
from .weights import WeightsError, is_peft_model, load_state, load_weights

logger = logging.getLogger(__name__)

#: Losses that are logged of a run that is shorter than the steps between two.
_POINTS = 10


class RecipeTrainer(Trainer):
    """The Trainer of all recipes. Its training set is a `SeededDataset`, or a plain map-style or iterable one."""

    args: RecipeArguments

    def __init__(self, *, args: RecipeArguments, **kwargs):
        # Kept here and not among the arguments, which transformers writes into files.
        self._hub_token, args.hub_token = (args.hub_token or "").strip() or None, None
        check_trackers(args)
        with making_no_folder(Path(args.output_dir)), in_words_of_the_command(ValueError):
            super().__init__(args=args, optimizer_cls_and_kwargs=optimizer_class_and_settings(args), **kwargs)
        if args.ema_decay is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError("--ema_decay needs whole weights in each process: it does not go with FSDP or DeepSpeed.")
        if args.sync_batch_norm and args.world_size > 1:
            synchronise_batch_norms(self.model)
        keep_narrow_convolutions_sound(self.model)
        self.ema: ExponentialMovingAverage | None = None
        self._checkpoint_ema: dict[str, torch.Tensor] | None = None
        self._added_losses = AddedLosses()
        self._scaled_optimizer: torch.optim.Optimizer | None = None
        self._resumed_from: Path | None = None
        self._sampler: EpochSampler | None = None
        self._batches: BatchSampler | None = None
        self._steps_per_epoch = 1
        self.idle_batch: Mapping | None = None
        self.idle = False
        for callback in training_callbacks(self.model):
            self.add_callback(callback)
        self.add_callback(_Hooks(self))
        rate_factors((name for name, _ in self.model.named_parameters()), args.learning_rate_factors)
        if self.train_dataset is not None:
            check_trainable(self)

    def metric_names(self) -> tuple[str, ...] | None:
        """What an evaluation measures, by which a best model can be chosen; None where it is not known beforehand."""
        return None

    @property
    def network(self) -> nn.Module:
        """What is averaged, evaluated and saved: the model, or the part of it that a task's trainer says."""
        return self.accelerator.unwrap_model(self.model)

    # Optimizer and schedule

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay, see `decaying_parameters`."""
        if self.args.weight_decay_on == "all":
            return sorted(name for name, _ in model.named_parameters())
        return sorted(decaying_parameters(model))

    def set_initial_training_values(self, *args, **kwargs):
        values = super().set_initial_training_values(*args, **kwargs)
        self._steps_per_epoch = values[1]
        return values

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = self._create_optimizer(model)
        if self.args.learning_rate_factors and optimizer is not self._scaled_optimizer:
            parameters = dict((model or self.model).named_parameters())
            factors = rate_factors(parameters, self.args.learning_rate_factors)
            scale_rates(optimizer, {parameter: factors[name] for name, parameter in parameters.items()})
            self._scaled_optimizer = optimizer
        return optimizer

    def _create_optimizer(self, model: nn.Module | None) -> torch.optim.Optimizer:
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
        if self.args.lr_scheduler_type == "inverse_decay" and self.lr_scheduler is None:
            options = self.args.lr_scheduler_kwargs
            self.lr_scheduler = inverse_decay_schedule(optimizer or self.optimizer, **options)
            self._created_lr_scheduler = True
        if self.args.lr_scheduler_type == "warmup_cosine" and self.lr_scheduler is None:
            self.lr_scheduler = warmup_cosine_schedule(
                optimizer or self.optimizer,
                self._warmup_steps(num_training_steps),
                num_training_steps,
                min_lr=self.args.min_lr,
            )
            self._created_lr_scheduler = True
        if self.args.lr_scheduler_type == "cosine_over_warmup" and self.lr_scheduler is None:
            self.lr_scheduler = cosine_over_warmup_schedule(
                optimizer or self.optimizer,
                self._warmup_steps(num_training_steps),
                num_training_steps,
                min_lr=self.args.min_lr,
                **self.args.lr_scheduler_kwargs,
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _warmup_steps(self, num_training_steps: int) -> int:
        steps = self.args.get_warmup_steps(num_training_steps)
        if not 0 <= steps < num_training_steps:
            raise ValueError(
                f"--warmup_steps: got {self.args.warmup_steps:g}, which makes {steps} of {num_training_steps} "
                "training steps; accepted are fewer than all."
            )
        return steps

    # Steps and epochs

    def place(self, step: int) -> tuple[int, int, int]:
        """Where the step is that follows `step` others: its epoch, how many steps of this epoch it follows, and how
        many this epoch has. What a trainer overrides whose epochs are not of one length."""
        return *divmod(step, self._steps_per_epoch), self._steps_per_epoch

    def begin_epoch(self, epoch: int) -> None:
        """Called before an epoch's first batch is made, and before that which a run goes on with."""
        if self._sampler is not None:
            self._sampler.epoch = epoch

    def use_batch_size(self, batch_size: int) -> None:
        """From the next epoch on batches have this size, in each process."""
        self._train_batch_size = self._batches.batch_size = batch_size

    # The loss

    def add_loss(
        self,
        name: str,
        fn: Callable[[nn.Module, Mapping, object], torch.Tensor],
        weight: float = 1.0,
        count: Callable[[Mapping], torch.Tensor | int] = samples_of,
    ) -> None:
        """Add a loss to the task's own, in training only.

        The step is trained on task loss + weight · mean of `fn`, the mean over all items of the step: accumulated
        batches and those of other processes count by their items, so that 8 batches of 1 are 1 batch of 8. Both are
        logged, as `task_loss` and, before it is weighted, under `name`.

        Args:
            name: its name in the log, such as `"soft_targets"`.
            fn: called with the model, the batch (its labels as well) and the model's outputs, where the task's loss
                is computed from some; returns a scalar, the mean over the items of this batch.
            weight: finite; 0 logs the loss and trains nothing by it.
            count: the number of items that `fn` took the mean over, of a batch: its samples by default,
                `predicted_tokens_of` for means over tokens.

        Raises:
            ValueError: the name is taken or the weight not finite.
        """
        self._added_losses.add(name, AddedLoss(fn, weight, count))

    def task_loss(self, model, inputs, num_items_in_batch=None) -> tuple[torch.Tensor, object]:
        """The task's own loss and the model's outputs, as `Trainer.compute_loss` returns them. What a task's trainer
        overrides."""
        return super().compute_loss(model, inputs, True, num_items_in_batch)

    def named_parts(self, outputs) -> dict[str, torch.Tensor]:
        """Parts of the task's loss that the log shows beside it, by name; each a mean over the samples of its batch.
        What a task's trainer overrides."""
        return {}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not (model.training and self.is_in_train):
            loss, outputs = self.task_loss(model, inputs, num_items_in_batch)
            return (loss, outputs) if return_outputs else loss
        whole = dict(inputs)  # the task's loss takes the labels out
        with self._without_statistics(model, whole):
            loss, outputs = self.task_loss(model, inputs, num_items_in_batch)
        if self.idle:
            loss = 0.0 * loss
        # The Trainer takes the mean over the processes, and over accumulated batches where it does not believe the
        # loss to be a share of the step's already.
        parts, shown = self.args.world_size, self.named_parts(outputs)
        if not self._is_share_of_step(num_items_in_batch):
            parts *= self.current_gradient_accumulation_steps
            loss = self._weighed_by_samples(loss, whole, parts)
            shown = {name: self._weighed_by_samples(value, whole, parts) for name, value in shown.items()}
        for name, value in shown.items():
            self._added_losses.record(name, 0.0 * value if self.idle else value / parts)
        if self._added_losses:
            self._added_losses.record("task_loss", loss / parts)
            loss = loss + parts * self._added_losses.of_batch(model, whole, outputs, idle=self.idle)
        return (loss, outputs) if return_outputs else loss

    @contextmanager
    def _without_statistics(self, model: nn.Module, inputs: Mapping) -> Iterator[None]:
        """Where samples are repeated for a process that has none left, none are measured; nor are those of a batch
        that has shrunk to a single one, which may have no variance (where it is not one of all processes). Of a lone
        process it is measured wherever there is a variance."""
        if self.args.sync_batch_norm:
            with left_out(self.idle):
                yield
            return
        alone = self._train_batch_size > 1 and find_batch_size(inputs) == 1
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training] if alone else []
        if alone and self.args.world_size == 1:
            with ExitStack() as hooks:
                for module in norms:
                    hooks.enter_context(_measuring_what_varies(module))
                yield
            return
        modules = [model] if self.idle else norms
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for module in modules:
                module.train()

    def _is_share_of_step(self, num_items_in_batch) -> bool:
        """Whether the Trainer takes the task's loss for one of a whole step, and not for the mean of one batch."""
        if getattr(self, "loss_is_scaled_for_ga", None) is not None:  # newer versions let a trainer say so
            return self.loss_is_scaled_for_ga
        by_items = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return by_items or self.compute_loss_func is not None

    def _weighed_by_samples(self, loss: torch.Tensor, inputs: Mapping, parts: int) -> torch.Tensor:
        """The mean of one of the `parts` of a step, so that the mean over them is that over all samples."""
        samples, own = self.samples_of_step(), find_batch_size(inputs)
        return loss if samples is None or own * parts == samples else loss * (own * parts / samples)

    def samples_of_step(self) -> int | None:
        """Samples of the present step, over accumulated batches and processes; None where all its parts are alike."""
        if self._sampler is None or self.args.dataloader_drop_last:
            return None
        full = self.get_total_train_batch_size(self.args)
        done = full * self.place(self.state.global_step)[1]
        return min(full, len(self._sampler) - done)

    def _run_epoch(self, **kwargs):
        if self.state.global_step < self.state.max_steps:
            return super()._run_epoch(**kwargs)
        # All steps had been done, in mid-epoch, when the checkpoint was written; the Trainer looks only after a step.
        self.control.should_training_stop = True
        self._load_rng_state(kwargs["resume_from_checkpoint"])

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.idle = inputs is self.idle_batch
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise ValueError(
                f"--per_device_train_batch_size: got {self.args.per_device_train_batch_size}, with which a batch norm "
                "of this model sees one value of each channel, which has no variance; accepted are larger batches or "
                "images."
            ) from error
        check_finite({"the loss": float(loss)}, self.state.global_step + 1, self.args, self._get_learning_rate())
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # Before the optimizer's step: a checkpoint never holds what such gradients would make of the weights.
        check_finite({"grad_norm": float(norm)}, self.state.global_step + 1, self.args, self._get_learning_rate())
        return norm

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self.idle_batch = None
        _, within, steps = self.place(self.state.global_step)
        shared = isinstance(self._batches, SharedBatches)
        if within == steps - 1 and shared and self._batches.is_idle(self.args.process_index):
            epoch_iterator = self._with_idle_end(epoch_iterator, num_batches)
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        counted = [batch for batch in batches if batch is not self.idle_batch]
        self._added_losses.begin_step(counted, self.accelerator)
        return batches, num_items_in_batch

    def _with_idle_end(self, batches: Iterator, number: int) -> Iterator:
        for position, batch in enumerate(islice(batches, number), start=1):
            if position == number:
                if isinstance(batch.get("labels"), torch.Tensor):
                    batch["labels"] = torch.full_like(batch["labels"], -100)  # none of them counts
                self.idle_batch = batch
            yield batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._added_losses.take(self.accelerator)
        super().log(logs, start_time)
        check_finite(logs, self.state.global_step, self.args, logs.get("learning_rate"))

    # Order of the samples

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        shuffle = self.args.train_sampling_strategy != "sequential"
        dataset = self.train_dataset if train_dataset is None else train_dataset
        counts = isinstance(dataset, SeededDataset)
        self._sampler = EpochSampler(len(dataset), data_seed(self.args), shuffle, count_epochs=counts)
        return self._sampler

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        shards = self._batches = getattr(loader, "batch_sampler", None)
        if isinstance(shards, BatchSamplerShard) and not (shards.split_batches or shards.drop_last):
            self._batches = SharedBatches(self._sampler, shards.batch_size, shards.num_processes)
            shards.batch_sampler = self._batches
            shards.even_batches = False
        return loader

    def get_eval_dataloader(self, eval_dataset=None):
        with self._all_batches():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        with self._all_batches():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _all_batches(self) -> Iterator[None]:
        """`--dataloader_drop_last` is for training; the Trainer would leave the last samples unmeasured, too."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    # The weights that are evaluated and saved

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """While training goes on, the model in the state in which it is evaluated and saved.

        That is the moving average of its weights, if there is one, and the mean over all processes of its batch-norm
        statistics (each process has seen other images). Afterwards it has, bit for bit, its training state again, and
        the next random numbers are those that would have been drawn without.
        """
        with same_random_numbers(self.args.device):
            several = self.args.world_size > 1 and not self.is_fsdp_enabled and not self.is_deepspeed_enabled
            if not self.is_in_train or (self.ema is None and not several):
                yield
                return
            state = unique_state(self.network)
            with temporarily(state if self.ema is not None else _statistics(state)) as state:
                self._set_evaluated_weights(state)
                yield

    @torch.no_grad()
    def _set_evaluated_weights(self, state: dict[str, torch.Tensor]) -> None:
        if self.ema is not None:
            copy_state(self.ema.state_dict(), state)
        if self.args.world_size > 1:
            for tensor in _statistics(state).values():
                tensor.copy_(self.accelerator.reduce(tensor, "mean"))

    def evaluation_loop(self, *args, **kwargs):
        with self.evaluated_weights():
            measured = super().evaluation_loop(*args, **kwargs)
        check_finite(measured.metrics, self.state.global_step, self.args)
        return measured

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.evaluated_weights():
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        # A pickle; training_config.yaml says the same, and nothing reads it.
        Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    # Checkpoints and the Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Find out whether the model can be published, before it is trained."""
        if self.is_world_process_zero():
            self.hub_model_id = find_repository(
                self.args.hub_model_id, Path(self.args.output_dir), token or self._hub_token
            )

    def push_to_hub(self, commit_message: str = "End of training", **kwargs) -> str | None:
        """Publish what the run has left in its output folder, see `publish_run`; returns the commit's address.

        Raises:
            TypeError: an argument of `Trainer.push_to_hub` other than the message.
        """
        if kwargs:
            raise TypeError(f"{sorted(kwargs)[0]}: it goes into the training arguments, such as hub_revision.")
        if not self.is_world_process_zero():
            return None
        if getattr(self, "hub_model_id", None) is None:
            self.init_hf_repo()
        return publish_run(
            Path(self.args.output_dir),
            self.hub_model_id,
            exported=is_own(self.network),
            token=self._hub_token,
            private=bool(self.args.hub_private_repo),
            revision=self.args.hub_revision,
            message=commit_message,
        )

    def save_metrics(self, split: str, metrics: Mapping[str, float], combined: bool = True) -> None:
        """As transformers', but each file is there whole or not at all, and what a killed run has left of one is
        passed over: a run that goes on would end with it."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        contents = {f"{split}_results.json": dict(metrics)}
        if combined:
            contents["all_results.json"] = mapping_in(folder / "all_results.json") | dict(metrics)
        for name, content in contents.items():
            write_text(folder / name, json.dumps(content, indent=4, sort_keys=True))

    def _save_checkpoint(self, model, trial) -> None:
        if self.ema is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            state = {name: tensor.detach().contiguous() for name, tensor in unique_state(self.network).items()}
            save_file(state, folder / WEIGHTS_WITHOUT_EMA, metadata={"format": "pt"})
        super()._save_checkpoint(model, trial)

    #: Where checkpoints hold a part of the model: which tensors, by name.
    saved_part: Callable[[str], bool] | None = None

    @property
    def loads_weights_itself(self) -> bool:
        """Not so sharded weights, and adapters of peft, which the Trainer asks accelerate and peft to load."""
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled or is_peft_model(self.model))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        folder = self._resumed_from = Path(resume_from_checkpoint)
        if self.loads_weights_itself:
            load_weights(self.network, folder, self.saved_part)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        writers = len([*folder.glob("rng_state*.pth")])
        if writers not in (0, self.args.world_size):
            logger.warning(
                "%s was written by %d processes, now there are %d: the order of the samples, and the size of a step "
                "unless per_device_train_batch_size makes up for it, differ from the run so far.",
                *(folder, writers, self.args.world_size),
            )
        training_weights = folder / WEIGHTS_WITHOUT_EMA
        if training_weights.is_file():
            if self.args.ema_decay is not None:
                state = unique_state(self.network)
                self._checkpoint_ema = {name: tensor.detach().clone() for name, tensor in state.items()}
            load_state(self.network, load_file(training_weights), str(training_weights))

    def _find_best_checkpoint(self) -> None:
        """The checkpoint that was best before a restart: the one beside that from which the run goes on. The path that
        was written down is that of the folder at the time."""
        state = self.state
        if self._resumed_from is None or not state.best_global_step:
            return
        beside = self._resumed_from.parent / f"checkpoint-{state.best_global_step}"
        recorded = state.best_model_checkpoint
        if beside.is_dir() and what_is_missing(beside) is None:
            state.best_model_checkpoint = str(beside)
        elif recorded is None or beside.is_dir() or not os.path.isdir(recorded):
            logger.warning(
                "the best checkpoint so far, of step %s with %s %s, is gone: the best one from here on counts.",
                *(state.best_global_step, self.args.metric_for_best_model, state.best_metric),
            )
            state.best_model_checkpoint = state.best_global_step = state.best_metric = None

    def _load_best_model(self) -> None:
        if not self.loads_weights_itself:
            super()._load_best_model()
            return
        logger.info("the best model is that of %s", self.state.best_model_checkpoint)
        load_weights(self.network, Path(self.state.best_model_checkpoint), self.saved_part)

    def _issue_warnings_after_load(self, load_result) -> None:
        wrong = [*load_result.missing_keys, *load_result.unexpected_keys]
        if wrong:
            raise WeightsError(f"--resume_from_checkpoint: the checkpoint's weights lack or add {wrong[:5]}.")


@contextmanager
def _measuring_what_varies(norm: nn.Module) -> Iterator[None]:
    """A batch norm in training is in evaluation for what has no variance; where a task has put it into evaluation, as
    to look for hard samples, it stays there."""
    rested = []

    def rest(norm: nn.Module, inputs: tuple) -> None:
        if norm.training and inputs[0].numel() <= inputs[0].shape[1]:
            rested.append(norm.eval())

    def wake(norm: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if rested:
            rested.pop().train()

    handles = norm.register_forward_pre_hook(rest), norm.register_forward_hook(wake)
    try:
        yield
    finally:
        norm.train()
        for handle in handles:
            handle.remove()


def _statistics(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a model's tensors those that are measured, not learned, such as batch-norm statistics."""
    return {
        name: tensor
        for name, tensor in state.items()
        if not isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
    }


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within, the random numbers afterwards are the same."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def training_callbacks(model: nn.Module) -> list[TrainerCallback]:
    """What the model, or each of the networks it is built from, wants to be trained with: `training_callbacks()` of
    the outermost modules that have it."""
    if hasattr(model, "training_callbacks"):
        return list(model.training_callbacks())
    return [callback for part in model.children() for callback in training_callbacks(part)]


class _Hooks(TrainerCallback):
    """What `RecipeTrainer` does at the events of a training run."""

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer._find_best_checkpoint()
        if args.logging_steps > state.max_steps:
            state.logging_steps = max(1, state.max_steps // _POINTS)  # a short run has a curve, too
        if args.ema_decay is not None:
            trainer.ema = ExponentialMovingAverage(trainer.network, args.ema_decay, trainer._checkpoint_ema)
            trainer._checkpoint_ema = None

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.begin_epoch(self.trainer.place(state.global_step)[0])

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.ema is not None:
            self.trainer.ema.update()

    def on_train_end(self, args, state, control, **kwargs):
        """From here on the model is what was evaluated: the best checkpoint, which the Trainer has loaded, or the
        present average."""
        trainer = self.trainer
        best_is_loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if not best_is_loaded and not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled:
            trainer._set_evaluated_weights(unique_state(trainer.network))
        trainer.ema = None
