"""Models that cannot be trained say so as a whole: a refusal half-way would leave the rest in training mode."""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import nn


def refuse_training(model: nn.Module, reason: str) -> nn.Module:
    """Let `model.train()` raise before any part of the model has changed its mode; returns the model.

    Its layers refuse, too, each by itself. Copies and pickles refuse as the original.
    """
    model.train = partial(_train, model, reason)
    return model


def _train(model: nn.Module, reason: str, mode: bool = True) -> nn.Module:
    if mode:
        raise refusal(f"{type(model).__name__} {reason}")
    return type(model).train(model, False)


def refusal(reason: str) -> RuntimeError:
    """The error of a `train()` that is refused. Where a model around the refusing part is on its way into training
    mode, which has changed some of its parts already, all of it is put into evaluation mode: what it can be used in.
    """
    frame, outermost = inspect.currentframe(), None
    while frame is not None:
        if frame.f_code is nn.Module.train.__code__:
            outermost = frame.f_locals["self"]
        frame = frame.f_back
    if outermost is not None:
        outermost.eval()
    return RuntimeError(reason)


def without_gradient(
    compute: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, reason: str
) -> torch.Tensor:
    """`compute(inputs)`, through which no gradient flows: whoever asks for one gets a RuntimeError of this reason."""
    if torch.is_grad_enabled() and inputs.requires_grad:
        return _NoGradient.apply(inputs, compute, reason)
    return compute(inputs)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, compute, reason):
        ctx.reason = reason
        return compute(inputs)

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError(ctx.reason)
