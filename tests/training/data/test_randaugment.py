"""RandAugment has timm's operations, strengths and noise."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from hf_effmodels.training.data import randaugment
from hf_effmodels.training.data.randaugment import INCREASING_OPERATIONS, OPERATIONS, RandAugment

IMAGE = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8))
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
#: Their order, which the draws refer to.
NAMES = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)


def levels(name, level, increasing=False):
    """What an operation does to the values 0 to 255 at a level."""
    operation = (INCREASING_OPERATIONS if increasing else OPERATIONS)[NAMES.index(name)]
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    return np.asarray(operation(ramp, level, np.random.default_rng(0), BILINEAR, 0)).ravel()


def test_levels_of_values_are_timms():
    ramp = np.arange(256)
    assert np.array_equal(levels("posterize", 10), ramp & 0b11110000)
    assert np.array_equal(levels("posterize", 5), ramp & 0b11000000)
    assert np.array_equal(levels("posterize", 2), ramp & 0)
    assert np.array_equal(levels("posterize", 5, True), ramp & 0b11000000)
    assert np.array_equal(levels("posterize", 9.9, True), ramp & 0b10000000)
    assert np.array_equal(levels("posterize", 10, True), ramp & 0)
    assert np.array_equal(levels("solarize", 5), np.where(ramp < 128, ramp, 255 - ramp))
    assert np.array_equal(levels("solarize", 10), ramp)
    assert np.array_equal(levels("solarize", 9, True), np.where(ramp < 26, ramp, 255 - ramp))
    assert np.array_equal(levels("solarize", 0, True), ramp)
    for increasing in (False, True):
        assert np.array_equal(levels("solarize_add", 9, increasing), np.where(ramp < 128, ramp + 99, ramp))
        assert np.array_equal(levels("solarize_add", 0, increasing), ramp)
        assert np.array_equal(levels("invert", 1, increasing), 255 - ramp)


class Recorder:
    """In the place of an image: remembers how it would be moved."""

    size = (200, 100)

    def rotate(self, angle, resample, fillcolor):
        return ("rotate", angle, resample, fillcolor)

    def transform(self, size, method, matrix, resample, fillcolor):
        assert size == self.size and method == Image.Transform.AFFINE
        return ("transform", matrix, resample, fillcolor)


@pytest.mark.parametrize("operations", [OPERATIONS, INCREASING_OPERATIONS], ids=["plain", "increasing"])
@pytest.mark.parametrize("level", [10, 4])
def test_images_are_moved_by_a_share_of_the_most_either_way(operations, level):
    share = level / 10
    expected = {
        "rotate": lambda sign: ("rotate", sign * 30 * share, BICUBIC, 7),
        "shear_x": lambda sign: ("transform", (1, sign * 0.3 * share, 0, 0, 1, 0), BICUBIC, 7),
        "shear_y": lambda sign: ("transform", (1, 0, 0, sign * 0.3 * share, 1, 0), BICUBIC, 7),
        "translate_x": lambda sign: ("transform", (1, 0, sign * 0.45 * share * 200, 0, 1, 0), BICUBIC, 7),
        "translate_y": lambda sign: ("transform", (1, 0, 0, 0, 1, sign * 0.45 * share * 100), BICUBIC, 7),
    }
    for name, make in expected.items():
        rng = np.random.default_rng(0)
        found = [operations[NAMES.index(name)](Recorder(), level, rng, BICUBIC, 7) for _ in range(200)]
        counts = [found.count(make(sign)) for sign in (1, -1)]
        assert sum(counts) == 200 and min(counts) > 70, name


def test_colours_are_enhanced_by_timms_factors():
    enhancers = (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness)
    for name, enhancer in zip(("color", "contrast", "brightness", "sharpness"), enhancers, strict=True):
        index, rng = NAMES.index(name), np.random.default_rng(0)

        def bytes_of(factor, enhancer=enhancer):
            return enhancer(IMAGE).enhance(factor).tobytes()

        for level, factor in ((0, 0.1), (5, 1.0), (9, 1.72), (10, 1.9)):
            assert OPERATIONS[index](IMAGE, level, rng, BILINEAR, 0).tobytes() == bytes_of(factor), (name, level)
        for level, factors in ((0, (1.0, 1.0)), (5, (1.45, 0.55)), (10, (1.9, 0.1))):
            found = [INCREASING_OPERATIONS[index](IMAGE, level, rng, BILINEAR, 0).tobytes() for _ in range(60)]
            assert set(found) == {bytes_of(max(0.1, factor)) for factor in factors}, (name, level)
    assert OPERATIONS[0](IMAGE, 3, rng, BILINEAR, 0).tobytes() == ImageOps.autocontrast(IMAGE).tobytes()
    assert OPERATIONS[1](IMAGE, 3, rng, BILINEAR, 0).tobytes() == ImageOps.equalize(IMAGE).tobytes()


def test_notation():
    parsed = RandAugment.from_string("rand-m9-mstd0.5-inc1", (1, 2, 3))
    assert parsed == RandAugment(9, 2, 0.5, 10, True, 0.5, (1, 2, 3))
    assert RandAugment.from_string("rand-m5-n3-p0.8-mmax7", (0,)) == RandAugment(5, 3, 0, 7, False, 0.8, (0,))
    assert RandAugment.from_string("rand-inc0", (0,)) == RandAugment(10, 2, 0, 10, False, 0.5, (0,))
    for wrong in ("rand-m11", "rand-m8-mmax7", "rand-mmax11", "augmix-m3", "rand-m9-x1", "rand-m9-n0", "rand--m9"):
        with pytest.raises(ValueError, match="--randaugment"):
            RandAugment.from_string(wrong, (0,))
    with pytest.raises(ValueError, match="--randaugment: 'rand-m9-p1.5' needs .*p up to 1"):
        RandAugment.from_string("rand-m9-p1.5", (0,))


@pytest.fixture
def calls(monkeypatch):
    """(name, level, resampling, fill) of the operations that were applied."""
    found = []

    def recorded(name):
        def operation(image, level, rng, resample, fill):
            found.append((name, level, resample, fill))
            return image

        return operation

    for table in ("OPERATIONS", "INCREASING_OPERATIONS"):
        monkeypatch.setattr(randaugment, table, tuple(recorded((table, name)) for name in NAMES))
    return found


def augmented(text, fill, count):
    augment, rng = RandAugment.from_string(text, fill), np.random.default_rng(0)
    for _ in range(count):
        assert augment(IMAGE, rng) is IMAGE


def test_each_of_two_operations_is_applied_half_of_the_time(calls):
    augmented("rand-m9-mstd0.5-inc1", (4, 5, 6), 4000)
    assert abs(len(calls) / 4000 - 1.0) < 0.05
    drawn = np.array([level for _, level, _, _ in calls])
    # Normal around 9 with deviation 0.5; only two deviations fit below the limit of 10.
    assert drawn.max() == 10 and abs(np.median(drawn) - 9) < 0.03 and abs(np.quantile(drawn, 0.1587) - 8.5) < 0.05
    tables, fills = {table for (table, _), *_ in calls}, {fill for *_, fill in calls}
    assert tables == {"INCREASING_OPERATIONS"} and fills == {(4, 5, 6)}
    for kind, values in ((0, NAMES), (1, (BILINEAR, BICUBIC))):
        seen = [name[1] if kind == 0 else resample for name, _, resample, _ in calls]
        shares = [seen.count(value) / len(seen) for value in values]
        assert all(abs(share - 1 / len(values)) < 0.25 / len(values) for share in shares)


def test_number_and_probability_are_those_asked_for(calls):
    augmented("rand-m3-n3-p1", (7,), 100)
    assert len(calls) == 300 and {level for _, level, _, _ in calls} == {3.0}
    assert {(table, fill) for (table, _), *_, fill in calls} == {("OPERATIONS", 7)}
    calls.clear()
    augmented("rand-m3-n4-p0.2", (7,), 1000)
    assert abs(len(calls) / 4000 - 0.2) < 0.02


def test_the_magnitude_stays_between_zero_and_its_maximum(calls):
    augmented("rand-m6-mstd3-mmax7-p1", (0,), 500)
    drawn = [level for _, level, _, _ in calls]
    assert max(drawn) == 7 and drawn.count(7) > 300 and min(drawn) == 0
    calls.clear()
    augmented("rand-m4-mstd101-p1", (0,), 1000)  # uniform from 0 to 4
    drawn = np.array([level for _, level, _, _ in calls])
    assert 0 < drawn.min() < 0.05 and 3.95 < drawn.max() < 4 and abs(drawn.mean() - 2) < 0.08
    assert abs(drawn.std() - 4 / np.sqrt(12)) < 0.05
    calls.clear()
    augmented("rand-m4-mstd100-p1", (0,), 500)  # still normal: mostly beyond one of the ends
    assert {0.0, 10.0} < {level for _, level, _, _ in calls}
