"""AdderNet's local rate in a training that accumulates batches."""

from torch import nn
from transformers import TrainerCallback

from ..layers.adder import AdderConv2d, scale_gradients


class AdderGradientCallback(TrainerCallback):
    """Scales the gradients of the adder layers once per step, after all batches and processes have been added up.

    By itself a layer does so in every backward pass, as in the official code; accumulated batches would then count
    alike however large their gradients are. The Trainer clips before this: the norm that it clips is that of the plain
    gradients, and only the other layers are changed by it.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module):
        self.model = model

    def on_train_begin(self, args, state, control, **kwargs):
        self._per_step(True)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        scale_gradients(self.model)

    def on_train_end(self, args, state, control, **kwargs):
        self._per_step(False)

    def _per_step(self, once: bool) -> None:
        for module in self.model.modules():
            if isinstance(module, AdderConv2d):
                module.scales_gradient = not once
