"""AutoAugment has the paper's pairs, probabilities and strengths."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from hf_effmodels.training.data import autoaugment
from hf_effmodels.training.data.autoaugment import POLICY, AutoAugment

IMAGE = Image.fromarray(np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8))


def only(monkeypatch, *pairs):
    monkeypatch.setattr(autoaugment, "POLICY", (pairs,))


def test_operations_are_applied_in_their_order_with_their_strengths(monkeypatch):
    only(monkeypatch, ("Solarize", 1.0, 5), ("Posterize", 1.0, 5))
    found = AutoAugment()(IMAGE, np.random.default_rng(0))
    expected = ImageOps.posterize(ImageOps.solarize(IMAGE, 128), 6)
    assert np.array_equal(found, expected) and not np.array_equal(found, IMAGE)


@pytest.mark.parametrize(("magnitude", "bits"), [(0, 4), (2, 4), (3, 5), (5, 6), (7, 6), (8, 7), (10, 8)])
def test_a_stronger_posterize_keeps_more_bits_as_the_papers_policy_has_it(monkeypatch, magnitude, bits):
    """4 + ⌊0.4 m⌋ (timm's PosterizeOriginal)."""
    only(monkeypatch, ("Posterize", 1.0, magnitude))
    assert np.array_equal(AutoAugment()(IMAGE, np.random.default_rng(0)), ImageOps.posterize(IMAGE, bits))


def test_operations_happen_with_their_probability(monkeypatch):
    only(monkeypatch, ("Invert", 0.3, 4), ("Equalize", 0.0, 7))
    rng = np.random.default_rng(0)
    changed = [not np.array_equal(AutoAugment()(IMAGE, rng), IMAGE) for _ in range(1000)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.05)


def test_noise_changes_the_strength_within_its_range(monkeypatch):
    only(monkeypatch, ("Posterize", 1.0, 5))
    rng = np.random.default_rng(0)
    kept = {len({*np.asarray(AutoAugment(magnitude_std=20.0)(IMAGE, rng)).ravel().tolist()}) for _ in range(60)}
    assert len(kept) > 2
    fixed = {AutoAugment()(IMAGE, rng).tobytes() for _ in range(10)}
    assert len(fixed) == 1


def test_every_pair_works_on_colour_and_grey_and_is_repeatable(monkeypatch):
    assert len(POLICY) == 25
    for pair in POLICY:
        monkeypatch.setattr(autoaugment, "POLICY", (pair,))
        for image, fill in ((IMAGE, (1, 2, 3)), (IMAGE.convert("L"), (7,))):
            first, second = (
                AutoAugment.from_string("original-mstd0.5", fill)(image, np.random.default_rng(4)) for _ in "ab"
            )
            assert first.mode == image.mode and first.tobytes() == second.tobytes()


def test_the_pairs_are_those_of_the_paper():
    # Table 9 of AutoAugment (ImageNet): operation, tenths of its probability, magnitude; the last is of an operation
    # without magnitude where there is "-".
    table = """
        Posterize 4 8  Rotate 6 9 | Solarize 6 5  AutoContrast 6 - | Equalize 8 -  Equalize 6 -
        Posterize 6 7  Posterize 6 6 | Equalize 4 -  Solarize 2 4 | Equalize 4 -  Rotate 8 8
        Solarize 6 3  Equalize 6 - | Posterize 8 5  Equalize 10 - | Rotate 2 3  Solarize 6 8
        Equalize 6 -  Posterize 4 6 | Rotate 8 8  Color 4 0 | Rotate 4 9  Equalize 6 -
        Equalize 0 -  Equalize 8 - | Invert 6 -  Equalize 10 - | Color 6 4  Contrast 10 8
        Rotate 8 8  Color 10 2 | Color 8 8  Solarize 8 7 | Sharpness 4 7  Invert 6 -
        ShearX 6 5  Equalize 10 - | Color 4 0  Equalize 6 - | Equalize 4 -  Solarize 2 4
        Solarize 6 5  AutoContrast 6 - | Invert 6 -  Equalize 10 - | Color 6 4  Contrast 10 8
        Equalize 8 -  Equalize 6 -
    """
    without = ("AutoContrast", "Equalize", "Invert")
    pairs = [pair.split() for line in table.strip().splitlines() for pair in line.split("|")]
    ours = [
        [word for name, p, m in pair for word in (name, f"{10 * p:g}", "-" if name in without else str(m))]
        for pair in POLICY
    ]
    assert ours == pairs


def test_the_policy_by_its_name_alone_has_no_noise():
    assert AutoAugment.from_string("original", (7,)) == AutoAugment(0.0, (7,))
    assert AutoAugment.from_string("original-mstd1.5", (7,)) == AutoAugment(1.5, (7,))


@pytest.mark.parametrize("text", ["v0", "original-m9", "original-mstd", ""])
def test_other_policies_are_refused(text):
    with pytest.raises(ValueError, match="--autoaugment: got"):
        AutoAugment.from_string(text, (0, 0, 0))
