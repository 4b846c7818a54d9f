"""AdderNet's quantisation: groups, the lossless clamp, integers."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.quantization.adder.algorithm import activation_range, cluster, quantize_weights
from hf_effmodels.quantization.adder.layer import quantized_adder_conv2d


@pytest.mark.parametrize("n_groups", [1, 2, 3, 4])
def test_groups_are_the_best_of_all(n_groups):
    values = torch.rand(9, generator=torch.Generator().manual_seed(n_groups)).double()
    ordered = values.sort().values

    def cost(parts):
        return sum(((part - part.mean()) ** 2).sum().item() for part in parts)

    best = min(
        cost([ordered[a:b] for a, b in zip((0, *cuts), (*cuts, 9), strict=True)])
        for cuts in combinations(range(1, 9), n_groups - 1)
    )
    groups = cluster(values, n_groups)
    assert cost([values[groups == g] for g in range(n_groups)]) == pytest.approx(best)
    largest = [values[groups == g].max() for g in range(n_groups)]
    assert largest == sorted(largest), "numbered by ascending values"
    assert torch.equal(groups, cluster(values, n_groups))


def test_the_range_of_activations_is_that_of_their_upper_quantile():
    batch = torch.arange(1000.0).flip(0)
    index = int((round(1000 * 0.99) - 1) * 0.99)
    assert activation_range([batch, 0 * batch], 0.99) == index == 979
    assert activation_range([0 * batch]) == 1e-3
    for wrong, message in (({"keep_ratio": 0.0}, "keep_ratio: got 0.0"), ({"batches": []}, "there are no batches")):
        with pytest.raises(ValueError, match=message):
            activation_range(**{"batches": [batch], **wrong})
    with pytest.raises(ValueError, match="not finite"):
        activation_range([batch / 0])


@pytest.mark.parametrize("bits_weight, bits_activation", [(8, 8), (6, 6), (5, 5), (4, 4), (4, 6)])
def test_outputs_are_those_of_the_values_of_the_levels(bits_weight, bits_activation):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3, 3, 3, generator=generator).double() * torch.tensor([3.0, 1, 0.2, 3, 1, 0.2]).view(
        6, 1, 1, 1
    )
    inputs = torch.rand(2, 3, 7, 7, generator=generator).double()
    adder = quantize_weights(weight, 0.9, bits_weight, n_groups=3)
    output = quantized_adder_conv2d(
        inputs, adder.levels, adder.group, adder.scale, adder.bias, bits_activation, 2, 1, bits_weight
    )
    assert int(adder.levels.min()) >= -(2 ** (bits_weight - 1)) and int(adder.levels.max()) < 2 ** (bits_weight - 1)
    for f in range(6):
        s = adder.scale[adder.group[f]]
        w = adder.levels[f].double() * 2 * s / (2**bits_weight - 1)
        step = s / (2**bits_activation - 1)
        x = (inputs / step).round().clamp(0, 2**bits_activation - 1) * step
        patches = F.unfold(x, 3, padding=1, stride=2)
        expected = -(patches - w.flatten()[None, :, None]).abs().sum(1) + adder.bias[f]
        torch.testing.assert_close(output[:, f].flatten(1), expected)


def test_what_cannot_be_quantised_is_named():
    weight = torch.randn(4, 3, 3, 3)
    for wrong, message in (
        ({"bits": 9}, "bits: got 9, accepted are whole numbers from 2 to 8"),
        ({"bits": 1}, "bits: got 1"),
        ({"n_groups": 5}, "n_groups: got 5, accepted are whole numbers from 1 to the 4 filters"),
        ({"weight": weight / 0}, "weight: got values that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_weights(**{"weight": weight, "act_range": 1.0, "n_groups": 2, **wrong})
    adder = quantize_weights(weight, 1.0, n_groups=2)
    with pytest.raises(ValueError, match="inputs: got -1, accepted are numbers from 0"):
        quantized_adder_conv2d(-torch.ones(1, 3, 5, 5), adder.levels, adder.group, adder.scale, adder.bias, 8, 1, 1)
