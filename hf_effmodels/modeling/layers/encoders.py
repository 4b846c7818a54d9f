"""Encoders that go their own way after a pre-training, at the image size they are going to see."""

import copy
import inspect
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from transformers import MODEL_MAPPING

from .positions import resize_positions, resize_relative_bias


def without_pooler(backbone_config) -> dict:
    """What `AutoModel.from_config` is told, so that no weights are made that nothing uses."""
    encoder = MODEL_MAPPING.get(type(backbone_config), None)
    takes = inspect.signature(encoder).parameters if isinstance(encoder, type) else ()
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def save_encoder(
    encoder: nn.Module,
    folder,
    image_size: int | None = None,
    window_size: int | None = None,
    also: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Write an encoder as a model of its own class, for images and windows of other sizes where these are given.

    Tables of positions (ViT, DeiT, ...) are interpolated bicubically, relative biases of windows (Swin) resampled in
    SimMIM's geometric way: as the published fine-tunings do.

    Args:
        encoder: a model of transformers or of this package.
        folder: where to.
        image_size: side in pixels.
        window_size: side of a Swin's windows in tokens.
        also: weights that belong to it and lie elsewhere, by their names in it.

    Raises:
        ValueError: there is nothing in the encoder that the size could be of, or it holds a table of positions that is
            of another kind.
    """
    config = copy.deepcopy(encoder.config)
    for name, value in (("image_size", image_size), ("window_size", window_size)):
        if value is not None:
            if not isinstance(getattr(config, name, None), int):
                raise ValueError(f"{name}: got {value}, but {type(config).__name__} has none that is one number.")
            setattr(config, name, value)
    shell = copy.copy(encoder)  # saved under another configuration; the encoder keeps its own
    shell.config = config
    shell.save_pretrained(folder, state_dict={**_resized(encoder, config), **also})


@torch.no_grad()
def _resized(encoder: nn.Module, config) -> dict[str, torch.Tensor]:
    state = encoder.state_dict()
    for name, table in state.items():
        last = name.rpartition(".")[2]
        if last == "position_embeddings" and table.ndim == 3 and config.image_size != encoder.config.image_size:
            side = config.image_size // config.patch_size
            extra = table.shape[1] - (encoder.config.image_size // config.patch_size) ** 2
            state[name] = resize_positions(table, side, side, extra_tokens=extra)
        elif last == "relative_position_bias_table" and config.model_type == "swin":
            state[name] = resize_relative_bias(table, config.window_size)
        elif last.startswith("relative_pos") and config.image_size != encoder.config.image_size:
            raise ValueError(f"image_size: got {config.image_size}; {name} is of one image size and is not resized.")
    return state
