"""The Trainer of causal language models: exact loss and perplexity, streams that resume, and what is logged."""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from types import MappingProxyType

import numpy as np
import torch
from accelerate import Accelerator
from transformers import EvalPrediction, TrainerCallback, default_data_collator

from ...data.text.streaming import PackedStream, read_state, write_state
from ...elastic.sorted_runs import SortedRun
from ...losses.token_losses import token_losses
from ...run.sharding import shard_on_cpus
from ...run.trainer import RecipeTrainer
from .arguments import CausalLMArguments
from .throughput import flops_per_token, peak_tflops

logger = logging.getLogger(__name__)


class CausalLMTrainer(RecipeTrainer):
    """`RecipeTrainer` for causal language models.

    The loss is the mean over all predicted tokens of an optimizer step, over accumulated batches and processes.
    Evaluation is exact, too: every token counts the same, none twice. Logged are tokens per second, the model FLOPs
    utilisation where the device's peak is known, and of mixtures of experts the balance loss and the expert load.

    Args:
        train_dataset: `PackedBlocks` or a `PackedStream`.
        eval_dataset: `PackedBlocks`.
    """

    args: CausalLMArguments

    #: What the card says of the training beside its settings.
    card_facts: Mapping[str, object] = MappingProxyType({})

    def __init__(self, **kwargs):
        super().__init__(
            data_collator=default_data_collator,
            compute_metrics=summarize,
            **kwargs,
        )
        self.stream = self.train_dataset if isinstance(self.train_dataset, PackedStream) else None
        if self.stream is not None:
            # The stream itself goes on where it was; and one process reads it for all.
            self.args.ignore_data_skip = True
            self.accelerator.dataloader_config.dispatch_batches = True
        self.add_callback(_StepHooks(self))
        self.watch = _Stopwatch()
        self.mixture = MixtureStatistics()
        self._tokens = 0
        self._peak = None
        if self.is_world_process_zero():
            self._peak = self.args.peak_tflops or peak_tflops(self.args.device, self.args.bf16 or self.args.fp16)
            if self._peak is None and self.train_dataset is not None:
                logger.info(
                    "the peak of this device (%s) at this precision is not known: no MFU is logged; --peak_tflops "
                    "tells it",
                    self.args.device.type,
                )
        if self.train_dataset is not None:
            # Counted now: sharded weights do not say their size.
            self._flops_per_token = flops_per_token(self.model, self.train_dataset.block.size)

    def metric_names(self) -> tuple[str, ...]:
        return ("loss", "perplexity", "tokens")

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        shard_on_cpus(self.accelerator)
        self.is_fsdp_enabled = getattr(self.accelerator.state, "fsdp_plugin", None) is not None

    # Training

    def task_loss(self, model, inputs, num_items_in_batch=None):
        loss, outputs = super().task_loss(model, inputs, num_items_in_batch)
        if model.training:
            self.count(model, inputs, outputs)
        return loss, outputs

    def count(self, model, inputs, outputs) -> None:
        """Take a batch of the training into what is logged."""
        self._tokens += inputs["input_ids"].numel()
        self.mixture.add(outputs, self.model.config)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._speed() | self.mixture.take(self.accelerator)
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        seconds, tokens = self.watch.lap(), torch.tensor(self._tokens, device=self.args.device)
        tokens = float(self.accelerator.reduce(tokens, "sum"))
        self._tokens = 0
        rate = tokens / max(seconds, 1e-9)
        speed = {"tokens_per_second": round(rate, 1)}
        if self._peak is not None:
            speed["mfu"] = rate * self._flops_per_token / (self._peak * 1e12 * self.args.world_size)
        return speed

    # Streams

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        if self.stream is not None and resume_from_checkpoint is not None:
            self.stream.resume(read_state(Path(resume_from_checkpoint)))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        if self.stream is not None:
            # A loader draws a number when it begins: once in a whole run, once more where it goes on. The draw of a
            # generator of its own leaves those of the network alone.
            loader.base_dataloader.generator = torch.Generator()
        return loader

    def blocks_seen(self) -> int:
        """Blocks that all processes together have trained on; of a stream, whose batches are all whole."""
        return self.state.global_step * self.get_total_train_batch_size(self.args)

    def tokens_seen(self) -> int:
        """Tokens of the text that were trained on, as often as they were: those of a block without its first, with
        which the block before it ends."""
        blocks, batch = self.blocks_seen(), self.get_total_train_batch_size(self.args)
        if self.stream is None:  # the last batch of an epoch may be a part of one
            epoch, done, steps = self.place(self.state.global_step)
            whole = min(steps * batch, len(self.train_dataset))
            blocks = epoch * whole + min(done * batch, whole)
        return blocks * (self.train_dataset.block.size - 1)

    # Checkpoints and the model

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        with self.watch.paused():
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                self.processing_class.save_pretrained(folder)  # the run goes on with it, were it trained here
                if self.stream is not None:
                    write_state(self.stream, self.blocks_seen(), folder)
            super()._save_checkpoint(model, trial)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As the Trainer, and of sharded weights the whole model, except where it is a checkpoint, which has them."""
        if not self.is_fsdp_enabled or self.is_in_train:
            super().save_model(output_dir, _internal_call)
            return
        weights = self.accelerator.get_state_dict(self.model)
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir, state_dict=weights)

    # Evaluation

    def evaluation_loop(self, *args, **kwargs):
        with self.watch.paused():
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """For each sequence the sum of its tokens' losses, and their number in the place of the labels."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**inputs).logits
        sums, counts = token_losses(logits, labels)
        return None, sums, counts


