"""The network inside a coded classifier takes the place of the one it is made around."""

import torch
from torch import nn


def check_same_class(network: nn.Module, model: nn.Module) -> None:
    """
    Raises:
        ValueError: `network`, built by the configuration of `model`, is of another class.
    """
    if type(network) is not type(model):
        raise ValueError(
            f"model: got {type(model).__name__}, but its configuration builds a {type(network).__name__}."
        )


@torch.no_grad()
def take_weights(network: nn.Module, model: nn.Module) -> None:
    """Copy the weights of `model`, which may have more than `network`.

    Raises:
        ValueError: it lacks one.
    """
    own, theirs = network.state_dict(), model.state_dict()
    if lacking := [name for name in own if name not in theirs]:
        raise ValueError(f"model: it lacks {lacking[0]}, which its configuration builds; accepted are plain networks.")
    for name, tensor in own.items():
        tensor.copy_(theirs[name])
