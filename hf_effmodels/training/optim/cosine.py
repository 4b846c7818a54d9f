"""The learning rate of the ConvNeXt training script and its descendants, step by step."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine_schedule(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, *, min_lr: float = 0.0
) -> LambdaLR:
    r"""Linear warm-up, then half a cosine, changing every step, as VanillaNet was trained.

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
    factor = partial(_factor, warmup=num_warmup_steps, total=num_training_steps, lowest=lowest)
    return LambdaLR(optimizer, factor)


def _factor(step: int, warmup: int, total: int, lowest: float) -> float:
    if step < warmup:
        return step / (warmup - 1) if warmup > 1 else 0.0
    progress = min(1.0, (step - warmup) / (total - warmup))
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2
