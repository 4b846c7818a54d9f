"""A class for every pixel."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..._shapes import processed
from ..drawing import draw_masks
from ..predictor import Options, Predictor, Source, load_network, load_part


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    model = load_network(source, "AutoModelForSemanticSegmentation", device)
    processor = load_part(source, "AutoImageProcessor")

    @torch.no_grad()
    def answer(images: Sequence[Image.Image]) -> list[dict]:
        maps = []
        for batch, inputs in processed(processor, images):
            sizes = [(image.height, image.width) for image in batch]
            outputs = model(**inputs.to(model.device, model.dtype))
            maps += processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [_said(np.asarray(one.cpu()), model.config.id2label) for one in maps]

    def line(said: dict) -> str:
        return "  ".join(f"{s['label']} {100 * s['share']:.1f} %" for s in said["segments"])

    def draw(image: Image.Image, said: dict) -> Image.Image:
        numbers = said["numbers"]
        masks = [numbers == number for number in np.unique(numbers)]
        names = [model.config.id2label.get(int(number), str(number)) for number in np.unique(numbers)]
        return draw_masks(image, masks, names)

    return Predictor(task, "image", answer, line, lambda said: said["segments"], draw)


def _said(numbers: np.ndarray, names: dict[int, str]) -> dict:
    """The share of the pixels of each class, the largest first; `numbers` (height, width) is for the picture."""
    classes, counts = np.unique(numbers, return_counts=True)
    segments = [
        {"label": names.get(int(number), str(number)), "share": float(count / numbers.size)}
        for number, count in sorted(zip(classes, counts, strict=True), key=lambda pair: -pair[1])
    ]
    return {"segments": segments, "numbers": numbers}
