"""Pairs of an image and its answer, by task, for visual prompting."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ...images import read_image
from .augment import random_resized_box
from .digits import DIGITS, read_digits

#: In a folder: `<task>/images/<name>.png` beside `<task>/answers/<name>.png`.
IMAGES, ANSWERS = "images", "answers"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
#: Folders that are splits and not tasks.
SPLITS = {"train": "train", "test": "test", "validation": "test", "val": "test"}
#: Of the pairs where there is no test split.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of one task.

    Attributes:
        task: its name.
        names: of the images; those of different tasks that share one are of the same picture.
        pairs: images or files, by number.
    """

    task: str
    names: Sequence[str]
    pairs: Sequence[tuple]

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Image.Image, Image.Image]:
        """The image and its answer.

        Raises:
            ValueError: a file that cannot be read, or two sizes.
        """
        image, answer = (_open(part, self.task) for part in self.pairs[index])
        if image.size != answer.size:
            raise ValueError(
                f"--dataset: {self.names[index]} of task {self.task} is an image of {image.size[0]}×{image.size[1]} "
                f"pixels and an answer of {answer.size[0]}×{answer.size[1]}, accepted are pairs of one size."
            )
        return image, answer

    def select(self, numbers: Sequence[int]) -> "ImagePairs":
        return replace(self, names=[self.names[n] for n in numbers], pairs=[self.pairs[n] for n in numbers])

    def evenly(self, limit: int | None) -> "ImagePairs":
        """At most `limit` of them, evenly spread."""
        if limit is None or limit >= len(self):
            return self
        return self.select(np.linspace(0, len(self) - 1, limit).round().astype(int).tolist())


