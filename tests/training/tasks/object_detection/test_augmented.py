"""What is drawn for a training picture: each option away from where it does nothing, and to both sides."""

from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.tasks.object_detection import transforms
from hf_effmodels.training.tasks.object_detection.arguments import DetectionAugmentationArguments
from hf_effmodels.training.tasks.object_detection.data import DetectionImages
from hf_effmodels.training.tasks.object_detection.transforms import DetectionDataset

BOX, CROWD = [8, 8, 24, 24], [4, 4, 28, 28]
SAMPLES = 150


def dataset(number: int = 1, **options) -> DetectionDataset:
    """Pictures of one colour each, with an object of the picture's class and a crowd."""
    source = DetectionImages(
        [*range(number)],
        lambda row: Image.new("RGB", (32, 32), (60 + row, 40, 20)),
        lambda row, size: ([BOX, CROWD], [row, row], [False, True]),
        [*"abcdefghij"[:number]],
        "mine",
    )
    augmentation = DetectionAugmentationArguments(**{"horizontal_flip": 0.0, **options})
    return DetectionDataset(source, augmentation, 32, epochs=10 * SAMPLES, seed=2)


def drawn(name: str, samples: DetectionDataset) -> list:
    """What the function `name` is given, sample by sample: its positional and its named arguments."""
    calls, real = [], getattr(transforms, name)

    def call(*given, **options):
        calls.append((given, options))
        return real(*given, **options)

    with patch.object(transforms, name, call):
        for number in range(SAMPLES):
            samples[number]
    return calls


@pytest.mark.parametrize(
    "option, value, least, most",
    [
        ("scale", 0.4, 0.6, 1.4),
        ("rotate", 30.0, -30.0, 30.0),
        ("shear", 20.0, -20.0, 20.0),
        ("translate", 0.2, 0.3, 0.7),
    ],
)
def test_a_picture_is_warped_by_each_option_alone_and_to_both_sides(option, value, least, most):
    calls = drawn("affine_matrix", dataset(**{option: value}))
    names = {"scale": "scale", "rotate": "angle", "shear": "shear", "translate": "translation"}
    nothing = {"angle": 0.0, "scale": 1.0, "shear": (0.0, 0.0), "translation": (0.5, 0.5)}
    found = np.array([np.atleast_1d(options.pop(names[option])) for _, options in calls])
    assert len(found) == SAMPLES and all(given == ((32, 32), (32, 32)) for given, _ in calls)
    assert all(options == {name: nothing[name] for name in options} for _, options in calls)
    assert found.min() >= least and found.max() <= most
    reach = 0.1 * (most - least)
    assert (found.min(0) < least + reach).all() and (found.max(0) > most - reach).all()  # each of the two axes
    assert found.shape[1] == 1 or not np.array_equal(found[:, 0], found[:, 1])


def test_without_any_of_them_a_picture_keeps_its_size():
    samples = dataset()
    samples.side = 64
    assert not drawn("affine_matrix", samples) and samples[0]["image"].shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(32, 32), (100, 40), (10, 20)])
def test_pictures_beside_mosaics_are_as_large_as_they_are_and_whole(size):
    """Some of a batch, which has one size, are mosaics and some are not: in the middle of a square lies the whole
    picture, whose longer side is the square's."""
    width, height = size
    source = DetectionImages(
        [0], lambda row: Image.new("RGB", size), lambda row, _: ([[0, 0, *size]], [0], None), ["a"], "mine"
    )
    samples = DetectionDataset(source, DetectionAugmentationArguments(mosaic=0.5), 32, epochs=100, seed=2)
    with patch.object(transforms, "mosaic", side_effect=transforms.mosaic) as made:
        found, mosaics = [], []
        for number in range(24):
            found.append(samples[number])
            mosaics.append(made.call_count)
    assert 5 < mosaics[-1] < 19 and {sample["image"].shape for sample in found} == {(32, 32, 3)}
    alone = [s for s, before, after in zip(found, [0, *mosaics], mosaics, strict=False) if before == after]
    factor = 32 / max(size)
    left, top = 16 - factor * width / 2, 16 - factor * height / 2
    for sample in alone:
        expected = [0, left, top, 32 - left, 32 - top]
        assert sample["rows"].tolist() == [pytest.approx(expected, abs=1)]
        dark = (sample["image"] == 0).all(-1)
        assert dark.sum() == pytest.approx(factor**2 * width * height, rel=0.1)


