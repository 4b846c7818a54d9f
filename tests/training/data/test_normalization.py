"""Numbers of pictures are those that the image processor makes in evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil

from hf_effmodels.training.data.normalization import Normalization, with_channels

#: Neither rescaled nor normalised, one of the two, another factor.
SETTINGS = (
    {},
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {"rescale_factor": 1 / 127.5},
)


@pytest.mark.parametrize("settings", SETTINGS, ids=[" ".join(one) or "as usual" for one in SETTINGS])
@pytest.mark.parametrize("kind", [ViTImageProcessorPil, ConvNextImageProcessorPil])
def test_a_picture_becomes_what_the_processor_makes_of_it(kind, settings):
    processor = kind(do_resize=False, image_mean=[0.5, 0.25, 0.1], image_std=[0.5, 0.2, 2.0], **settings)
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    expected = torch.as_tensor(processor(image, return_tensors="np")["pixel_values"][0]).float()
    found = Normalization.of(processor, 3)(image)
    assert found.dtype == torch.float32 and found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_pictures_of_any_number_of_channels_have_the_average_colours_mean_and_deviation(channels, mode):
    processor = ViTImageProcessorPil(image_mean=[0.5, 0.2, 0.2], image_std=[0.5, 0.2, 0.2])
    given = with_channels(processor, channels)
    assert given is processor
    mean, std = ([0.5, 0.2, 0.2], [0.5, 0.2, 0.2]) if channels == 3 else ([0.3] * channels, [0.3] * channels)
    assert processor.image_mean == pytest.approx(mean) and processor.image_std == pytest.approx(std)
    image = Image.effect_noise((4, 3), 80).convert(mode)
    pixels = torch.from_numpy(np.array(image)).reshape(3, 4, channels).permute(2, 0, 1).float() / 255
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(Normalization.of(processor, channels)(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "mean, std, colour",
    [
        ((0.5, 0.25, 0.1), (0.5, 0.2, 2.0), (128, 64, 26)),
        ((-0.5, 0.0, 2.0), (1.0, 1.0, 1.0), (0, 0, 255)),  # what no picture can be is as near as can be
    ],
)
def test_the_colour_that_becomes_nought_is_a_byte_of_each_channel(mean, std, colour):
    processor = ViTImageProcessorPil(image_mean=list(mean), image_std=list(std))
    assert Normalization.of(processor, 3).mean_color() == colour
