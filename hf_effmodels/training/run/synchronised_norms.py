"""Batch norms that normalise by the batches of all processes together, on any device and back end.

torch's own SyncBatchNorm refuses CPUs, and cannot leave out a process that repeats samples because it has none left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

#: Whether the samples of this process count.
_counts: ContextVar[bool] = ContextVar("counts", default=True)


@contextmanager
def left_out(idle: bool) -> Iterator[None]:
    """Within it the samples of this process do not count, if it is `idle`; it still takes part, as it must."""
    token = _counts.set(not idle)
    try:
        yield
    finally:
        _counts.reset(token)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Let the batch norms of a model, in place, normalise by the batches of all processes in training."""
    for module in model.modules():
        if isinstance(module, tuple(_SYNCHRONISED)):
            # Parameters, buffers and hooks stay what and where they are.
            module.__class__ = _synchronised(type(module))


@cache
def _synchronised(kind: type[nn.Module]) -> type[nn.Module]:
    """The class whose norm is that of all processes. One that is derived from torch's still says what is normed."""
    if kind in _SYNCHRONISED:
        return _SYNCHRONISED[kind]
    base = next(own for own in _SYNCHRONISED if issubclass(kind, own))
    return type(f"Synchronised{kind.__name__}", (kind, _SYNCHRONISED[base]), {})


class _Synchronised(_BatchNorm):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if not self.training or alone:
            return super().forward(inputs)
        with torch.no_grad():
            mean, variance, number = _statistics(inputs, _counts.get())
            self._record(mean, variance, number)
        return _Normalise.apply(inputs, self.weight, self.bias, mean, variance, number, self.eps, _counts.get())

    def _record(self, mean: torch.Tensor, variance: torch.Tensor, number: torch.Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * number / (number - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), momentum)


class _Synchronised1d(_Synchronised, nn.BatchNorm1d):
    pass


class _Synchronised2d(_Synchronised, nn.BatchNorm2d):
    pass


class _Synchronised3d(_Synchronised, nn.BatchNorm3d):
    pass


_SYNCHRONISED = {nn.BatchNorm1d: _Synchronised1d, nn.BatchNorm2d: _Synchronised2d, nn.BatchNorm3d: _Synchronised3d}


def _channels(inputs: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions that are summed over, and the shape (1, channels, 1, ...) of what is left."""
    return (0, *range(2, inputs.ndim)), (1, -1, *[1] * (inputs.ndim - 2))


def _exact(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.float() if inputs.dtype in (torch.float16, torch.bfloat16) else inputs


def _statistics(inputs: torch.Tensor, counts: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and variance (divided by the number) of each channel, and the number of values, over all processes."""
    inputs = _exact(inputs)
    dims, shape = _channels(inputs)
    weight = 1.0 if counts else 0.0
    number = inputs.new_full((1,), inputs.numel() / inputs.shape[1])
    sums = torch.cat([inputs.sum(dims), number]) * weight
    distributed.all_reduce(sums)
    number = sums[-1].clamp(min=1)
    mean = sums[:-1] / number
    # In a second pass: a difference of large sums would be less exact.
    squares = (inputs - mean.view(shape)).square().sum(dims) * weight
    distributed.all_reduce(squares)
    return mean, squares / number, number


class _Normalise(torch.autograd.Function):
    """(x - mean) / √(variance + eps) · weight + bias, where mean and variance are functions of all processes' x."""

    @staticmethod
    def forward(ctx, inputs, weight, bias, mean, variance, number, eps, counts):
        ctx.save_for_backward(inputs, weight, mean, variance, number)
        ctx.eps, ctx.counts = eps, counts
        exact = _exact(inputs)
        options = [None if value is None else value.to(exact) for value in (weight, bias)]
        return F.batch_norm(exact, mean, variance, *options, False, 0.0, eps).to(inputs.dtype)

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight, mean, variance, number = ctx.saved_tensors
        exact, given = _exact(inputs), _exact(gradient)
        dims, shape = _channels(exact)
        scale = (variance + ctx.eps).rsqrt()
        normal = (exact - mean.view(shape)) * scale.view(shape)
        of_bias, of_weight = given.sum(dims), (given * normal).sum(dims)
        if weight is not None:
            scale = scale * weight.to(scale)
        # What the outputs of all processes owe to the statistics.
        owed = torch.stack([of_bias, of_weight])
        distributed.all_reduce(owed)
        if ctx.counts:
            owed = owed / number
            given = given - owed[0].view(shape) - normal * owed[1].view(shape)
        of_inputs = (given * scale.view(shape)).to(inputs.dtype)
        if weight is None:
            return of_inputs, None, None, None, None, None, None, None
        return of_inputs, of_weight.to(weight), of_bias.to(weight), None, None, None, None, None
