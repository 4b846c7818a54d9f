"""COCO's average precision, by pycocotools (the extra `detection`), and what else tells how a detector errs."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

#: Name -> position in pycocotools' summary.
NAMES = {
    **{"map": 0, "map_50": 1, "map_75": 2, "map_small": 3, "map_medium": 4, "map_large": 5},
    **{"mar_1": 6, "mar_10": 7, "mar_100": 8, "mar_small": 9, "mar_medium": 10, "mar_large": 11},
}


@dataclass(frozen=True)
class Detections:
    """The boxes of one image, true ones or found ones.

    Attributes:
        boxes: corners (x1, y1, x2, y2) in the image's pixels, (n, 4).
        labels: class of each, (n,).
        scores: of found ones, (n,).
        crowd: of true ones, whether it stands for many objects, which are neither missed nor false then, (n,).
        area: of true ones, where it is not the box's, (n,).
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None


@dataclass(frozen=True)
class AveragePrecision:
    """What pycocotools measured.

    Attributes:
        metrics: `NAMES` -> value in [0, 1]; those that nothing could be measured of are left out.
        per_class: AP of each class by its name; not a number where there are no true boxes.
        curves: precision at recall 0, 0.01, ..., 1 and IoU 0.5, by class name, (101,).
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    curves: dict[str, np.ndarray]


def average_precision(
    truth: Sequence[Detections], found: Sequence[Detections], names: Sequence[str]
) -> AveragePrecision:
    """AP and AR over IoU 0.5 to 0.95 of the found boxes, image by image.

    Args:
        truth, found: of the same images, in the same order; the best hundred of each image count.
        names: of the classes.

    Raises:
        ValueError: not as many images were found in as there are.
    """
    if len(truth) != len(found):
        raise ValueError(f"found: got {len(found)} images, accepted are as many as of truth, {len(truth)}.")
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    images = [{"id": number} for number in range(len(truth))]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress
        true = _indexed(COCO(), images, categories, _rows(truth))
        rows = _rows(found)
        measured = COCOeval(true, _indexed(COCO(), images, categories, rows), "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    values = {name: float(measured.stats[index]) for name, index in NAMES.items()}
    precision = measured.eval["precision"]  # IoU, recall, class, area, number of detections
    per_class, curves = {}, {}
    for number, name in enumerate(names):
        at = precision[:, :, number, 0, -1]
        valid = at[at > -1]
        per_class[name] = float(valid.mean()) if valid.size else float("nan")
        curves[name] = precision[0, :, number, 0, -1]
    return AveragePrecision({name: value for name, value in values.items() if value >= 0}, per_class, curves)


def _rows(images: Sequence[Detections]) -> list[dict]:
    rows = []
    for image, detections in enumerate(images):
        sizes = detections.boxes[:, 2:] - detections.boxes[:, :2]
        for index, (box, size) in enumerate(zip(detections.boxes.tolist(), sizes.tolist(), strict=True)):
            row = {"id": len(rows) + 1, "image_id": image, "category_id": int(detections.labels[index])}
            row |= {"bbox": [box[0], box[1], *size], "area": size[0] * size[1], "iscrowd": 0}
            if detections.scores is not None:
                row["score"] = float(detections.scores[index])
            if detections.crowd is not None:
                row["iscrowd"] = int(detections.crowd[index])
            if detections.area is not None:
                row["area"] = float(detections.area[index])
            rows.append(row)
    return rows


def _indexed(coco, images: list[dict], categories: list[dict], annotations: list[dict]):
    coco.dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def confusion(
    truth: Sequence[Detections],
    found: Sequence[Detections],
    classes: int,
    *,
    threshold: float = 0.4,
    iou_threshold: float = 0.5,
) -> np.ndarray:
    """Counts (classes + 1, classes + 1) of true classes (rows) found as classes (columns).

    Found boxes with scores above `threshold` take, the best first, the true box that they overlap most, by more than
    `iou_threshold`. The last row counts those without one, the last column the true boxes that none took. Crowds are
    neither missed, nor are boxes of their class false that lie in them by more than `iou_threshold`.
    """
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for true, given in zip(truth, found, strict=True):
        crowd = np.zeros(len(true.boxes), dtype=bool) if true.crowd is None else true.crowd.astype(bool)
        free = ~crowd
        order = np.argsort(-given.scores, kind="stable")
        overlaps = _iou(given.boxes, true.boxes)
        for index in order[given.scores[order] > threshold]:
            overlap = np.where(free, overlaps[index], -1.0) if len(free) else np.empty(0)
            best = int(overlap.argmax()) if len(free) else -1
            if best >= 0 and overlap[best] > iou_threshold:
                free[best] = False
                counts[int(true.labels[best]), int(given.labels[index])] += 1
                continue
            of_class = true.boxes[crowd & (true.labels == given.labels[index])]
            if not (_shares(given.boxes[index : index + 1], of_class) > iou_threshold).any():
                counts[classes, int(given.labels[index])] += 1
        for label in true.labels[free]:
            counts[int(label), classes] += 1
    return counts


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    overlap = _overlaps(first, second)
    return overlap / np.maximum(_areas(first)[:, None] + _areas(second)[None] - overlap, 1e-12)


def _shares(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How much of each of the first boxes lies in each of the second."""
    return _overlaps(first, second) / np.maximum(_areas(first)[:, None], 1e-12)


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return (high - low).clip(0).prod(-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def as_metrics(measured: AveragePrecision, names: Sequence[str] = ("map", "map_50", "map_75")) -> Mapping[str, float]:
    """The metrics of these names; 0 where nothing could be measured (no true boxes)."""
    return {name: measured.metrics.get(name, 0.0) for name in names}
