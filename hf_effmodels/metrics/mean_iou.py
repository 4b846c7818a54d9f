"""Mean intersection over union of maps of classes, from counts of pixels that can be summed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class MeanIoU:
    """
    Attributes:
        metrics: "miou" (mean over the classes that are anywhere), "pixel_accuracy", "mean_accuracy" (over the classes
            that are in the truth), all in [0, 1].
        per_class: IoU of each class by its name; not a number where the class is neither in the truth nor found.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]


def confusion(truth: torch.Tensor, found: torch.Tensor, num_classes: int, ignore_index: int = 255) -> torch.Tensor:
    """
    Pixels of each true class (rows) that were found as each class (columns), (num_classes, num_classes) of int64.

    Args:
        truth, found: maps of one shape; pixels whose truth is `ignore_index` are left out.

    Raises:
        ValueError: maps of other shapes, or classes that there are not.
    """
    if truth.shape != found.shape:
        raise ValueError(f"found: got a map of {tuple(found.shape)}, accepted is that of truth, {tuple(truth.shape)}.")
    counted = truth != ignore_index
    truth, found = truth[counted].long(), found[counted].long()
    for name, values in (("truth", truth), ("found", found)):
        if values.numel() and (values.min() < 0 or values.max() >= num_classes):
            wrong = int(values.max() if values.max() >= num_classes else values.min())
            raise ValueError(f"{name}: got the class {wrong}, accepted are 0 to {num_classes - 1}.")
    return torch.bincount(truth * num_classes + found, minlength=num_classes**2).view(num_classes, num_classes)


def mean_iou(counts: torch.Tensor, names: Sequence[str]) -> MeanIoU:
    """What counts of `confusion`, summed over images, say.

    Raises:
        ValueError: there is no pixel with a class.
    """
    counts = counts.double()
    if not counts.sum():
        raise ValueError("counts: got none, accepted are maps in which some pixel has a class.")
    hit, true, found = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou, accuracy = hit / (true + found - hit), hit / true  # of a class that is nowhere 0 / 0, which is no number
    metrics = {
        "miou": float(iou.nanmean()),
        "pixel_accuracy": float(hit.sum() / counts.sum()),
        "mean_accuracy": float(accuracy.nanmean()),
    }
    return MeanIoU(metrics, {name: float(value) for name, value in zip(names, iou, strict=True)})
