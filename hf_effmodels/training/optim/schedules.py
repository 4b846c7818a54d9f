"""Learning-rate schedules that transformers lacks."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def step_decay_schedule(
    optimizer: Optimizer,
    steps_per_epoch: int,
    *,
    decay_epochs: float | list[float] = 2.4,
    decay_rate: float = 0.973,
    warmup_epochs: float = 3.0,
    warmup_lr: float = 1e-6,
) -> LambdaLR:
    """timm's step schedule, with which GhostNetV2 was trained: the rate changes once an epoch, not within one.

    In epoch e (from 0) it is lr * decay_rate ** floor(e / decay_epochs), and before `warmup_epochs` on the straight
    line from `warmup_lr` at epoch 0 to lr at `warmup_epochs`. The decay counts from epoch 0, warm-up included.

    Args:
        optimizer: its groups' learning rates are the peak.
        steps_per_epoch: optimizer steps in an epoch.
        decay_epochs: epochs between decays, or a list of the epochs of all decays.
        decay_rate: factor at each decay.
        warmup_epochs: length of the warm-up; 0 for none.
        warmup_lr: learning rate of the first epoch.
    """
    epochs = decay_epochs if isinstance(decay_epochs, list | tuple) else [decay_epochs]
    if not epochs or min(epochs) <= 0 or not 0 < decay_rate <= 1 or warmup_epochs < 0 or warmup_lr < 0:
        raise ValueError(
            f"--lr_scheduler_kwargs: got decay_epochs {decay_epochs}, decay_rate {decay_rate}, warmup_epochs "
            f"{warmup_epochs}, warmup_lr {warmup_lr}; accepted are decay_epochs above 0 (one or a list), a decay_rate "
            "above 0 and up to 1, and the others from 0."
        )
    peak = max(group["lr"] for group in optimizer.param_groups)
    factor = partial(
        _step_decay_factor,
        steps_per_epoch=steps_per_epoch,
        decay_epochs=decay_epochs,
        decay_rate=decay_rate,
        warmup_epochs=warmup_epochs,
        warmup_factor=warmup_lr / peak if peak else 0.0,
    )
    return LambdaLR(optimizer, factor)


def _step_decay_factor(
    step: int,
    steps_per_epoch: int,
    decay_epochs: float | list[float],
    decay_rate: float,
    warmup_epochs: float,
    warmup_factor: float,
) -> float:
    epoch = step // steps_per_epoch
    if epoch < warmup_epochs:
        return warmup_factor + (1.0 - warmup_factor) * epoch / warmup_epochs
    if isinstance(decay_epochs, list | tuple):
        return decay_rate ** sum(epoch >= at for at in decay_epochs)
    return decay_rate ** math.floor(epoch / decay_epochs)


def warmup_cosine_schedule(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, *, min_lr: float = 0.0
) -> LambdaLR:
    r"""Linear warm-up, then half a cosine, changing every step: the ConvNeXt training script's and its descendants',
    with which VanillaNet was trained.

    With w warm-up steps and t = T - w steps after them, step s has lr · s / (w - 1) for s < w, and then
    min_lr + (lr - min_lr) · (1 + cos(π (s - w) / t)) / 2. The last warm-up step has the full rate already, unlike in
    transformers' schedules, which reach it a step later. `min_lr` is for the group with the highest rate: the rates
    of other groups (layer-wise decay) end in proportion.

    Args:
        optimizer: its groups' learning rates are the peaks.
        num_warmup_steps: w, from 0.
        num_training_steps: T, more than w.
        min_lr: where the cosine would be at step T.
    """
    if not 0 <= num_warmup_steps < num_training_steps:
        raise ValueError(
            f"num_warmup_steps: got {num_warmup_steps}, accepted are whole numbers from 0 to below the "
            f"{num_training_steps} training steps."
        )
    peak = max(group["lr"] for group in optimizer.param_groups)
    if not 0 <= min_lr <= peak:
        raise ValueError(f"min_lr: got {min_lr}, accepted are numbers from 0 to the learning rate, {peak}.")
    lowest = min_lr / peak if peak else 0.0
    factor = partial(_cosine_factor, warmup=num_warmup_steps, total=num_training_steps, lowest=lowest)
    return LambdaLR(optimizer, factor)


def _cosine_factor(step: int, warmup: int, total: int, lowest: float) -> float:
    if step < warmup:
        return step / (warmup - 1) if warmup > 1 else 0.0
    progress = min(1.0, (step - warmup) / (total - warmup))
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2


def cosine_over_warmup_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    *,
    warmup_lr: float = 0.0,
    min_lr: float = 0.0,
    warmup_prefix: bool = False,
) -> LambdaLR:
    r"""timm's cosine without `warmup_prefix`, with which TinyViT was trained: its clock starts with the warm-up.

    Step s of T has warmup_lr + (lr - warmup_lr) · s / w during the w warm-up steps, then
    min_lr + (lr - min_lr) · (1 + cos(π s / T)) / 2: at the end of the warm-up the rate drops a little. `warmup_lr` and
    `min_lr` are for the group with the highest rate, as in `warmup_cosine_schedule`.

    Args:
        optimizer: its groups' learning rates are the peaks.
        num_warmup_steps: w, from 0.
        num_training_steps: T, more than w.
        warmup_lr: rate of the first step.
        min_lr: where the cosine would be at step T.
        warmup_prefix: start the cosine's clock after the warm-up instead: (s - w) / (T - w), as ReLabel was trained.
    """
    if not 0 <= num_warmup_steps < num_training_steps:
        raise ValueError(
            f"num_warmup_steps: got {num_warmup_steps}, accepted are whole numbers from 0 to below the "
            f"{num_training_steps} training steps."
        )
    peak = max(group["lr"] for group in optimizer.param_groups)
    for name, value in (("warmup_lr", warmup_lr), ("min_lr", min_lr)):
        if not 0 <= value <= peak:
            raise ValueError(f"{name}: got {value}, accepted are numbers from 0 to the learning rate, {peak}.")
    factor = partial(
        _cosine_over_warmup_factor,
        warmup=num_warmup_steps,
        total=num_training_steps,
        first=warmup_lr / peak if peak else 0.0,
        lowest=min_lr / peak if peak else 0.0,
        begin=num_warmup_steps if warmup_prefix else 0,
    )
    return LambdaLR(optimizer, factor)


def _cosine_over_warmup_factor(
    step: int, warmup: int, total: int, first: float, lowest: float, begin: int = 0
) -> float:
    if step < warmup:
        return first + (1 - first) * step / warmup
    progress = min(1.0, (step - begin) / (total - begin))
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2


def inverse_decay_schedule(optimizer: Optimizer, *, alpha: float = 0.001, beta: float = 0.75) -> LambdaLR:
    r"""lr / (1 + α s)^β at step s, the schedule of domain adaptation (https://arxiv.org/abs/1409.7495, section 5).

    Args:
        optimizer: its groups' learning rates are those of step 0.
        alpha, beta: not negative.
    """
    if not (alpha >= 0 and beta >= 0):
        raise ValueError(f"alpha, beta: got {alpha} and {beta}, accepted are numbers from 0.")
    return LambdaLR(optimizer, partial(_inverse_decay_factor, alpha=alpha, beta=beta))


def _inverse_decay_factor(step: int, alpha: float, beta: float) -> float:
    return (1 + alpha * step) ** -beta
