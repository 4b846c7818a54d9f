import numpy as np
import pytest
import torch

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
    small = np.array([random_resized_box(400, 300, (0.1, 0.3), (3 / 4, 4 / 3), rng) for _ in range(4000)])
    width, height = small[:, 2] - small[:, 0], small[:, 3] - small[:, 1]
    assert abs(np.mean(width * height / 120000) - 0.2) < 0.003
    assert abs(np.mean(np.log(width / height))) < 0.01
    assert random_resized_box(100, 10, (0.9, 1.0), (0.9, 1.1), rng) == (44, 0, 55, 10)


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_random_erasing_fills_a_rectangle_of_the_size_asked_for(mode):
    rng = np.random.default_rng(0)
    shares, values = [], []
    for _ in range(500):
        pixels = torch.full((3, 40, 50), 7.0)
        erase(pixels, 1, mode, rng)
        changed = (pixels != 7.0).all(dim=0)
        rows, columns = changed.any(dim=1).sum(), changed.any(dim=0).sum()
        assert changed.sum() == rows * columns
        shares.append(changed.float().mean())
        values.append(pixels[:, changed].flatten())
    assert 0.015 < min(shares) < 0.04 and 0.3 < max(shares) < 0.35
    values = torch.cat(values)
    if mode == "const":
        assert (values == 0).all()
    else:
        assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
