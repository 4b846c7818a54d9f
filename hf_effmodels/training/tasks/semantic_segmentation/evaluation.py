"""Measuring a segmenter: images stream through it, and only counts of pixels are kept."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from ....metrics.mean_iou import confusion, mean_iou
from .data import IGNORED
from .models import side_of
from .transforms import SegmentationDataset, normalised, rescaled


@dataclass
class Measured:
    """What an evaluation found, the same in all processes.

    Attributes:
        metrics: by name; of DToP also `token_share`, the tokens that its blocks have worked on, of all.
        per_class: IoU of each class by its name; not a number where the class is nowhere.
        counts: pixels of each true class (rows) found as each class (columns).
        shown: of the first images, image, true and found map.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    counts: np.ndarray
    shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@torch.no_grad()
def measure(
    model,
    processor,
    dataset: SegmentationDataset,
    *,
    batch_size: int,
    workers: int = 0,
    mode: str = "whole",
    stride: int | None = None,
    pictures: int = 0,
    dtype: torch.dtype | None = None,
) -> Measured:
    """Mean IoU of a segmenter in evaluation mode, at the size of each image.

    Args:
        model, processor: the segmenter and its image processor.
        dataset: images as they are.
        batch_size, workers: images at a time, and processes that read them.
        mode, stride: see `MeasuringArguments`.
        pictures: how many images to keep.
        dtype: to compute in, by autocast.
    """
    state, names = PartialState(), [model.config.id2label[number] for number in range(model.config.num_labels)]
    own = list(range(state.process_index, len(dataset), state.num_processes))
    loader = DataLoader(Subset(dataset, own), batch_size=batch_size, num_workers=workers, collate_fn=list)
    counts, shown = torch.zeros(len(names), len(names), dtype=torch.int64), []
    predict = _sliding(stride) if mode == "slide" else _whole
    tokens = torch.zeros(2, dtype=torch.float64)

    def count(module, args, outputs) -> None:
        tokens.add_(_tokens_of(outputs))

    watch = model.register_forward_hook(count)
    for samples in loader:
        with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
            found = predict(model, processor, [sample["image"] for sample in samples])
        for sample, labels in zip(samples, found, strict=True):
            labels = labels.cpu()
            counts += confusion(torch.from_numpy(sample["labels"].astype(np.int64)), labels, len(names), IGNORED)
            if sample["index"] < pictures:
                shown.append((sample["index"], sample["image"], sample["labels"], labels.numpy()))
    watch.remove()
    if state.num_processes > 1:
        counts, tokens = (reduce(values.to(state.device), "sum").cpu() for values in (counts, tokens))
        shown = gather_object(shown)
    result = mean_iou(counts, names)
    metrics = {**result.metrics, "samples": len(dataset)}
    if tokens[1]:
        metrics["token_share"] = float(tokens[0] / tokens[1])
    shown = [tuple(rest) for _, *rest in sorted(shown, key=lambda row: row[0])]
    return Measured(metrics, result.per_class, counts.numpy(), shown)


def _tokens_of(outputs) -> torch.Tensor:
    """Tokens that the blocks have worked on, and how many they would have without pruning; zeros where nobody says."""
    if (tokens := getattr(outputs, "num_tokens", None)) is None:
        return torch.zeros(2, dtype=torch.float64)
    return torch.stack([tokens.sum(), tokens[:, :1].sum() * tokens.shape[1]]).double().cpu()


def _whole(model, processor, images: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Maps as the pipeline makes them."""
    inputs = processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
    outputs = model(inputs["pixel_values"].to(model.device))
    outputs.logits = outputs.logits.float()
    return processor.post_process_semantic_segmentation(outputs, [image.shape[:2] for image in images])


def _sliding(stride: int | None):
    def predict(model, processor, images: Iterable[np.ndarray]) -> list[torch.Tensor]:
        side = side_of(processor)
        step = stride or math.ceil(side * 2 / 3)
        found = []
        for image in images:
            height, width = image.shape[:2]
            resized, _ = rescaled(image, np.zeros((height, width), np.uint8), side)
            scores = window_scores(model, normalised(resized[None], processor).to(model.device), side, step)
            scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
            found.append(scores[0].argmax(0))
        return found

    return predict


def window_scores(model, pixels: torch.Tensor, side: int, stride: int) -> torch.Tensor:
    """
    Scores of an image from windows that overlap, each pixel's the mean over the windows it is in.

    Args:
        model: segmenter.
        pixels: (1, 3, height, width), both at least `side`.
        side: of the windows.
        stride: from window to window; the last ones end with the image.

    Returns:
        (1, classes, height, width).
    """
    height, width = pixels.shape[-2:]
    total, seen = None, pixels.new_zeros(1, 1, height, width)
    for top in window_starts(height, side, stride):
        for left in window_starts(width, side, stride):
            place = (..., slice(top, top + side), slice(left, left + side))
            window = pixels[place]
            scores = model(window).logits.float()
            scores = F.interpolate(scores, window.shape[-2:], mode="bilinear", align_corners=False)
            if total is None:
                total = scores.new_zeros(1, scores.shape[1], height, width)
            total[place] += scores
            seen[place] += 1
    return total / seen


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin that cover `length` pixels."""
    count = max(math.ceil((length - side) / stride), 0) + 1
    return [max(min(index * stride, length - side), 0) for index in range(count)]
