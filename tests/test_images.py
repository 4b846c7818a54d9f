import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_effmodels.images import image_name, read_image, upright

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


@pytest.mark.parametrize("source", ["file", "image", "array", "array of the other order"])
def test_sixteen_bits_are_scaled_and_not_clipped(source):
    values = np.linspace(0, 65535, 54).round().astype(np.uint16).reshape(6, 9)
    image, other = Image.fromarray(values), values.astype(values.dtype.newbyteorder())
    given = {"array": values, "array of the other order": other, "image": image, "file": as_file(image, "PNG")}[source]
    read = np.asarray(read_image(given, 1))
    assert np.abs(read - values / 257).max() <= 0.5
    assert len(np.unique(read)) == 54


def test_the_bytes_count_where_there_are_some_and_the_path_is_just_a_name():
    assert np.array_equal(read_image(as_file(RGB, "PNG") | {"path": "7.png"}), RGB)


def test_a_palette_has_its_colours_with_and_without_transparency():
    palette = RGB.quantize(8)
    colours = np.asarray(palette.convert("RGB"))
    for channels, mode in ((2, "LA"), (3, "RGB"), (4, "RGBA")):
        read = np.asarray(read_image(as_file(palette, "PNG"), channels))
        assert np.array_equal(read, np.asarray(palette.convert("RGB").convert(mode)))
    clear = np.asarray(read_image(as_file(palette, "PNG", transparency=int(np.asarray(palette)[0, 0])), 4))
    assert np.array_equal(clear[..., 3] == 0, np.asarray(palette) == np.asarray(palette)[0, 0])
    assert np.array_equal(clear[..., :3], colours)


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
        (Image.fromarray(np.array([[70_000]], np.int32)), ValueError, "32-bit image with values from 70000 to 70000"),
        (Image.fromarray(np.array([[-1]], np.int32)), ValueError, "32-bit image with values from -1"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "no pixels"),
        (None, ValueError, "no image"),
        ({"bytes": b"", "path": None}, ValueError, "no image"),
        ({"bytes": b"not a picture", "path": None}, OSError, "not an image"),
        ({"bytes": as_file(RGB, "PNG")["bytes"][:60], "path": None}, OSError, "damaged|truncated|cut"),
        ({"bytes": None, "path": "/nowhere.png"}, OSError, "nowhere.png"),
        (Image.new("F", (4, 4)), ValueError, "float"),
        *(
            (np.zeros(shape, np.uint8), ValueError, r"an array of shape .*: accepted are .height, width. and")
            for shape in ((4,), (4, 4, 5), (4, 4, 0), (1, 4, 4, 3))
        ),
        (b"", ValueError, "there is no image"),
        ({"bytes": None, "path": None}, ValueError, "there is no image"),
        (Image.new("RGB", (0, 4)), ValueError, "the image has no pixels: it is 0x4"),
        ([1], ValueError, "got list, accepted are images, image files and arrays"),
        (np.zeros((4, 4), np.float32), ValueError, "float32.*uint8"),
        (7, ValueError, "int"),
    ],
)
def test_what_is_no_image_is_refused(value, error, message):
    with pytest.raises(error, match=message):
        read_image(value, 3)


@pytest.mark.parametrize("channels", [0, 5, "3"])
def test_images_have_one_to_four_channels(channels):
    with pytest.raises(ValueError, match=f"num_channels: got {channels}, images can be read as 1, 2, 3, 4"):
        read_image(RGB, channels)


def test_an_array_is_an_image_of_its_channels_and_three_are_read_unless_others_are_asked_for():
    values = np.asarray(RGB)
    assert np.array_equal(read_image(values), values) and read_image(values).mode == "RGB"
    assert np.array_equal(np.asarray(read_image(values[..., :1]))[..., 2], values[..., 0])
    assert np.array_equal(read_image(np.asfortranarray(values[:, ::-1])), values[:, ::-1])
    alpha = np.dstack([values, values[..., 0]])
    assert np.array_equal(read_image(alpha, 4), alpha) and np.array_equal(read_image(alpha), values)


def test_a_mode_that_pil_cannot_convert_is_named(monkeypatch):
    def fail(self, mode):
        raise ValueError("conversion not supported")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ValueError, match="an image of mode CMYK cannot be converted to RGB .conversion not supported"):
        read_image(Image.new("CMYK", (2, 2)), 3)


def test_the_name_of_a_file_is_known_in_each_form(tmp_path):
    file = tmp_path / "a.png"
    RGB.save(file)
    for value in (file, str(file), {"bytes": b"x", "path": str(file)}, Image.open(file)):
        assert image_name(value) == str(file)
    for value in (None, RGB, {"bytes": b"x", "path": None}, np.zeros((2, 2), np.uint8)):
        assert image_name(value) is None
    for place in (Path(file), Place(file)):
        assert np.array_equal(read_image(place), RGB)


def test_a_rotation_that_cannot_be_read_is_none():
    class Damaged(Image.Image):
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    damaged = Damaged()
    damaged.im, damaged._mode, damaged._size = RGB.im, RGB.mode, RGB.size
    assert upright(damaged) is damaged


def test_a_parser_that_stumbles_over_a_broken_file_is_no_traceback(monkeypatch):
    def stumble(*args):
        raise IndexError("index out of range")

    monkeypatch.setattr(Image, "open", stumble)
    with pytest.raises(OSError, match="the image file is damaged \\(index out of range\\)"):
        read_image(b"GIF89a")


