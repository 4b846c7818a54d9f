"""Training images with boxes: augmentation that is a function of seed, epoch and index."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...data.detection_augment import (
    affine_matrix,
    change_colours,
    flip_left_right,
    flip_up_down,
    mixup,
    mosaic,
    shrink_to,
    warp,
    warp_boxes,
)
from ...data.seeded import SeededDataset
from .arguments import DetectionAugmentationArguments
from .data import DetectionImages


class DetectionDataset(SeededDataset):
    """Samples {"image": (height, width, 3) of bytes, "rows": (n, 5) of class and corners in pixels, "index"}.

    Args:
        source: the images.
        augmentation: of training images; None for images as they are.
        side: of the square that warped images and mosaics fill, in pixels.
        epochs: of the training, whose last `close_mosaic_epochs` see no mosaics.
        seed: of the random numbers; None without.
    """

    def __init__(
        self,
        source: DetectionImages,
        augmentation: DetectionAugmentationArguments | None = None,
        side: int = 640,
        epochs: float = 0,
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.source, self.augmentation, self.side, self.epochs = source, augmentation, side, epochs

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> dict:
        if self.seed is None or self.augmentation is None:
            return super().__getitem__(number)
        # The epoch is part of the number, so that worker processes that live on know it, too.
        epoch, index = divmod(int(number), len(self))
        rng = np.random.default_rng((self.seed, epoch, index))
        return self._augmented(index, rng, epoch < self.epochs - self.augmentation.close_mosaic_epochs)

    def sample(self, index: int, rng: np.random.Generator | None) -> dict:
        image, rows, crowd = self.source.read(index)
        return {"image": image, "rows": rows[~crowd], "crowd": rows[crowd], "index": index}

    def _augmented(self, index: int, rng: np.random.Generator, with_mosaic: bool) -> dict:
        options = self.augmentation
        if with_mosaic and rng.random() < options.mosaic:
            image, rows = self._mosaic(index, rng)
            if rng.random() < options.mixup:
                other, more = self._mosaic(int(rng.integers(len(self))), rng)
                image, rows = mixup(image, other, rng.beta(32, 32)), np.concatenate([rows, more])
        else:
            image, rows = self._read(index)
            if options.warps or options.mosaic:
                image, rows = self._warped(*_squared(*shrink_to(image, rows, self.side), self.side), rng)
        factors = rng.uniform(-1, 1, 3) * [options.hue, options.saturation, options.brightness] + 1
        if (factors != 1).any():
            image = change_colours(image, factors)
        if rng.random() < options.horizontal_flip:
            image, rows = flip_left_right(image, rows)
        if rng.random() < options.vertical_flip:
            image, rows = flip_up_down(image, rows)
        return {"image": image, "rows": rows, "crowd": np.zeros((0, 5)), "index": index}

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, rows, crowd = self.source.read(index)
        return image, rows[~crowd]

    def _mosaic(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = [index, *rng.integers(len(self), size=3).tolist()]
        rng.shuffle(chosen)
        parts = [shrink_to(*self._read(number), self.side) for number in chosen]
        low, high = self.side // 2, self.side * 3 // 2
        centre = tuple(int(length) for length in rng.uniform(low, high, 2))
        return self._warped(*mosaic([p[0] for p in parts], [p[1] for p in parts], self.side, centre), rng)

    def _warped(self, image: np.ndarray, rows: np.ndarray, rng: np.random.Generator):
        options, target = self.augmentation, (self.side, self.side)
        scale = rng.uniform(1 - options.scale, 1 + options.scale)
        matrix = affine_matrix(
            image.shape[:2],
            target,
            angle=rng.uniform(-options.rotate, options.rotate),
            scale=scale,
            shear=tuple(rng.uniform(-options.shear, options.shear, 2)),
            translation=tuple(rng.uniform(0.5 - options.translate, 0.5 + options.translate, 2)),
        )
        return warp(image, matrix, target), warp_boxes(rows, matrix, target, scale)


def _squared(image: np.ndarray, rows: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """In the middle of a grey square."""
    height, width = image.shape[:2]
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 114, dtype=np.uint8)
    square[top : top + height, left : left + width] = image
    return square, rows + np.array([0, left, top, left, top])


class DetectionCollator:
    """A batch as the image processor makes it: `pixel_values`, `labels`, and `pixel_mask` where the model takes one.

    Args:
        processor: of the detector.
        inputs: names of the model's inputs.
        keep_truth: also the samples themselves, as `truth`, for evaluations.
    """

    def __init__(self, processor, inputs: Sequence[str], keep_truth: bool = False):
        self.processor, self.inputs, self.keep_truth = processor, set(inputs), keep_truth

    def __call__(self, samples: Sequence[Mapping]) -> dict:
        images = [sample["image"] for sample in samples]
        annotations = [
            {"image_id": sample["index"], "annotations": [_annotation(row) for row in sample["rows"].tolist()]}
            for sample in samples
        ]
        features = self.processor(
            images=images, annotations=annotations, return_tensors="pt", input_data_format="channels_last"
        )
        batch = {name: value for name, value in features.items() if name in self.inputs and name != "labels"}
        kept = ("class_labels", "boxes")
        batch["labels"] = [{name: label[name] for name in kept} for label in features["labels"]]
        if self.keep_truth:
            batch["truth"] = list(samples)
        return batch


def _annotation(row: list[float]) -> dict:
    number, x1, y1, x2, y2 = row
    box = [x1, y1, x2 - x1, y2 - y1]
    return {"bbox": box, "category_id": int(number), "area": box[2] * box[3], "iscrowd": 0}
