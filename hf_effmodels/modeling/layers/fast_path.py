"""The short way through folded layers: convolutions as plain functions, on parts of a map that is never laid together.

A module whose function is called in its place does not run its hooks, and whoever put something in its place (an
adapter, a quantised layer, a parametrisation, an offloading hook) is not asked. So the short way is for modules that
nobody watches or has changed; `is_plain` tells, and both ways give the same results.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook


def is_plain(*modules: nn.Module) -> bool:
    """Whether calling these modules, and nothing else, is the same as what their own code does with their weights.

    Not so with hooks of any kind, a `forward` of the instance's own (offloading), and convolutions of another class
    than `torch.nn.Conv2d` (adapters, quantised and parametrised layers) or with weights that are no plain tensors.
    """
    if _has_any_global_hook():
        return False
    for module in modules:
        if (
            module._forward_hooks
            or module._forward_pre_hooks
            or module._backward_hooks
            or module._backward_pre_hooks
            or "forward" in module.__dict__
        ):
            return False
    return True


def is_plain_conv(conv: nn.Module | None) -> bool:
    """`is_plain` for a convolution, with zero padding, whose weights are split and given to `F.conv2d`."""
    return (
        type(conv) is nn.Conv2d
        and type(conv.weight) in (nn.Parameter, torch.Tensor)
        and conv.padding_mode == "zeros"
        and is_plain(conv)
    )


def pointwise_conv_of_parts(conv: nn.Conv2d, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """`conv(torch.cat(parts, dim=1))` of a 1×1 convolution without laying the parts side by side in memory first."""
    kernels = conv.weight.split([part.shape[1] for part in parts], dim=1)
    output = F.conv2d(parts[0], kernels[0], conv.bias)
    for part, kernel in zip(parts[1:], kernels[1:], strict=True):
        output += F.conv2d(part, kernel)
    return output


def depthwise_conv_of_parts(conv: nn.Conv2d, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The parts of `conv(torch.cat(parts, dim=1))` of a depthwise convolution."""
    sizes = [part.shape[1] for part in parts]
    return [
        F.conv2d(part, kernel, bias, conv.stride, conv.padding, groups=part.shape[1])
        for part, kernel, bias in zip(parts, conv.weight.split(sizes), conv.bias.split(sizes), strict=True)
    ]