class SortedCausalLMTrainer(SortedRun, CausalLMTrainer):
    """Trains a language model and its sub-models, see `SortedRun`. Tokens are logged once, however many sub-models
    learn from them; what is said of experts is the whole's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.train_dataset is not None:
            length, drawn = self.train_dataset.block.size, self.submodels_per_step
            self._flops_per_token = drawn * mean(flops_per_token(view.network, length) for view in self.views)

    def count(self, model, inputs, outputs) -> None:
        self._tokens += inputs["input_ids"].numel() / self.submodels_per_step
        if model.network is self.model:
            self.mixture.add(outputs, self.model.config)


def summarize(prediction: EvalPrediction) -> dict[str, float]:
    """Mean loss of a token in nats, perplexity, number of predicted tokens."""
    total, tokens = (float(np.sum(part, dtype=np.float64)) for part in (prediction.predictions, prediction.label_ids))
    loss = total / tokens
    return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "tokens": int(tokens)}


class MixtureStatistics:
    """Balance loss and expert load since they were last asked for; nothing for models without experts."""

    def __init__(self):
        self.last_load: torch.Tensor | None = None
        self._counts: torch.Tensor | None = None
        self._balance, self._batches = 0.0, 0

    def add(self, outputs, config) -> None:
        logits = outputs.get("router_logits") if isinstance(outputs, dict) else None
        if not logits:
            return
        counts = torch.stack([_chosen(layer.detach(), config) for layer in logits])
        self._counts = counts if self._counts is None else self._counts + counts
        self._balance = self._balance + outputs["aux_loss"].detach().float()
        self._batches += 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """For the log, over all processes: `balance_loss`, and of each layer the shares of the busiest and the idlest
        expert."""
        if self._counts is None:
            return {}
        batches = torch.tensor(float(self._batches), device=self._counts.device)
        counts, balance, batches = accelerator.reduce((self._counts, self._balance, batches), "sum")
        self.last_load = (counts / counts.sum(-1, keepdim=True)).cpu()
        self._counts, self._balance, self._batches = None, 0.0, 0
        logs = {"balance_loss": float(balance / batches)}
        for layer, load in enumerate(self.last_load):
            logs |= {f"expert_load_max/layer_{layer}": float(load.max())}
            logs |= {f"expert_load_min/layer_{layer}": float(load.min())}
        return logs


def _chosen(logits: torch.Tensor, config) -> torch.Tensor:
    """How many tokens are sent to each expert: (experts,)."""
    chosen = logits.flatten(0, -2).topk(getattr(config, "num_experts_per_tok", 1), dim=-1).indices
    chosen = chosen.flatten()
    counts = torch.zeros(logits.shape[-1], device=logits.device)
    return counts.scatter_add_(0, chosen, torch.ones_like(chosen, dtype=counts.dtype))


class _Stopwatch:
    """Time of training alone: evaluations and checkpoints stop it."""

    def __init__(self):
        self._since, self._paused = time.perf_counter(), 0.0

    def lap(self) -> float:
        """Seconds since the last lap, without pauses."""
        now = time.perf_counter()
        seconds = now - self._since - self._paused
        self._since, self._paused = now, 0.0
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin


class _StepHooks(TrainerCallback):
    def __init__(self, trainer: CausalLMTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.watch.lap()

    def on_step_end(self, args, state, control, **kwargs):
        stream = self.trainer.stream
        if stream is not None:
            state.epoch = state.global_step / state.max_steps  # a stream has no epochs, and resumed counts from 0
            stream.forget(self.trainer.blocks_seen())
