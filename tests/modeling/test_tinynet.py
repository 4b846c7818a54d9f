"""What is TinyNet's own: the scaled sizes, the blocks, the initialisation."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from hf_effmodels import TinyNetConfig, TinyNetForImageClassification, create_model, get_config

from . import by_hand

TINY = {
    "stem_size": 8,
    "stages": [[1, 3, 1, 1, 8], [2, 3, 2, 6, 16], [2, 5, 2, 6, 24]],
    "final_size": 32,
    "image_size": 32,
    "num_labels": 5,
}


@pytest.mark.parametrize(
    "variant, size, depths, widths",
    [
        ("a", 192, [1, 2, 2, 4, 4, 5, 1], [16, 24, 40, 80, 112, 192, 320]),
        ("b", 188, [1, 2, 2, 3, 3, 4, 1], [16, 24, 32, 64, 88, 144, 240]),
        ("c", 184, [1, 2, 2, 3, 3, 3, 1], [8, 16, 24, 40, 64, 104, 176]),
        ("d", 152, [1, 1, 1, 2, 2, 3, 1], [8, 16, 24, 40, 64, 104, 176]),
        ("e", 106, [1, 1, 1, 2, 2, 2, 1], [8, 16, 24, 40, 56, 96, 160]),
    ],
)
def test_the_multipliers_give_the_published_sizes(variant, size, depths, widths):
    config = get_config(f"tinynet-{variant}")
    assert (config.image_size, config.depths, config.hidden_sizes) == (size, depths, [32, *widths])
    assert config.head_size == 1280
    with torch.device("meta"):
        model = create_model(f"tinynet-{variant}")
    assert [len(stage.blocks) for stage in model.tinynet.stages] == depths


@torch.no_grad()
def test_odd_maps_keep_their_last_row_and_stages_have_the_documented_strides():
    model = create_model("tinynet-e", num_labels=3)
    outputs = model(torch.randn(1, 3, 106, 97), output_hidden_states=True)
    sides = [tuple(h.shape[-2:]) for h in outputs.hidden_states]
    assert sides == [(53, 49), (53, 49), (27, 25), (14, 13), (7, 7), (7, 7), (4, 4), (4, 4)]


def test_the_gate_is_squeezed_to_a_quarter_of_the_blocks_input():
    model = TinyNetForImageClassification(TinyNetConfig(**TINY))
    block = model.tinynet.stages[2].blocks[0]
    assert block.depthwise.conv.out_channels == 6 * 16
    assert block.squeeze_excite.reduce.out_features == 4
    ungated = TinyNetForImageClassification(TinyNetConfig(**{**TINY, "squeeze_ratio": 0}))
    assert ungated.tinynet.stages[2].blocks[0].squeeze_excite is None


def test_whole_branches_are_dropped_more_often_the_deeper_they_lie():
    model = TinyNetForImageClassification(TinyNetConfig(**TINY, drop_path_rate=0.5))
    rates = [block.drop_path and round(block.drop_path.rate, 6) for s in model.tinynet.stages for block in s.blocks]
    assert rates == [0, None, 0.2, None, 0.4]
    block = model.tinynet.stages[2].blocks[1].train()
    block.drop_path.rate = 0.5
    hidden_states = torch.randn(16, 24, 4, 4)
    with torch.no_grad():
        unchanged = (block(hidden_states) == hidden_states).flatten(1).all(1)
    assert 0 < unchanged.sum() < 16


def test_weights_start_as_the_official_codes():
    torch.manual_seed(0)
    model = create_model("tinynet-e")
    assert model.classifier.weight.abs().max().item() == pytest.approx(1 / math.sqrt(1000), rel=1e-3)
    assert abs(model.classifier.weight.mean().item()) < 0.02 / math.sqrt(1000)
    assert model.classifier.bias.abs().max() == 0
    block = model.tinynet.stages[5].blocks[1]
    for module, fan_out in (
        (block.expand.conv, 576),
        (block.depthwise.conv, 25),
        (block.squeeze_excite.expand, 576),
        (model.tinynet.final.conv, 1280),
    ):
        assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
    assert block.squeeze_excite.expand.bias.abs().max() == 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"width_multiplier": 0}, "width_multiplier: got 0"),
        ({"stages": [[1, 4, 1, 1, 8]]}, r"stages: got the row \[1, 4, 1, 1, 8\]"),
        ({"drop_path_rate": 1}, "drop_path_rate: got 1"),
        ({"classifier_dropout": -0.1}, "classifier_dropout: got -0.1"),
        ({"depth_multiplier": 0}, "depth_multiplier: got 0"),
        ({"resolution_multiplier": 0}, "resolution_multiplier: got 0"),
        ({"squeeze_ratio": -0.1}, "squeeze_ratio: got -0.1"),
        ({"stem_size": 0}, "stem_size: got 0"),
        ({"final_size": 0}, "final_size: got 0"),
        ({"stages": [[0, 3, 1, 1, 8]]}, r"stages: got the row \[0, 3, 1, 1, 8\]"),
        ({"stages": [[1, 3, 3, 1, 8]]}, r"stages: got the row \[1, 3, 3, 1, 8\]"),
        ({"stages": [[1, 3, 1, 0.5, 8]]}, r"stages: got the row \[1, 3, 1, 0.5, 8\]"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(StrictDataclassError, match=message):
        TinyNetConfig(**{**TINY, **wrong})


def tinynet_by_hand(weights, config, pixels):
    """Inverted residuals (EfficientNet-B0's) with a squeeze-and-excitation of the block's input width."""
    eps = config.batch_norm_eps
    hidden = F.silu(by_hand.conv_norm(weights, "stem.convolution", pixels, eps, stride=2))
    for stage, (depth, kernel, stride, expansion, size) in enumerate(config.stages):
        for index in range(max(1, round(depth * config.depth_multiplier))):
            name, residual, block_stride = f"stages.{stage}.blocks.{index}", hidden, 1 if index else stride
            inputs = hidden.shape[1]
            if expansion != 1:
                hidden = F.silu(by_hand.conv_norm(weights, f"{name}.expand", hidden, eps))
                assert hidden.shape[1] == by_hand.nearest_multiple(inputs * expansion, 8)
            groups = hidden.shape[1]
            assert weights[f"{name}.depthwise.conv.weight"].shape[2:] == (kernel, kernel)
            hidden = F.silu(by_hand.conv_norm(weights, f"{name}.depthwise", hidden, eps, block_stride, groups))
            if config.squeeze_ratio:
                squeeze = F.silu(by_hand.linear(weights, f"{name}.squeeze_excite.reduce", hidden.mean((2, 3))))
                assert squeeze.shape[1] == int(inputs * config.squeeze_ratio + 0.5)
                gate = by_hand.linear(weights, f"{name}.squeeze_excite.expand", squeeze).sigmoid()
                hidden = hidden * gate[:, :, None, None]
            hidden = by_hand.conv_norm(weights, f"{name}.project", hidden, eps)
            assert hidden.shape[1] == by_hand.nearest_multiple(size * config.width_multiplier, 8)
            if block_stride == 1 and inputs == hidden.shape[1]:
                hidden = hidden + residual
        assert f"stages.{stage}.blocks.{index + 1}.project.conv.weight" not in weights
    pooled = F.silu(by_hand.conv_norm(weights, "final", hidden, eps)).mean((2, 3))
    return by_hand.linear(weights, "classifier", pooled)


@torch.no_grad()
@pytest.mark.parametrize("squeeze_ratio, final_size, width, pooled", [(0.4, 32, 1.3, 40), (0, 32, 0.7, 32)])
def test_the_network_is_the_published_formula_with_any_setting(squeeze_ratio, final_size, width, pooled):
    config = TinyNetConfig(
        num_channels=2,
        depth_multiplier=1.7,
        width_multiplier=width,
        stem_size=12,
        stages=[[1, 3, 1, 1, 12], [2, 5, 2, 3, 20], [1, 7, 1, 6.5, 20]],
        squeeze_ratio=squeeze_ratio,
        final_size=final_size,
        batch_norm_eps=0.05,
        num_labels=3,
    )
    assert (config.depths, config.head_size) == ([2, 3, 2], pooled)
    model = TinyNetForImageClassification(config).eval().double()
    pixels = torch.randn(2, 2, 37, 42, dtype=torch.float64)
    expected = tinynet_by_hand(by_hand.weights_of(model), config, pixels)
    torch.testing.assert_close(model(pixels).logits, expected)
    torch.testing.assert_close(model.reparameterize()(pixels).logits, expected)


def test_the_resolution_multiplier_says_the_size_of_the_images_unless_that_is_given():
    assert TinyNetConfig(resolution_multiplier=0.75).image_size == 168
    assert TinyNetConfig(resolution_multiplier=0.86).image_size == 192  # of 192.64
    assert TinyNetConfig(resolution_multiplier=0.75, image_size=160).image_size == 160


def test_numbers_of_blocks_are_rounded_halves_to_even():
    config = TinyNetConfig(depth_multiplier=2.5, stages=[[1, 3, 1, 1, 8], [3, 3, 2, 6, 8]])
    assert config.depths == [2, 8]  # of 2.5 and 7.5
    assert TinyNetConfig(depth_multiplier=0.2).depths == [1] * 7


def test_multipliers_leave_a_block_a_width_and_the_head_of_the_base_network():
    small = TinyNetConfig(depth_multiplier=0.1, width_multiplier=0.01, resolution_multiplier=0.475)
    assert small.depths == [1] * 7 and small.hidden_sizes == [32] + [8] * 7
    assert small.head_size == 1280 and small.image_size == 106 and small.num_hidden_layers == 7
    large = TinyNetConfig(depth_multiplier=2, width_multiplier=1.5)
    assert large.depths == [2, 4, 4, 6, 6, 8, 2] and large.head_size == 1920 and large.image_size == 224
    assert TinyNetConfig(image_size=96, resolution_multiplier=0.5).image_size == 96
    gate = TinyNetForImageClassification(TinyNetConfig(**{**TINY, "squeeze_ratio": 0.01})).tinynet.stages[0].blocks[0]
    assert gate.squeeze_excite.reduce.out_features == 1
