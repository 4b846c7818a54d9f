"""The network inside a coded classifier takes the place of the one it is made around."""

import copy

import torch
from torch import nn
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig

_LABELS = ("id2label", "label2id")


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


def network_config(config: PreTrainedConfig, made_by: str) -> PreTrainedConfig:
    """Of the network inside a coded classifier: what its configuration holds as `network`, with its own labels.

    Raises:
        ValueError: there is none; `made_by` names the class that makes one.
    """
    if not config.network or "model_type" not in config.network:
        raise ValueError(f"network: it is missing; {made_by}.around(model, at) makes one.")
    fields = {name: value for name, value in copy.deepcopy(config.network).items() if name not in _LABELS}
    return AutoConfig.for_model(**fields, **{name: copy.copy(getattr(config, name)) for name in _LABELS})


def network_fields(model: nn.Module) -> dict:
    """What a coded classifier's configuration holds as `network` of a model: its own without the labels, which are
    those of the whole."""
    return {name: value for name, value in model.config.to_dict().items() if name not in _LABELS}


def sides(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Height and width of the images that a coded classifier is for, where its configuration says."""
    size = config.image_size
    return None if size is None else (size, size) if isinstance(size, int) else tuple(size)
