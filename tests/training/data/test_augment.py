"""Crops and erased rectangles have the sizes, forms and places of their papers."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from hf_effmodels.training.data.augment import erase, random_resized_box


def test_random_resized_boxes_have_the_shares_and_ratios_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_box(400, 300, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    share, ratio = width * height / 120000, width / height
    assert 0.078 < share.min() < 0.09 and share.max() > 0.9
    assert 0.74 < ratio.min() < 0.77 and 1.30 < ratio.max() < 1.35
    # Small parts always fit, so where only they are asked for the distributions are exactly the uniform ones.
    small = np.array([random_resized_box(400, 300, (0.1, 0.3), (1 / 2, 3), rng) for _ in range(4000)])
    width, height = small[:, 2] - small[:, 0], small[:, 3] - small[:, 1]
    share, ratio = width * height / 120000, np.log(width / height)
    assert abs(share.mean() - 0.2) < 0.003 and abs(share.std() - 0.2 / np.sqrt(12)) < 0.003
    assert abs(ratio.mean() - (np.log(3) - np.log(2)) / 2) < 0.03 and abs(ratio.std() - np.log(6) / np.sqrt(12)) < 0.02


def test_boxes_of_one_size_lie_everywhere_and_reach_all_borders():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_box(20, 10, (0.125, 0.125), (1, 1), rng) for _ in range(3000)])
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes.tolist()} == {(5, 5)}
    for starts, count in ((boxes[:, 0], 16), (boxes[:, 1], 6)):
        shares = np.bincount(starts, minlength=count) / 3000
        assert len(shares) == count and np.abs(shares * count - 1).max() < 0.35
    # As well those that are as high, or as wide, as the picture.
    for width, height, start in ((40, 10, 0), (10, 40, 1)):
        boxes = [random_resized_box(width, height, (0.25, 0.25), (1, 1), rng) for _ in range(600)]
        assert {box[start] for box in boxes} == {*range(31)} and {box[1 - start] for box in boxes} == {0}


def test_a_box_that_cannot_fit_is_the_centre_within_the_ratio():
    rng = np.random.default_rng(0)
    assert random_resized_box(100, 10, (0.9, 1.0), (0.9, 1.1), rng) == (44, 0, 55, 10)
    assert random_resized_box(10, 100, (0.9, 1.0), (0.8, 1.0), rng) == (0, 44, 10, 56)
    assert random_resized_box(100, 10, (0.9, 1.0), (0.5, 20.0), np.random.default_rng(1))[3] <= 10


@pytest.mark.parametrize("width, height, ratio", [(9, 1, (0.2, 0.3)), (1, 9, (3.0, 4.0)), (1, 1, (0.1, 0.2))])
def test_a_box_has_a_pixel_at_least(width, height, ratio):
    """However narrow the picture and the ratio: the centre's."""
    found = random_resized_box(width, height, (1.0, 1.0), ratio, np.random.default_rng(0))
    left, top = (width - 1) // 2, (height - 1) // 2
    assert found == (left, top, left + 1, top + 1)


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_random_erasing_fills_a_rectangle_of_the_size_asked_for(mode):
    rng = np.random.default_rng(0)
    shares, ratios, values = [], [], []
    for _ in range(500):
        pixels = torch.full((3, 40, 50), 7.0)
        erase(pixels, 1, mode, rng)
        changed = (pixels != 7.0).all(dim=0)
        rows, columns = changed.any(dim=1).sum(), changed.any(dim=0).sum()
        assert changed.sum() == rows * columns
        shares.append(changed.float().mean())
        ratios.append(np.log(float(rows) / float(columns)))
        values.append(pixels[:, changed].flatten())
    assert 0.015 < min(shares) < 0.04 and 0.3 < max(shares) < 0.35
    assert abs(np.mean(shares) - (0.02 + 1 / 3) / 2) < 0.02
    # Height / width from 0.3 to 1 / 0.3, but for rounding.
    assert abs(np.mean(ratios)) < 0.12 and -1.4 < min(ratios) < -0.9 and 0.9 < max(ratios) < 1.4
    values = torch.cat(values)
    if mode == "const":
        assert (values == 0).all()
    else:
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01


def test_noise_differs_between_channels():
    pixels = torch.full((3, 40, 50), 7.0)
    erase(pixels, 1, "pixel", np.random.default_rng(0))
    changed = pixels[:, (pixels[0] != 7.0)]
    assert not torch.equal(changed[0], changed[1]) and not torch.equal(changed[1], changed[2])


def test_several_rectangles_share_the_area_of_one():
    counts, shares, places = [], [], np.zeros((200, 200), bool)
    for seed in range(300):
        pixels = torch.ones(1, 200, 200)
        erase(pixels, 4, "const", np.random.default_rng(seed))
        erased = pixels[0].numpy() == 0
        counts.append(label(erased)[1])  # those that touch count as one
        shares.append(erased.mean())
        places |= erased
    assert max(counts) == 4 and min(counts) == 1 and min(counts.count(n) for n in (1, 2, 3, 4)) >= 15
    assert 75 < counts.count(1) < 140  # a quarter, and those that overlap
    # Together at most 33 per cent, and of four rectangles hardly ever near it.
    assert max(shares) < 0.34 and abs(np.mean(shares) - (0.02 + 1 / 3) / 2) < 0.02
    assert places.mean() > 0.99 and places[:5].any() and places[-5:].any() and places[:, -5:].any()
    for seed in range(50):
        pixels = torch.ones(1, 200, 200)
        erase(pixels, 1, "const", np.random.default_rng(seed))
        assert label(pixels[0].numpy() == 0)[1] == 1


def test_a_rectangle_is_lower_and_narrower_than_the_image():
    for shape in ((1, 2, 40), (1, 40, 2)):
        erased = 0
        for seed in range(60):
            pixels = torch.ones(shape)
            erase(pixels, 1, "const", np.random.default_rng(seed))
            gone = pixels[0] == 0
            erased += bool(gone.any())
            assert not gone.all(0).any() or shape[1] > 2
            assert not gone.all(1).any() or shape[2] > 2
        assert erased > 10
