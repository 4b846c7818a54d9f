"""Segment everything in two rounds: a coarse grid first, then only the points where no mask is sure yet.

The procedure is TinySAM's (https://arxiv.org/abs/2312.13789, section 3.4). It sees a model through two functions, so
that any promptable model will do. Masks are filtered by the model's own score *before* they are enlarged: the score
needs no pixels, and the enlarged masks of all points are what fills the memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from .masks import (
    decode_runs,
    encode_runs,
    mask_boxes,
    near_crop_edge,
    remove_small_regions,
    stability_scores,
    suppress_overlapping,
)
from .points import first_points, second_points

#: Points (n, 2) in pixels of the image -> logits (n, masks, height, width) of any size, scores (n, masks).
Decode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Logits (masks, height, width) -> the same at the size of the image.
Enlarge = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Thresholds:
    """What a mask must reach.

    Attributes:
        predicted_iou: the model's score must be larger; 0 keeps all.
        stability: the stability must be as large; 0 keeps all. `strict`: must be larger, as transformers' pipeline.
        stability_offset: see `stability_scores`.
        mask: logits larger than this are in the mask.
        confident: where logits of the first round are larger, nothing is asked in the second.
    """

    predicted_iou: float = 0.88
    stability: float = 0.95
    stability_offset: float = 1.0
    mask: float = 0.0
    confident: float = 8.5
    strict: bool = False


@dataclass
class Found:
    """Masks in the order they were found: `runs` (see `encode_runs`), scores (n,), stability (n,), boxes (n, 4) with
    left, top, right, bottom, points (n, 2) they were asked with."""

    runs: list[dict] = field(default_factory=list)
    scores: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    stability: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    boxes: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 4, dtype=torch.int64))
    points: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, kept: Sequence[int]) -> "Found":
        """Those with the numbers `kept`, in that order."""
        index = torch.as_tensor(kept, dtype=torch.int64)
        tensors = (value[index] for value in (self.scores, self.stability, self.boxes, self.points))
        return Found([self.runs[number] for number in index.tolist()], *tensors)


def join(parts: Iterable[Found]) -> Found:
    """All of the parts, one after the other."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Found()
    tensors = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("scores", "stability", "boxes", "points")
    )
    return Found([runs for part in parts for runs in part.runs], *tensors)


@torch.no_grad()
def ask(
    points: torch.Tensor,
    decode: Decode,
    enlarge: Enlarge,
    thresholds: Thresholds,
    *,
    confident: torch.Tensor | None = None,
    crop: Sequence[int] | None = None,
    image_size: tuple[int, int] | None = None,
    points_per_batch: int = 64,
    masks_per_batch: int = 16,
) -> Iterator[Found]:
    """One round: each point by itself; yields what is kept of each batch of points, without looking at overlaps.

    Args:
        points: (n, 2) in pixels of the image (of the crop, where there is one).
        confident: booleans (height, width) that are set where kept masks are sure.
        crop: left, top, right, bottom of the part of the image that is looked at; `image_size`: height, width of the
            whole. Masks that end at an edge that is none of the image are dropped; the others get the image's size.
        points_per_batch: points in a call of `decode`. masks_per_batch: masks that are enlarged at a time.
    """
    for batch in points.split(points_per_batch):
        logits, scores = decode(batch)
        asked = torch.arange(len(batch)).repeat_interleave(scores.shape[1])
        logits, scores = logits.flatten(0, 1), scores.flatten(0, 1)
        if thresholds.predicted_iou > 0:
            kept = (scores > thresholds.predicted_iou).nonzero()[:, 0]
            logits, scores, asked = logits[kept], scores[kept], asked[kept.cpu()]
        found = []
        for part, part_scores, numbers in zip(
            *(value.split(masks_per_batch) for value in (logits, scores, asked)), strict=True
        ):
            if len(part):
                large = enlarge(part)
                found.append(
                    _keep(large, part_scores, batch[numbers.to(batch.device)], thresholds, confident, crop, image_size)
                )
        yield join(found)


