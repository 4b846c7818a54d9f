"""Image processors of models: their own, and for timm's models a stock one of the same numbers."""

from collections.abc import Mapping

import transformers
from transformers import AutoImageProcessor, CLIPImageProcessorPil, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin

from .normalization import INTERPOLATIONS


def load_image_processor(name: str, config: PreTrainedConfig, **source) -> ImageProcessingMixin:
    """The image processor of a model in a folder or on the Hub.

    timm's own, of `TimmWrapper`, is a chain of torchvision's transforms, which tells nobody its numbers: in its place
    comes a stock one of transformers that does the same in evaluation. A folder that has a stock one is left with it.

    Args:
        name: the model.
        config: its configuration.
        source: revision, token and the like.

    Raises:
        OSError: there is none. ValueError: timm's numbers are of a kind that no stock one has.
    """
    if config.model_type != "timm_wrapper":
        return AutoImageProcessor.from_pretrained(name, **source)
    try:
        stored, _ = ImageProcessingMixin.get_image_processor_dict(name, **source)
    except OSError:
        stored = {}
    kind = stored.get("image_processor_type", "").removesuffix("Fast").removesuffix("Pil")
    # By its class: AutoImageProcessor asks for the configuration first, and that for timm.
    if (stock := getattr(transformers, f"{kind}Pil", None)) is not None:
        return stock.from_dict(stored)
    return timm_processor(config.pretrained_cfg or {})


def timm_processor(pretrained_cfg: Mapping) -> CLIPImageProcessorPil:
    """What timm's evaluation does to a picture by a `pretrained_cfg`: the shorter side to ⌊size / crop_pct⌋, the
    centre, mean and deviation. Where the margin is odd, the centre lies a pixel further up or left than timm's.

    Raises:
        ValueError: another way to crop than the centre or none (`squash`), or an unknown filter.
    """
    channels, height, width = pretrained_cfg.get("input_size") or (3, 224, 224)
    share, mode = pretrained_cfg.get("crop_pct") or 0.875, pretrained_cfg.get("crop_mode") or "center"
    resample = pretrained_cfg.get("interpolation") or "bilinear"
    if resample not in INTERPOLATIONS:
        raise ValueError(
            f"timm's interpolation {resample!r} is not known here, accepted are {', '.join(INTERPOLATIONS)}."
        )
    if mode == "center" and height == width:
        size = {"shortest_edge": int(height / share)}
    elif mode == "squash":
        size = {"height": int(height / share), "width": int(width / share)}
    else:
        raise ValueError(
            f"timm's crop mode {mode!r} of {height}×{width} is not known here, accepted are center of a square, and "
            "squash."
        )
    mean, std = pretrained_cfg.get("mean") or (0.485, 0.456, 0.406), pretrained_cfg.get("std") or (0.229, 0.224, 0.225)
    return CLIPImageProcessorPil(
        size=size,
        resample=INTERPOLATIONS[resample],
        crop_size={"height": height, "width": width},
        image_mean=[*mean][:channels],
        image_std=[*std][:channels],
        do_convert_rgb=channels == 3,
    )
