"""timm's models come with a stock image processor of their numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil

from hf_effmodels.training.data.processors import load_image_processor, timm_processor

CFG = {"input_size": [3, 24, 24], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3]}
CFG |= {"std": [0.2, 0.3, 0.4], "crop_mode": "center"}


@pytest.fixture(scope="module")
def picture():
    values = np.random.default_rng(0).integers(0, 256, (9, 6, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(values, np.ones((6, 6, 1), np.uint8)))  # 54 high, 36 wide


def by_hand(picture, size, box):
    values = np.asarray(picture.resize(size, Image.Resampling.BICUBIC).crop(box), dtype=np.float64) / 255
    return torch.from_numpy(((values - CFG["mean"]) / CFG["std"]).transpose(2, 0, 1)).float()


def test_evaluation_is_timms(picture):
    found = timm_processor(CFG)(picture, return_tensors="pt")["pixel_values"][0]
    # The shorter side to 24 / 0.9 = 26.7, cut off; then the centre.
    torch.testing.assert_close(found, by_hand(picture, (26, 39), (1, 7, 25, 31)), rtol=0, atol=1e-5)
    squashed = timm_processor({**CFG, "crop_mode": "squash", "crop_pct": 1.0})
    found = squashed(picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found, by_hand(picture, (24, 24), (0, 0, 24, 24)), rtol=0, atol=1e-5)
    for wrong, message in (
        ({"crop_mode": "border"}, "crop mode 'border' of 24×24 is not known here"),
        ({"input_size": [3, 24, 32]}, "crop mode 'center' of 24×32 is not known here"),
        ({"interpolation": "random"}, "interpolation 'random' is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            timm_processor({**CFG, **wrong})


@pytest.mark.parametrize("channels", [1, 3])
def test_what_timm_is_not_told_is_as_it_evaluates_on_imagenet(channels):
    cfg = {} if channels == 3 else {"input_size": (1, 28, 28)}
    found = timm_processor(cfg)
    side = 224 if channels == 3 else 28
    assert (found.size["shortest_edge"], dict(found.crop_size)) == (side * 8 // 7, {"height": side, "width": side})
    assert found.resample == Image.Resampling.BILINEAR and found.do_convert_rgb == (channels == 3)
    assert [*found.image_mean] == [0.485, 0.456, 0.406][:channels]
    assert [*found.image_std] == [0.229, 0.224, 0.225][:channels]
    squashed = timm_processor({"input_size": (3, 20, 30), "crop_pct": 0.5, "crop_mode": "squash"})
    assert {"height": 40, "width": 60} == {name: squashed.size[name] for name in ("height", "width")}
    assert dict(squashed.crop_size) == {"height": 20, "width": 30}


def test_a_folder_with_a_processor_keeps_it(tmp_path):
    config = SimpleNamespace(model_type="timm_wrapper", pretrained_cfg=CFG)
    assert [*load_image_processor(str(tmp_path), config).image_mean] == CFG["mean"]
    # timm's own tells nobody its numbers.
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "TimmWrapperImageProcessor"}')
    assert [*load_image_processor(str(tmp_path), config).image_mean] == CFG["mean"]
    CLIPImageProcessorPil(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    assert [*load_image_processor(str(tmp_path), config).image_mean] == [0.1, 0.2, 0.3]
    ConvNextImageProcessorPil(image_mean=[0.3, 0.2, 0.1]).save_pretrained(tmp_path)
    other = load_image_processor(str(tmp_path), config)
    assert isinstance(other, ConvNextImageProcessorPil) and [*other.image_mean] == [0.3, 0.2, 0.1]
    plain = load_image_processor(str(tmp_path), SimpleNamespace(model_type="convnext"))
    assert [*plain.image_mean] == [0.3, 0.2, 0.1]
