"""A pipeline small enough for tests, with every kind of layer."""

import numpy as np
import torch
from PIL import Image

from hf_effmodels.pipelines.sam_diffsr.create import create_pipeline

ENCODER = {"hidden_size": 8, "num_blocks": 5, "growth": 4}
UNET = {"hidden_size": 8, "dim_mults": [1, 2, 2, 3], "condition_channels": 8, "num_conditions": 2}


def tiny_pipeline(scale: int = 4, seed: int = 0, scheduler: dict | None = None, legacy_256: bool = True, **unet):
    torch.manual_seed(seed)
    pipe = create_pipeline(
        encoder={**ENCODER, "scale": scale},
        unet={**UNET, "scale": scale, **unet},
        scheduler=scheduler,
        legacy_256=legacy_256,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def photo(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
