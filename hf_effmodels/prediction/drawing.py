"""Boxes and masks on a picture."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

#: Each colour's share in what is under a mask.
_OPACITY = 0.5


def color(number: int) -> tuple[int, int, int]:
    """A colour that differs from those of its neighbours: hues by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[str], scores: Sequence[float]
) -> Image.Image:
    """The image with boxes (xmin, ymin, xmax, ymax) in pixels, the likeliest first, each with its label and score."""
    picture = image.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 200))
    inks = {label: color(number) for number, label in enumerate(sorted(set(labels)))}
    # The likeliest are drawn last, and so are not covered.
    for (left, top, right, bottom), label, score in reversed([*zip(boxes, labels, scores, strict=True)]):
        text = f"{label} {100 * score:.0f} %"
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=inks[label], width=width)
        pen.rectangle(pen.textbbox((left, top), text), fill=inks[label])
        pen.text((left, top), text, fill="black")
    return picture


def draw_masks(image: Image.Image, masks: Sequence[np.ndarray], texts: Sequence[str] = ()) -> Image.Image:
    """The image under masks (height, width) of booleans, the largest below; `texts` name them in their midst."""
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    order = sorted(range(len(masks)), key=lambda n: -masks[n].sum())
    for number in order:
        mask = masks[number]
        pixels[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * np.asarray(color(number), dtype=np.float32)
    picture = Image.fromarray(np.round(pixels).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for number, text in enumerate(texts):
        rows, columns = np.nonzero(masks[number])
        if len(rows):
            middle = len(rows) // 2  # of a pixel that is the mask's, whatever its shape
            pen.text(
                (int(columns[middle]), int(rows[middle])), text, fill="white", stroke_width=1, stroke_fill="black"
            )
    return picture
