"""AdaBin's progressive training: the surrogate of the weights' sign sharpens while they are trained."""

import math

from torch import nn
from transformers import TrainerCallback

# What float division may lack of a whole epoch.
_ROUNDING = 1e-6


class ProgressiveCallback(TrainerCallback):
    """Sets the surrogate's k and t at the beginning of each epoch, see `surrogate_at`.

    They follow from the epoch alone, so that a resumed run goes on with those of its epoch.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def on_train_begin(self, args, state, control, **kwargs):
        self.on_epoch_begin(args, state, control)

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = math.floor((state.epoch or 0) + _ROUNDING)
        self.model.set_surrogate(*surrogate_at(epoch, max(1, math.ceil(state.num_train_epochs))))


def surrogate_at(epoch: int, epochs: int) -> tuple[float, float]:
    """k and t in `epoch`, counted from 0, of `epochs`: t = 10^(-3 + 4·epoch/epochs), k = max(1/t, 1)."""
    sharpness = 10 ** (-3 + 4 * epoch / epochs)
    return max(1 / sharpness, 1.0), sharpness
