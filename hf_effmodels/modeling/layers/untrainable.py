"""Models that cannot be trained say so as a whole: a refusal half-way would leave the rest in training mode."""

from functools import partial

from torch import nn


def refuse_training(model: nn.Module, reason: str) -> nn.Module:
    """Let `model.train()` raise before any part of the model has changed its mode; returns the model.

    Its layers refuse, too, each by itself. Copies and pickles refuse as the original.
    """
    model.train = partial(_train, model, reason)
    return model


def _train(model: nn.Module, reason: str, mode: bool = True) -> nn.Module:
    if mode:
        raise RuntimeError(f"{type(model).__name__} {reason}")
    return type(model).train(model, False)
