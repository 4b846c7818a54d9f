"""One vector for each picture, of any vision model of transformers, timm (through TimmWrapper) or this package."""

import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor, AutoModel

from ..._shapes import in_runs
from ...hub.ids import reading
from ...hub.whole import check_complete, without_report
from ..data.images import check_processor
from ..data.normalization import with_channels
from ..data.pictures import Pictures

Pooling = Literal["mean", "class", "model"]

#: So many tokens that stand for no place are believed: a class token, a distillation token, registers.
MOST_PREFIX = 16


def load_encoder(
    name: str,
    pooling: Pooling | None = None,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
):
    """A vision model without its head, in evaluation, and its image processor. Of a pre-training model
    (FastMIM, ...) the encoder.

    Raises:
        ValueError: what is there takes no pictures, or is to pool by weights that it lacks.
        OSError: it cannot be found, reached or read.
    """
    source = {"revision": revision, "token": token, "trust_remote_code": trust_remote_code}
    how = {"dtype": torch.float32, "output_loading_info": True}
    with reading("--models", name, revision=("--revision", revision)), without_report():
        config = AutoConfig.from_pretrained(name, **source)
        processor = AutoImageProcessor.from_pretrained(name, **source)
        if hasattr(config, "backbone_config") and type(config) not in MODEL_MAPPING:
            from transformers import AutoModelForPreTraining

            model, found = AutoModelForPreTraining.from_pretrained(name, **how, **source)
            model = model.encoder
            found = {"missing_keys": [key for key in found["missing_keys"] if key.startswith("encoder.")]}
        else:
            pooler = {} if pooling == "model" else _without_pooler(config)
            model, found = AutoModel.from_pretrained(name, **how, **pooler, **source)
    if model.main_input_name != "pixel_values" or not hasattr(processor, "image_mean"):
        raise ValueError(f"--models: {name} is a {type(model).__name__}, which takes no pictures.")
    check_complete("--models", name, model, found)
    check_processor("--models", processor)
    return model.eval(), with_channels(processor, getattr(model.config, "num_channels", 3))


def _without_pooler(config) -> dict:
    """What keeps a model from making a pooler that its checkpoint may not have."""
    model = MODEL_MAPPING.get(type(config), None)
    takes = inspect.signature(model).parameters if isinstance(model, type) else ()
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def pooled(output, config, size: tuple[int, int], pooling: Pooling) -> torch.Tensor:
    """(batch, features) of a model's output.

    Args:
        output: has `last_hidden_state`, (batch, channels, height, width) or (batch, tokens, channels), class tokens
            and the like first; or `pooler_output`.
        config: of the model; its `patch_size`, where it has one, says how many tokens are patches.
        size: height and width of the pictures in pixels.
        pooling: "mean" over places or patches; the first ("class") token; what the model itself makes ("model").

    Raises:
        ValueError: the model has no such thing.
    """
    if pooling == "model":
        made = getattr(output, "pooler_output", None)
        if made is None:
            raise ValueError("--pooling: got model, but this model pools nothing; accepted are mean and class.")
        return made.flatten(1)
    hidden = output.last_hidden_state
    if hidden.ndim == 4:
        if pooling == "class":
            raise ValueError("--pooling: got class, but the output of this model is a map; accepted is mean.")
        return hidden.mean((2, 3))
    if pooling == "class":
        return hidden[:, 0]
    return hidden[:, _prefix(hidden.shape[1], getattr(config, "patch_size", None), size) :].mean(1)


def _prefix(tokens: int, patch: int | Sequence[int] | None, size: tuple[int, int]) -> int:
    """How many of the tokens stand for no place: a class token, registers.

    The others lie on a grid of the patches, or of 2, 4, ... times as long ones where a model merges them.

    Raises:
        ValueError: the tokens fit no such grid.
    """
    first = [(patch, patch)] if isinstance(patch, int) else [tuple(patch)] if isinstance(patch, Sequence) else []
    strides = [(down * 2**k, right * 2**k) for down, right in first for k in range(6)]
    for (down, right), rounds in itertools.product(strides, (math.floor, math.ceil)):
        left = tokens - rounds(size[0] / down) * rounds(size[1] / right)
        if 0 <= left <= MOST_PREFIX:
            return left
    if not first and any(
        tokens == math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in range(1, 65)
    ):
        return 0
    raise ValueError(
        f"--pooling: got mean, but which of this model's {tokens} tokens stand for places of a picture of "
        f"{size[0]}×{size[1]} pixels is not known; accepted are class and model."
    )


@torch.no_grad()
def features_of(
    model: nn.Module, processor, pictures: Pictures, batch_size: int, pooling: Pooling, device: str = "cpu"
) -> np.ndarray:
    """(pictures, features), float32.

    Raises:
        ValueError, OSError: a picture that cannot be read, named by its row; no such pooling.
    """
    model.to(device)
    channels, found = getattr(model.config, "num_channels", 3), []
    for images in tqdm([*_batches(len(pictures), batch_size)], unit="batch", desc=pictures.split, disable=None):
        for pixels in in_runs(_pixels(processor, pictures.read(number, channels)) for number in images):
            output = model(pixel_values=pixels.to(device))
            found.append(pooled(output, model.config, tuple(pixels.shape[-2:]), pooling).float().cpu().numpy())
    return np.concatenate(found)


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def _pixels(processor, image) -> torch.Tensor:
    if image.mode == "RGB":
        return processor(image, return_tensors="pt")["pixel_values"][0]
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return processor(pixels, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]
