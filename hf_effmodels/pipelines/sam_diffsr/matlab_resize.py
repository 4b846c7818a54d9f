"""MATLAB's imresize in torch: the bicubic reduction that super-resolution benchmarks are made with.

Keys' cubic kernel (a = -1/2), widened when reducing (antialiasing), weights that sum to one, borders mirrored with the
edge pixel repeated, output of ⌈scale·size⌉ pixels. The file stands alone: it is copied beside the weights when a
pipeline is saved.
"""

import math

import torch

KERNELS = {"bicubic": 4.0, "bilinear": 2.0}


def imresize(
    image: torch.Tensor, scale: float | None = None, *, size: tuple[int, int] | None = None, kernel: str = "bicubic"
) -> torch.Tensor:
    """Resize images as MATLAB's `imresize` does.

    Args:
        image: (..., height, width), floating point of any range, or uint8, for which the result of each of the two
            passes is rounded (half to even) and clipped.
        scale: of both sides; or `size`: (height, width) of the result.
        kernel: "bicubic" or "bilinear".

    Returns:
        (..., new height, new width) in the dtype of `image`.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel: got {kernel!r}, accepted are {', '.join(map(repr, KERNELS))}.")
    if (scale is None) == (size is None):
        raise ValueError("Give either scale or size.")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale: got {scale!r}, accepted are positive numbers.")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size: got {size!r}, accepted are two positive integers.")
    if not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise ValueError(f"image: got dtype {image.dtype}, accepted are uint8 and floating point.")
    if image.ndim < 2 or min(image.shape[-2:]) < 1:
        raise ValueError(f"image: expected (..., height, width), got {tuple(image.shape)}.")
    sides = tuple(image.shape[-2:])
    scales = [scale, scale] if size is None else [new / old for new, old in zip(size, sides, strict=True)]
    new_sides = size or [math.ceil(scale * side) for side in sides]

    whole = image.dtype == torch.uint8
    result = image.double() if whole else image
    # The stronger reduction first, rows before columns: with uint8 the order shows in the rounding.
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        weights = resize_weights(sides[axis], new_sides[axis], scales[axis], kernel).to(result)
        result = weights @ result if axis == 0 else result @ weights.T
        if whole:
            result = result.round().clamp(0, 255)
    return result.to(image.dtype)


def resize_weights(old: int, new: int, scale: float, kernel: str = "bicubic") -> torch.Tensor:
    """The (new, old) matrix that resizes one axis, float64."""
    support = KERNELS[kernel]
    stretch = min(scale, 1.0)
    support = support / stretch
    centres = torch.arange(1, new + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)  # counted from 1
    first = torch.floor(centres - support / 2)
    positions = first[:, None] + torch.arange(math.ceil(support) + 2, dtype=torch.float64)
    weights = _kernel(stretch * (centres[:, None] - positions), kernel) * stretch
    weights = weights / weights.sum(dim=1, keepdim=True)
    period = 2 * old
    mirrored = (positions.long() - 1) % period
    mirrored = torch.where(mirrored < old, mirrored, period - 1 - mirrored)
    return torch.zeros(new, old, dtype=torch.float64).scatter_add_(1, mirrored, weights)


def _kernel(x: torch.Tensor, kernel: str) -> torch.Tensor:
    x = x.abs()
    if kernel == "bilinear":
        return (1 - x).clamp(min=0)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
