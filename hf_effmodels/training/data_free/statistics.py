"""How far the statistics of images are from those that a classifier's batch norms remember (DeepInversion,
https://arxiv.org/abs/1912.08795, equation 4, as CDFKD-MFS uses it)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_gap(values: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor) -> torch.Tensor:
    """‖running_var - var‖₂ + ‖running_mean - mean‖₂ over the channels, of what a batch norm is given.

    Args:
        values: (batch, channels) or (batch, channels, ...).
        running_mean, running_var: (channels,).

    Returns:
        A scalar; the variance is the biased one.
    """
    axes = [axis for axis in range(values.ndim) if axis != 1]
    variance, mean = torch.var_mean(values, axes, correction=0)
    return (running_var - variance).norm() + (running_mean - mean).norm()


def batch_norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that remember statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]


@contextmanager
def watched_gaps(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """While open, each forward pass of `model` appends the gap of each of its batch norms, in the order they run.

    Raises:
        ValueError: it has none.
    """
    norms = batch_norms_of(model)
    if not norms:
        raise ValueError(f"teacher: {type(model).__name__} has no batch norm whose statistics tell of images.")
    gaps: list[torch.Tensor] = []

    def watch(norm, args):
        gaps.append(batch_norm_gap(args[0], norm.running_mean, norm.running_var))

    handles = [norm.register_forward_pre_hook(watch) for norm in norms]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def statistics_gap(gaps: list[torch.Tensor], first_weight: float = 5.0) -> torch.Tensor:
    """The sum of the gaps, the first of them `first_weight` times."""
    return first_weight * gaps[0] + sum(gaps[1:])