def load_pairs(dataset: str) -> tuple[list[ImagePairs], list[ImagePairs]]:
    """The training and the evaluation pairs of each task, tasks in the order of their names.

    Args:
        dataset: "digits", whose tasks are invert and segment; or a folder of tasks, or of the folders train and test
            of these. Of a folder without test a tenth of the pictures is held out, the same of all tasks.

    Raises:
        ValueError: no such folder, a task without pairs, an image without an answer.
    """
    if dataset == DIGITS:
        splits = read_digits()
        return tuple(_digit_tasks([row["image"] for row in splits[name]], name) for name in ("train", "test"))
    folder = Path(dataset)
    if not folder.is_dir():
        raise ValueError(f"--dataset: got {dataset!r}, accepted are digits and a folder of tasks.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found = {SPLITS[name]: folder / name for name in reversed(names) if name in SPLITS}
    if not found:
        tasks = _tasks_of(folder)
        return _hold_out(tasks)
    if found.keys() != {"train", "test"}:
        raise ValueError(f"--dataset: {folder} has only the split {', '.join(found)}, accepted are train and test.")
    train, test = _tasks_of(found["train"]), _tasks_of(found["test"])
    if [task.task for task in train] != [task.task for task in test]:
        raise ValueError(f"--dataset: {folder} has other tasks in train than in test.")
    return train, test


def _tasks_of(folder: Path) -> list[ImagePairs]:
    tasks = []
    for path in sorted(part for part in folder.iterdir() if (part / IMAGES).is_dir()):
        images, answers = (_by_name(path / part) for part in (IMAGES, ANSWERS))
        if alone := sorted(images.keys() ^ answers.keys()):
            raise ValueError(f"--dataset: in {path}, {alone[0]} is in one of {IMAGES} and {ANSWERS} only.")
        if not images:
            raise ValueError(f"--dataset: {path} has no pairs.")
        tasks.append(ImagePairs(path.name, list(images), [(images[name], answers[name]) for name in images]))
    if not tasks:
        raise ValueError(f"--dataset: {folder} has no task: a folder with {IMAGES} and {ANSWERS} in it.")
    return tasks


def _by_name(folder: Path) -> dict[str, Path]:
    """The pictures in a folder by their names without the ending; ValueError where two have the same."""
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix.lower() in _ENDINGS and (other := found.setdefault(file.stem, file)) is not file:
            raise ValueError(
                f"--dataset: {folder} has {other.name} and {file.name}; pairs are known by these names without ending."
            )
    return found


def _hold_out(tasks: list[ImagePairs]) -> tuple[list[ImagePairs], list[ImagePairs]]:
    """The rest, and those to evaluate on: drawn by name, the same in every run and of all tasks, so that no picture
    that is evaluated on is trained on by another of its tasks.

    At least one pair of each task is held out, and at least one stays.
    """
    for task in tasks:
        if len(task) < 2:
            raise ValueError(f"--dataset: task {task.task} has one pair, accepted are two or more.")
    draws = {name: np.random.default_rng(list(name.encode())).random() for task in tasks for name in task.names}
    drawn = sorted(draws, key=draws.get)
    held = set(drawn[: max(1, round(_HELD_OUT * len(drawn)))])
    # A task whose first one comes late goes first: what it brings, others may have, too.
    for task in sorted(tasks, key=lambda task: min(draws[name] for name in task.names), reverse=True):
        if held.isdisjoint(task.names):
            held.add(min(task.names, key=draws.get))
    parts = []
    for task in tasks:
        own = {number for number, name in enumerate(task.names) if name in held}
        if len(own) == len(task):
            own.remove(max(own, key=lambda number: draws[task.names[number]]))
        parts.append((task.select([n for n in range(len(task)) if n not in own]), task.select(sorted(own))))
    return tuple(list(part) for part in zip(*parts, strict=True))


def _digit_tasks(images: Sequence[Image.Image], split: str) -> list[ImagePairs]:
    """Two tasks on the same digits, enlarged to 16×16: their negative, and where there is ink, in red."""
    names = [f"{split}-{number}" for number in range(len(images))]
    large = [image.resize((16, 16), Image.Resampling.BILINEAR).convert("RGB") for image in images]
    negative = [ImageOps.invert(image) for image in large]
    ink = [
        Image.fromarray(
            np.stack([np.where(np.array(i)[..., 0] > 95, 255, 0), *np.zeros((2, 16, 16))], -1).astype(np.uint8)
        )
        for i in large
    ]
    return [
        ImagePairs(task, names, list(zip(large, answers, strict=True)))
        for task, answers in (("invert", negative), ("segment", ink))
    ]


def _open(value, task: str) -> Image.Image:
    if isinstance(value, Image.Image) and value.mode == "RGB":
        return value
    try:
        return read_image(value)
    except (OSError, ValueError) as error:
        raise ValueError(f"--dataset: {value} of task {task} cannot be read ({error}).") from error


def augment_pair(
    image: Image.Image,
    answer: Image.Image,
    rng: np.random.Generator,
    scale: Sequence[float] = (0.3, 1.0),
    flips: bool = True,
) -> tuple[Image.Image, Image.Image]:
    """The same random part of both, of their shorter side squared, mirrored alike (section 3.2 of
    https://arxiv.org/abs/2402.04841).

    Args:
        scale: smallest and largest share of the area.
        flips: mirror left and right, and top and bottom, each with probability one half.
    """
    box = random_resized_box(*image.size, scale, (1.0, 1.0), rng)
    turned = [
        method
        for method in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
        if flips and rng.random() < 0.5
    ]
    side = min(image.size)
    parts = []
    for part in (image, answer):
        part = part.resize((side, side), Image.Resampling.BILINEAR, box=box)
        for method in turned:
            part = part.transpose(method)
        parts.append(part)
    return tuple(parts)


def expanded(pairs: ImagePairs, copies: int, seed: int, index: int, copy: int):
    """Pair `index` of a task: as it is for copy 0, augmented for copies from 1 on, each the same in every run."""
    image, answer = pairs.read(index)
    if not 0 <= copy <= copies:
        raise IndexError(f"copy {copy} of {copies}")
    if copy == 0:
        return image, answer
    return augment_pair(image, answer, np.random.default_rng((seed, copy, index)))


def read_expansion(argument: str, value: Mapping | None, tasks: Sequence[str]) -> dict[str, int]:
    """Augmented copies of each pair, by task; ValueError for unknown tasks and other numbers."""
    value = dict(value or {})
    if unknown := sorted(set(value) - set(tasks)):
        raise ValueError(f"{argument}: got {unknown[0]!r}, accepted are the tasks {', '.join(tasks)}.")
    for task, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{argument}: got {json.dumps(number)} for {task}, accepted are whole numbers from 0.")
    return {task: value.get(task, 0) for task in tasks}
