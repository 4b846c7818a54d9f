from itertools import combinations

import numpy as np
import pytest

from hf_effmodels.training.data import digit_canvases
from hf_effmodels.training.data.digit_canvases import digit_canvas, named_in_cards


@pytest.fixture
def digits_of(monkeypatch):
    def patch(image: np.ndarray, labels=range(10)) -> None:
        monkeypatch.setattr(digit_canvases, "_digits", lambda split: [(image, label) for label in labels])

    return patch


@pytest.mark.parametrize("brightness", [255, 80])
def test_canvases_are_as_large_and_hold_as_many_digits_of_such_sizes_and_contrasts_as_they_say(digits_of, brightness):
    """Digits that are all ink, so that their boxes are the squares that were drawn."""
    digits_of(np.full((8, 8), brightness, np.uint8))
    canvases = [digit_canvas("train", number) for number in range(150)]
    shapes = np.array([image.shape[:2] for image, _, _ in canvases])
    assert (shapes.min(0).tolist(), shapes.max(0).tolist()) == ([96, 96], [128, 128])
    counts = [len(rows) for _, rows, _ in canvases]
    assert (min(counts), max(counts)) == (1, 6)
    boxes = np.concatenate([rows for _, rows, _ in canvases])
    sides = boxes[:, 3:] - boxes[:, 1:3]
    assert (sides[:, 0] == sides[:, 1]).all() and (sides.min(), sides.max()) == (14, 44)
    assert set(boxes[:, 0]) == {*range(10)}
    contrasts, shares, edges = [], [0.0], set()
    for image, rows, labels in canvases:
        expected = np.zeros_like(labels)
        for digit, x1, y1, x2, y2 in rows.astype(int):
            expected[y1:y2, x1:x2] = digit + 1
            edges |= {x1 == 0, y1 == 0, x2 == image.shape[1], y2 == image.shape[0]} & {True}
        assert (labels == expected).all() and (image == image[..., :1]).all()
        if len(rows) == 1:
            contrasts.append(image[labels > 0].mean() - image[labels == 0].mean())
        for (_, *first), (_, *second) in combinations(rows.tolist(), 2):
            wide = min(first[2], second[2]) - max(first[0], second[0])
            high = min(first[3], second[3]) - max(first[1], second[1])
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
            shares.append(wide * high / smaller if wide > 0 and high > 0 else 0.0)
    # Ink adds from 60 to 145 to a ground that slopes by up to 15 to either side.
    assert 60 * brightness / 255 - 16 < min(contrasts) and max(contrasts) < 145 * brightness / 255 + 16
    assert 0.02 < max(shares) < 0.05 and edges


def test_what_is_no_ink_belongs_neither_to_the_box_nor_to_the_map(digits_of):
    """A digit whose right half is at a fifth of full ink: too little to count."""
    digits_of(np.repeat([[255, 255, 255, 255, 51, 51, 51, 51]], 8, axis=0).astype(np.uint8))
    for number in range(10):
        _, rows, labels = digit_canvas("test", number)
        assert (labels > 0).any()
        for digit, x1, y1, x2, y2 in rows.astype(int):
            # The edge between the halves is a pixel of 8 in the digit wide.
            assert abs((x2 - x1) - (y2 - y1) / 2) <= (y2 - y1) / 8 + 1
            assert (labels[y1:y2, x1:x2] > 0).mean() > 0.9 and digit + 1 in labels[y1:y2, x1:x2]


def test_the_ground_is_as_bright_and_noisy_as_it_says(digits_of):
    digits_of(np.full((8, 8), 255, np.uint8))
    levels, noises = [], []
    for number in range(150):
        image, _, labels = digit_canvas("test", number)
        ground = np.where(labels == 0, image[..., 0], np.nan)
        levels.append(np.nanmean(ground))
        steps = np.diff(ground, axis=0)  # down a column, where the slope is level
        noises.append(np.nanstd(steps) / np.sqrt(2))
    assert 15 < min(levels) < 30 and 95 < max(levels) < 115
    assert 1.8 < min(noises) < 2.8 and 10.5 < max(noises) < 12.5


def test_training_and_test_canvases_hold_other_digits_and_each_is_another():
    train, test = (digit_canvases._digits(split) for split in ("train", "test"))
    seen = {image.tobytes() for image, _ in train}
    assert not any(image.tobytes() in seen for image, _ in test)
    first = {digit_canvas(split, number)[0].tobytes() for split in ("train", "test") for number in range(4)}
    assert len(first) == 8


def test_a_card_tells_canvases_of_digits_from_digits():
    assert "canvases" in named_in_cards("digits") and named_in_cards("my/digits") == "my/digits"
    assert named_in_cards(None) is None


def test_canvases_to_test_with_are_laid_out_otherwise_than_those_to_train_on(digits_of):
    digits_of(np.full((8, 8), 255, np.uint8))
    train, test = ([digit_canvas(split, number)[0].shape for number in range(8)] for split in ("train", "test"))
    assert train != test and train[:7] != test[1:]
