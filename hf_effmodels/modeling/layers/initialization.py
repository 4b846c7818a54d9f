"""Weight initialisation by transformers' guarded functions, which leave loaded weights alone."""

import math
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init


def init_like_torch(module: nn.Module) -> None:
    """Initialise a convolution or a linear layer as PyTorch's own constructors do.

    Weights uniform in ±1/√fan_in (Kaiming-uniform with a = √5), biases likewise. Papers that say nothing about
    initialisation mean this one.
    """
    if not isinstance(module, (nn.Conv2d, nn.Linear)):
        return
    init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    if module.bias is not None:
        fan_in = module.weight[0].numel()
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        init.uniform_(module.bias, -bound, bound)


class StockPartsMixin:
    """For a PreTrainedModel with models of transformers in it: those initialise themselves.

    transformers asks models that are not its own about no module without parameters directly in it, once weights are
    loaded, and CLIP's attention, for example, starts its layers from there.
    """

    def initialize_weights(self) -> None:
        for part in _stock_parts(self):
            part.initialize_weights()
        super().initialize_weights()


def _stock_parts(module: nn.Module) -> Iterator[PreTrainedModel]:
    """The outermost models of transformers' own in `module`."""
    for child in module.children():
        if isinstance(child, PreTrainedModel) and type(child).__module__.startswith("transformers.models."):
            yield child
        else:
            yield from _stock_parts(child)