def test_hue_saturation_and_brightness_change_by_their_own_shares_and_to_both_sides():
    shares = np.array([0.1, 0.6, 0.3])
    calls = drawn("change_colours", dataset(hue=0.1, saturation=0.6, brightness=0.3))
    changes = np.array([given[1] for given, _ in calls]) - 1
    assert len(changes) == SAMPLES and (np.abs(changes) <= shares).all()
    assert (changes.min(0) < -0.9 * shares).all() and (changes.max(0) > 0.9 * shares).all()
    assert not drawn("change_colours", dataset())


@pytest.mark.parametrize("options", [{}, {"scale": 0.01}, {"mosaic": 1.0}, {"mosaic": 1.0, "mixup": 1.0}], ids=str)
def test_no_crowd_is_trained_on(options):
    """Whatever becomes of the picture: nobody knows where one of its objects ends."""
    samples = dataset(4, **options)
    for number in range(20):
        sample = samples[number]
        most = 1 if "mosaic" not in options else 8 if "mixup" in options else 4
        assert len(sample["rows"]) <= most and len(sample["crowd"]) in (0, 1 if not options else 0)
    # A crowd is half as large again as an object.
    read = [rows for number in range(20) for rows in samples[number]["rows"]]
    assert read and max(x2 - x1 for _, x1, _, x2, _ in read) < 20


def test_the_pictures_of_a_mosaic_stand_in_any_order_the_own_one_among_them():
    calls = drawn("mosaic", dataset(10, mosaic=1.0))
    places = dict.fromkeys(range(4), 0)
    others = set()
    for number, (given, _) in enumerate(calls):
        shown = [int(image[0, 0, 0]) - 60 for image in given[0]]
        assert [rows[0, 0] for rows in given[1]] == shown, "boxes are those of the picture"
        assert number % 10 in shown
        others |= set(shown)
        for place, one in enumerate(shown):
            places[place] += one == number % 10
    assert others == set(range(10)) and min(places.values()) > SAMPLES / 4 / 2


def test_mosaics_and_their_mixtures_are_as_frequent_as_is_asked_for():
    assert len(drawn("mosaic", dataset(4, mosaic=0.2))) == pytest.approx(0.2 * SAMPLES, abs=0.1 * SAMPLES)
    assert len(drawn("mixup", dataset(4, mosaic=1.0, mixup=0.2))) == pytest.approx(0.2 * SAMPLES, abs=0.1 * SAMPLES)
    assert not drawn("mixup", dataset(4, mosaic=0.0, mixup=1.0)), "without a mosaic there is nothing to mix"


def test_two_mosaics_are_mixed_by_nearly_equal_shares():
    """Of Beta(32, 32): a half in the mean, with a standard deviation of 1 / √260."""
    calls = drawn("mixup", dataset(4, mosaic=1.0, mixup=1.0))
    shares = np.array([given[2] for given, _ in calls])
    assert len(shares) == SAMPLES and shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.std() == pytest.approx(260**-0.5, rel=0.2)


@pytest.mark.parametrize("flip", ["horizontal_flip", "vertical_flip"])
def test_each_flip_has_its_own_probability(flip):
    name = {"horizontal_flip": "flip_left_right", "vertical_flip": "flip_up_down"}[flip]
    assert len(drawn(name, dataset(**{flip: 0.25}))) == pytest.approx(0.25 * SAMPLES, abs=0.1 * SAMPLES)
    other = ({"flip_left_right", "flip_up_down"} - {name}).pop()
    assert not drawn(other, dataset(**{flip: 1.0}))
