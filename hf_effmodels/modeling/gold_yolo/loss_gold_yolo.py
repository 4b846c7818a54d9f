"""What Gold-YOLO is trained with: varifocal loss of the classes, IoU and distribution focal loss of the boxes, on the
points that the assignment gives a box."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .assignment_gold_yolo import Assignment, atss_assignment, task_aligned_assignment
from .boxes_gold_yolo import (
    boxes_to_distances,
    distances_to_boxes,
    expected_distances,
    grid_points,
    iou_losses,
    to_corners,
)
from .configuration_gold_yolo import STRIDES, GoldYoloConfig

#: What becomes of a batch's summed target scores before the losses are divided by them: nothing, or where batches are
#: parts of a larger one, their mean over the parts.
Share = Callable[[torch.Tensor], torch.Tensor] | None


@dataclass(frozen=True)
class Losses:
    """The parts of the loss, each with its weight, and what they were computed from.

    Attributes:
        loss_class, loss_box, loss_distribution: scalars; loss_distribution is None without distributions.
        assignment: of the points.
    """

    loss_class: torch.Tensor
    loss_box: torch.Tensor
    loss_distribution: torch.Tensor | None
    assignment: Assignment

    def parts(self) -> dict[str, torch.Tensor]:
        """The parts by name."""
        parts = {"loss_class": self.loss_class, "loss_box": self.loss_box}
        return parts if self.loss_distribution is None else parts | {"loss_distribution": self.loss_distribution}

    def total(self) -> torch.Tensor:
        return sum(self.parts().values())


def varifocal_loss(
    logits: torch.Tensor, scores: torch.Tensor, is_label: torch.Tensor, alpha: float = 0.75, gamma: float = 2.0
) -> torch.Tensor:
    """Sum of BCE(p, q) · (alpha · p^gamma · (1 - y) + q · y) (https://arxiv.org/abs/2008.13367, equation 2).

    The weight takes part in the gradient. All arguments (..., classes): logits of p, target scores q, and y, whether
    the class is the point's own. In float32 at least.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    scores, is_label = scores.to(logits), is_label.to(logits)
    probabilities = logits.sigmoid()
    weight = alpha * probabilities**gamma * (1 - is_label) + scores * is_label
    return (F.binary_cross_entropy_with_logits(logits, scores, reduction="none") * weight).sum()


def distribution_focal_loss(logits: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Cross-entropy to the two bins next to each distance, weighted linearly, mean over a box's sides.

    That is equation 6 of https://arxiv.org/abs/2006.04388. Logits (..., 4, bins), distances (..., 4) in [0, bins - 1)
    -> (...).
    """
    left = distances.long()
    weight = distances - left
    log_p = logits.log_softmax(-1)
    first = log_p.gather(-1, left[..., None])[..., 0]
    second = log_p.gather(-1, left[..., None] + 1)[..., 0]
    return -(first * (1 - weight) + second * weight).mean(-1)


def divided(loss: torch.Tensor, normalizer: torch.Tensor) -> torch.Tensor:
    """The loss per unit of the summed target scores, or as it is where they are zero."""
    return loss / torch.where(normalizer > 0, normalizer, torch.ones_like(normalizer))


def pad_labels(labels: Sequence[dict], width: int, height: int, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Classes (batch, most), boxes (batch, most, 4; corners in pixels) and which rows are boxes, of a batch's labels.

    Args:
        labels: for each image `class_labels` (n,) and `boxes` (n, 4), centres relative to the network's input.
        width, height: of the input in pixels.
    """
    most = max((len(label["class_labels"]) for label in labels), default=0)
    classes = torch.full((len(labels), most), -1, dtype=torch.long, device=like.device)
    boxes = torch.zeros(len(labels), most, 4, dtype=like.dtype, device=like.device)
    scale = boxes.new_tensor([width, height, width, height])
    for index, label in enumerate(labels):
        number = len(label["class_labels"])
        classes[index, :number] = label["class_labels"].to(classes)
        boxes[index, :number] = to_corners(label["boxes"].to(boxes)) * scale
    return classes, boxes, boxes.sum(-1) > 0


def _assigned_losses(
    logits: torch.Tensor,
    boxes: Sequence[torch.Tensor],
    distribution: torch.Tensor | None,
    points: torch.Tensor,
    strides: torch.Tensor,
    assignment: Assignment,
    config: GoldYoloConfig,
    share: Share = None,
) -> Losses:
    """The losses of a branch. `boxes`: predictions (corners in cells), all learning the same; `points` in cells."""
    scores = assignment.scores
    normalizer = scores.sum() if share is None else share(scores.sum())
    is_label = F.one_hot(assignment.labels, logits.shape[-1] + 1)[..., :-1]
    loss_class = divided(varifocal_loss(logits, scores, is_label), normalizer)
    foreground = assignment.foreground
    weight = scores.sum(-1)[foreground]
    targets = (assignment.boxes / strides)[foreground]
    loss_box = sum(
        divided((iou_losses(predicted[foreground], targets, config.iou_type) * weight).sum(), normalizer)
        for predicted in boxes
    )
    loss_distribution = None
    if distribution is not None:
        bins = distribution.shape[-1] // 4
        distances = boxes_to_distances(targets, points.expand_as(assignment.boxes[..., :2])[foreground], bins - 1.01)
        per_box = distribution_focal_loss(distribution[foreground].unflatten(-1, (4, bins)), distances)
        loss_distribution = config.distribution_loss_weight * divided((per_box * weight).sum(), normalizer)
    return Losses(
        config.class_loss_weight * loss_class, config.box_loss_weight * loss_box, loss_distribution, assignment
    )


def box_losses(
    logits: torch.Tensor,
    regression: torch.Tensor,
    labels: Sequence[dict],
    sizes: Sequence[tuple[int, int]],
    config: GoldYoloConfig,
    *,
    direct_regression: torch.Tensor | None = None,
    assigner: str = "tal",
    strides: Sequence[int] = STRIDES,
    share: Share = None,
) -> Losses:
    """The losses of the anchor-free branch.

    Args:
        logits: (batch, points, classes).
        regression: (batch, points, 4·(reg_max + 1)), or (batch, points, 4) distances in cells where `reg_max` is 0.
        labels: see `pad_labels`.
        sizes: (height, width) of the levels' maps.
        direct_regression: distances (batch, points, 4) of the distillation head's second branch.
        assigner: "tal" or "atss".
        strides: pixels between neighbouring cells of each level.
        share: see `Share`.
    """
    regression = regression if regression.dtype == torch.float64 else regression.float()
    points, steps = grid_points(sizes, strides, regression)
    has_bins = config.reg_max > 0
    distances = expected_distances(regression) if has_bins else regression
    boxes = [distances_to_boxes(distances, points)]
    height, width = (size * strides[0] for size in sizes[0])
    classes, truth, is_box = pad_labels(labels, width, height, regression)
    if assigner == "tal":
        assignment = task_aligned_assignment(
            logits.detach().sigmoid().to(regression),
            boxes[0].detach() * steps,
            points * steps,
            classes,
            truth,
            is_box,
            topk=config.assigner_topk,
            alpha=config.assigner_alpha,
            beta=config.assigner_beta,
        )
    elif assigner == "atss":
        assignment = atss_assignment(
            boxes[0].detach() * steps,
            points * steps,
            steps,
            [height * width for height, width in sizes],
            classes,
            truth,
            is_box,
            logits.shape[-1],
            topk=config.atss_topk,
        )
    else:
        raise ValueError(f"assigner: got {assigner!r}, accepted are 'tal' and 'atss'.")
    if direct_regression is not None:
        boxes.append(distances_to_boxes(direct_regression.to(regression), points))
    distribution = regression if has_bins else None
    return _assigned_losses(logits, boxes, distribution, points, steps, assignment, config, share)


def anchor_box_losses(
    logits: torch.Tensor,
    offsets_and_sizes: torch.Tensor,
    labels: Sequence[dict],
    sizes: Sequence[tuple[int, int]],
    config: GoldYoloConfig,
    *,
    strides: Sequence[int] = STRIDES,
    share: Share = None,
) -> Losses:
    """The losses of the anchor-based branch: as `box_losses`, without distributions.

    Args:
        logits: (batch, anchors · points, classes), a whole map of each anchor after the other within a level.
        offsets_and_sizes: (batch, anchors · points, 4): offset of the centre from the point, and size, in cells.
    """
    predicted = offsets_and_sizes if offsets_and_sizes.dtype == torch.float64 else offsets_and_sizes.float()
    points, steps = grid_points(sizes, strides, predicted, repeats=len(config.anchors[0]))
    boxes = to_corners(torch.cat([predicted[..., :2] + points, predicted[..., 2:]], dim=-1))
    height, width = (size * strides[0] for size in sizes[0])
    classes, truth, is_box = pad_labels(labels, width, height, predicted)
    assignment = task_aligned_assignment(
        logits.detach().sigmoid().to(predicted),
        boxes.detach() * steps,
        points * steps,
        classes,
        truth,
        is_box,
        topk=config.anchor_assigner_topk,
        alpha=config.assigner_alpha,
        beta=config.assigner_beta,
    )
    return _assigned_losses(logits, [boxes], None, points, steps, assignment, config, share)


def gold_yolo_object_detection_loss(
    logits: torch.Tensor,
    regression: torch.Tensor,
    labels: Sequence[dict],
    sizes: Sequence[tuple[int, int]],
    config: GoldYoloConfig,
    *,
    direct_regression: torch.Tensor | None = None,
    anchor_logits: torch.Tensor | None = None,
    anchor_boxes: torch.Tensor | None = None,
    assigner: str = "tal",
    share: Share = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The whole loss and its parts by name; see `box_losses` and `anchor_box_losses`, whose losses are added up."""
    options = {"direct_regression": direct_regression, "assigner": assigner, "share": share}
    losses = box_losses(logits, regression, labels, sizes, config, **options)
    loss, parts = losses.total(), losses.parts()
    if anchor_logits is not None:
        losses = anchor_box_losses(anchor_logits, anchor_boxes, labels, sizes, config, share=share)
        loss = loss + losses.total()
        parts |= {f"{name}_anchors": value for name, value in losses.parts().items()}
    return loss, parts
