"""Histograms of oriented gradients, the target of masked image models (MaskFeat, https://arxiv.org/abs/2112.09133)."""

import math

import torch
from torch.nn import functional as F


def histograms_of_gradients(
    pixel_values: torch.Tensor,
    bins: int = 9,
    cell: int = 8,
    *,
    pooling: str = "sum",
    window: int = 0,
    bias: torch.Tensor | None = None,
    normalize: bool = True,
) -> torch.Tensor:
    """Of every colour channel, how much gradient of each orientation there is in every cell.

    Computed in float32 at least: an orientation belongs to one bin as a whole, and rounding would move it to the next.

    Args:
        pixel_values: (batch, channels, height, width).
        bins: orientations between 0 and π, on which opposite gradients fall together.
        cell: side of a cell in pixels; it divides height and width.
        pooling: "sum" of the magnitudes in a cell (MaskFeat, FastMIM) or their "mean" (LocalMIM).
        window: side of the Gaussian windows that tile the image and weigh the magnitudes; 0 for none.
        bias: (2,), added to the horizontal and the vertical gradient, as LocalMIM's `hog_bias` does.
        normalize: divide each cell's histogram by its length.

    Returns:
        (batch, channels · bins, height / cell, width / cell), all bins of the first channel first.

    Raises:
        ValueError: a size that the cells or windows do not divide, or less than two pixels.
    """
    batch, channels, height, width = pixel_values.shape
    for name, side in (("cell", cell), ("window", window)):
        if side and (height % side or width % side):
            raise ValueError(f"{name}: got {side}, which does not divide images of {height}×{width} pixels.")
    if min(height, width) < 2:
        raise ValueError(f"pixel_values: got {height}×{width} pixels, a gradient takes 2×2 at least.")
    if pooling not in ("sum", "mean"):
        raise ValueError(f"pooling: got {pooling!r}, accepted are 'sum' and 'mean'.")
    pixels = pixel_values.to(torch.promote_types(pixel_values.dtype, torch.float32)).reshape(-1, 1, height, width)
    across, down = _sobel(F.pad(pixels, (1, 1, 1, 1), mode="reflect")[:, 0])
    if bias is not None:
        across, down = across + bias[0].to(across), down + bias[1].to(down)
    magnitude = torch.hypot(across, down)
    phase = torch.atan2(across, down) / math.pi * bins
    if window:
        magnitude = magnitude * gaussian_window(window).to(magnitude).repeat(height // window, width // window)
    # The magnitudes are added up by (cell, bin) at once: a map of `bins` times the image is never made.
    rows, columns = height // cell, width // cell
    of_row = torch.arange(height, device=pixels.device) // cell * columns
    of_column = torch.arange(width, device=pixels.device) // cell
    index = phase.floor().long() % bins * (rows * columns) + of_row[:, None] + of_column
    found = magnitude.new_zeros(len(magnitude), bins * rows * columns)
    found = found.scatter_add(1, index.flatten(1), magnitude.flatten(1)).view(-1, bins, rows, columns)
    if pooling == "mean":
        found = found / cell**2
    if normalize:
        found = F.normalize(found, dim=1)
    return found.reshape(batch, channels * bins, rows, columns)


def _sobel(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The horizontal and the vertical gradient of (images, height + 2, width + 2), by rows and columns: on a CPU much
    faster than a convolution of one channel."""
    rows = pixels[:, :-2] + 2 * pixels[:, 1:-1] + pixels[:, 2:]
    columns = pixels[:, :, :-2] + 2 * pixels[:, :, 1:-1] + pixels[:, :, 2:]
    return rows[:, :, :-2] - rows[:, :, 2:], columns[:, :-2] - columns[:, 2:]


def gaussian_window(side: int) -> torch.Tensor:
    """(side, side), of the deviation ⌊side / 2⌋ around the middle, with the sum 1; float32, as published."""
    offsets = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    line = torch.exp(-(offsets**2) / (2 * max(side // 2, 1) ** 2))
    kernel = line[:, None] * line
    return kernel / kernel.sum()
