"""BitLinear where no parity case looks."""

import pytest
import torch
import torch.nn.functional as F

from hf_effmodels.quantization.bitnet158.bitlinear import BitLinear, bit_linear
from hf_effmodels.quantization.bitnet158.quantizers import quantize_activations, quantize_weight


@pytest.mark.parametrize("scale", ["mean", "median"])
def test_ternary_weights_stay_what_they_are(scale):
    """Where most are not 0: the scale of weights that are quantised already is the magnitude of those."""
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    ternary, gamma = quantize_weight(weight, scale)
    assert set(ternary.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert torch.equal(quantize_weight(ternary * gamma, scale).integers, ternary)


def test_the_smallest_number_is_added_to_the_scale():
    weight = torch.tensor([0.9e-5, -1.1e-5])  # 0.45 and 0.55 of 1e-5 + 1e-5
    assert quantize_weight(weight).integers.tolist() == [0, -1]
    assert quantize_weight(weight, eps=1e-7).integers.tolist() == [1, -1]


def test_the_median_gives_fewer_zeros_than_the_mean():
    weight = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    zeros = {scale: (quantize_weight(weight, scale).integers == 0).double().mean() for scale in ("mean", "median")}
    # Of a Gaussian: P(|w| < 0.3989) and P(|w| < 0.3372).
    assert zeros["mean"] == pytest.approx(0.3101, abs=0.005)
    assert zeros["median"] == pytest.approx(0.2641, abs=0.005)


def test_options_are_what_they_say():
    # Small ones, of which the smallest number in the norm takes a part.
    x = (1e-3 * torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))).requires_grad_()
    layer = BitLinear(16, 8, scale="median", activation_bits=4, norm_before=True)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    step = normed.abs().amax(-1, keepdim=True) / 7
    gamma = layer.weight.abs().median()
    ternary = (layer.weight / (gamma + 1e-5)).round().clamp(-1, 1)
    expected = F.linear((normed / step).round().clamp(-8, 7) * step, ternary * gamma, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    # Too small to have steps of its own: they are those of a largest input of 1e-5.
    tiny = torch.tensor([[4e-6, -1e-6]])
    assert quantize_activations(tiny).integers.tolist() == [[51, -13]]  # 127 · 0.4 and 0.1, rounded
    assert quantize_activations(tiny, eps=1e-7).integers.tolist() == [[127, -32]]
    torch.testing.assert_close(
        bit_linear(x, layer.weight, activation_bits=None), F.linear(x, torch.mul(*quantize_weight(layer.weight)))
    )


def test_a_warm_start_goes_from_full_precision_to_ternary():
    x, weight = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2)).unbind(0)
    assert torch.equal(bit_linear(x, weight, share=0.0), F.linear(x, weight))
    ternary, gamma = quantize_weight(weight)
    half = bit_linear(x, weight, activation_bits=None, share=0.5)
    torch.testing.assert_close(half, F.linear(x, (weight + ternary * gamma) / 2))


def test_other_scales_are_refused():
    with pytest.raises(ValueError, match="scale: got 'max', accepted are 'mean', 'median'"):
        quantize_weight(torch.ones(2, 2), "max")
