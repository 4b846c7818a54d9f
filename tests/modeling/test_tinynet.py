"""What is TinyNet's own: the scaled sizes, the blocks, the initialisation."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from hf_effmodels import TinyNetConfig, TinyNetForImageClassification, create_model, get_config

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
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(StrictDataclassError, match=message):
        TinyNetConfig(**{**TINY, **wrong})
