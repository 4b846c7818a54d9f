"""Masks of everything, by a promptable model."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..drawing import draw_masks
from ..predictor import Options, Predictor, Source, load_network, load_part


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    from transformers import pipeline

    from ...edge_masks import check_fits, is_exported_promptable, load_promptable

    if is_exported_promptable(source.name):
        model = load_promptable(source.name)
    else:
        model = load_network(source, "AutoModelForMaskGeneration", device)
        check_fits("MODEL", model.config)
    processor = load_part(source, "AutoProcessor")
    # The model has been read, and trusted, already.
    segment = pipeline("hierarchical-mask-generation", model=model, image_processor=processor.image_processor)

    def answer(images: Sequence[Image.Image]) -> list[dict]:
        return [_said(segment(image, points_per_crop=options.points)) for image in images]

    def line(said: dict) -> str:
        return f"{len(said['masks'])} masks" + "".join(
            f"  {m['score']:.2f} ({m['area']} px)" for m in said["masks"][: options.top_k]
        )

    def draw(image: Image.Image, said: dict) -> Image.Image:
        return draw_masks(image, said["maps"])

    return Predictor(task, "image", answer, line, lambda said: said["masks"], draw)


def _said(found: dict) -> dict:
    """Score, area and box of each mask, in pixels; `maps` are for the picture."""
    masks = [np.asarray(mask) for mask in found["masks"]]
    told = []
    for mask, score in zip(masks, found["scores"].tolist(), strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
        sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, box), strict=True))
        told.append({"score": score, "area": int(mask.sum()), **sides})
    return {"masks": told, "maps": masks}
