"""Maps, rests of boxes and colours of detectors' augmentation, by hand."""

import numpy as np
import pytest

from hf_effmodels.training.data.detection_augment import affine_matrix, change_colours, shrink_to, warp_boxes


def test_an_image_is_scaled_wherever_one_of_its_sides_changes():
    image, rows = np.zeros((39, 5, 3), np.uint8), np.array([[1.0, 0, 0, 5, 39]])
    scaled, moved = shrink_to(image, rows, 40)
    assert scaled.shape == (40, 5, 3) and moved.tolist() == [[1, 0, 0, 5, 40]]
    same, unmoved = shrink_to(image, rows, 39)
    assert same is image and unmoved is rows


def test_a_point_is_centred_turned_scaled_sheared_and_moved_in_this_order():
    options = {"angle": 30.0, "scale": 1.5, "shear": (10.0, -20.0), "translation": (0.4, 0.7)}
    matrix = affine_matrix((20, 60), (100, 40), **options)
    x, y = 50 - 30, 4 - 10  # of an image 20 high and 60 wide
    sine, cosine = np.sin(np.pi / 6), np.cos(np.pi / 6)
    x, y = 1.5 * (cosine * x + sine * y), 1.5 * (cosine * y - sine * x)
    x, y = x + np.tan(np.pi / 18) * y, y + np.tan(-np.pi / 9) * x
    assert (matrix @ [50, 4, 1]).tolist() == pytest.approx([x + 0.4 * 40, y + 0.7 * 100, 1])


@pytest.mark.parametrize(
    "box, scale, stays",
    [
        ((10, 10, 12, 40), 1.0, False),  # two pixels wide
        ((10, 10, 13, 40), 1.0, True),
        ((10, 10, 40, 12), 1.0, False),
        ((10, 10, 40, 13), 1.0, True),
        ((0, 10, 60, 13), 1.0, False),  # twenty times as wide as high
        ((0, 10, 59, 13), 1.0, True),
        ((10, 0, 13, 60), 1.0, False),
        ((10, 0, 13, 59), 1.0, True),
        ((-90, 10, 10, 20), 1.0, False),  # a tenth of it is left
        ((-89, 10, 10, 20), 1.0, True),
        ((10, 10, 20, 20), 4.0, False),  # and of what the scale has made of it a sixteenth
        ((10, 10, 20, 20), 3.0, True),
        ((60, 10, 100, 40), 1.0, True),  # beyond the right edge, which is not as far off as the lower one
        ((10, 50, 40, 90), 1.0, True),
        ((81, 10, 90, 20), 1.0, False),
        ((10, 71, 20, 80), 1.0, False),
    ],
)
def test_what_is_too_little_of_a_box_is_left_out(box, scale, stays):
    found = warp_boxes(np.array([[3.0, *box]]), np.eye(3), (70, 80), scale)
    clipped = [min(max(0, value), side) for value, side in zip(box, (80, 70, 80, 70), strict=True)]
    assert found.tolist() == ([[3, *clipped]] if stays else [])


def test_hues_go_round_and_strong_colours_stay_within_bytes():
    blue = np.full((1, 1, 3), (0, 0, 200), np.uint8)
    # Its hue is 120 of 180: times 1.5 it is red again, times 0.5 green.
    assert change_colours(blue, (1.5, 1, 1))[0, 0].tolist() == [200, 0, 0]
    assert change_colours(blue, (0.5, 1, 1))[0, 0].tolist() == [0, 200, 0]
    assert change_colours(blue, (1, 9, 9))[0, 0].tolist() == [0, 0, 255]
    assert change_colours(blue, (1, 0, 0.5))[0, 0].tolist() == [100, 100, 100]
