"""What is taken as an image: its values, its precision and its bounds, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_effmodels.pipelines.sam_diffsr.image_inputs import images_to_tensors

from .tiny import photo

RGB = np.asarray(photo(5, 4))
GREY = RGB[..., 0]


def expected(values) -> torch.Tensor:
    """(height, width) or (height, width, 3) in [0, 1] as (3, height, width)."""
    values = np.asarray(values, dtype=np.float64)
    values = np.stack([values] * 3, axis=-1) if values.ndim == 2 else values
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def palette() -> Image.Image:
    image = Image.fromarray((GREY > 99).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 51, 255])
    return image


#: What is given -> its values, and the precision they are kept in.
FORMS = {
    "rgb": (lambda: Image.fromarray(RGB), RGB / 255, torch.float64),
    "grey": (lambda: Image.fromarray(GREY), GREY / 255, torch.float64),
    "one bit": (lambda: Image.fromarray(GREY > 99), np.float64(GREY > 99), torch.float64),
    "palette": (palette, np.where((GREY > 99)[..., None], [0, 0.2, 1], [1, 0, 0]), torch.float64),
    "deep": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), GREY / 255, torch.float64),
    "32 bits": (lambda: Image.fromarray(GREY.astype(np.int32)), GREY / 65535, torch.float64),
    "opaque": (lambda: Image.fromarray(np.dstack([RGB, 0 * GREY + 255])), RGB / 255, torch.float64),
    "bytes": (lambda: RGB, RGB / 255, torch.float64),
    "one channel": (lambda: GREY[..., None], GREY / 255, torch.float64),
    "two bytes": (lambda: RGB.astype(np.uint16) * 3, RGB.astype(int) * 3 / 65535, torch.float64),
    "opaque floats": (lambda: np.dstack([RGB / 255, 0 * GREY + 1.0]), RGB / 255, torch.float64),
    "opaque two bytes": (lambda: np.dstack([RGB.astype(np.uint16), np.full_like(GREY, 65535, np.uint16)]), RGB / 65535,
                         torch.float64),
    "tensor of bytes": (lambda: torch.tensor(RGB).permute(2, 0, 1), RGB / 255, torch.float32),
    "tensor of doubles": (lambda: torch.tensor(RGB / 255).permute(2, 0, 1), RGB / 255, torch.float64),
    "tensor of halves": (lambda: torch.tensor(RGB // 128).permute(2, 0, 1).half(), RGB // 128, torch.float32),
    "grey tensor": (lambda: torch.tensor(GREY)[None], GREY / 255, torch.float32),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_an_image_has_its_values_in_any_form(form):
    make, values, dtype = FORMS[form]
    (found,) = images_to_tensors(make())
    assert found.dtype == dtype and found.shape == (3, 4, 5)
    torch.testing.assert_close(found.double(), expected(values), rtol=0, atol=1e-7)


def test_batches_and_lists_are_told_apart_image_by_image_in_their_order():
    """A batch with one image too bright is not made dimmer by the others, nor accepted for them."""
    two = np.stack([RGB, RGB[:, ::-1]])
    pixels = torch.tensor(two).permute(0, 3, 1, 2)
    wide = Image.fromarray(np.hstack([RGB, RGB]))
    found = images_to_tensors([two, pixels, [wide, (pixels / 255.0,)]])
    shapes = [tuple(one.shape) for one in found]
    assert shapes == [(3, 4, 5)] * 4 + [(3, 4, 10)] + [(3, 4, 5)] * 2
    for place, mirrored in ((0, False), (1, True), (2, False), (3, True), (5, False), (6, True)):
        values = expected((RGB[:, ::-1] if mirrored else RGB) / 255)
        torch.testing.assert_close(found[place].double(), values, rtol=0, atol=1e-6)
    for bright in (two / 255 * 1.5, torch.tensor(two / 255 * 1.5).permute(0, 3, 1, 2)):
        bright[0] *= 0.1
        with pytest.raises(ValueError, match=r"values of floating-point images must be in \[0, 1\]"):
            images_to_tensors(bright)


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_black_and_white_are_within_what_is_accepted(values):
    array = np.array([[values]]).repeat(3, 0).transpose(1, 2, 0)
    for image in (array, torch.tensor(array).permute(2, 0, 1)):
        (found,) = images_to_tensors(image)
        assert found.unique().tolist() == sorted({*values})
    for beyond in (1 + 1e-6, -1e-6):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            images_to_tensors(np.where(array == values[0], beyond, array))


def test_the_brightest_of_a_deep_image_is_white():
    (found,) = images_to_tensors(Image.fromarray(np.array([[0, 65535]], np.int32)))
    assert found[:, 0].tolist() == [[0.0, 1.0]] * 3


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16L", "I;16B"])
def test_grey_images_of_sixteen_bits_are_read_in_any_order_of_their_bytes(mode):
    """Of values whose two bytes differ; a big-endian TIFF has the last of these modes."""
    values = np.array([[0, 1, 256], [0x1234, 0xFEDC, 65535]])
    stored = values.astype({"I": "=i4", "I;16B": ">u2"}.get(mode, "<u2"))
    image = Image.frombytes(mode, (3, 2), stored.tobytes())
    assert image.mode == mode
    (found,) = images_to_tensors(image)
    torch.testing.assert_close(found, expected(values / 65535), rtol=0, atol=1e-12)


def test_a_big_endian_tiff_is_read_as_the_same_picture_in_the_other_order(tmp_path):
    values = np.array([[0, 1, 256], [0x1234, 0xFEDC, 65535]])
    Image.frombytes("I;16B", (3, 2), values.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    with Image.open(tmp_path / "big.tif") as image:
        (found,) = images_to_tensors(image)
    torch.testing.assert_close(found, expected(values / 65535), rtol=0, atol=1e-12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_the_camera_was_held(orientation):
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = orientation
    turns = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2),
        6: RGB[::-1].transpose(1, 0, 2), 7: RGB[::-1, ::-1].transpose(1, 0, 2), 8: RGB[:, ::-1].transpose(1, 0, 2),
    }  # fmt: skip
    (found,) = images_to_tensors(image)
    torch.testing.assert_close(found, expected(turns[orientation] / 255), rtol=0, atol=1e-9)
