"""What converters do with weights by name gives what the modules give, or is refused."""

import pytest
import torch
from torch import nn

from hf_effmodels.modeling.layers.stored_weights import fold_stored_norm, take_joint


def conv_and_norm(bias: bool) -> tuple[nn.Sequential, dict[str, torch.Tensor]]:
    layers = nn.Sequential(nn.Conv2d(3, 6, 2, bias=bias), nn.BatchNorm2d(6, eps=0.1)).double().eval()
    for values in (layers[1].weight, layers[1].bias, layers[1].running_mean, layers[1].running_var):
        nn.init.uniform_(values, 0.5, 2.0)
    return layers, dict(layers.state_dict())


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_stored_norm_folds_into_the_convolution_before_it(bias):
    layers, weights = conv_and_norm(bias)
    fold_stored_norm(weights, "0", "1", 0.1)
    assert weights.keys() == {"0.weight", "0.bias"}
    pixels = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    folded = nn.functional.conv2d(pixels, weights["0.weight"], weights["0.bias"])
    torch.testing.assert_close(folded, layers(pixels))


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize(
    "change", [lambda v: v[:1], lambda v: v[0], lambda v: v[None], lambda v: v[:-1], lambda v: v.long()]
)
def test_a_norm_of_other_channels_is_not_stretched_to_those_of_the_convolution(name, change):
    _, weights = conv_and_norm(True)
    weights[f"1.{name}"] = change(weights[f"1.{name}"])
    with pytest.raises(ValueError, match=rf"1 of another shape: 1\.{name} is .*, expected numbers of \(6,\)"):
        fold_stored_norm(weights, "0", "1", 0.1)
    _, weights = conv_and_norm(True)
    weights["0.weight"] = weights["0.weight"][:1]
    with pytest.raises(ValueError, match=r"1\.weight is \(6,\), expected numbers of \(1,\)"):
        fold_stored_norm(weights, "0", "1", 0.1)


def test_a_joint_projection_is_shared_out_by_rows():
    joint = torch.arange(12.0).reshape(6, 2)
    weights = {"qkv": joint.clone()}
    take_joint(weights, "qkv", ["q", "k", "v"])
    assert {name: value.tolist() for name, value in weights.items()} == {
        "q": [[0, 1], [2, 3]],
        "k": [[4, 5], [6, 7]],
        "v": [[8, 9], [10, 11]],
    }
    for wrong in (joint[:5], joint[:1], joint[None], joint[0, 0]):
        with pytest.raises(ValueError, match="1 of another shape: qkv is .*, expected the rows of all 3 parts"):
            take_joint({"qkv": wrong}, "qkv", ["q", "k", "v"])
