"""Which point of the maps learns which box: task-aligned assignment (TAL, https://arxiv.org/abs/2108.07755) and
adaptive training sample selection (ATSS, https://arxiv.org/abs/1912.02424)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .boxes_gold_yolo import pairwise_iou

#: Above so many boxes in an image, images are assigned one after the other: the same numbers in less memory.
MOST_BOXES_AT_ONCE = 100


@dataclass(frozen=True)
class Assignment:
    """What each point has to learn.

    Attributes:
        foreground: whether the point has a box, (batch, points).
        labels: class of its box, (batch, points); the number of classes where it has none.
        boxes: its box (corners, pixels), (batch, points, 4); zeros where it has none.
        scores: target of each class's score, (batch, points, classes).
    """

    foreground: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor

    @staticmethod
    def concatenate(parts: Sequence["Assignment"]) -> "Assignment":
        return Assignment(*(torch.cat([getattr(part, n) for part in parts]) for n in Assignment.__dataclass_fields__))


def _inside(points: torch.Tensor, boxes: torch.Tensor, eps: float = 1e-9) -> torch.Tensor:
    """Whether points (m, 2) are strictly inside boxes (b, n, 4): (b, n, m)."""
    low = points - boxes[..., None, :2]
    high = boxes[..., None, 2:] - points
    return torch.cat([low, high], dim=-1).amin(-1) > eps


def _one_box_each(chosen: torch.Tensor, overlaps: torch.Tensor) -> torch.Tensor:
    """Give points that several boxes chose to the box of the highest overlap; both (b, n, m)."""
    best = F.one_hot(overlaps.argmax(1), overlaps.shape[1]).transpose(1, 2).bool()
    return torch.where(chosen.sum(1, keepdim=True) > 1, best, chosen)


def _background(points: int, boxes: torch.Tensor, classes: int) -> Assignment:
    batch = boxes.shape[0]
    return Assignment(
        boxes.new_zeros(batch, points, dtype=torch.bool),
        boxes.new_full((batch, points), classes, dtype=torch.long),
        boxes.new_zeros(batch, points, 4),
        boxes.new_zeros(batch, points, classes),
    )


def _assignment(chosen, labels, boxes, classes: int, quality) -> Assignment:
    """The targets of points that each belong to one box at most; `quality` (b, m) is the score of the box's class."""
    foreground = chosen.any(1)
    index = chosen.int().argmax(1)
    labels = torch.where(foreground, labels.gather(1, index), classes)
    scores = F.one_hot(labels, classes + 1)[..., :classes] * quality[..., None]
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4)) * foreground[..., None]
    return Assignment(foreground, labels, boxes, scores)


@torch.no_grad()
def task_aligned_assignment(
    scores: torch.Tensor,
    predicted: torch.Tensor,
    points: torch.Tensor,
    labels: torch.Tensor,
    boxes: torch.Tensor,
    is_box: torch.Tensor,
    *,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
    eps: float = 1e-9,
) -> Assignment:
    """Task-aligned assignment: each box gets the `topk` points inside it of the highest score^alpha · IoU^beta.

    A point that several boxes want goes to the one of the highest IoU. The target score of a point is its alignment,
    scaled so that the best point of a box has the box's best IoU.

    Args:
        scores: predicted scores in [0, 1], (batch, points, classes).
        predicted: predicted boxes (corners, pixels), (batch, points, 4).
        points: the points, (points, 2), in pixels.
        labels: class of each true box, (batch, boxes); boxes (batch, boxes, 4), corners in pixels; is_box (batch,
            boxes): False where a row is filled up.
    """
    classes = scores.shape[-1]
    if not is_box.any():
        return _background(len(points), boxes.to(scores), classes)
    if boxes.shape[1] > MOST_BOXES_AT_ONCE and len(boxes) > 1:
        options = {"topk": topk, "alpha": alpha, "beta": beta, "eps": eps}
        per_image = zip(*(t.split(1) for t in (scores, predicted, labels, boxes, is_box)), strict=True)
        return Assignment.concatenate(
            [task_aligned_assignment(s, p, points, n, b, i, **options) for s, p, n, b, i in per_image]
        )
    index = labels.clamp(min=0)[:, None].expand(-1, scores.shape[1], -1)
    overlaps = pairwise_iou(boxes, predicted, eps)
    metric = scores.gather(2, index).transpose(1, 2) ** alpha * overlaps**beta
    allowed = _inside(points, boxes) & is_box[..., None]
    best = (metric * allowed).topk(min(topk, metric.shape[-1]), dim=-1).indices
    chosen = torch.zeros_like(allowed).scatter_(-1, best, True) & allowed
    chosen = _one_box_each(chosen, overlaps)
    metric = metric * chosen
    best_metric = metric.amax(-1, keepdim=True)
    best_overlap = (overlaps * chosen).amax(-1, keepdim=True)
    quality = (metric * best_overlap / (best_metric + eps)).amax(1)
    return _assignment(chosen, labels.long(), boxes.to(scores), classes, quality)


@torch.no_grad()
def atss_assignment(
    predicted: torch.Tensor,
    points: torch.Tensor,
    strides: torch.Tensor,
    level_sizes: Sequence[int],
    labels: torch.Tensor,
    boxes: torch.Tensor,
    is_box: torch.Tensor,
    classes: int,
    *,
    topk: int = 9,
    side: float = 5.0,
) -> Assignment:
    """Adaptive training sample selection: of the `topk` points per level nearest to a box's centre, those inside it
    whose anchor box (a square of `side` strides) overlaps it by more than the mean plus the standard deviation.

    The target score is the IoU of the *predicted* box.

    Args:
        predicted, points, labels, boxes, is_box: as of `task_aligned_assignment`; strides: (points, 1), in pixels.
        level_sizes: number of points of each level, in their order.
        classes: number of classes.
    """
    if not is_box.any():
        return _background(len(points), boxes.to(predicted), classes)
    half = strides * side / 2
    anchors = torch.cat([points - half, points + half], dim=-1).to(boxes)
    overlaps = pairwise_iou(boxes, anchors, eps=0.0)
    distances = torch.cdist(
        (boxes[..., :2] + boxes[..., 2:]) / 2, points.to(boxes)[None], compute_mode="donot_use_mm_for_euclid_dist"
    )
    candidates, start = [], 0
    for size in level_sizes:
        level = distances[..., start : start + size]
        candidates.append(level.topk(min(topk, size), dim=-1, largest=False).indices + start)
        start += size
    candidates = torch.cat(candidates, dim=-1)
    of_candidates = overlaps.gather(-1, candidates)
    threshold = of_candidates.mean(-1, keepdim=True) + of_candidates.std(-1, keepdim=True)
    chosen = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(-1, candidates, of_candidates > threshold)
    chosen &= _inside(points, boxes) & is_box[..., None]
    chosen = _one_box_each(chosen, overlaps)
    quality = (pairwise_iou(boxes, predicted) * chosen).amax(1)
    return _assignment(chosen, labels.long(), boxes.to(predicted), classes, quality)
