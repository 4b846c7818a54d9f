"""BiMLP's own: bit widths, the options of its configuration, gradients of its binary layers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hf_effmodels
from hf_effmodels.modeling.bimlp.configuration_bimlp import BiMlpConfig
from hf_effmodels.modeling.bimlp.modeling_bimlp import BiMlpDownsample, BiMlpForImageClassification
from hf_effmodels.modeling.layers.binary import BinaryConv2d, Sign, Ternary, scaled_weights

from .tiny.bimlp import TINY


def build(**overrides) -> BiMlpForImageClassification:
    torch.manual_seed(0)
    return BiMlpForImageClassification(BiMlpConfig(**{**TINY["bimlp"], "num_labels": 3, **overrides})).eval()


def test_bit_widths_are_what_the_page_says():
    block = build().bimlp.stages[0].blocks[0]
    pointwise, grouped, depthwise = block.attn.fc_h, block.attn.tfc_h, block.sfc_h
    assert all(len(set(row.abs().tolist())) == 1 for row in pointwise.binary_weight().flatten(1))
    weight = grouped.binary_weight()
    torch.testing.assert_close(weight[:, 0].abs(), weight[:, 1].abs())
    torch.testing.assert_close(weight[:, 0].abs(), grouped.weight.abs().mean(1))
    torch.testing.assert_close(depthwise.binary_weight(), depthwise.weight)


@pytest.mark.parametrize("name, rule", [("ternary", Ternary), ("sign", Sign)])
def test_activations_by_both_rules(name, rule):
    model = build(activation_binarizer=name)
    rules = {type(m.binarizer) for m in model.modules() if isinstance(m, BinaryConv2d)}
    assert rules == {rule}
    x = torch.tensor(
        [-1.5, -1.0, -0.51, -0.5, -0.2, 0.2, 0.5, 0.51, 1.0, 1.5], dtype=torch.float64, requires_grad=True
    )
    y = rule()(x)
    y.sum().backward()
    if name == "ternary":
        assert y.tolist() == [-1, -1, -1, 0, 0, 0, 0, 1, 1, 1]
        assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0]
    else:
        assert y.tolist() == [-1] * 5 + [1] * 5
        expected = [0, 0, 0.98, 1, 1.6, 1.6, 1, 0.98, 0, 0]
        torch.testing.assert_close(x.grad, torch.tensor(expected, dtype=torch.float64))


def test_the_gradient_passes_to_the_weights_unchanged():
    weight = torch.randn(3, 4, 1, 1, requires_grad=True)
    upstream = torch.randn_like(weight)
    scaled_weights(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(1, 4), (5, 6), (7, 2)])
def test_poolings_are_padded_as_in_tensorflow(height, width):
    layer = BiMlpDownsample(BiMlpConfig(), 4, 4).eval()
    pixels = torch.randn(1, 4, height, width)
    maps = layer.act(layer.norm(layer.projection(pixels)))
    expected = torch.zeros(1, 4, -(-height // 2), -(-width // 2))
    for size in (2, 3, 5, 7):
        starts = [max((-(-n // 2) - 1) * 2 + size - n, 0) // 2 for n in (height, width)]
        for i in range(expected.shape[2]):
            for j in range(expected.shape[3]):
                top, left = 2 * i - starts[0], 2 * j - starts[1]
                window = maps[:, :, max(top, 0) : top + size, max(left, 0) : left + size]
                expected[:, :, i, j] += window.amax((2, 3)) / 4
    torch.testing.assert_close(layer(pixels), expected)


def test_norms_between_the_parts_are_the_configurations():
    groups = [m for m in build(stage_norm="group", batch_norm_eps=0.01).modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == 1 + 2 * 2 + 1 + 1 and {(m.num_groups, m.eps) for m in groups} == {(1, 0.01)}
    assert not [m for m in build().modules() if isinstance(m, nn.GroupNorm)]


@torch.no_grad()
def test_the_two_numbers_of_a_block_weigh_its_branches():
    block = build().bimlp.stages[0].blocks[0].double()
    block.weight.copy_(torch.tensor([0.3, -0.2]))
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    y = x + block.attn(block.norm1(x))
    normed = block.norm2(y)
    branches = []
    for side, number in (("h", 1), ("w", 2)):
        moved = getattr(block, f"move_{side}")(normed)
        conv, norm = getattr(block, f"sfc_{side}"), getattr(block, f"norm_{side}")
        ternary = moved.clamp(-1, 1).round()
        mixed = F.conv2d(ternary, conv.weight, padding=conv.padding, groups=8)
        branches.append(getattr(block, f"act{number}")(norm(mixed) + moved))
    expected = y + 0.3 * branches[0] - 0.2 * branches[1] + 0.9 * block.mlp(normed)
    torch.testing.assert_close(block(x), expected)


def test_the_folded_network_is_binarised_once_and_for_all():
    model = build(activation_binarizer="sign")
    model.reparameterize()
    assert {m.weight_rule for m in model.modules() if isinstance(m, BinaryConv2d)} == {"fixed"}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"stage_norm": "layer"}, "stage_norm: got 'layer', accepted are 'batch', 'group'"),
        ({"activation_binarizer": "adaptive"}, "activation_binarizer: got 'adaptive'"),
        ({"mlp_ratio": 2}, "mlp_ratio: got 2, accepted is 4"),
        ({"hidden_sizes": [8, 8, 18]}, "hidden_sizes: got .* multiples of 4"),
        ({"hidden_sizes": [8, 12, 16]}, "the stem's and the first stage's being the same"),
        ({"depths": [0, 1]}, "depths: got .*from 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate: got 1.0"),
    ],
)
def test_wrong_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        hf_effmodels.get_config("bimlp-s", **{**TINY["bimlp"], **wrong})


@torch.no_grad()
def test_images_smaller_than_the_stem_sees_are_refused():
    """7 pixels of which 2 on each side are padding."""
    assert build()(torch.randn(1, 3, 3, 3)).logits.shape == (1, 3)
    for height, width in ((2, 9), (9, 2)):
        with pytest.raises(
            ValueError, match=rf"pixel_values: got shape \(1, 3, {height}, {width}\), accepted are 3 pixels a side or"
        ):
            build()(torch.randn(1, 3, height, width))
