"""TinyViT's own: windows, the table of biases, strides, stochastic depth, layers for the optimizer, weights."""

import pytest
import torch
from torch.nn import functional as F

import hf_effmodels
from hf_effmodels.hub.convert import official_name
from hf_effmodels.modeling.layers.drop_path import DropPath
from hf_effmodels.modeling.layers.tinyvit_blocks import TinyVitAttention, TinyVitBlock, join_windows, split_windows
from hf_effmodels.modeling.tinyvit.configuration_tinyvit import TinyVitConfig
from hf_effmodels.modeling.tinyvit.convert_tinyvit import gather_classes, gather_logits, resize_bias_table
from hf_effmodels.modeling.tinyvit.modeling_tinyvit import TinyVitBackbone, TinyVitForImageClassification
from hf_effmodels.registry import ARCHITECTURES

from .tiny.tinyvit import TINY


def config(**overrides) -> TinyVitConfig:
    return TinyVitConfig(**{**TINY["tinyvit"], **overrides})


def test_windows_are_cut_and_joined_row_by_row():
    tokens = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    windows = split_windows(tokens, 2)
    assert windows.shape == (12, 4, 1)
    assert windows[1, :, 0].tolist() == [2, 3, 8, 9], "the second window is right of the first"
    assert windows[3, :, 0].tolist() == [12, 13, 18, 19], "the fourth begins the next row of windows"
    assert torch.equal(join_windows(windows, 2, 4, 6), tokens)


@torch.no_grad()
def test_the_bias_of_two_positions_is_that_of_their_distance():
    attention = TinyVitAttention(config(), 16, 2, 3)
    attention.attention_biases.normal_()
    bias = attention.bias()
    for a in range(9):
        for b in range(9):
            entry = abs(a // 3 - b // 3) * 3 + abs(a % 3 - b % 3)
            assert torch.equal(bias[:, a, b], attention.attention_biases[:, entry])


@torch.no_grad()
@pytest.mark.parametrize("height, width", [(3, 3), (4, 7), (2, 5)])
def test_maps_that_do_not_divide_are_filled_with_zeros_that_take_part(height, width):
    """Each window by itself, by the formula, with zeros below and to the right."""
    torch.manual_seed(0)
    block = TinyVitBlock(config(), 8, 2, 3, 0.0).double().eval()
    block.attention.attention_biases.normal_()
    block.attention.norm.bias.normal_()
    block.local_conv = block.mlp = torch.nn.Identity()  # the MLP adds its input, so the block doubles
    pixels = torch.randn(1, 8, height, width, dtype=torch.float64)
    rows, columns = -(-height // 3) * 3, -(-width // 3) * 3
    padded = torch.zeros(1, 8, rows, columns, dtype=torch.float64)
    padded[..., :height, :width] = pixels
    attended, attention = torch.zeros_like(padded), block.attention
    for top in range(0, rows, 3):
        for left in range(0, columns, 3):
            window = padded[0, :, top : top + 3, left : left + 3].reshape(8, 9).T
            qkv = attention.qkv(F.layer_norm(window, (8,), attention.norm.weight, attention.norm.bias, 1e-5))
            heads = []
            for head in range(2):
                q, k, v = qkv[:, head * 12 : (head + 1) * 12].split(4, 1)
                heads.append((q @ k.T / 2 + attention.bias()[head]).softmax(-1) @ v)
            attended[0, :, top : top + 3, left : left + 3] = attention.proj(torch.cat(heads, 1)).T.reshape(8, 3, 3)
    expected = 2 * (pixels + attended[..., :height, :width])
    torch.testing.assert_close(block(pixels), expected)


def test_a_loaded_table_is_used_at_once():
    """The official code keeps a gathered copy of the biases, which loading leaves behind."""
    model = TinyVitForImageClassification(config(num_labels=3)).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels).logits
        state = {
            n: v + 1e4 * (n.endswith("attention_biases")) * torch.randn_like(v)
            for n, v in model.state_dict().items()
            if v.is_floating_point()
        }
        model.load_state_dict(state, strict=False)
        assert not torch.allclose(model(pixels).logits, before)


@pytest.mark.parametrize("strides, sides", [((2, 2, 2), (16, 16, 8, 4, 2)), ((2, 2, 1), (16, 16, 8, 4, 4))])
def test_strides_are_the_configurations(strides, sides):
    backbone = TinyVitBackbone(
        config(downsample_strides=strides, out_features=["stem", "stage1", "stage2", "stage3", "stage4"])
    ).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64)).feature_maps
    assert tuple(m.shape[-1] for m in maps) == sides
    assert [m.shape[1] for m in maps] == [8, 8, 16, 24, 32] == backbone.channels


def test_widths_kernels_and_constants_are_the_configurations():
    model = TinyVitForImageClassification(
        config(mlp_ratio=1.5, mbconv_expand_ratio=3, local_conv_size=5, layer_norm_eps=1e-3, batch_norm_eps=1e-2,
               batch_norm_momentum=0.3, hidden_dropout_prob=0.25, hidden_act="relu", num_channels=2)
    )  # fmt: skip
    body = model.tinyvit
    assert body.stem.conv1.conv.in_channels == 2 and body.stem.conv1.conv.out_channels == 4
    block, first = body.stages[2].blocks[0], body.stages[0].blocks[0]
    assert block.mlp.fc1.out_features == 36 and first.conv1.conv.out_channels == 24
    assert block.local_conv.conv.kernel_size == (5, 5) and block.local_conv.conv.padding == (2, 2)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(n.eps, n.momentum) for n in norms} == {(1e-2, 0.3)}
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert block.mlp.dropout.p == 0.25
    dropped = []  # after the wide layer and after the narrow one
    block.mlp.dropout.register_forward_hook(lambda module, given, output: dropped.append(output.shape[-1]))
    block.mlp(torch.randn(1, 2, 24))
    assert dropped == [36, 24]
    pixels = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        assert (first.eval()(pixels) >= 0).all(), "the activation comes after the sum"
    torch.testing.assert_close(
        first(pixels), F.relu(pixels + first.conv3(F.relu(first.conv2(F.relu(first.conv1(pixels))))))
    )


