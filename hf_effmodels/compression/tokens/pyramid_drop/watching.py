"""See which image tokens stay."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Drop:
    """What happened to one row of a batch after some block.

    Attributes:
        layer: after so many blocks.
        row: index in the batch.
        scores: attention to each image token that was still there, (n,) in float32.
        kept: which of those n stay, ascending.
        tokens: the places in the row, as the model was given it, of the image tokens that stay, ascending.
    """

    layer: int
    row: int
    scores: torch.Tensor
    kept: torch.Tensor
    tokens: torch.Tensor


_WATCHED: ContextVar[list[Drop] | None] = ContextVar("watched_drops", default=None)


@contextmanager
def watch_drops() -> Iterator[list[Drop]]:
    """A list that fills with the `Drop` of each row and stage while models run inside the `with`."""
    drops: list[Drop] = []
    token = _WATCHED.set(drops)
    try:
        yield drops
    finally:
        _WATCHED.reset(token)


def report(drop: Drop) -> None:
    """Tell whoever watches."""
    if (drops := _WATCHED.get()) is not None:
        drops.append(drop)
