"""The augmentation of COCO captions is BLIP's: half the area or more, mirrored half of the time, two of ten operations
of magnitude 5, each with probability a half."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from hf_effmodels.training.tasks.image_text_to_text import augmentation
from hf_effmodels.training.tasks.image_text_to_text.augmentation import CaptionAugmentation

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
#: Red is the column, green the row.
COLUMNS, ROWS = np.meshgrid(np.arange(200), np.arange(150))
PLACES = Image.fromarray(np.stack([COLUMNS, ROWS, 0 * ROWS], axis=-1).astype(np.uint8))


@pytest.fixture
def without_operations(monkeypatch):
    monkeypatch.setattr(augmentation, "_OPERATIONS", (lambda image, rng: image,) * 10)


def test_the_size_is_the_models_and_the_generator_decides():
    augment = CaptionAugmentation(32)
    pictures = [augment(PLACES, np.random.default_rng(seed)) for seed in range(40)]
    assert {p.size for p in pictures} == {(32, 32)} and len({p.tobytes() for p in pictures}) > 35
    assert augment(PLACES, np.random.default_rng(3)).tobytes() == pictures[3].tobytes()


def test_a_part_of_half_the_area_or_more_is_taken_and_half_of_them_mirrored(without_operations):
    augment, rng, areas, mirrored = CaptionAugmentation(64), np.random.default_rng(0), [], []
    for _ in range(300):
        seen = np.asarray(augment(PLACES, rng)).astype(int)
        width, height = (np.ptp(seen[32, :, 0]) + 3, np.ptp(seen[:, 32, 1]) + 2)
        areas.append(width * height / 30000)
        mirrored.append(seen[32, 5, 0] > seen[32, -5, 0])
    assert 0.45 < min(areas) < 0.56 and max(areas) > 0.9 and abs(np.mean(mirrored) - 0.5) < 0.1


def test_two_operations_are_drawn_and_each_applied_half_of_the_time(monkeypatch):
    applied = []

    def recorded(number):
        return lambda image, rng: applied.append(number) or image

    monkeypatch.setattr(augmentation, "_OPERATIONS", tuple(map(recorded, range(10))))
    augment, rng = CaptionAugmentation(8), np.random.default_rng(0)
    for _ in range(2000):
        augment(IMAGE, rng)
    assert abs(len(applied) / 2000 - 1) < 0.07
    assert min(np.bincount(applied, minlength=10)) > 140


class Recorder:
    """In the place of an image: remembers how it would be moved."""

    size = (200, 100)

    def rotate(self, angle, resample, fillcolor):
        return angle, resample, fillcolor

    def transform(self, size, method, matrix, resample, fillcolor):
        assert size == self.size and method == Image.Transform.AFFINE
        return matrix, resample, fillcolor


def test_operations_have_blips_strengths():
    operations, rng = augmentation._OPERATIONS, np.random.default_rng(0)
    plain = (
        lambda image: image,
        ImageOps.autocontrast,
        # 5 / 10 · 1.8 + 0.1
        lambda image: ImageEnhance.Brightness(image).enhance(1.0),
        lambda image: ImageEnhance.Sharpness(image).enhance(1.0),
        ImageOps.equalize,
    )
    for operation, expected in zip(operations[:5], plain, strict=True):
        assert operation(IMAGE, rng).tobytes() == expected(IMAGE).tobytes()
    moved = (
        lambda sign: (1, sign * 0.15, 0, 0, 1, 0),
        lambda sign: (1, 0, 0, sign * 0.15, 1, 0),
        lambda sign: (1, 0, sign * 5.0, 0, 1, 0),
        lambda sign: (1, 0, 0, 0, 1, sign * 5.0),
        lambda sign: sign * 15.0,
    )
    for operation, matrix in zip(operations[5:], moved, strict=True):
        found = [operation(Recorder(), rng) for _ in range(100)]
        counts = [found.count((matrix(s), Image.Resampling.BILINEAR, (128, 128, 128))) for s in (1, -1)]
        assert sum(counts) == 100 and min(counts) > 30
