"""Segmentation masks -> one structure map, the mean of the training noise (SAM-DiffSR, arXiv:2402.17133).

Every mask becomes one number: the mean, over the whole image, of a position encoding within the mask. The map holds
that number in the mask's pixels; where masks overlap the later one counts, and pixels in no mask are 0.
"""

from collections.abc import Sequence

import numpy as np

ENCODINGS = ("rope", "cosine", "sincos")
NORMALIZATIONS = ("none", "z_score", "z_score_minus_one")


def position_encoding(height: int, width: int) -> np.ndarray:
    """The rotary position encoding of a column of ones, (height, width) float64.

    Columns are the features, rows the positions: with f_i = 10000^(-2i/width), the pair of columns (2i, 2i+1) of row p
    is (cos(p f_i) - sin(p f_i), sin(p f_i) + cos(p f_i)). A last column without a partner stays 1.
    """
    half = width // 2
    angles = np.arange(height)[:, None] * 10_000.0 ** (-2 * np.arange(half) / width)
    encoding = np.ones((height, width))
    encoding[:, 0 : 2 * half : 2] = np.cos(angles) - np.sin(angles)
    encoding[:, 1 : 2 * half : 2] = np.cos(angles) + np.sin(angles)
    return encoding


def region_values(masks: Sequence, encoding: str = "rope") -> np.ndarray:
    """The number of each mask, (masks,) float64.

    Args:
        masks: (height, width) arrays of one size, booleans or 0/1.
        encoding: "rope" (the paper's): mean over the image of position encoding × mask. "cosine": √(share of the
            image). "sincos" (square images): as "rope", with the official code's other encoding.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding: got {encoding!r}, accepted are {', '.join(map(repr, ENCODINGS))}.")
    masks = _checked(masks)
    if not masks:
        return np.zeros(0)
    height, width = masks[0].shape
    if encoding == "cosine":
        return np.sqrt([mask.mean() for mask in masks])
    if encoding == "rope":
        base = position_encoding(height, width)
    else:
        if height != width:
            raise ValueError(f"encoding: 'sincos' is for square images, got masks of {height}×{width}.")
        sines = np.sin(1 / 0.001 ** (2 * np.arange(width) / width))
        base = sines[None, :] * np.cos(sines)[:, None]
    return np.array([base[mask].sum() / base.size for mask in masks])


def encode_masks(
    masks: Sequence, size: tuple[int, int] | None = None, encoding: str = "rope", dtype=np.float32
) -> np.ndarray:
    """The structure map of an image, (height, width).

    Args:
        masks: (height, width) arrays of one size, booleans or 0/1, in the order of the segmentation model: where two
            overlap the later one counts.
        size: (height, width) of the image. Needed where there are no masks, whose map is 0 everywhere; otherwise the
            masks must have it.
        encoding: see `region_values`.
        dtype: of the map.
    """
    return _paint(_checked(masks), region_values(masks, encoding), size, dtype)


def encode_regions(
    masks: Sequence, size: tuple[int, int] | None = None, encoding: str = "rope"
) -> tuple[np.ndarray, np.ndarray]:
    """The structure map of an image as a map of regions and a table of their numbers, which files hold losslessly.

    Args:
        masks, size, encoding: see `encode_masks`.

    Returns:
        The region of each pixel, (height, width) uint16, 0 for none and k + 1 for mask k; and the numbers of the
        masks, (masks,) float32. `decode_regions` makes of both what `encode_masks` returns.
    """
    values = region_values(masks, encoding)
    if len(values) >= 2**16:
        raise ValueError(f"masks: got {len(values)}, at most {2**16 - 1} are accepted.")
    return _paint(_checked(masks), range(1, len(values) + 1), size, np.uint16), values.astype(np.float32)


def decode_regions(regions: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """The structure map, (height, width) float32, of what `encode_regions` returned.

    Raises:
        ValueError: a region without a number.
    """
    regions = np.asarray(regions)
    table = np.concatenate([np.zeros(1, np.float32), np.asarray(values, dtype=np.float32).reshape(-1)])
    if regions.size and not (regions.min() >= 0 and regions.max() < len(table)):
        raise ValueError(f"regions: {regions.min()} to {regions.max()}, but there are {len(table) - 1} values.")
    return table[regions]


def _paint(masks: list[np.ndarray], numbers: Sequence, size: tuple[int, int] | None, dtype) -> np.ndarray:
    """A map, (height, width), with each mask's number in its pixels; the later one's where two overlap, 0 in none."""
    if not masks and size is None:
        raise ValueError("size: needed where there are no masks.")
    shape = masks[0].shape if masks else tuple(size)
    if size is not None and shape != tuple(size):
        raise ValueError(f"masks: they are {shape[0]}×{shape[1]}, the image is {size[0]}×{size[1]}.")
    structure = np.zeros(shape, dtype)
    for mask, number in zip(masks, numbers, strict=True):
        structure[mask] = number
    return structure


def normalize_structure(structure: np.ndarray, mode: str = "none", constant_to_zero: bool = False) -> np.ndarray:
    """Normalise the map of a training patch (all off in the published recipe).

    Args:
        structure: (..., height, width).
        mode: "z_score": (E - mean)/deviation, the official `normalize_01`; "z_score_minus_one": that minus 1, the
            official `normalize_11`. A patch with a single value stays as it is.
        constant_to_zero: a patch with a single value becomes 0 (the official `all_same_mask_to_zero`).
    """
    if mode not in NORMALIZATIONS:
        raise ValueError(f"mode: got {mode!r}, accepted are {', '.join(map(repr, NORMALIZATIONS))}.")
    structure = np.asarray(structure, dtype=np.float32)
    if structure.min() == structure.max():
        return np.zeros_like(structure) if constant_to_zero else structure
    if mode == "none":
        return structure
    normalized = (structure - structure.mean()) / structure.std()
    return normalized - 1 if mode == "z_score_minus_one" else normalized


def _checked(masks: Sequence) -> list[np.ndarray]:
    masks = [np.asarray(mask) for mask in masks]
    for mask in masks:
        if mask.ndim != 2 or mask.shape != masks[0].shape:
            raise ValueError(
                f"masks: expected arrays (height, width) of one size, got {sorted({m.shape for m in masks})}."
            )
    return [mask.astype(bool) for mask in masks]
