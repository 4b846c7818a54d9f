"""How far the statistics of images are from those that a classifier's batch norms remember (DeepInversion,
https://arxiv.org/abs/1912.08795, equation 4, as CDFKD-MFS uses it)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norm_gap(values: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor) -> torch.Tensor:
    """‖running_var - var‖₂ + ‖running_mean - mean‖₂ over the channels, of what a batch norm is given.

    Args:
        values: (batch, channels) or (batch, channels, ...).
        running_mean, running_var: (channels,); they get no gradient.

    Returns:
        A scalar; the variance is the biased one.
    """
    return _Gap.apply(_wide(values), running_mean, running_var)


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Biased variance and mean of each channel, of (batch, channels, ...); of half precision in float32."""
    return _Moments.apply(_wide(values))


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype.itemsize < 4 else values


def _measured(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `torch.var_mean`, which takes ten times as long on a CPU. What batch norms measure by is the fastest there in
    the channels-last layout, and only there."""
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        mean, variance = torch.batch_norm_update_stats(values, None, None, 0.0)
        return variance, mean
    axes = [axis for axis in range(values.ndim) if axis != 1]
    mean = values.mean(axes)
    return (values - _of_channels(mean, values)).square_().mean(axes), mean


class _Moments(torch.autograd.Function):
    """The gradient is that of both together, in one pass over the values."""

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        variance, mean = _measured(values)
        ctx.save_for_backward(values, mean)
        return variance, mean

    @staticmethod
    @once_differentiable
    def backward(ctx, of_variance: torch.Tensor, of_mean: torch.Tensor) -> torch.Tensor:
        values, mean = ctx.saved_tensors
        return _linear(values, *_coefficients(values, mean, of_variance, of_mean))


class _Gap(torch.autograd.Function):
    """In one node: a network has a hundred of them, and the small operations between would take as long as the passes
    over the values."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor) -> torch.Tensor:
        variance, mean = _measured(values)
        of_variance, of_mean = variance - running_var, mean - running_mean
        variance_gap, mean_gap = of_variance.norm(), of_mean.norm()
        least = torch.finfo(mean.dtype).tiny  # at no distance the gradient is none
        of_variance, of_mean = of_variance / variance_gap.clamp_min(least), of_mean / mean_gap.clamp_min(least)
        ctx.save_for_backward(values, *_coefficients(values, mean, of_variance, of_mean))
        return variance_gap + mean_gap

    @staticmethod
    @once_differentiable
    def backward(ctx, of_gap: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        values, shift, factor = ctx.saved_tensors
        return _linear(values, of_gap * shift, of_gap * factor), None, None


def _coefficients(values, mean, of_variance, of_mean) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient with respect to the values is shift + factor · values, of these of each channel."""
    count = values.numel() // values.shape[1]
    factor = 2 * of_variance / count
    return of_mean / count - factor * mean, factor


def _linear(values: torch.Tensor, shift: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(_of_channels(shift, values), values, _of_channels(factor, values))


def _of_channels(vector: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return vector.view(-1, *[1] * (values.ndim - 2))


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
    with _watching(
        norms, lambda norm, values: gaps.append(batch_norm_gap(values, norm.running_mean, norm.running_var))
    ):
        yield gaps


@dataclass
class Statistics:
    """Of each batch norm in the order they run: what it is given, and what it remembers. (channels,) each."""

    means: list[torch.Tensor] = field(default_factory=list)
    variances: list[torch.Tensor] = field(default_factory=list)
    running_means: list[torch.Tensor] = field(default_factory=list)
    running_variances: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def watched_statistics(model: nn.Module) -> Iterator[Statistics]:
    """While open, a forward pass of `model` appends to the statistics."""
    seen = Statistics()

    def watch(norm: _BatchNorm, values: torch.Tensor) -> None:
        variance, mean = _moments(values)
        seen.means.append(mean)
        seen.variances.append(variance)
        seen.running_means.append(norm.running_mean)
        seen.running_variances.append(norm.running_var)

    with _watching(batch_norms_of(model), watch):
        yield seen


@contextmanager
def _watching(norms: list[_BatchNorm], watch: Callable[[_BatchNorm, torch.Tensor], object]) -> Iterator[None]:
    handles = [norm.register_forward_pre_hook(lambda norm, args: watch(norm, args[0])) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def statistics_gap(gaps: list[torch.Tensor], first_weight: float = 5.0) -> torch.Tensor:
    """The sum of the gaps, the first of them `first_weight` times."""
    return first_weight * gaps[0] + sum(gaps[1:])


@dataclass
class WholeGap:
    """The gap of a batch that lies in several pieces, and how it depends on each of them.

    Args:
        mean, variance: of the whole batch, all batch norms one after the other, (all channels,).
        mean_gradient, variance_gradient: of the gap with respect to them.
        value: the gap, weighted as `statistics_gap` does.
    """

    mean: torch.Tensor
    mean_gradient: torch.Tensor
    variance_gradient: torch.Tensor
    value: torch.Tensor

    def of_piece(self, seen: Statistics, share: float) -> torch.Tensor:
        """A scalar whose gradient with respect to a piece is that of the whole gap; its value means nothing.

        The variance of the whole is Σ share (var + (mean - whole mean)²) over the pieces.

        Args:
            seen: of the piece; share: its samples over those of the batch.
        """
        means, variances = torch.cat(seen.means), torch.cat(seen.variances)
        apart = 2 * (means.detach() - self.mean) * means
        return share * (self.mean_gradient * means + self.variance_gradient * (variances + apart)).sum()


def whole_gap(
    pieces: list[tuple[Statistics, float]],
    first_weight: float = 5.0,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
) -> WholeGap:
    """The gap of a batch of several pieces, each with its share of the batch.

    Args:
        reduce: sums over the processes, where each has some of the pieces.
    """
    mean = reduce(sum(share * torch.cat(seen.means) for seen, share in pieces))
    variance = reduce(
        sum(share * (torch.cat(seen.variances) + (torch.cat(seen.means) - mean).square()) for seen, share in pieces)
    )
    first = pieces[0][0]
    sizes = [len(values) for values in first.means]
    mean, variance = mean.detach().requires_grad_(), variance.detach().requires_grad_()
    with torch.enable_grad():
        gaps = [
            (known_variance - v).norm() + (known_mean - m).norm()
            for known_mean, known_variance, m, v in zip(
                first.running_means, first.running_variances, mean.split(sizes), variance.split(sizes), strict=True
            )
        ]
        value = statistics_gap(gaps, first_weight)
        gradients = torch.autograd.grad(value, (mean, variance))
    return WholeGap(mean.detach(), *gradients, value.detach())
