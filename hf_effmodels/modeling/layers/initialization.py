"""Weight initialisation by transformers' guarded functions, which leave loaded weights alone."""

import math

from torch import nn
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
