"""How YOLOv6 and Gold-YOLO are trained: three groups of parameters, a warm-up of their own, a cosine per epoch."""

import math
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Names of the groups, in their order.
GROUPS = ("norms", "weights", "biases")


def norm_weight_bias_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Norms' weights, other weights, and biases, in this order; only the other weights decay.

    Parameters of another name than `weight` or `bias` (a learnable factor) go to the first group: the official code
    forgets them, and they never change.
    """
    norms, weights, biases, seen = [], [], [], set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if name == "bias":
                biases.append(parameter)
            elif name != "weight" or isinstance(module, _BatchNorm):
                norms.append(parameter)
            else:
                weights.append(parameter)
    decays = (0.0, weight_decay, 0.0)
    return [{"params": p, "weight_decay": d} for p, d in zip((norms, weights, biases), decays, strict=True)]


@dataclass(frozen=True)
class DetectionSchedule:
    """Learning rates and momentum of each step.

    Attributes:
        epochs, steps_per_epoch: of the training.
        learning_rate: the highest.
        final_factor: of the learning rate at the end.
        warmup_epochs: the warm-up lasts so many epochs, but `least_warmup_steps` at least.
        warmup_bias_learning_rate: the learning rate of the biases at the first step, which falls; the others' rises
            from 0.
        momentum, warmup_momentum: after the warm-up and at its beginning.
        batch_size: samples of a step; `nominal_batch_size`: so many are gathered for an update by the end of the
            warm-up.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float = 0.01
    final_factor: float = 0.01
    warmup_epochs: float = 3.0
    least_warmup_steps: int = 1000
    warmup_bias_learning_rate: float = 0.1
    momentum: float = 0.937
    warmup_momentum: float = 0.8
    batch_size: int = 64
    nominal_batch_size: int = 64

    @property
    def warmup_steps(self) -> int:
        if not self.warmup_epochs:
            return 0
        return max(round(self.warmup_epochs * self.steps_per_epoch), self.least_warmup_steps)

    def factor(self, epoch: int) -> float:
        """Of the learning rate: a cosine from 1 to `final_factor`."""
        return (1 - math.cos(epoch * math.pi / self.epochs)) / 2 * (self.final_factor - 1) + 1

    def learning_rates(self, step: int) -> tuple[float, float, float]:
        """Of the groups at the step's update.

        After the warm-up they are those of the epoch *before*: the official loop moves its scheduler late.
        """
        epoch = step // self.steps_per_epoch
        if step > self.warmup_steps or not self.warmup_steps:
            rate = self.learning_rate * self.factor(max(epoch - 1, 0))
            return rate, rate, rate
        target, share = self.learning_rate * self.factor(epoch), step / self.warmup_steps
        bias = self.warmup_bias_learning_rate + (target - self.warmup_bias_learning_rate) * share
        return target * share, target * share, bias

    def momentum_at(self, step: int) -> float:
        share = min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return self.warmup_momentum + (self.momentum - self.warmup_momentum) * share

    def accumulation(self, step: int) -> int:
        """Steps whose gradients are gathered for an update."""
        final = max(round(self.nominal_batch_size / self.batch_size), 1)
        if step > self.warmup_steps or not self.warmup_steps:
            return final
        share = step / self.warmup_steps
        return max(1, round(1 + (self.nominal_batch_size / self.batch_size - 1) * share))

    def updates(self, steps: int) -> list[bool]:
        """Whether each of the first steps ends with an update."""
        done, last = [], -1
        for step in range(steps):
            done.append(step - last >= self.accumulation(step))
            if done[-1]:
                last = step
        return done


def scaled_weight_decay(weight_decay: float, batch_size: int, nominal_batch_size: int = 64) -> float:
    """The decay of an update that gathers the gradients of several steps, or of a larger batch."""
    return weight_decay * batch_size * max(1, round(nominal_batch_size / batch_size)) / nominal_batch_size


def ramped_decay(update: int, decay: float = 0.9999, ramp: float = 2000) -> float:
    """The decay of a moving average at its update number `update` (from 1): small at first."""
    return decay * (1 - math.exp(-update / ramp))
