"""Structure maps and MATLAB's resize. Their numbers are in the parity cases; here is what they promise."""

import numpy as np
import pytest
import torch

from hf_effmodels.pipelines.sam_diffsr.masks import (
    decode_regions,
    encode_masks,
    encode_regions,
    normalize_structure,
    position_encoding,
    region_values,
)
from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize, resize_weights


def halves(height: int = 6, width: int = 8) -> list[np.ndarray]:
    left = np.zeros((height, width), dtype=bool)
    left[:, : width // 2] = True
    return [left, ~left]


def test_the_position_encoding_is_a_rotation_of_ones():
    """Each pair of columns is (1, 1) turned by an angle: its length stays √2; row 0 is not turned."""
    encoding = position_encoding(5, 6)
    np.testing.assert_allclose(np.hypot(encoding[:, ::2], encoding[:, 1::2]), np.sqrt(2))
    np.testing.assert_allclose(encoding[0], 1)
    np.testing.assert_allclose(encoding[1, :2], [np.cos(1) - np.sin(1), np.cos(1) + np.sin(1)])
    np.testing.assert_allclose(position_encoding(5, 7)[:, -1], 1)


def test_a_region_counts_by_its_share_of_the_whole_image():
    values = region_values(halves())
    assert values.sum() == pytest.approx(position_encoding(6, 8).mean())
    np.testing.assert_allclose(region_values(halves(), "cosine"), np.sqrt(0.5))


def test_later_masks_overwrite_and_pixels_in_none_are_zero():
    left, right = halves()
    whole = np.ones_like(left)
    structure = encode_masks([whole, left])
    values = region_values([whole, left])
    assert structure.dtype == np.float32
    np.testing.assert_allclose(structure[:, 0], values[1], rtol=1e-6)
    np.testing.assert_allclose(structure[:, -1], values[0], rtol=1e-6)
    assert not encode_masks([left])[:, -1].any()
    assert np.array_equal(
        encode_masks([left.astype(np.uint8)], encoding="cosine"), encode_masks([left], encoding="cosine")
    )
    assert np.array_equal(encode_masks([], (3, 4)), np.zeros((3, 4)))


def test_normalisation_is_off_by_default_and_spares_flat_patches():
    structure = encode_masks(halves())
    assert np.array_equal(normalize_structure(structure), structure)
    normal = normalize_structure(structure, "z_score")
    assert normal.mean() == pytest.approx(0, abs=1e-6) and normal.std() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(normalize_structure(structure, "z_score_minus_one"), normal - 1)
    flat = np.full((4, 4), 0.3, dtype=np.float32)
    assert np.array_equal(normalize_structure(flat, "z_score"), flat)
    assert not normalize_structure(flat, constant_to_zero=True).any()


def uneven() -> list[np.ndarray]:
    masks = [np.zeros((6, 6), dtype=bool) for _ in range(3)]
    masks[0][:2, :3], masks[1][1:5, 4:], masks[2][:] = True, True, True
    return masks


@pytest.mark.parametrize("encoding", ["rope", "cosine", "sincos"])
def test_a_mask_s_number_is_its_encoding_summed_in_it_over_all_pixels_of_the_image(encoding):
    """Of the sines, s_i = sin(1000^(2i/n)): column i of row j counts s_i cos(s_j)."""
    sines = [np.sin(1000 ** (2 * i / 6)) for i in range(6)]
    base = {"rope": position_encoding(6, 6), "sincos": np.array([[s * np.cos(r) for s in sines] for r in sines])}
    for mask, value in zip(uneven(), region_values(uneven(), encoding), strict=True):
        share = mask.sum() / 36
        expected = share**0.5 if encoding == "cosine" else np.where(mask, base[encoding], 0).sum() / 36
        assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_map_has_the_precision_that_is_asked_for(dtype):
    left, right = halves()
    found = encode_masks([left, right], dtype=dtype)
    assert found.dtype == dtype
    assert {*found.reshape(-1).tolist()} == {float(dtype(value)) for value in region_values([left, right])}


@pytest.mark.parametrize("mode", ["none", "z_score", "z_score_minus_one"])
def test_only_a_patch_of_one_value_becomes_zero(mode):
    structure = encode_masks(halves())
    kept = normalize_structure(structure, mode, constant_to_zero=True)
    assert np.array_equal(kept, normalize_structure(structure, mode)) and kept.any() and kept.dtype == np.float32
    flat = np.full((1, 4, 4), 0.3, dtype=np.float32)
    assert not normalize_structure(flat, mode, constant_to_zero=True).any()
    assert np.array_equal(normalize_structure(flat, mode), flat)


def test_bad_masks_are_refused_by_name():
    left, _ = halves()
    with pytest.raises(ValueError, match="masks: they are 6×8, the image is 8×6"):
        encode_masks([left], (8, 6))
    with pytest.raises(ValueError, match="masks: expected arrays"):
        encode_masks([left, left.T])
    with pytest.raises(ValueError, match="size: needed where there are no masks"):
        encode_masks([])
    with pytest.raises(ValueError, match="encoding: got 'linear'"):
        encode_masks([left], encoding="linear")
    with pytest.raises(ValueError, match="'sincos' is for square images"):
        encode_masks([left], encoding="sincos")
    with pytest.raises(ValueError, match="mode: got '01'"):
        normalize_structure(np.zeros((2, 2)), "01")


def test_resizing_keeps_constants_and_straight_lines():
    for old, new in ((24, 6), (6, 24), (9, 7), (5, 12), (1, 4)):
        np.testing.assert_allclose(resize_weights(old, new, new / old).sum(1), 1)
    ramp = torch.arange(40.0, dtype=torch.float64).expand(3, 40)
    middle = slice(4, -4)
    np.testing.assert_allclose(imresize(ramp, 0.25)[0, 2:-2], 4 * np.arange(10)[2:-2] + 1.5)
    positions = (np.arange(160) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(imresize(ramp, 4)[0, 16:-16], positions[16:-16])
    assert imresize(ramp, size=(3, 40))[0, middle].equal(ramp[0, middle])


def test_bytes_are_rounded_after_each_pass_the_stronger_reduction_first():
    image = torch.randint(0, 256, (20, 24), dtype=torch.uint8)
    for size in ((5, 12), (10, 6)):
        rows, columns = (resize_weights(old, new, new / old) for old, new in zip((20, 24), size, strict=True))
        values = image.double()
        passes = [lambda v, w=rows: w @ v, lambda v, w=columns: v @ w.T]
        for apply in passes if size[0] / 20 < size[1] / 24 else passes[::-1]:
            values = apply(values).round().clamp(0, 255)
        assert torch.equal(imresize(image, size=size), values.to(torch.uint8))


def test_kernels_are_widened_where_an_image_shrinks():
    """Halved, a pixel sees four of the triangle and eight of Keys' cubic, at half and one and a half steps."""
    triangle = [(1 - abs(d) / 2) / 2 for d in (-1.5, -0.5, 0.5, 1.5)]
    np.testing.assert_allclose(resize_weights(8, 4, 0.5, "bilinear")[1], [0, *triangle, 0, 0, 0], atol=1e-15)

    def keys(x):
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2

    cubic = [keys(d / 2) / 2 for d in np.arange(-3.5, 4)]
    np.testing.assert_allclose(resize_weights(16, 8, 0.5)[3], [0] * 3 + cubic + [0] * 5, atol=1e-15)
    # Enlarged it is as wide as it is, and mirrored at the edge with the last pixel once more.
    np.testing.assert_allclose(resize_weights(3, 6, 2.0, "bilinear")[0], [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(resize_weights(3, 6, 2.0, "bilinear")[1], [0.75, 0.25, 0], atol=1e-15)
    assert torch.equal(imresize(torch.ones(2, 8), 0.5, kernel="bilinear"), torch.ones(1, 4))


def test_regions_and_their_numbers_hold_a_map():
    left, right = halves()
    masks = [np.ones_like(left), left, right[::-1] & (np.arange(6) < 2)[:, None]]
    regions, values = encode_regions(masks)
    assert regions.dtype == np.uint16 and values.dtype == np.float32 and regions.max() == 3
    assert np.array_equal(decode_regions(regions, values), encode_masks(masks))
    nothing, none = encode_regions([], (3, 4))
    assert not nothing.any() and len(none) == 0 and np.array_equal(decode_regions(nothing, none), np.zeros((3, 4)))
    for wrong in (regions.astype(int) - 2, regions + np.uint16(1)):
        with pytest.raises(ValueError, match="regions: .* to .*, but there are 3 values"):
            decode_regions(wrong, values)
    assert decode_regions(np.zeros((0, 3), int), values).shape == (0, 3)
    with pytest.raises(ValueError, match="masks: got 65536, at most 65535 are accepted"):
        encode_regions([np.ones((1, 1), dtype=bool)] * 2**16, encoding="cosine")


def test_resizing_takes_batches_and_rounds_bytes():
    images = torch.randint(0, 256, (2, 3, 10, 13), dtype=torch.uint8)
    small = imresize(images, 1 / 4)
    assert small.shape == (2, 3, 3, 4) and small.dtype == torch.uint8
    assert torch.equal(small[1], imresize(images[1], 1 / 4))
    exact = imresize(images.double(), 1 / 4)
    assert (small.double() - exact.clamp(0, 255)).abs().max() <= 1.01
    for options, message in (
        ({"scale": 0}, "scale: got 0"),
        ({"size": (0, 3)}, "size: got"),
        ({"size": (3, 0)}, "size: got"),
        ({"size": (3, 3, 3)}, r"size: got \(3, 3, 3\), accepted are two positive integers"),
        ({"scale": -1.0}, "scale: got -1.0, accepted are positive numbers"),
        ({"scale": 2, "size": (3, 3)}, "Give either scale or size"),
        ({}, "Give either scale or size"),
        ({"scale": 2, "kernel": "box"}, "kernel: got 'box', accepted are 'bicubic', 'bilinear'"),
    ):
        with pytest.raises(ValueError, match=message):
            imresize(images, **options)
    for wrong in (torch.zeros(5), torch.zeros(3, 0, 5)):
        with pytest.raises(ValueError, match=r"image: expected \(..., height, width\), got"):
            imresize(wrong, 2)
    assert imresize(torch.ones(4, 4), size=(1, 1)).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="image: got dtype torch.int64"):
        imresize(images.long(), 2)
