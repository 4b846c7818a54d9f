import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.data import randaugment
from hf_effmodels.training.data.randaugment import RandAugment

IMAGE = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8))


def levels(name, level, increasing=False):
    """What an operation does at a level, measured on an image made for it."""
    operations = randaugment.INCREASING_OPERATIONS if increasing else randaugment.OPERATIONS
    operation = next(op for op in operations if getattr(op, "__name__", "") == name)
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    return np.asarray(operation(ramp, level, np.random.default_rng(0), Image.Resampling.BILINEAR, 0)).ravel()


def test_randaugment_levels_are_timms():
    ramp = np.arange(256)
    assert np.array_equal(levels("posterize", 10), ramp & 0b11110000)
    assert np.array_equal(levels("posterize_increasing", 5, True), ramp & 0b11000000)
    assert np.array_equal(levels("posterize_increasing", 10, True), ramp & 0)
    assert np.array_equal(levels("solarize", 5), np.where(ramp < 128, ramp, 255 - ramp))
    assert np.array_equal(levels("solarize_increasing", 9, True), np.where(ramp < 26, ramp, 255 - ramp))
    assert np.array_equal(levels("solarize_add", 9), np.where(ramp < 128, np.minimum(ramp + 99, 255), ramp))
    assert np.array_equal(levels("invert", 1), 255 - ramp)
    moved = levels("translate_x", 10).reshape(16, 16)  # by 7.2 pixels: 7 or 8 columns of black come in
    assert 7 <= (moved == 0).all(axis=0).sum() <= 8
    assert len(randaugment.OPERATIONS) == len(randaugment.INCREASING_OPERATIONS) == 15


def test_randaugment_notation():
    parsed = RandAugment.from_string("rand-m9-mstd0.5-inc1", (1, 2, 3))
    assert parsed == RandAugment(9, 2, 0.5, 10, True, 0.5, (1, 2, 3))
    assert RandAugment.from_string("rand-m5-n3-p0.8-mmax7", (0,)) == RandAugment(5, 3, 0, 7, False, 0.8, (0,))
    for wrong in ("rand-m11", "augmix-m3", "rand-m9-x1", "rand-m9-n0", "rand--m9"):
        with pytest.raises(ValueError, match="--randaugment"):
            RandAugment.from_string(wrong, (0,))


def test_randaugment_applies_each_operation_half_of_the_time(monkeypatch):
    calls = []

    def record(image, level, *rest):
        calls.append(level)
        return image

    monkeypatch.setattr(randaugment, "INCREASING_OPERATIONS", (record,) * 15)
    augment = RandAugment.from_string("rand-m9-mstd0.5-inc1", (0, 0, 0))
    rng = np.random.default_rng(0)
    for _ in range(4000):
        augment(IMAGE, rng)
    assert abs(len(calls) / 4000 - 1.0) < 0.05  # two operations, each with probability a half
    calls = np.array(calls)
    # Normal around 9 with deviation 0.5; only two deviations fit below the limit of 10.
    assert calls.max() == 10 and abs(np.median(calls) - 9) < 0.03 and abs(np.quantile(calls, 0.1587) - 8.5) < 0.05
