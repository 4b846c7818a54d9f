"""Images become ids and ids images: what users give, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_effmodels.pipelines.delvm.image_tokenizer_delvm import (
    DelvmImageTokenizer,
    check_ids,
    size_of,
    to_images,
    to_pixels,
)

from .tiny import tiny_vqvae


@pytest.fixture(scope="module")
def tokenizer():
    return DelvmImageTokenizer(tiny_vqvae(), 16)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_the_shorter_side_is_resized_and_the_middle_cut():
    image = picture(40, 20)
    expected = np.asarray(image.resize((16, 8), Image.Resampling.BILINEAR))[:, 4:12] / 255
    assert np.allclose(to_pixels(image, 8)[0].permute(1, 2, 0), expected)
    upright = np.asarray(image.rotate(90, expand=True).resize((8, 16), Image.Resampling.BILINEAR))[4:12] / 255
    assert np.allclose(to_pixels(image.rotate(90, expand=True), 8)[0].permute(1, 2, 0), upright)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_any_mode_becomes_three_channels_and_alpha_is_dropped(mode):
    image = picture(16, 16, "RGB").convert(mode) if mode != "LA" else picture(16, 16, "RGBA").convert("LA")
    if mode == "RGBA":
        image.putalpha(0)
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(to_pixels(image, 16)[0], expected)


def test_one_picture_in_any_form_is_one_picture(tokenizer):
    image = picture(16, 16)
    array = np.asarray(image)
    forms = [image, [image], array, array[None], torch.from_numpy(array.copy()).permute(2, 0, 1), array / 255.0]
    expected = tokenizer.encode(image)
    assert expected.shape == (1, 64) and all(torch.equal(tokenizer.encode(form), expected) for form in forms)


def test_a_grey_picture_and_one_with_alpha_are_that_picture_in_any_form():
    grey = np.asarray(picture(20, 16, "L"))
    expected = to_pixels(Image.fromarray(grey), 16)
    forms = [grey, grey[:, :, None], grey / 255, (grey / 255)[:, :, None], torch.from_numpy(grey.copy())[None]]
    for form in forms:
        torch.testing.assert_close(to_pixels(form, 16), expected, check_dtype=False)
    colour, alpha = np.asarray(picture(16, 16)), np.zeros((16, 16, 1), np.uint8)
    for form in (np.dstack([colour, alpha]), np.dstack([colour, alpha]) / 255):
        torch.testing.assert_close(to_pixels(form, 16), to_pixels(colour, 16), check_dtype=False)
    for wrong in (np.zeros((8, 8, 2)), np.zeros((8, 8, 5)), np.zeros(8)):
        with pytest.raises(ValueError, match=r"images: got an array of shape \(8,.*\), expected \(height, width, "):
            to_pixels(wrong, 16)


def test_tensors_and_arrays_are_resized_as_pictures_are_and_know_their_size():
    image = picture(40, 23)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = to_pixels(image, 8)
    for form in (tensor, tensor / 255, array / 255):  # PIL rounds to 8 bits after each direction
        torch.testing.assert_close(to_pixels(form, 8), expected, rtol=0, atol=1.5 / 255, check_dtype=False)
    torch.testing.assert_close(to_pixels(tensor.mT, 8), expected.mT, rtol=0, atol=1.5 / 255)
    rotated = image.copy()
    rotated.getexif()[0x0112] = 6  # turned by a quarter
    sizes = [size_of(form) for form in (image, array, array[:, :, 0], tensor, tensor[None], rotated)]
    assert sizes == [(40, 23)] * 5 + [(23, 40)]
    assert to_pixels(tensor.half() / 255, 8).dtype == torch.float16


def test_codes_are_looked_up_whether_the_model_does_so_itself_or_not(tokenizer):
    ids = torch.randint(32, (2, 64), generator=torch.Generator().manual_seed(0))
    other = tiny_vqvae()
    other.register_to_config(lookup_from_codebook=False)
    torch.testing.assert_close(DelvmImageTokenizer(other, 16).decode(ids, "pt"), tokenizer.decode(ids, "pt"))
    assert (tokenizer.tokens_per_image, tokenizer.grid, tokenizer.vocab_size) == (64, 8, 32)


def test_batches_are_what_single_pictures_are(tokenizer):
    images = [picture(16, 16), picture(31, 20), picture(9, 40, "L")]
    single = torch.cat([tokenizer.encode(image) for image in images])
    assert torch.equal(tokenizer.encode(images), single)
    decoded = tokenizer.decode(single, "pt")
    assert torch.allclose(decoded[1:2], tokenizer.decode(single[1], "pt"), atol=1e-5)
    assert np.allclose(tokenizer.decode(single, "np"), decoded.permute(0, 2, 3, 1).numpy())


def test_levels_are_cut_and_not_rounded():
    pixels = torch.tensor([-0.5, 0.999 / 255, 1.999 / 255, 254.999 / 255, 1.5]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert np.asarray(to_images(pixels, "pil")[0])[0, :, 0].tolist() == [0, 0, 1, 254, 255]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arrays_of_half_precision_are_single_ones(dtype):
    pixels = torch.rand(1, 3, 2, 5).to(dtype)
    found = to_images(pixels, "np")
    assert found.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert np.array_equal(found, pixels.permute(0, 2, 3, 1).double().numpy())
    assert to_images(pixels, "pt").dtype == dtype


def test_it_maps_over_a_table(tokenizer):
    import datasets

    images = [picture(20, 16), picture(16, 33)]
    table = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    mapped = table.map(tokenizer, input_columns="image", batched=True)
    assert mapped["input_ids"] == tokenizer.encode(images).tolist()


def test_soft_codes_favour_the_code_and_soften_with_temperature(tokenizer):
    image = picture(16, 16)
    soft, softer = (tokenizer.soft_codes(image, temperature) for temperature in (0.5, 2.0))
    assert torch.equal(soft.argmax(-1), tokenizer.encode(image))
    torch.testing.assert_close((soft.log() / 4).softmax(-1), softer)  # p^(1/4), normalised


def test_sixteen_bits_are_scaled_and_not_clipped():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    expected = to_pixels(Image.fromarray(values.astype(np.uint8)), 16)
    for deep in (Image.fromarray(values * 257), Image.fromarray(values.astype(np.int32) * 257)):
        assert deep.mode.startswith("I") and torch.equal(to_pixels(deep, 16), expected)


def test_wrong_input_is_named(tokenizer):
    for images, words in (
        ([], "empty list"),
        ("cat.png", "got str"),
        (torch.full((3, 8, 8), 2.0), "floats in [0, 1]"),
        (torch.full((3, 8, 8), -0.1), "floats in [0, 1]"),
        (torch.linspace(0, 1.5, 192).view(3, 8, 8), "got values 0 to 1.5, accepted are floats in [0, 1]"),
        (torch.linspace(-0.5, 1, 192).view(3, 8, 8), "got values -0.5 to 1, accepted are floats in [0, 1]"),
        (torch.full((3, 8, 8), float("nan")), "floats in [0, 1]"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "got a tensor of torch.int64, accepted are uint8 and floats in"),
        (torch.zeros(2, 8, 8), "expected (1 or 3, height, width)"),
        (torch.zeros(3, 0, 8), "expected (1 or 3, height, width)"),
        (torch.zeros(3, 8), "got a tensor of shape (3, 8), expected (1 or 3, height, width)"),
        (torch.zeros(1), "got a tensor of shape (1,), expected (1 or 3, height, width)"),
        *(
            (np.zeros((8, 8, channels), kind), f"array of shape (8, 8, {channels}), expected (height, width, 1, 3")
            for channels in (2, 5)
            for kind in (np.uint8, np.float32)
        ),
        (Image.new("RGB", (0, 5)), "one has no pixels, (0, 5)"),
        (Image.new("I", (8, 8), -1), "accepted are 8 and 16 bits"),
        (Image.new("F", (8, 8)), "images of 8 bits"),
        (Image.new("I", (8, 8), 70000), "accepted are 8 and 16 bits"),
    ):
        with pytest.raises(ValueError) as error:
            tokenizer.encode(images)
        assert words in str(error.value)
    for ids, words in (
        (torch.full((1, 64), 32), "accepted are the codes 0 to 31"),
        (torch.full((1, 64), -1), "accepted are the codes 0 to 31"),
        (torch.zeros(1, 63, dtype=torch.long), "expected whole numbers of shape (batch, 64)"),
        (torch.zeros(1, 64), "expected whole numbers"),
    ):
        with pytest.raises(ValueError) as error:
            tokenizer.decode(ids)
        assert words in str(error.value)
    for size in (0, True, 16.0):
        with pytest.raises(ValueError, match=f"image_size: got {size}, accepted are whole numbers from 1"):
            DelvmImageTokenizer(tokenizer.vqvae, size)
    assert to_pixels(Image.new("I", (8, 8), 65535), 8).min() == 1  # the last that 16 bits have
    with pytest.raises(ValueError, match="image_size: got 15, accepted are multiples of 2"):
        DelvmImageTokenizer(tokenizer.vqvae, 15)
    with pytest.raises(ValueError, match="output_type: got 'jpg'"):
        tokenizer.decode(torch.zeros(1, 64, dtype=torch.long), "jpg")
    with pytest.raises(ValueError, match="temperature: got 0"):
        tokenizer.soft_codes(picture(16, 16), 0)


@pytest.mark.parametrize("ids, told", [([-1, 3], "-1 to 3"), ([3, 8], "3 to 8"), ([-2, 9], "-2 to 9")])
def test_ids_are_codes_from_the_first_to_the_last(ids, told):
    assert check_ids([0, 7], 8, 2).tolist() == [[0, 7]] and check_ids(torch.zeros(0, 2).int(), 8, 2).shape == (0, 2)
    with pytest.raises(ValueError, match=f"^input_ids: got {told}, accepted are the codes 0 to 7.$"):
        check_ids(ids, 8, 2)


def test_images_are_as_large_as_those_that_delvm_was_trained_on_unless_the_model_or_the_user_says_otherwise(tmp_path):
    assert DelvmImageTokenizer(tiny_vqvae()).image_size == 256
    tiny_vqvae().save_pretrained(tmp_path)
    assert DelvmImageTokenizer.from_pretrained(str(tmp_path)).image_size == 16
    given = DelvmImageTokenizer.from_pretrained(str(tmp_path), image_size=24)
    assert (given.image_size, given.grid, given.tokens_per_image, given.vocab_size) == (24, 12, 144, 32)
    assert not given.vqvae.training and given.reduction == 2
    assert given.device == given.vqvae.device == torch.device("cpu")
    elsewhere = DelvmImageTokenizer(given.vqvae, 16, torch.device("meta"))
    assert elsewhere.device == torch.device("meta") and elsewhere.pixels(picture(4, 4)).is_meta


@pytest.mark.parametrize("values, told", [([-1, 5], "-1 to 5"), ([0, 70000], "0 to 70000")])
def test_grey_values_are_of_sixteen_bits_from_the_darkest_to_the_brightest(values, told):
    with pytest.raises(ValueError, match=f"^images: got values {told}, accepted are 8 and 16 bits.$"):
        to_pixels(Image.fromarray(np.array([values], dtype=np.int32)), 1)
    whole = to_pixels(Image.fromarray(np.array([[0, 65535]] * 2, dtype=np.int32)), 2)
    assert whole[0, 0].tolist() == [[0.0, 1.0]] * 2


@pytest.mark.parametrize("side, first", [(4, 0), (5, 0), (6, 1), (7, 2), (9, 2), (11, 4)])
def test_where_a_pixel_is_left_over_the_square_begins_at_the_even_place(side, first):
    """As torchvision's centre crop rounds."""
    wide = torch.arange(side, dtype=torch.float32).expand(3, 4, side) / 16
    assert (to_pixels(wide, 4)[0, 0, 0] * 16).tolist() == [first + step for step in range(4)]
