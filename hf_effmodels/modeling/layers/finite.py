"""Inputs that are not finite, where a layer would hide them: torch's sign of what is not a number is 0, and so is -∞
behind a ReLU."""

import math

import torch
from torch import nn


def check_finite(module: nn.Module, inputs: torch.Tensor) -> None:
    """ValueError where `module`, in evaluation mode, was given inputs that are not finite.

    In training the losses tell; programs that are compiled or exported do without.
    """
    if module.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if inputs.is_meta or not inputs.numel() or not inputs.is_floating_point():
        return
    if not all(math.isfinite(bound.item()) for bound in inputs.detach().aminmax()):
        raise ValueError("inputs: got values that are not finite.")
