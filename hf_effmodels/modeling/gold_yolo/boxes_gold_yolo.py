"""Boxes: their points, distances and overlaps. Corners are (x1, y1, x2, y2), centres (centre x, centre y, width,
height)."""

import math
from collections.abc import Sequence

import torch


def to_corners(boxes: torch.Tensor) -> torch.Tensor:
    """Corners of boxes given by centres, (..., 4)."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_centres(boxes: torch.Tensor) -> torch.Tensor:
    """Centres and sizes of boxes given by corners, (..., 4)."""
    first, second = boxes.split(2, dim=-1)
    return torch.cat([(first + second) / 2, second - first], dim=-1)


def grid_points(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], like: torch.Tensor, repeats: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of the cells of the levels' maps, in cells, and the stride of each.

    Args:
        sizes: (height, width) of each level's map.
        strides: pixels between neighbouring cells of each level.
        like: a tensor with the wanted type and device.
        repeats: how often each level's points are named, one whole map after the other.

    Returns:
        Points (number, 2) as (x + 0.5, y + 0.5), level by level and row by row, and strides (number, 1).
    """
    points, steps = [], []
    options = {"dtype": like.dtype, "device": like.device}
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = torch.arange(height, **options) + 0.5, torch.arange(width, **options) + 0.5
        level = torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)
        points.append(level.repeat(repeats, 1))
        steps.append(torch.full((repeats * height * width, 1), float(stride), **options))
    return torch.cat(points), torch.cat(steps)


def expected_distances(distribution: torch.Tensor) -> torch.Tensor:
    """Distances from the logits of distributions over 0, 1, ..., (..., 4·bins) -> (..., 4): the expectations."""
    logits = distribution.unflatten(-1, (4, -1))
    values = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return (logits.softmax(-1) * values).sum(-1)


def distances_to_boxes(distances: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Corners of the boxes whose sides are `distances` (left, top, right, bottom) away from `points`."""
    first, second = distances.split(2, dim=-1)
    return torch.cat([points - first, points + second], dim=-1)


def boxes_to_distances(boxes: torch.Tensor, points: torch.Tensor, most: float) -> torch.Tensor:
    """Distances (left, top, right, bottom) of boxes' sides (corners) from `points`, clipped to [0, most]."""
    first, second = boxes.split(2, dim=-1)
    return torch.cat([points - first, second - points], dim=-1).clamp(0, most)


def pairwise_iou(first: torch.Tensor, second: torch.Tensor, eps: float = 1e-9) -> torch.Tensor:
    """Overlap over union of every box of `first` with every box of `second`: (..., n, 4), (..., m, 4) -> (..., n, m).

    Boxes are corners; `eps` is added to the union.
    """
    first, second = first[..., :, None, :], second[..., None, :, :]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap + eps)


def iou_losses(predicted: torch.Tensor, target: torch.Tensor, kind: str, eps: float = 1e-10) -> torch.Tensor:
    """1 - IoU variant of pairs of boxes (corners): (..., 4), (..., 4) -> (...).

    Args:
        predicted, target: boxes.
        kind: "iou", "giou" (https://arxiv.org/abs/1902.09630), "diou" and "ciou" (https://arxiv.org/abs/1911.08287) or
            "siou" (https://arxiv.org/abs/2205.12740).
        eps: added to the heights, the union, and what else is divided by.
    """
    px1, py1, px2, py2 = predicted.unbind(-1)
    tx1, ty1, tx2, ty2 = target.unbind(-1)
    overlap = (torch.minimum(px2, tx2) - torch.maximum(px1, tx1)).clamp(min=0) * (
        torch.minimum(py2, ty2) - torch.maximum(py1, ty1)
    ).clamp(min=0)
    pw, ph, tw, th = px2 - px1, py2 - py1 + eps, tx2 - tx1, ty2 - ty1 + eps
    union = pw * ph + tw * th - overlap + eps
    iou = overlap / union
    if kind == "iou":
        return 1 - iou
    # The smallest box around both.
    hull_width = torch.maximum(px2, tx2) - torch.minimum(px1, tx1)
    hull_height = torch.maximum(py2, ty2) - torch.minimum(py1, ty1)
    if kind == "giou":
        hull = hull_width * hull_height + eps
        return 1 - (iou - (hull - union) / hull)
    shift_x, shift_y = (tx1 + tx2 - px1 - px2) / 2, (ty1 + ty2 - py1 - py2) / 2
    if kind in ("diou", "ciou"):
        penalty = (shift_x**2 + shift_y**2) / (hull_width**2 + hull_height**2 + eps)
        if kind == "ciou":
            angle = (4 / math.pi**2) * (torch.atan(tw / th) - torch.atan(pw / ph)) ** 2
            with torch.no_grad():
                weight = angle / (angle - iou + (1 + eps))
            penalty = penalty + angle * weight
        return 1 - (iou - penalty)
    if kind == "siou":
        shift_x, shift_y = shift_x + eps, shift_y + eps
        length = (shift_x**2 + shift_y**2) ** 0.5
        sine_x, sine_y = shift_x.abs() / length, shift_y.abs() / length
        sine = torch.where(sine_x > 2**0.5 / 2, sine_y, sine_x)
        gamma = torch.cos(2 * torch.arcsin(sine) - math.pi / 2) - 2
        distance = 2 - torch.exp(gamma * (shift_x / hull_width) ** 2) - torch.exp(gamma * (shift_y / hull_height) ** 2)
        difference_w = (pw - tw).abs() / torch.maximum(pw, tw)
        difference_h = (ph - th).abs() / torch.maximum(ph, th)
        shape = (1 - torch.exp(-difference_w)) ** 4 + (1 - torch.exp(-difference_h)) ** 4
        return 1 - (iou - 0.5 * (distance + shape))
    raise ValueError(f"kind: got {kind!r}, accepted are 'iou', 'giou', 'diou', 'ciou' and 'siou'.")
