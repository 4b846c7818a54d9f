"""Non-maximum suppression in plain PyTorch."""

import math

import torch

#: Boxes that are compared with one another at once.
BLOCK = 512


def nms(
    boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, max_detections: int | None = None
) -> torch.Tensor:
    """Indices of the boxes that no better one overlaps by more than `iou_threshold`, best first.

    The result is that of `torchvision.ops.nms`, cut to `max_detections`. Boxes of a block are resolved together:
    "kept, unless a better kept box overlaps it" is iterated until nothing changes, which takes as many rounds as the
    longest chain of such decisions. What is beyond the wanted number is never looked at.

    Args:
        boxes: corners (x1, y1, x2, y2), (number, 4).
        scores: (number,).
        iou_threshold: in [0, 1].
        max_detections: largest number of indices; None for all.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept, number = [], 0
    for start in range(0, len(boxes), BLOCK):
        block = torch.arange(start, min(start + BLOCK, len(boxes)), device=boxes.device)
        block = block[alive[block]]
        if not len(block):
            continue
        # Row i, column j: the better box i suppresses j, if it is kept itself.
        suppresses = (_iou(boxes[block], boxes[block]) > iou_threshold).triu(diagonal=1)
        keep = torch.ones(len(block), dtype=torch.bool, device=boxes.device)
        while True:
            again = ~(suppresses & keep[:, None]).any(0)
            if torch.equal(again, keep):
                break
            keep = again
        block = block[keep]
        kept.append(block)
        number += len(block)
        end = start + BLOCK
        if (max_detections is not None and number >= max_detections) or end >= len(boxes):
            break
        rest = torch.arange(end, len(boxes), device=boxes.device)[alive[end:]]
        alive[rest] = ~(_iou(boxes[block], boxes[rest]) > iou_threshold).any(0)
    if not kept:
        return order
    return order[torch.cat(kept)[:max_detections]]


def _iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Overlap over union, (n, 4), (m, 4) -> (n, m); not a number, which is above no threshold, for two empty boxes."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    size = (high - low).clamp(min=0)
    overlap = size[..., 0] * size[..., 1]
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (first, second)]
    return overlap / (areas[0][:, None] + areas[1][None] - overlap)


def select_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    threshold: float,
    iou_threshold: float,
    *,
    multi_label: bool = False,
    class_agnostic: bool = False,
    classes: list[int] | None = None,
    max_detections: int = 300,
    max_candidates: int = 30000,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The detections of one image: boxes (n, 4), scores (n,) and labels (n,), best first.

    Args:
        boxes: corners in pixels, (points, 4).
        scores: of each class, (points, classes).
        threshold: scores must be above it.
        iou_threshold: a box goes where a better one of its class overlaps it by more.
        multi_label: a point may stand for several classes; otherwise for its best one. With one class there is no
            difference.
        class_agnostic: boxes of other classes suppress, too.
        classes: numbers of the classes that are wanted; None for all.
        max_detections, max_candidates: largest number of detections, and of boxes that are compared at all.
    """
    if multi_label and scores.shape[1] > 1:
        index, labels = (scores > threshold).nonzero(as_tuple=True)
        scores = scores[index, labels]
    else:
        scores, labels = scores.max(1)
        index = (scores > threshold).nonzero()[:, 0]
        scores, labels = scores[index], labels[index]
    if classes is not None:
        wanted = torch.isin(labels, torch.as_tensor(classes, device=labels.device))
        index, scores, labels = index[wanted], scores[wanted], labels[wanted]
    if len(scores) > max_candidates:
        scores, best = scores.topk(max_candidates)
        index, labels = index[best], labels[best]
    boxes = boxes[index]
    apart = boxes
    if not class_agnostic:
        # Boxes of different classes are moved where they cannot meet.
        apart = boxes + labels[:, None].to(boxes) * _class_offset(boxes)
    kept = nms(apart, scores, iou_threshold, max_detections)
    return boxes[kept], scores[kept], labels[kept]


def _class_offset(boxes: torch.Tensor) -> int:
    """Pixels between the boxes of two classes: the published 4096, by which overlaps are rounded as there, and more
    where boxes reach further than that."""
    extent = float(boxes.max() - boxes.min()) if len(boxes) else 0
    return 4096 * max(1, math.ceil(extent / 4096)) if math.isfinite(extent) else 4096
