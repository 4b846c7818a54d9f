"""ReLabel: the label of a crop, read from a map of a strong classifier's logits (https://arxiv.org/abs/2101.05022)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch

from .checks import exact

#: How the axes of a stored map lie: [row, column], or as the published files have them, [column, row].
AXIS_ORDERS = ("row_major", "published")


def dense_label_map(scores: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The map (batch, num_classes, height, width) whose largest logits are stored, the others 0.

    Args:
        scores, classes: the K largest logits of each position and their classes, (batch, K, height, width).
    """
    _check_map(scores, classes, num_classes)
    dense = scores.new_zeros(len(scores), num_classes, *scores.shape[2:])
    return dense.scatter_(1, classes.long(), scores)


def pooled_logits(
    scores: torch.Tensor,
    classes: torch.Tensor,
    boxes: torch.Tensor | Sequence[Sequence[float]],
    num_classes: int,
    *,
    axis_order: Literal["row_major", "published"] = "row_major",
) -> torch.Tensor:
    """The average of a label map over a crop, as RoIAlign to 1×1 reads it (section 3.2): (batch, num_classes).

    Classes that a position does not store count there as logit 0. The dense map is never built.

    Args:
        scores, classes: (batch, K, height, width), see `dense_label_map`.
        boxes: crop of each image as shares of its size: (top, left, bottom, right), (batch, 4).
        axis_order: `published` reads the axes as the official loader does, which suits maps stored as [column, row].
            It measures both axes by the cells of the last one, which is all the same for the published maps, squares.
    """
    _check_map(scores, classes, num_classes)
    scores = exact(scores)
    if axis_order not in AXIS_ORDERS:
        raise ValueError(f"axis_order: got {axis_order!r}, accepted are {', '.join(AXIS_ORDERS)}.")
    sides = scores.shape[2:] if axis_order == "row_major" else (scores.shape[3], scores.shape[3])
    weights = []
    for top, left, bottom, right in torch.as_tensor(boxes, dtype=torch.float64).tolist():
        if axis_order == "published":
            top, left, bottom, right = left, top, right, bottom
        rows, columns = (
            _axis_weights(*ends, cells, side)
            for ends, cells, side in zip(((top, bottom), (left, right)), scores.shape[2:], sides, strict=True)
        )
        weights.append(rows[:, None] * columns[None])
    weights = torch.stack(weights).to(scores)
    if len(weights) != len(scores):
        raise ValueError(f"boxes: got {len(weights)}, accepted are as many as maps, {len(scores)}.")
    pooled = scores.new_zeros(len(scores), num_classes)
    return pooled.scatter_add_(1, classes.long().flatten(1), (scores * weights[:, None]).flatten(1))


def pooled_targets(
    scores: torch.Tensor,
    classes: torch.Tensor,
    boxes: torch.Tensor | Sequence[Sequence[float]],
    num_classes: int,
    *,
    axis_order: Literal["row_major", "published"] = "row_major",
    missing: Literal["zero", "excluded"] = "zero",
    temperature: float = 1.0,
) -> torch.Tensor:
    """The probabilities (batch, num_classes) that a crop is trained on: the softmax of its `pooled_logits`.

    Args:
        missing: classes that no position of the map stores have the logit 0, as published, so that together they may
            have a good part of the probability; or none of it.
        temperature: of the softmax.
    """
    logits = pooled_logits(scores, classes, boxes, num_classes, axis_order=axis_order)
    if missing == "excluded":
        stored = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, classes.long().flatten(1), True)
        logits = logits.masked_fill(~stored, float("-inf"))
    elif missing != "zero":
        raise ValueError(f"missing: got {missing!r}, accepted are 'zero' and 'excluded'.")
    return (logits / temperature).softmax(1)


def _check_map(scores: torch.Tensor, classes: torch.Tensor, num_classes: int) -> None:
    if scores.ndim != 4 or scores.shape != classes.shape:
        raise ValueError(
            f"classes: got shape {tuple(classes.shape)} for scores {tuple(scores.shape)}, accepted are (batch, K, "
            "height, width) for both."
        )
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        wrong = int(classes.min()) if classes.min() < 0 else int(classes.max())
        raise ValueError(f"classes: {wrong} is none of the {num_classes} classes.")


def _axis_weights(start: float, end: float, size: int, side: int) -> torch.Tensor:
    """Weight of each of the `size` cells of an axis in the average over [start, end], shares of `side` cells.

    RoIAlign with `aligned=False` on the box shifted by half a cell: an extent of one cell at least, so many points as
    its cells rounded up, each interpolated between two cells, 0 more than one cell outside.
    """
    first = start * side - 0.5
    # So, and not (end - start) * side: where a box is a whole number of cells long, rounding decides on a point more.
    extent = max(end * side - 0.5 - first, 1.0)
    points = math.ceil(extent)
    weights = torch.zeros(size, dtype=torch.float64)
    for number in range(points):
        place = first + (number + 0.5) * extent / points
        if not -1 <= place <= size:
            continue
        place = max(place, 0.0)
        low = min(int(place), size - 1)
        share = place - low if low < size - 1 else 0.0
        weights[low] += 1 - share
        if share:
            weights[low + 1] += share
    return weights / points