def _keep(logits, scores, points, thresholds: Thresholds, confident, crop, image_size) -> Found:
    stability = stability_scores(logits, thresholds.mask, thresholds.stability_offset)
    if thresholds.stability > 0:
        limit = thresholds.stability
        # By number, not by mask: what is kept is picked without copying what is not.
        kept = (stability > limit if thresholds.strict else stability >= limit).nonzero()[:, 0]
        logits, scores, stability, points = logits[kept], scores[kept], stability[kept], points[kept.to(points.device)]
    masks = logits > thresholds.mask
    boxes = mask_boxes(masks)
    if crop is not None:
        height, width = image_size
        left, top, right, bottom = (int(edge) for edge in crop)
        kept = (~near_crop_edge(boxes, crop, (0, 0, width, height))).nonzero()[:, 0]
        masks, scores, stability, boxes = masks[kept], scores[kept], stability[kept], boxes[kept]
        points = points[kept.to(points.device)] + points.new_tensor([left, top])
        boxes = boxes + boxes.new_tensor([left, top, left, top])
        masks = torch.nn.functional.pad(masks, (left, width - right, top, height - bottom))
    if confident is not None and len(logits):
        confident |= (logits > thresholds.confident).any(0).to(confident.device)
    runs = [encode_runs(mask) for mask in masks.cpu().numpy()]
    return Found(runs, scores.cpu(), stability.cpu(), boxes.cpu(), points.cpu())


def without_overlaps(found: Found, threshold: float) -> Found:
    """Non-maximum suppression by the boxes, the best score first."""
    return found[suppress_overlapping(found.boxes.float(), found.scores, threshold)]


def without_small_regions(found: Found, area: int, threshold: float) -> Found:
    """Fill holes, then drop islands below an area, and suppress overlaps again: unchanged masks come first."""
    if area <= 0 or not len(found):
        return found
    runs, boxes, unchanged = [], [], []
    for number in range(len(found)):
        mask, filled = remove_small_regions(decode_runs(found.runs[number]), area, "holes")
        mask, dropped = remove_small_regions(mask, area, "islands")
        changed = filled or dropped
        runs.append(encode_runs(mask) if changed else found.runs[number])
        boxes.append(mask_boxes(torch.from_numpy(np.ascontiguousarray(mask))) if changed else found.boxes[number])
        unchanged.append(0.0 if changed else 1.0)
    cleaned = Found(runs, found.scores, found.stability, torch.stack(boxes), found.points)
    return cleaned[suppress_overlapping(cleaned.boxes.float(), torch.tensor(unchanged), threshold)]


@dataclass
class Everything:
    """All masks of an image, best score first, and how they were found.

    Attributes:
        found: the masks.
        rounds: the points of each round, (n, 2). kept: masks of each round before overlaps are suppressed.
        confident: booleans (height, width): where the first round was sure.
        decoder_calls: calls of the decoder.
    """

    found: Found
    rounds: tuple[torch.Tensor, ...]
    kept: tuple[Found, ...]
    confident: torch.Tensor
    decoder_calls: int


def segment_everything(
    decode: Decode,
    enlarge: Enlarge,
    height: int,
    width: int,
    *,
    points_per_side: int = 32,
    points_per_batch: int = 64,
    masks_per_batch: int = 16,
    thresholds: Thresholds = Thresholds(),
    nms_threshold: float = 0.7,
    min_region_area: int = 0,
    progress: Callable[[Iterator[Found], int], Iterable[Found]] = lambda batches, total: batches,
) -> Everything:
    """Two rounds over an image of `height` by `width` pixels; see the module.

    Args:
        points_per_side: of the whole grid; the first round asks a sixteenth of it.
        points_per_batch, masks_per_batch: see `ask`.
        nms_threshold: boxes that overlap more with a better one go, once, after both rounds.
        min_region_area: smaller holes and islands are removed, in pixels; 0 leaves them.
        progress: wraps the batches of a round, of which there are `total`.
    """
    confident = torch.zeros(height, width, dtype=torch.bool)
    rounds, kept = [], []
    for number in range(2):
        points = (
            first_points(points_per_side, height, width)
            if number == 0
            else second_points(rounds[0], confident, points_per_side)
        )
        batches = ask(
            points,
            decode,
            enlarge,
            thresholds,
            confident=confident if number == 0 else None,
            points_per_batch=points_per_batch,
            masks_per_batch=masks_per_batch,
        )
        rounds.append(points)
        kept.append(join(progress(batches, -(-len(points) // points_per_batch)) if len(points) else ()))
    # The second round's masks come first: between equal scores theirs stay.
    found = without_overlaps(join(reversed(kept)), nms_threshold)
    found = without_small_regions(found, min_region_area, nms_threshold)
    calls = sum(-(-len(points) // points_per_batch) for points in rounds)
    return Everything(found, tuple(rounds), tuple(kept), confident, calls)
