"""What a generator makes, to be looked at."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...data.normalization import Normalization

#: Images in a row, and at most so many rows; pixels of the smallest side they are enlarged to, and between them.
_COLUMNS, _SIDE, _GAP = 8, 64, 2
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def write_grid(images: torch.Tensor, normalization: Normalization, file: Path) -> None:
    """The first 64 of (batch, channels, height, width) normalised images, beside one another as a PNG file."""
    images = images[: _COLUMNS**2].detach().float().cpu()
    scale, shift = (torch.tensor(values)[:, None, None] for values in (normalization.scale, normalization.shift))
    values = ((images - shift) / scale).round().clamp(0, 255).byte()
    times = max(1, -(-_SIDE // values.shape[-1]))
    values = values.repeat_interleave(times, 2).repeat_interleave(times, 3)
    count, channels, height, width = values.shape
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    grid = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, dtype=np.uint8)
    for number, image in enumerate(values.permute(0, 2, 3, 1).numpy()):
        top, left = (number // columns) * (height + _GAP), (number % columns) * (width + _GAP)
        grid[top : top + height, left : left + width] = image
    Image.fromarray(grid.squeeze(2) if channels == 1 else grid, _MODES[channels]).save(file, format="PNG")
