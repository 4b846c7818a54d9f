import io

import numpy as np
import pytest
from PIL import Image

from hf_effmodels.training.data.images import read_image

RNG = np.random.default_rng(0)
RGB = Image.fromarray(RNG.integers(256, size=(6, 9, 3), dtype=np.uint8))


def as_file(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def test_gray_fills_three_channels_and_colour_becomes_luminance():
    gray = RGB.convert("L")
    assert np.array_equal(read_image(as_file(gray, "PNG"), 3), np.repeat(np.asarray(gray)[..., None], 3, axis=2))
    r, g, b = np.asarray(RGB, dtype=np.float64).transpose(2, 0, 1)
    assert np.abs(np.asarray(read_image(RGB, 1)) - (0.299 * r + 0.587 * g + 0.114 * b)).max() <= 1
    assert read_image(RGB, 4).mode == "RGBA" and read_image(gray, 2).mode == "LA"


@pytest.mark.parametrize("source", ["file", "image", "array"])
def test_sixteen_bits_are_scaled_and_not_clipped(source):
    values = np.linspace(0, 65535, 54).round().astype(np.uint16).reshape(6, 9)
    given = {"array": values, "image": Image.fromarray(values), "file": as_file(Image.fromarray(values), "PNG")}[
        source
    ]
    read = np.asarray(read_image(given, 1))
    assert np.abs(read - values / 257).max() <= 0.5
    assert len(np.unique(read)) == 54


def test_exif_rotation_is_applied_once():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: rotate clockwise
    upright = read_image(as_file(RGB, "PNG", exif=exif), 3)
    assert np.array_equal(upright, np.asarray(RGB.transpose(Image.Transpose.ROTATE_270)))
    assert np.array_equal(read_image(upright, 3), np.asarray(upright))


@pytest.mark.parametrize("mode", ["CMYK", "P", "RGBA", "LA", "1"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_mode_becomes_the_models(mode, channels):
    read = read_image(as_file(RGB.convert(mode), "TIFF" if mode == "CMYK" else "PNG"), channels)
    assert (read.mode, read.size) == ({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], RGB.size)
    if mode in ("CMYK", "RGBA") and channels == 3:
        assert np.abs(np.asarray(read, dtype=int) - np.asarray(RGB)).max() <= 1


@pytest.mark.parametrize(
    "value, error, message",
    [
        (np.zeros((0, 4, 3), np.uint8), ValueError, "no pixels"),
        (None, ValueError, "no image"),
        ({"bytes": b"", "path": None}, ValueError, "no image"),
        ({"bytes": b"not a picture", "path": None}, OSError, "not an image"),
        ({"bytes": as_file(RGB, "PNG")["bytes"][:60], "path": None}, OSError, "damaged|truncated|cut"),
        ({"bytes": None, "path": "/nowhere.png"}, OSError, "nowhere.png"),
        (Image.new("F", (4, 4)), ValueError, "float"),
        (np.zeros((4, 4), np.float32), ValueError, "float32.*uint8"),
        (7, ValueError, "int"),
    ],
)
def test_what_is_no_image_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        read_image(value, 3)
