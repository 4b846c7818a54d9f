"""The linear layer that ends a classifier: its rows are where a class's features point."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def linear_head(model: nn.Module, pixels: torch.Tensor, named: str = "--model") -> nn.Linear:
    """The linear layer whose output is the logits of `model`.

    Args:
        pixels: (batch, channels, height, width), for a trial.
        named: the argument that the model comes from, for the error.

    Raises:
        ValueError: the logits come from something else.
    """
    found: dict[nn.Linear, torch.Tensor] = {}
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [m.register_forward_hook(lambda m, args, output: found.__setitem__(m, output)) for m in linears]
    mode = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(pixel_values=pixels).logits
    finally:
        model.train(mode)
        for handle in handles:
            handle.remove()
    heads = [m for m, output in found.items() if output.shape == logits.shape and torch.equal(output, logits)]
    if not heads:
        raise ValueError(
            f"{named}: the logits of {type(model).__name__} are no output of one linear layer, whose rows could stand "
            "for the classes; accepted are classifiers that end in one (ResNet, ViT, ConvNeXt, ...)."
        )
    return heads[-1]


@contextmanager
def seen_by(head: nn.Linear) -> Iterator[list[torch.Tensor]]:
    """While open, what the head is given in each forward pass, (batch, width), is appended."""
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()
