"""Gradients of weights in the very strides of the weights.

Of a 1×1 kernel in "channels last" the strides of the sizes of one can be anything: convolutions keep them, elementwise
operators do not. torch's data parallel training compares all of them, and warns in every run.
"""

import torch


def in_strides_of(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`gradient` as it is in memory, with the strides of `weight` where only those of sizes of one differ."""
    pairs = zip(gradient.shape, gradient.stride(), weight.stride(), strict=True)
    if gradient.stride() == weight.stride() or any(size > 1 and one != other for size, one, other in pairs):
        return gradient
    return gradient.as_strided(weight.shape, weight.stride())


class _Latent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return in_strides_of(gradient, *ctx.saved_tensors)


def latent(weight: torch.Tensor) -> torch.Tensor:
    """A weight as it is, from which others are computed elementwise; its gradient is `in_strides_of` it."""
    return _Latent.apply(weight) if torch.is_grad_enabled() and weight.requires_grad else weight
