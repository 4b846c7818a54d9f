"""What segment-everything does with masks: stability, boxes, run lengths, small regions, crops, overlaps.

Formulas and formats are those of segment-anything (https://arxiv.org/abs/2304.02643, appendix B); run lengths are
COCO's, column by column, the first one of zeros.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch


def stability_scores(logits: torch.Tensor, threshold: float = 0.0, offset: float = 1.0) -> torch.Tensor:
    """How little a mask changes with its threshold: |logits > threshold + offset| / |logits > threshold - offset|.

    Args:
        logits: (..., height, width).

    Returns:
        (...); not a number where even the larger set is empty.
    """
    inner = (logits > threshold + offset).flatten(-2).sum(-1, dtype=torch.int32)
    outer = (logits > threshold - offset).flatten(-2).sum(-1, dtype=torch.int32)
    return inner.to(torch.promote_types(logits.dtype, torch.float32)) / outer


def mask_boxes(masks: torch.Tensor) -> torch.Tensor:
    """The box of each mask (..., height, width): left, top, right, bottom, the last pixels included; 0 where empty."""
    boxes = []
    for dim in (-2, -1):
        occupied = masks.any(dim)
        first = occupied.int().argmax(-1)
        last = occupied.shape[-1] - 1 - occupied.flip(-1).int().argmax(-1)
        boxes.append((first, last))
    (left, right), (top, bottom) = boxes
    found = torch.stack([left, top, right, bottom], dim=-1)
    return found * masks.any(-1).any(-1)[..., None]


def encode_runs(mask: torch.Tensor | np.ndarray) -> dict:
    """A mask (height, width) as run lengths: {"size": [height, width], "counts": [...]}, uncompressed COCO RLE."""
    mask = np.asarray(mask.cpu() if isinstance(mask, torch.Tensor) else mask, dtype=bool)
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    borders = np.concatenate(([0], changes, [flat.size]))
    counts = np.diff(borders).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def decode_runs(runs: dict) -> np.ndarray:
    """The mask (height, width) of run lengths."""
    height, width = runs["size"]
    counts = np.asarray(runs["counts"])
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def runs_area(runs: dict) -> int:
    """Pixels of the mask of run lengths."""
    return sum(runs["counts"][1::2])


def near_crop_edge(
    boxes: torch.Tensor, crop: Sequence[int], image: Sequence[int], tolerance: float = 20.0
) -> torch.Tensor:
    """Whether a box, relative to its crop, ends at an edge of the crop that is none of the image.

    Args:
        boxes: (n, 4). crop, image: left, top, right, bottom in pixels of the image. tolerance: in pixels.
    """
    crop, image = (torch.tensor([float(v) for v in box], device=boxes.device) for box in (crop, image))
    boxes = boxes.float() + torch.stack([crop[0], crop[1], crop[0], crop[1]])
    at_crop, at_image = ((boxes - edge).abs() <= tolerance for edge in (crop, image))
    return (at_crop & ~at_image).any(-1)


def crop_boxes(height: int, width: int, layers: int, overlap_ratio: float = 512 / 1500) -> list[list[int]]:
    """The whole image, then 4^i crops for each layer i: left, top, right, bottom, a column of crops after the other.

    Args:
        overlap_ratio: overlap of the first layer's crops over the image's short side; later layers' is halved.
    """
    boxes = [[0, 0, width, height]]
    for layer in range(1, layers + 1):
        sides = 2**layer
        overlap = int(overlap_ratio * min(height, width) * 2 / sides)
        crop_width, crop_height = (math.ceil((overlap * (sides - 1) + side) / sides) for side in (width, height))
        for column in range(sides):
            for row in range(sides):
                left, top = (crop_width - overlap) * column, (crop_height - overlap) * row
                boxes.append([left, top, min(left + crop_width, width), min(top + crop_height, height)])
    return boxes


def remove_small_regions(mask: np.ndarray, area: int, mode: str) -> tuple[np.ndarray, bool]:
    """A mask without its holes, or without its islands, below an area; and whether it was changed.

    Regions are connected through their eight neighbours. Where all islands are small the largest one stays.

    Args:
        mask: booleans, (height, width). area: in pixels. mode: "holes" or "islands".
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode: got {mode!r}, accepted are 'holes' and 'islands'.")
    holes = mode == "holes"
    regions, sizes = _regions(~mask if holes else mask)
    small = sizes < area
    if not small.any():
        return mask, False
    if holes:
        return mask | np.isin(regions, np.flatnonzero(small) + 1), True
    kept = np.flatnonzero(~small) if not small.all() else [sizes.argmax()]
    return np.isin(regions, np.asarray(kept) + 1), True


def suppress_overlapping(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Non-maximum suppression: the numbers of the boxes to keep, by falling score.

    Args:
        boxes: (n, 4), left, top, right, bottom. scores: (n,).
        threshold: a box goes if its intersection over union with a better one that stays is larger.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for index in range(len(boxes)):
        if keep[index]:
            low = torch.maximum(boxes[index, :2], boxes[index + 1 :, :2])
            high = torch.minimum(boxes[index, 2:], boxes[index + 1 :, 2:])
            shared = (high - low).clamp(min=0).prod(dim=1)
            keep[index + 1 :] &= ~(shared / (areas[index] + areas[index + 1 :] - shared) > threshold)
    return order[keep]


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected regions through eight neighbours: their numbers (height, width), 0 outside; their areas.

    Row by row: each run of set pixels joins the runs of the row above that it touches.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first = np.searchsorted(rows, np.arange(height + 1))
    for row in range(1, height):
        above, stop, run = first[row - 1], first[row], first[row]
        while above < stop and run < first[row + 1]:
            if starts[above] <= ends[run] and starts[run] <= ends[above]:
                one, other = root(above), root(run)
                parents[max(one, other)] = min(one, other)
            if ends[above] < ends[run]:
                above += 1
            else:
                run += 1
    roots = np.array([root(run) for run in range(len(rows))], dtype=np.int64)
    _, numbers = np.unique(roots, return_inverse=True)
    regions = np.zeros((height, width), dtype=np.int64)
    for row, start, end, number in zip(rows, starts, ends, numbers, strict=True):
        regions[row, start:end] = number + 1
    sizes = np.bincount(numbers, weights=ends - starts).astype(np.int64) if len(rows) else np.zeros(0, np.int64)
    return regions, sizes
