"""Shapes over photographs: pictures whose masks are known to the pixel, drawn from a seed."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ....images import read_image
from ...data.fingerprints import facts
from ...data.seeded import SeededDataset

#: Photographs that libraries of the extra `train` bring along: (library, file).
BUILT_IN = {
    "train": (
        ("sklearn", "datasets/images/china.jpg"),
        ("sklearn", "datasets/images/flower.jpg"),
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/chelsea.png"),
    ),
    "evaluation": (("skimage", "data/coffee.png"), ("skimage", "data/rocket.jpg")),
}
KINDS = ("disc", "rectangle", "triangle", "ring")
#: Smaller masks, as a share of the picture, are not asked for.
SMALLEST = 0.004


def load_photographs(folder: str | None, split: str, argument: str) -> list[Image.Image]:
    """The photographs of a folder in the order of their names, or those that are built in.

    Raises:
        ValueError: no folder, or one without a picture. OSError: a file that cannot be read.
    """
    if folder is not None:
        if not os.path.isdir(folder):
            raise ValueError(f"--{argument}: there is no folder {folder}.")
        known = Image.registered_extensions()
        files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in known)
        if not files:
            raise ValueError(f"--{argument}: {folder} holds no picture.")
    else:
        files = []
        for library, name in BUILT_IN[split]:
            found = importlib.util.find_spec(library)
            path = found and Path(found.submodule_search_locations[0]) / name
            if path and path.is_file():
                files.append(path)
        if not files:
            raise ValueError(f"--{argument} is missing: no photographs are installed; name a folder with some.")
    return [read_image(str(file)) for file in files]


def photograph_facts(photographs: list) -> dict[str, int | str]:
    """How many photographs, and a fingerprint of them, see `data.fingerprints`."""
    return facts(len(photographs), pictures=lambda number: np.asarray(photographs[number]))


class Shapes(SeededDataset):
    """Pictures with masks and what prompts are drawn by.

    A sample has `pixel_values` (3, size, size), normalised; `masks` (prompts, size, size), booleans; `draws` (prompts,
    rounds + 1), numbers from 0 to 1 that choose points; `rounds`, how often the point moves; `index`, or -1.

    Args:
        photographs: what is drawn on, and what shapes are filled with.
        count: pictures. size: their side in pixels. prompts, shapes, rounds: see the arguments.
        mean, deviation: of the image processor.
        seed: of the training; None draws each picture, and its prompts, by its number alone.
        fixed: a picture is the same in every epoch; its prompts are not.
    """

    def __init__(
        self,
        photographs: Sequence[Image.Image],
        count: int,
        size: int,
        *,
        prompts: int,
        shapes: int,
        rounds: int,
        mean: Sequence[float],
        deviation: Sequence[float],
        seed: int | None = None,
        fixed: bool = False,
    ):
        super().__init__(seed)
        self.photographs, self.count, self.size = photographs, count, size
        self.prompts, self.shapes, self.rounds, self.fixed = prompts, shapes, rounds, fixed
        self.mean, self.deviation = (np.asarray(v, np.float32)[:, None, None] for v in (mean, deviation))

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((7, index)) if rng is None else rng
        drawing = np.random.default_rng((self.seed, index)) if self.fixed and self.seed is not None else rng
        picture, masks = self.draw(drawing)
        order = rng.permutation(len(masks))
        chosen = [order[number % len(order)] for number in range(self.prompts)]
        first = rng.random((self.prompts, 1))  # the same whatever the number of rounds
        pixels = (np.asarray(picture, np.float32).transpose(2, 0, 1) / 255 - self.mean) / self.deviation
        return {
            "pixel_values": torch.from_numpy(pixels),
            "masks": torch.from_numpy(np.stack([masks[number] for number in chosen])),
            "draws": torch.from_numpy(np.concatenate([first, rng.random((self.prompts, self.rounds))], axis=1)),
            "rounds": torch.tensor(int(rng.integers(0, self.rounds + 1))),
            "index": torch.tensor(-1 if self.seed is None else index),
        }

    def draw(self, rng: np.random.Generator) -> tuple[Image.Image, list[np.ndarray]]:
        """A picture and the visible part of each of its shapes, as far as it is large enough."""
        size = self.size
        picture, layers = self._piece(rng), []
        for _ in range(self.shapes):
            outline = _outline(rng, size)
            if rng.random() < 0.5:
                filling = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(0, 256, 3)))
            else:
                filling = self._piece(rng)
            picture.paste(filling, mask=outline)
            layers.append(np.asarray(outline) > 0)
        masks, above = [], np.zeros((size, size), dtype=bool)
        for layer in reversed(layers):
            visible = layer & ~above
            above |= layer
            if visible.sum() >= SMALLEST * size * size:
                masks.append(visible)
        return picture, masks

    def _piece(self, rng: np.random.Generator) -> Image.Image:
        """A square of a photograph."""
        photograph = self.photographs[rng.integers(len(self.photographs))]
        width, height = photograph.size
        side = max(1, round(min(width, height) * rng.uniform(0.4, 1)))
        left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
        return photograph.resize(
            (self.size, self.size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
        )


def _outline(rng: np.random.Generator, size: int) -> Image.Image:
    """A shape, 255 inside."""
    mask = Image.new("L", (size, size))
    draw, kind = ImageDraw.Draw(mask), KINDS[rng.integers(len(KINDS))]
    x, y = rng.uniform(0.15, 0.85, 2) * size
    radius = rng.uniform(0.1, 0.28) * size
    if kind == "triangle":
        turn = rng.uniform(0, 2 * np.pi)
        corners = [turn + angle for angle in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
        draw.polygon([(x + 1.2 * radius * np.cos(a), y + 1.2 * radius * np.sin(a)) for a in corners], fill=255)
    elif kind == "rectangle":
        half = radius * rng.uniform(0.5, 1)
        draw.rectangle((x - radius, y - half, x + radius, y + half), fill=255)
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if kind == "ring":
            inner = radius * rng.uniform(0.3, 0.6)
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
    return mask


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
