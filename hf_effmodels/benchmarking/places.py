"""Models that are no presets: folders, ids of the Hub, and programs that `hf-effmodels export` wrote."""

import json
import os
from pathlib import Path

import torch
from torch import nn

from ..hub.ids import reading
from ..models import list_models
from ..prediction.predictor import MODULES, Source, find_task, is_exported
from ..quantization.stored import quantizer_of
from .arguments import AUTO_CLASSES, for_another_task
from .counting import Cost, count

#: Side of the images of a model whose configuration and image processor say none.
_SIDE = 224


def is_place(name: str) -> bool:
    """Whether a name is a folder's or can be an id of the Hub, and no preset's, whose weights would be random."""
    return os.path.isdir(name) or ("/" in name and name not in list_models())


def task_of_place(name: str) -> str:
    """What the model is for.

    Raises:
        OSError: there is no such model. ValueError: one that is for something else than `AUTO_CLASSES`.
    """
    config_of(name)
    try:
        _, task = find_task(Source(name))
    except ValueError:
        task = None
    if task not in AUTO_CLASSES:
        raise for_another_task(name, f"for {task}" if task in MODULES else "for no task that is known")
    return task


def program_format(name: str) -> str | None:
    """ "onnx" or "openvino" of an exported folder, None of any other."""
    if not is_exported(Source(name)):
        return None
    return json.loads(Path(name, "export.json").read_text(encoding="utf-8"))["export_format"]


def config_of(name: str):
    """The model's configuration, whatever it computes of images or text."""
    from transformers import AutoConfig

    with reading("--presets", name):
        return AutoConfig.from_pretrained(name)


def channels_of(config) -> int:
    """Of the images that the model takes."""
    parts = (config, *(getattr(config, part, None) for part in ("backbone_config", "vision_config")))
    return next((part.num_channels for part in parts if getattr(part, "num_channels", None)), 3)


def side_of(name: str, config) -> int | list[int]:
    """Side of the images that the model is for: of its configuration, else of its image processor."""
    from transformers import AutoImageProcessor

    if getattr(config, "image_size", None):
        return config.image_size
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return _SIDE
    sizes = (processor.crop_size if getattr(processor, "do_center_crop", None) else None) or processor.size or {}
    sides = [sizes[key] for key in ("shortest_edge", "height", "width") if sizes.get(key)]
    return sides or _SIDE


def is_foldable(config) -> bool:
    """Whether the network has branches or batch norms left to fold (a program has none)."""
    return getattr(config, "reparameterized", None) is False and quantizer_of(config) is None


def load(name: str, folded: bool) -> nn.Module:
    """The network in float32, or with quantised weights as it was saved, folded if asked for; of a program the network
    without weights that it computes."""
    import transformers

    task = task_of_place(name)
    if program_format(name) is not None:
        return _without_weights(config_of(name), task)
    dtype = torch.float32 if quantizer_of(config_of(name)) is None else "auto"
    with reading("--presets", name):
        model = getattr(transformers, AUTO_CLASSES[task]).from_pretrained(name, dtype=dtype).eval()
    return model.reparameterize() if folded else model


def count_place(name: str, folded: bool, image_size: int) -> Cost:
    """Parameters and multiply-adds of a classifier, see `counting.count`."""
    config = config_of(name)
    if folded:
        config.reparameterized = True
    model = _without_weights(config, "image-classification")
    return count(model, torch.empty(1, channels_of(config), image_size, image_size, device="meta"))


def _without_weights(config, task: str) -> nn.Module:
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, AUTO_CLASSES[task]).from_config(config, dtype=torch.float32)
    return model.eval().requires_grad_(False)
