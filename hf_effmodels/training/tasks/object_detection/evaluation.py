"""Measuring a detector: images stream through it, and only the boxes found are kept."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Subset

from ....metrics.coco_ap import AveragePrecision, Detections, as_metrics, average_precision, confusion
from .models import input_names
from .transforms import DetectionCollator, DetectionDataset

#: Found boxes that count, per image.
MOST = 100


@dataclass
class Measured:
    """What an evaluation found, the same in all processes.

    Attributes:
        metrics: by name.
        precision: of `average_precision`.
        confusion: of `confusion`.
        truth, found: boxes by image.
    """

    metrics: dict[str, float]
    precision: AveragePrecision
    confusion: np.ndarray
    truth: list[Detections]
    found: list[Detections]


@torch.no_grad()
def measure(
    model,
    processor,
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int = 0,
    threshold: float = 0.001,
    nms_threshold: float = 0.65,
    dtype: torch.dtype | None = None,
) -> Measured:
    """AP of a detector in evaluation mode, and `top_score`, the mean score of each image's best box.

    Args:
        model, processor: the detector and its image processor.
        dataset: images as they are.
        batch_size, workers: images at a time, and processes that read them.
        threshold: least score of boxes that count.
        nms_threshold: of detectors whose boxes are suppressed.
        dtype: to compute in, by autocast.
    """
    state, names = PartialState(), [model.config.id2label[number] for number in range(model.config.num_labels)]
    own = list(range(state.process_index, len(dataset), state.num_processes))
    collator = DetectionCollator(processor, input_names(model), keep_truth=True)
    loader = DataLoader(Subset(dataset, own), batch_size=batch_size, num_workers=workers, collate_fn=collator)
    results = []
    for batch in loader:
        samples = batch.pop("truth")
        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            outputs = model(**inputs)
        sizes = [sample["image"].shape[:2] for sample in samples]
        found = postprocess(processor, outputs, sizes, threshold, nms_threshold)
        results += [(sample["index"], _truth(sample), boxes) for sample, boxes in zip(samples, found, strict=True)]
    if state.num_processes > 1:
        results = gather_object(results)
    results.sort(key=lambda result: result[0])
    truth, found = [result[1] for result in results], [result[2] for result in results]
    precision = average_precision(truth, found, names)
    best = [float(boxes.scores[0]) if len(boxes.scores) else 0.0 for boxes in found]
    metrics = {**as_metrics(precision), "top_score": float(np.mean(best)), "samples": len(results)}
    return Measured(metrics, precision, confusion(truth, found, len(names)), truth, found)


def postprocess(processor, outputs, sizes, threshold: float, nms_threshold: float) -> list[Detections]:
    """The best boxes of each image, in its own pixels, by the image processor's own rule."""
    method = processor.post_process_object_detection
    options = {}
    if "nms_threshold" in inspect.signature(method).parameters:
        options = {"nms_threshold": nms_threshold, "multi_label": True}
    results = method(
        outputs, threshold=threshold, target_sizes=torch.tensor([list(size) for size in sizes]), **options
    )
    return [_best(result) for result in results]


def _best(result: dict) -> Detections:
    order = result["scores"].argsort(descending=True, stable=True)[:MOST]
    boxes, labels, scores = (result[n][order].float().cpu().numpy() for n in ("boxes", "labels", "scores"))
    return Detections(boxes.reshape(-1, 4).astype(np.float64), labels.astype(np.int64), scores)


def _truth(sample: dict) -> Detections:
    rows = np.concatenate([sample["rows"], sample["crowd"]])
    crowd = np.arange(len(rows)) >= len(sample["rows"])
    return Detections(rows[:, 1:], rows[:, 0].astype(np.int64), crowd=crowd)


def best_found(found: Iterable[Detections], threshold: float) -> list[Detections]:
    """Those of each image whose scores are above the threshold."""
    kept = []
    for boxes in found:
        keep = boxes.scores > threshold
        kept.append(Detections(boxes.boxes[keep], boxes.labels[keep], boxes.scores[keep]))
    return kept
