"""The shared layers, each by itself and away from its neutral values."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection

from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import BinaryConvNorm, FoldableNorm
from hf_effmodels.modeling.layers.drop_path import DropPath
from hf_effmodels.modeling.layers.gradient_strides import in_strides_of
from hf_effmodels.modeling.layers.hog import gaussian_window, histograms_of_gradients
from hf_effmodels.modeling.layers.in_place import add, may_overwrite, multiply
from hf_effmodels.modeling.layers.initialization import init_like_torch
from hf_effmodels.modeling.layers.pixels import PixelsMixin, check_pixels
from hf_effmodels.modeling.layers.positions import (
    resize_bias_plane,
    resize_positions,
    resize_relative_bias,
    sine_cosine_positions,
)
from hf_effmodels.modeling.layers.reparameterization import ConvNorm, RepConvNorm, conv_with_values
from hf_effmodels.modeling.layers.squeeze_excite import SqueezeExcite
from hf_effmodels.modeling.layers.visible import VisibleBatchNorm2d, only_visible
from hf_effmodels.modeling.layers.widths import round_width
from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config


def test_whole_branches_are_dropped_at_their_rate_and_the_others_scaled_up():
    branch = DropPath(0.2)
    ones = torch.ones(5000, 2, 3)
    dropped = branch.train()(ones)
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert (dropped == dropped[:, :1, :1]).all()
    assert 0.17 < (dropped[:, 0, 0] == 0).float().mean() < 0.23
    assert torch.equal(branch.eval()(ones), ones)
    assert torch.equal(DropPath(0).train()(ones), ones)


def test_the_gate_is_a_hard_sigmoid_of_the_averages():
    layer = SqueezeExcite(4, 3, torch.tanh).double()
    features = 5 * torch.randn(6, 4, 2, 3, dtype=torch.float64)
    hidden = torch.tanh(features.mean((2, 3)) @ layer.reduce.weight.T + layer.reduce.bias)
    gate = ((hidden @ layer.expand.weight.T + layer.expand.bias) / 6 + 0.5).clamp(0, 1)
    torch.testing.assert_close(layer(features), features * gate[:, :, None, None])


def test_folding_keeps_the_convolutions_geometry():
    conv = nn.Conv2d(4, 6, (3, 1), stride=2, padding=(2, 0), dilation=2, groups=2, padding_mode="circular").double()
    copied = conv_with_values(conv, conv.weight.detach(), conv.bias.detach())
    features = torch.randn(1, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(copied(features), conv(features))


@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_with_a_norm_folds_with_its_own_epsilon_and_bias(bias):
    layer = ConvNorm(4, 6, (1, 5), stride=2, groups=2, bias=bias, eps=0.3).double().eval()
    layer.norm.running_mean.normal_()
    layer.norm.running_var.uniform_(0.01, 0.5)
    features = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.norm.weight.uniform_(-2, 2)
        layer.norm.bias.normal_()
        before = layer(features)
        assert before.shape == (2, 6, 5, 4)
        layer.fold()
        torch.testing.assert_close(layer(features), before)
    assert layer.norm is None


@torch.no_grad()
@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvNorm(4, 4, 3),
        lambda: RepConvNorm(4, 4, 3, num_branches=2),
        lambda: BinaryConvNorm(4, 4, 1, weights="equalized", activations="sign"),
        lambda: FoldableNorm(4),
    ],
)
def test_a_layer_that_is_folded_twice_is_folded_once(make):
    torch.manual_seed(0)
    layer, features = make().double().eval(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2), nn.init.uniform_(module.weight, 0.5, 2)
    expected = layer(features)
    for _ in range(2):
        layer.fold()
        torch.testing.assert_close(layer(features), expected)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in layer.modules())


def test_layers_begin_as_torchs_own_do():
    conv, linear, norm = nn.Conv2d(6, 400, 3, groups=2), nn.Linear(50, 2000), nn.BatchNorm2d(3)
    for layer, fan_in in ((conv, 27), (linear, 50)):
        nn.init.constant_(layer.weight, 7), nn.init.constant_(layer.bias, 7)
        init_like_torch(layer)
        for values in (layer.weight, layer.bias):
            bound = fan_in**-0.5
            assert values.abs().max() <= bound and values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    nn.init.constant_(norm.weight, 7)
    init_like_torch(norm)
    assert (norm.weight == 7).all()


def test_even_kernels_have_no_centre():
    with pytest.raises(ValueError, match="kernel_size: got 4, accepted are odd sizes"):
        RepConvNorm(4, 4, 4)


def test_outputs_are_written_over_only_where_no_gradient_is_recorded():
    features, other = torch.full((2,), 3.0), torch.full((2,), 2.0)
    assert not may_overwrite()
    assert (add(features, other).tolist(), multiply(features, other).tolist()) == ([5, 5], [6, 6])
    assert features.tolist() == [3, 3]
    with torch.no_grad():
        assert may_overwrite()
        assert add(features, other) is features
        assert multiply(features, other) is features
    assert features.tolist() == [10, 10]


@pytest.mark.parametrize(
    "pixels, message",
    [
        (None, "got None, expected a tensor"),
        (torch.zeros(2, 3, 8), r"got shape \(2, 3, 8\), expected \(batch, 3"),
        (torch.zeros(3, 8, 8), r"got shape \(3, 8, 8\), expected \(batch, 3, height, width\)"),
        (torch.zeros(1, 2, 8, 8), r"got shape \(1, 2, 8, 8\), expected \(batch, 3"),
        (torch.zeros(1, 4, 8, 8), r"got shape \(1, 4, 8, 8\), expected \(batch, 3"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8, expected floating point"),
    ],
)
def test_what_is_no_batch_of_images_is_refused_by_name(pixels, message):
    with pytest.raises(ValueError, match=f"pixel_values: {message}"):
        check_pixels(pixels, 3)
    check_pixels(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16), 3)


@pytest.mark.parametrize(
    "folded, always, training, channels_last",
    [
        (False, False, False, False),
        (True, False, False, True),
        (False, True, False, True),
        (False, True, True, False),
        (True, True, False, True),
    ],
)
def test_images_are_laid_out_as_the_model_computes_fastest(folded, always, training, channels_last):
    class Images(PixelsMixin, nn.Module):
        channels_last_on_cpu = always
        config = SimpleNamespace(num_channels=3, reparameterized=folded)

    pixels = torch.randn(2, 3, 4, 5)
    laid_out = Images().train(training).prepare_pixels(pixels)
    assert torch.equal(laid_out, pixels)
    assert laid_out.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert laid_out.is_contiguous() != channels_last


def test_programs_that_are_exported_leave_the_layout_of_images_to_their_runtime(monkeypatch):
    class Images(PixelsMixin, nn.Module):
        config = SimpleNamespace(num_channels=3, reparameterized=True)

    pixels = torch.randn(2, 3, 4, 5)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert Images().eval().prepare_pixels(pixels) is pixels


def test_a_stock_detector_around_what_cannot_be_trained_stays_whole():
    torch.manual_seed(0)
    backbone = tiny_config(ARCHITECTURES["vanillanet"], out_features=["stage1"], reparameterized=True)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "num_labels": 3}
    detector = DetrForObjectDetection(DetrConfig(backbone_config=backbone, **sizes)).eval()
    # A part that comes before the backbone, and would be in training mode by then.
    model = nn.Sequential(nn.Dropout(), detector).eval()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="^VanillaNetBackbone is folded for deployment and cannot be trained"):
            model.train()
        assert not [name for name, module in model.named_modules() if module.training]


def test_fixed_positions_are_sines_and_cosines_of_columns_then_rows():
    table = sine_cosine_positions(8, 2, 3)
    for row in range(2):
        for column in range(3):
            # Frequencies 10000 to the powers of 0 and -1/2.
            angles = torch.tensor([column, column / 100, row, row / 100], dtype=torch.float64)
            expected = [angles[:2].sin(), angles[:2].cos(), angles[2:].sin(), angles[2:].cos()]
            torch.testing.assert_close(table[3 * row + column], torch.cat(expected))
    assert torch.equal(sine_cosine_positions(8, 2, 3, extra_tokens=2)[2:], table)
    assert not sine_cosine_positions(8, 2, 3, extra_tokens=2)[:2].any()
    with pytest.raises(ValueError, match="width: got 6, accepted are multiples of 4"):
        sine_cosine_positions(6, 2, 2)


def test_tables_of_positions_go_on_at_other_sizes_and_stay_at_their_own():
    # Columns grow from left to right; bicubic interpolation keeps a constant, and a symmetric table symmetric.
    table = torch.cat([torch.full((1, 1, 2), 9.0), torch.arange(3.0).repeat(3)[None, :, None].expand(1, 9, 2)], 1)
    assert resize_positions(table, 3, 3) is table
    wide = resize_positions(table, 2, 6)
    assert wide.shape == (1, 13, 2) and (wide[:, 0] == 9).all()
    rows = wide[0, 1:, 0].view(2, 6)
    torch.testing.assert_close(rows[0], rows[1])
    torch.testing.assert_close(rows[0] + rows[0].flip(0), torch.full((6,), 2.0))
    assert (rows[0].diff() > 0).all()
    # As many places in another order are another grid.
    (line,) = resize_positions(table, 1, 9)[:, 1:, 0]
    assert (line.diff() > 0).all() and torch.allclose(line + line.flip(0), torch.full((9,), 2.0))
    assert resize_positions(table[:, 1:], 2, 2, extra_tokens=0).shape == (1, 4, 2)
    with pytest.raises(ValueError, match="table: got 9 positions beside 1 extra ones|got 8 positions beside 2"):
        resize_positions(table, 2, 2, extra_tokens=2)
    # Windows of 2 have 3 × 3 distances, those of 3 have 5 × 5.
    biases = torch.tensor([[0.0, 1, 2]]).repeat(3, 1).reshape(9, 1)
    assert resize_relative_bias(biases, 2) is biases
    for method in ("geometric", "bicubic"):
        wider = resize_relative_bias(biases, 3, method=method)
        assert wider.shape == (25, 1)
        columns = wider.view(5, 5)
        torch.testing.assert_close(columns, columns[:1].expand(5, 5))
        torch.testing.assert_close(columns[0] + columns[0].flip(0), torch.full((5,), 2.0))
        torch.testing.assert_close(
            resize_relative_bias(torch.full((9, 2), 0.5), 4, method=method), torch.full((49, 2), 0.5)
        )
    # The geometric one is the default: 0 and ±1 stay where they are, and go on as they end.
    assert resize_relative_bias(biases, 3).view(5, 5)[0].tolist() == [0, 0, 1, 2, 2]
    # 5 × 5 distances lie at 0, ±1 and ±(1 + q), with 1 + q the new end, 4: whatever is linear in them stays so.
    linear = torch.tensor([[-4.0, -1, 0, 1, 4]]).repeat(5, 1).reshape(25, 1)
    spread = resize_relative_bias(linear, 5).view(9, 9)
    torch.testing.assert_close(spread, torch.arange(-4.0, 5).expand(9, 9), rtol=0, atol=1e-4)
    assert not torch.equal(resize_relative_bias(biases, 3), resize_relative_bias(biases, 3, method="bicubic"))
    for entries in (8, 16):
        with pytest.raises(ValueError, match=f"table: got {entries} entries, accepted are squares of odd numbers"):
            resize_relative_bias(torch.zeros(entries, 1), 3)
    with pytest.raises(ValueError, match="method: got 'linear', accepted are 'geometric' and 'bicubic'"):
        resize_relative_bias(biases, 3, method="linear")
    plane = torch.randn(2, 4, 6)
    assert resize_bias_plane(plane, 4, 6) is plane and resize_bias_plane(plane, 8, 6).shape == (2, 8, 6)
    assert resize_bias_plane(plane, 4, 3).shape == (2, 4, 3)


def test_gradients_are_pooled_by_sum_or_mean_and_moved_by_a_bias():
    # The brightness grows by 1 to the right: a Sobel gradient of 8 across, in the bin of that direction.
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    inner = histograms_of_gradients(ramp, 4, 4, normalize=False)[0, :, 0, 0]
    # Of the 4 × 4 pixels of a cell the left ones have a mirrored neighbour, and no gradient.
    assert inner.sum().item() == 4 * 3 * 8 and (inner > 0).sum() == 1
    mean = histograms_of_gradients(ramp, 4, 4, normalize=False, pooling="mean")
    torch.testing.assert_close(mean * 16, histograms_of_gradients(ramp, 4, 4, normalize=False))
    torch.testing.assert_close(histograms_of_gradients(ramp, 4, 4).norm(dim=1), torch.ones(1, 2, 2))
    flat = histograms_of_gradients(torch.zeros(1, 1, 8, 8), 4, 4, normalize=False, bias=torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(flat.sum(1), torch.full((1, 2, 2), 16 * 5.0))
    weighed = histograms_of_gradients(ramp, 4, 4, normalize=False, window=4)[0, :, 0, 0]
    window = gaussian_window(4)
    assert weighed.sum().item() == pytest.approx(8 * window[:, 1:].sum().item()) and window.sum() == pytest.approx(1)
    # The deviation is half of the side, 2: from ±1.5 and ±0.5 pixels to the middle.
    assert (window[0, 0] / window[1, 1]).item() == pytest.approx(torch.tensor(-2 * (2.25 - 0.25) / 8).exp().item())
    # Windows tile an image that is wider than high, and have a middle where their side is odd.
    wide = histograms_of_gradients(ramp[:, :, :4], 4, 4, normalize=False, window=4)
    assert wide.shape == (1, 4, 1, 2) and wide.sum().item() == pytest.approx(2 * weighed.sum().item())
    odd = gaussian_window(5)
    assert (odd[2, 0] / odd[2, 2]).item() == pytest.approx(torch.tensor(-4 / 8).exp().item())
    # An orientation is not rounded to the precision of the pixels.
    coarse = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    fine = histograms_of_gradients(coarse.float(), 9, 8)
    assert torch.equal(histograms_of_gradients(coarse, 9, 8), fine) and fine.dtype == torch.float32
    for wrong, message in (
        ({"pixel_values": torch.zeros(1, 1, 1, 8), "cell": 1}, "pixel_values: got 1×8 pixels, a gradient takes 2×2"),
        ({"pixel_values": torch.zeros(1, 1, 8, 1), "cell": 1}, "pixel_values: got 8×1 pixels, a gradient takes 2×2"),
        ({"pixel_values": torch.zeros(1, 1, 8, 6)}, "cell: got 4, which does not divide images of 8×6 pixels"),
        ({"pixel_values": torch.zeros(1, 1, 6, 8)}, "cell: got 4, which does not divide images of 6×8 pixels"),
        ({"pooling": "max"}, "pooling: got 'max', accepted are 'sum' and 'mean'"),
        ({"window": 3}, "window: got 3, which does not divide images of 8×8 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            histograms_of_gradients(**{"pixel_values": ramp, "cell": 4, **wrong})


def test_widths_keep_nine_tenths():
    assert [round_width(width, 8) for width in (1, 11, 12, 16, 19, 20, 26)] == [8, 16, 16, 16, 24, 24, 24]
    assert [round_width(width, 4) for width in (6, 7.2, 9, 30)] == [8, 8, 12, 32]
    assert round_width(10, 9) == 9  # nine tenths themselves


def test_what_cannot_be_computed_is_named():
    with pytest.raises(ValueError, match="eta: got 0, accepted are positive numbers"):
        AdderConv2d(3, 4, 3, eta=0)
    with pytest.raises(ValueError, match=r"inputs: \(1, 3, 2, 9\) is smaller than the kernel \(3, 3\)"):
        AdderConv2d(3, 4, 3)(torch.zeros(1, 3, 2, 9))
    assert AdderConv2d(3, 4, 3)(torch.zeros(1, 3, 3, 3)).shape == (1, 4, 1, 1)
    norm, seen = VisibleBatchNorm2d(2).train(), torch.zeros(2, 1, 2, 2)
    seen[0, 0, 0, 0] = 1
    with only_visible(seen), pytest.raises(ValueError, match="pixel_values: one place of the batch is visible, of wh"):
        norm(torch.randn(2, 2, 2, 2))
    with only_visible(seen):
        assert norm.eval()(torch.randn(2, 2, 2, 2)).shape == (2, 2, 2, 2)
        assert norm.train()(torch.randn(2, 2, 4, 4)).abs().sum((0, 1)).nonzero().tolist() == [
            [0, 0],
            [0, 1],
            [1, 0],
            [1, 1],
        ]


def test_only_strides_that_mean_nothing_are_changed():
    weight = torch.empty(4, 1, 1, 3).permute(0, 3, 1, 2)
    gradient = torch.randn(4, 3, 1, 1)
    assert gradient.stride() != weight.stride()
    changed = in_strides_of(gradient, weight)
    assert changed.stride() == weight.stride() and torch.equal(changed, gradient)
    assert changed.data_ptr() == gradient.data_ptr()
    large = torch.empty(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    other = torch.randn(4, 3, 2, 2)
    assert in_strides_of(other, large) is other and in_strides_of(changed, weight) is changed
