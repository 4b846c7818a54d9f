"""Boxes of a detector, in pixels of the image."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from ..._shapes import processed
from ...edge_detection import FACTS, load_detector
from ...hub.ids import reading
from ..drawing import draw_boxes
from ..predictor import Options, Predictor, Source, is_exported, load_network, load_part

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    if Path(source.name, FACTS).is_file():
        return _predictor(task, _suppressing(source, options))
    model = load_network(source, "AutoModelForObjectDetection", device)
    processor = load_part(source, "AutoImageProcessor")

    @torch.no_grad()
    def answer(images: Sequence[Image.Image]) -> list[dict]:
        # An exported program has neither.
        place = getattr(model, "device", "cpu"), getattr(model, "dtype", torch.float32)
        found = []
        for batch, inputs in processed(processor, images):
            if is_exported(source):  # in one size nothing is filled up, and it takes no mask that says so
                inputs.pop("pixel_mask", None)
            sizes = [(image.height, image.width) for image in batch]
            outputs = model(**inputs.to(*place))
            found += processor.post_process_object_detection(outputs, options.threshold, sizes)
        return [{"boxes": [_box(*values, model.config) for values in _sorted(one)]} for one in found]

    return _predictor(task, answer)


def _suppressing(source: Source, options: Options) -> Callable[[Sequence[Image.Image]], list[dict]]:
    """The answers of what `hf-effmodels export --nms` wrote."""
    with reading("MODEL", source.name):
        detect = load_detector(source.name)
    if options.threshold < (least := detect.suppression.threshold):
        raise ValueError(f"threshold: got {options.threshold}, but this program keeps boxes above {least} alone.")

    def answer(images: Sequence[Image.Image]) -> list[dict]:
        found = detect(list(images))
        kept = [[box for box in boxes if box["score"] >= options.threshold] for boxes in found]
        return [{"boxes": [{"label": b["label"], "score": b["score"], **b["box"]} for b in one]} for one in kept]

    return answer


def _predictor(task: str, answer: Callable[[Sequence[Image.Image]], list[dict]]) -> Predictor:
    def line(said: dict) -> str:
        texts = (
            f"{b['label']} {100 * b['score']:.1f} % at ({', '.join(f'{b[side]:.0f}' for side in _SIDES)})"
            for b in said["boxes"]
        )
        return "  ".join(texts) or "nothing"

    def draw(image: Image.Image, said: dict) -> Image.Image:
        found = said["boxes"]
        corners = [[box[side] for side in _SIDES] for box in found]
        return draw_boxes(image, corners, [box["label"] for box in found], [box["score"] for box in found])

    return Predictor(task, "image", answer, line, lambda said: said["boxes"], draw)


def _sorted(found: dict) -> list[tuple]:
    values = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True)
    return sorted(values, key=lambda value: -value[0])


def _box(score: float, label: int, corners: list[float], config) -> dict:
    return {"label": config.id2label[label], "score": score, **dict(zip(_SIDES, corners, strict=True))}
