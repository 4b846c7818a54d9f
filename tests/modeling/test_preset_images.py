"""Images that presets take: as large as published, and the same in the configuration as in the image processor."""

import re

import numpy as np
import pytest
from PIL import Image

from hf_effmodels import create_image_processor, get_config
from hf_effmodels.registry import ARCHITECTURES

#: Sides that are not 224: beginning of the names -> pixels.
SIDES = {
    r"(adabin|addernet).*-cifar10|decct-": 32,
    r"s?m?h?(resnet8x|wrn4x)\d+": 32,
    r"dtop-(base-ade20k|large-coco)": 512,
    r"dtop-large-ade20k|gold-yolo-": 640,
    r"dtop-large-pascal-context": 480,
    r"fastmim-": 128,
    r"simmim-swin-": 192,
    r"(spark|tinyvit)-.*-384$": 384,
    r"tinyvit-.*-512$": 512,
    r"tinysam|mobilesam": 1024,
    **{f"tinynet-{letter}": side for letter, side in zip("abcde", (192, 188, 184, 152, 106), strict=True)},
}
PRESETS = [
    (name, preset)
    for architecture in ARCHITECTURES.values()
    for name, preset in architecture.presets.items()
    if preset.image_processor
]


def test_presets_take_images_of_the_published_size():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    assert len(PRESETS) > 130
    for name, preset in PRESETS:
        (side, *_) = [pixels for start, pixels in SIDES.items() if re.match(start, name)] + [224]
        size = preset.image_processor["size"]
        assert set(size.values()) == {side}, name
        assert getattr(get_config(name), "image_size", side) in (side, [side, side], (side, side)), name
        out = create_image_processor(name)(picture, return_tensors="pt")["pixel_values"]
        assert out.shape == (1, 3, side, side), name


@pytest.mark.parametrize("name", ["ghostnet-1.0x", "tinysam", "dtop-base-ade20k"])
def test_another_size_is_that_of_the_images(name):
    picture = Image.fromarray(np.zeros((300, 400, 3), dtype=np.uint8))
    out = create_image_processor(name, image_size=64)(picture, return_tensors="pt")["pixel_values"]
    assert out.shape == (1, 3, 64, 64)
