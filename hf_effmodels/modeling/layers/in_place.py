"""Operations that write over what they are given, where that is allowed: new memory costs more than they do."""

import torch


def may_overwrite() -> bool:
    """Whether the output of a module may be written over: not while gradients are recorded.

    Little is lost then, as what a normalisation or a convolution gives is not kept for the backward pass, and autograd
    forbids it where a backward hook watches the module.
    """
    return not torch.is_grad_enabled()


def add(features: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """features + residual, written over the features where that is allowed."""
    return features.add_(residual) if may_overwrite() else features + residual


def multiply(features: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """features · gate, written over the features where that is allowed."""
    return features.mul_(gate) if may_overwrite() else features * gate