def test_stochastic_depth_grows_from_nothing_over_all_blocks():
    model = TinyVitForImageClassification(config(drop_path_rate=0.2))
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_initial_weights_are_the_papers():
    torch.manual_seed(0)
    model = TinyVitForImageClassification(config(initializer_range=0.05, embed_dims=[8, 64, 72, 64]))
    block = model.tinyvit.stages[1].blocks[0]
    assert block.attention.qkv.weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert not block.attention.attention_biases.any() and not block.attention.qkv.bias.any()
    assert not model.tinyvit.stages[0].blocks[0].conv3.norm.weight.any()
    assert block.local_conv.norm.weight.eq(1).all()
    bound = 1 / 3  # of 1 · 3 · 3 inputs
    weight = block.local_conv.conv.weight
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_layers_are_numbered_by_blocks_and_tables_do_not_decay():
    model = TinyVitForImageClassification(config())
    layers = model.learning_layers()
    assert layers.keys() == {name for name, _ in model.named_parameters()}
    numbers = {
        "tinyvit.stem.conv1.conv.weight": 0,
        "tinyvit.stages.0.blocks.0.conv1.conv.weight": 0,
        "tinyvit.stages.1.downsample.conv1.conv.weight": 0,
        "tinyvit.stages.1.blocks.0.mlp.fc1.weight": 1,
        "tinyvit.stages.2.downsample.conv2.norm.bias": 1,
        "tinyvit.stages.2.blocks.1.attention.qkv.bias": 3,
        "tinyvit.stages.3.blocks.0.local_conv.conv.weight": 4,
        "tinyvit.norm.weight": 4,
        "classifier.bias": 4,
    }
    assert {name: layers[name] for name in numbers} == numbers
    assert set(model.no_weight_decay()) == {name for name in layers if name.endswith("attention_biases")}


def test_both_published_layouts_are_known():
    names = {
        "layers.1.downsample.conv2.c.weight": "stages.2.downsample.conv2.conv.weight",
        "stages.2.downsample.conv2.conv.weight": "stages.2.downsample.conv2.conv.weight",
        "layers.2.blocks.3.attn.attention_biases": "stages.2.blocks.3.attention.attention_biases",
        "patch_embed.conv2.bn.bias": "stem.conv2.norm.bias",
        "patch_embed.seq.2.bn.bias": "stem.conv2.norm.bias",
        "head.norm.weight": "norm.weight",
        "norm_head.weight": "norm.weight",
        "head.fc.bias": "classifier.bias",
        "head.bias": "classifier.bias",
    }
    assert {name: official_name(ARCHITECTURES["tinyvit"], name) for name in names} == names


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_heads": [2, 3]}, "num_heads: got .*accepted are 3 numbers"),
        ({"num_heads": [3, 3, 4]}, "num_heads: got 3, which does not divide the width 16"),
        ({"embed_dims": [7, 16, 24, 32]}, "embed_dims: .*even"),
        ({"downsample_strides": [2, 2, 3]}, "downsample_strides: .*accepted are 1 and 2"),
        ({"local_conv_size": 4}, "local_conv_size: got 4, accepted are odd"),
        ({"window_sizes": [0, 4, 4]}, "window_sizes: .*from 1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate: got 1.0"),
        ({"num_channels": 0}, "num_channels: got 0"),
        ({"mlp_ratio": -1.0}, "mlp_ratio: got -1.0"),
    ],
)
def test_wrong_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        hf_effmodels.get_config("tinyvit-5m", **{**TINY["tinyvit"], **wrong})


def test_tables_and_classes_of_another_network_are_taken_over():
    table = torch.randn(2, 9)
    assert resize_bias_table(table, 3) is table
    torch.testing.assert_close(resize_bias_table(torch.full((2, 9), 0.5), 5), torch.full((2, 25), 0.5))
    square = torch.arange(3.0).repeat(3)[None]  # grows with the column alone
    wider = resize_bias_table(square, 5).view(5, 5)
    torch.testing.assert_close(wider, wider[:1].expand(5, 5))
    assert (wider[0].diff() > 0).all()
    with pytest.raises(ValueError, match="table: got 8 entries per head, accepted are squares"):
        resize_bias_table(table[:, :8], 3)
    with pytest.raises(ValueError, match="table: got 10 entries per head, accepted are squares"):
        resize_bias_table(torch.zeros(2, 10), 3)
    weights = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    assert gather_classes(weights, [2, -1, 0]).tolist() == [[5, 6], [3, 4], [1, 2]]
    assert gather_classes(weights[:, 0], [1, -1]).tolist() == [3, 3]
    assert gather_classes(weights, [2, -1]).tolist() == [[5, 6], [5, 6]]  # the mean of those that are taken
    assert gather_logits(weights, [1, -1, 0]).tolist() == [[2, 0, 1], [4, 0, 3], [6, 0, 5]]
