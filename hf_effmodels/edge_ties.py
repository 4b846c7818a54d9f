"""Whether boxes are what a suppression keeps, where another one keeps others because scores are as good as equal.

What suppression keeps is told by its rule alone: no kept box overlaps another one, and each of the others is
overlapped by a kept one that is better. Rounding decides which of two boxes with one score is the better one, and of
which class a point is with two; so the rule is asked for with the slack of rounding, and nothing more.
"""

from collections.abc import Sequence
from typing import Any

import torch

#: What rounding may change in scores, in overlaps, and in boxes in pixels.
SCORE, OVERLAP, PIXELS = 1e-5, 1e-3, 1e-2


def may_be_kept(kept: Sequence[torch.Tensor], boxes: torch.Tensor, scores: torch.Tensor, chosen: Any) -> bool:
    """Whether the rule holds.

    Args:
        kept: boxes (corners in pixels, (number, 4)), scores and labels of what was kept of one image.
        boxes: all there are, (points, 4). scores: theirs, (classes, points).
        chosen: `edge_detection.Suppression`.
    """
    ours, values, labels = kept
    best = scores.amax(0)
    possible = scores >= (0 if chosen.multi_label else best - SCORE)  # the class of a point
    if chosen.class_agnostic:
        if not (_is_one(ours, values, boxes, best) & possible[labels]).any(1).all():
            return False
        scores, possible, labels = best[None], possible.any(0)[None], torch.zeros_like(labels)
    if (values <= chosen.threshold - SCORE).any():
        return False
    # Those that are overlapped by a better one, or there themselves, or not as good as all of a full image.
    done = scores <= (values.min() + SCORE if len(values) >= chosen.max_detections else 0)
    for number, row in enumerate(scores):
        one = ours[labels == number], values[labels == number]
        found = _is_one(*one, boxes, row)
        if not (found & possible[number]).any(1).all():
            return False
        if (_overlaps(one[0], one[0]).fill_diagonal_(0) > chosen.nms_threshold + OVERLAP).any():
            return False
        better = one[1][:, None] >= row - SCORE
        done[number] |= (found | better & (_overlaps(one[0], boxes) >= chosen.nms_threshold - OVERLAP)).any(0)
    done |= scores <= chosen.threshold + SCORE
    return bool((done.all(0) if chosen.multi_label else (done & possible).any(0)).all())


def _is_one(ours, values, boxes, scores) -> torch.Tensor:
    """Which kept box, (kept, points), is which of all."""
    near = torch.cdist(ours, boxes, p=torch.inf) <= PIXELS
    return near & ((values[:, None] - scores).abs() <= SCORE)


def _overlaps(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Overlap over union, (n, 4), (m, 4) -> (n, m); 0 where one is empty."""
    sides = torch.minimum(first[:, None, 2:], second[:, 2:]) - torch.maximum(first[:, None, :2], second[:, :2])
    overlap = sides.clamp(min=0).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).clamp(min=0).prod(-1) for one in (first, second)]
    return overlap / (areas[0][:, None] + areas[1] - overlap).clamp(min=1e-9)
