"""The shared layers, each by itself and away from its neutral values."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection

from hf_effmodels.modeling.layers.drop_path import DropPath
from hf_effmodels.modeling.layers.in_place import add, may_overwrite, multiply
from hf_effmodels.modeling.layers.pixels import PixelsMixin, check_pixels
from hf_effmodels.modeling.layers.reparameterization import ConvNorm, RepConvNorm, conv_with_values
from hf_effmodels.modeling.layers.squeeze_excite import SqueezeExcite
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
