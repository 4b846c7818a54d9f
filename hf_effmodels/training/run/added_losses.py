"""Losses beside the task's own, such as those of a distillation: weighted, exact over a step, and logged each."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import find_batch_size

#: Names that the log of a training run has for something else.
_TAKEN = frozenset({"loss", "task_loss", "grad_norm", "learning_rate", "epoch", "step"})


@dataclass
class AddedLoss:
    """One loss, see `RecipeTrainer.add_loss`."""

    function: Callable[..., torch.Tensor]
    weight: float
    count: Callable[[Mapping], torch.Tensor | int]


class AddedLosses:
    """The losses of one trainer, and their means since they were last logged.

    A step is made of several batches, accumulated one after the other and spread over processes, and they need not be
    of one size. The loss of a step is the mean over all its items, so the mean of a batch counts by the share of the
    step's items that are in this batch.
    """

    def __init__(self):
        self.losses: dict[str, AddedLoss] = {}
        self._in_step: dict[str, float] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = 0

    def __bool__(self) -> bool:
        return bool(self.losses)

    def add(self, name: str, loss: AddedLoss) -> None:
        if name in self.losses or name in _TAKEN or name.startswith(("eval_", "train_")):
            taken = ", ".join(sorted({*_TAKEN, *self.losses}))
            raise ValueError(f"name: got {name!r}, which the log has already ({taken}, eval_..., train_...).")
        if not math.isfinite(loss.weight):
            raise ValueError(f"weight: got {loss.weight}, accepted are finite numbers.")
        self.losses[name] = loss

    def begin_step(self, batches: list[Mapping], accelerator: Accelerator) -> None:
        """Count the items of all batches of a step, those of the other processes as well."""
        self._steps += 1
        for name, loss in self.losses.items():
            items = torch.tensor(float(sum(loss.count(batch) for batch in batches)), device=accelerator.device)
            self._in_step[name] = float(accelerator.reduce(items, "sum"))

    def of_batch(self, model, inputs: Mapping, outputs, idle: bool = False) -> torch.Tensor:
        """What this batch adds to the loss of its step; nothing for an idle one."""
        total = 0.0
        for name, loss in self.losses.items():
            share = 0.0 if idle else float(loss.count(inputs)) / max(self._in_step[name], 1.0)
            value = loss.function(model, inputs, outputs)
            self.record(name, share * value)
            total = total + loss.weight * share * value
        return total

    def record(self, name: str, value: torch.Tensor) -> None:
        """Take a batch's part of a step's value into the log."""
        self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """For the log: the mean over the steps since this was last asked for."""
        if not self._sums:
            self._steps = 0
            return {}
        means = {name: float(accelerator.reduce(total, "sum")) / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means


def samples_of(inputs: Mapping) -> int:
    """Samples of a batch."""
    return find_batch_size(inputs)


def predicted_tokens_of(inputs: Mapping) -> torch.Tensor:
    """Tokens of a batch of a causal language model that are learned: `labels` (batch, length) that are not -100,
    without the first of each sequence, which nothing predicts."""
    return inputs["labels"][:, 1:].ne(-100).sum()