def test_a_picture_that_memory_has_no_room_for_is_not_said_to_be_damaged(monkeypatch):
    def full(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError, match="no room"):
        read_image(b"GIF89a")


class Place:
    """A path of somebody's own."""

    def __init__(self, file):
        self.file = file

    def __fspath__(self):
        return str(self.file)


def photograph(kind):
    """A file of a kind that PIL alone, or a careless reader, gets wrong."""
    exif = Image.Exif()
    exif[0x0112] = int(kind[8]) if kind.startswith("rotated") else 1
    deep = np.linspace(0, 65535, 54).round().astype(np.uint16).reshape(6, 9)
    image = {
        "grey": RGB.convert("L"),
        "16 bits": Image.fromarray(deep),
        "rotated 6, 16 bits": Image.fromarray(deep),
        "32 bits": Image.fromarray(deep.astype(np.int32)),
        "palette": RGB.convert("P"),
        "one bit": RGB.convert("1"),
        "CMYK": RGB.convert("CMYK"),
        "opaque": RGB.convert("RGBA"),
    }.get(kind, RGB)
    return as_file(image, "TIFF" if kind in ("CMYK", "32 bits") else "PNG", exif=exif)["bytes"]


@pytest.fixture(scope="module")
def adem_processor():
    from transformers import CLIPImageProcessorPil

    from hf_effmodels.modeling.adem_vl.processing_adem_vl import AdemVLProcessor
    from hf_effmodels.training.data.text.tokenization import train_tokenizer

    plain = {"do_resize": False, "do_center_crop": False, "do_normalize": False}
    return AdemVLProcessor(CLIPImageProcessorPil(**plain), train_tokenizer(["a b"], 258))


KINDS = ["grey", "16 bits", "32 bits", "palette", "one bit", "CMYK", "opaque", "rotated 6, 16 bits"]
KINDS += [f"rotated {n}" for n in range(2, 9)]


@pytest.mark.parametrize("kind", KINDS)
def test_training_pipelines_and_processors_see_the_same_picture(kind, tmp_path, adem_processor):
    from hf_effmodels.pipelines.sam_diffsr.image_inputs import images_to_tensors
    from hf_effmodels.training.tasks.super_resolution.data import read_rgb

    content = photograph(kind)
    (tmp_path / "photo").write_bytes(content)
    expected = np.asarray(read_image(content)).transpose(2, 0, 1)
    assert np.array_equal(read_rgb(content), expected)
    opened = Image.open(tmp_path / "photo")
    # The pipeline keeps the precision of 16 bits, of which training takes the nearest of 8.
    assert np.abs(images_to_tensors(opened)[0].numpy() * 255 - expected).max() <= (0.51 if "bits" in kind else 1e-4)
    encoded = base64.b64encode(content).decode()
    for form in (opened, str(tmp_path / "photo"), tmp_path / "photo", encoded, f"data:image/png;base64,{encoded}"):
        pixels = adem_processor(images=[form], text="<image>a", return_tensors="np")["pixel_values"][0]
        assert np.abs(pixels * 255 - expected).max() < 1e-3


def test_arrays_of_16_bits_are_scaled_by_the_processor_and_others_are_its_own(adem_processor):
    def pixels(image):
        return adem_processor(images=[image], text="<image>a", return_tensors="np")["pixel_values"][0]

    deep = np.full((40, 50, 3), 65535 // 5, np.uint16)
    assert np.abs(pixels(deep) - 0.2).max() < 1e-6
    assert np.abs(pixels(np.full((40, 50, 3), 51, np.uint8)) - 0.2).max() < 1e-6
    with pytest.raises(ValueError, match="images: got 'nowhere.png', accepted are .*image files"):
        pixels("nowhere.png")


def test_an_image_behind_an_address_is_read_like_a_file(adem_processor, monkeypatch):
    from hf_effmodels.modeling.adem_vl import processing_adem_vl

    class Answer:
        content = photograph("16 bits")

        def raise_for_status(self):
            return self

    monkeypatch.setattr(processing_adem_vl.httpx, "get", lambda address, **options: options["timeout"] and Answer())
    pixels = adem_processor(images=["https://host/photo.png"], text="<image>a", return_tensors="np")["pixel_values"][0]
    assert np.abs(pixels * 255 - np.asarray(read_image(Answer.content)).transpose(2, 0, 1)).max() < 1e-3


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16L", "I;16B"])
def test_deep_images_are_scaled_in_whatever_order_their_bytes_stand(mode):
    values = np.array([[0, 257, 65535], [32896, 1000, 128]])
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    else:
        order = ">u2" if mode == "I;16B" else "<u2"
        image = Image.frombytes(mode, (3, 2), values.astype(order).tobytes())
    assert image.mode == mode
    assert np.asarray(read_image(image, 1)).tolist() == [[0, 1, 255], [128, 4, 0]]


def test_a_picture_of_one_pixel_is_one():
    assert np.asarray(read_image(np.full((1, 1, 1), 7, np.uint8))).tolist() == [[[7, 7, 7]]]
    assert np.asarray(read_image(np.full((1, 1), 7, np.uint8), 1)).tolist() == [[7]]


@pytest.mark.parametrize("value", ["", {"bytes": b"x", "path": ""}, {"bytes": b"x"}])
def test_a_name_of_no_letters_is_none(value):
    assert image_name(value) is None
