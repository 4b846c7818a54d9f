"""What is folded already, or has nothing to fold, stays as it is when it is folded once more."""

import pytest
import torch
from torch import nn

from hf_effmodels.modeling.addernet.modeling_addernet import AdderNetForImageClassification
from hf_effmodels.modeling.cdfkd_mfs.modeling_cdfkd_mfs import CdfkdMfsNorm
from hf_effmodels.modeling.parameternet.dynamic_conv import DynamicConvNorm
from hf_effmodels.modeling.vanillanet.modeling_vanillanet import DeepConvolution
from hf_effmodels.modeling.vig.modeling_vig import VigHead
from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config


def config(name, **fields):
    return tiny_config(ARCHITECTURES[name], **fields)


#: Layer -> how to make one, and the channels it takes.
LAYERS = {
    "dynamic convolution": (lambda: DynamicConvNorm(4, 6, 3), (4, 5, 5)),
    "head": (lambda: VigHead(config("vig")), None),
    "norm alone": (lambda: CdfkdMfsNorm(config("cdfkd_mfs"), 4), (4, 5, 5)),
    "two convolutions": (
        lambda: DeepConvolution(config("vanillanet", act_learn=1), 4, 6, hidden_channels=5),
        (4, 5, 5),
    ),
    "classifier": (lambda: AdderNetForImageClassification(config("addernet", num_labels=3)), (3, 32, 32)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_folded_layer_stays_as_it_is_when_it_is_folded_again(name):
    make, shape = LAYERS[name]
    layer = make().eval()
    for module in layer.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    shape = shape or (layer.linear.in_features,)
    inputs = torch.randn(2, *shape)
    with torch.no_grad():
        expected = layer(inputs)
        layer.fold()
        once = {key: value.clone() for key, value in layer.state_dict().items()}
        layer.fold()
        found = layer(inputs)
    assert layer.state_dict().keys() == once.keys()
    assert all(torch.equal(value, once[key]) for key, value in layer.state_dict().items())
    found, expected = (getattr(value, "logits", value) for value in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
