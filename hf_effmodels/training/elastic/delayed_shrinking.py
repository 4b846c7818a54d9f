"""Delayed ε-shrinking (DεpS, https://arxiv.org/abs/2407.06167): small networks join a partly trained large one."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DelayedShrinking:
    """How much the gradients of all networks but the largest count.

    Until `full_model_epochs` - `warmup_epochs` only the largest is trained. Then the others join: their effective
    learning rate, weight times the rate of the cosine schedule, climbs linearly to what the schedule has when
    `full_model_epochs` are over; from there on the weight is `multiplier`.

    Attributes:
        epochs: of the whole training.
        full_model_epochs: epochs at whose end the warm-up of the others is over.
        warmup_epochs: of the others.
        batches_per_epoch: optimizer steps of an epoch.
        base_lr: learning rate at the start of the cosine schedule, which ends at 0.
        multiplier: of the others' gradients, after the warm-up.
        lr_at_start: what the warm-up climbs to; None for the cosine schedule's value at the end of the epoch
            `full_model_epochs`, which the official tables hold rounded.
    """

    epochs: int
    full_model_epochs: int
    warmup_epochs: int
    batches_per_epoch: int
    base_lr: float
    multiplier: float = 1.0
    lr_at_start: float | None = None

    def __post_init__(self):
        for name in ("epochs", "batches_per_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if not 0 <= self.warmup_epochs <= self.full_model_epochs <= self.epochs:
            raise ValueError(
                f"warmup_epochs, full_model_epochs: got {self.warmup_epochs} and {self.full_model_epochs}, accepted "
                f"are 0 <= warmup_epochs <= full_model_epochs <= {self.epochs}, the epochs."
            )
        for name in ("base_lr", "multiplier"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")

    def learning_rate(self, epoch: int, batch: int = 0) -> float:
        """Of the optimizer: cosine over all steps, from `base_lr` to 0."""
        progress = (epoch * self.batches_per_epoch + batch) / (self.epochs * self.batches_per_epoch)
        return 0.5 * self.base_lr * (1 + math.cos(math.pi * progress))

    def trains_others(self, epoch: int) -> bool:
        """Whether networks besides the largest are trained in this epoch, counted from 0."""
        return epoch >= self.full_model_epochs - self.warmup_epochs

    def weight(self, epoch: int, batch: int = 0) -> float:
        """β: factor of the gradients of all networks but the largest."""
        if not self.trains_others(epoch):
            return 0.0
        if epoch >= self.full_model_epochs:
            return self.multiplier
        goal = self.learning_rate(self.full_model_epochs + 1) if self.lr_at_start is None else self.lr_at_start
        step = (epoch - self.full_model_epochs + self.warmup_epochs) * self.batches_per_epoch + batch
        share = (step + 1) / (self.warmup_epochs * self.batches_per_epoch)
        return share * self.multiplier * goal / self.learning_rate(epoch, batch)
