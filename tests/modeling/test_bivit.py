"""BiViT's layers in models that this project did not write, and what no parity case covers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    Swinv2Config,
    Swinv2Model,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels.modeling.layers.bivit import (
    ATTENTION,
    BiVitAttention,
    BiVitLinear,
    ElasticQuantizer,
    binarize_transformer,
    elastic,
    min_max,
    softmax_aware_attention,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"image_size": 32, "patch_size": 8, "num_labels": 3}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
NETWORKS = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL)),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SMALL)),
    "beit": lambda: BeitForImageClassification(BeitConfig(**SMALL)),
    "swin": lambda: SwinForImageClassification(SwinConfig(**SWIN, num_labels=3)),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_any_vision_transformer_becomes_binary_and_learns(network):
    torch.manual_seed(0)
    model = NETWORKS[network]().eval()
    weights = copy.deepcopy(model.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    real = model(pixels).logits
    binarize_transformer(model)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert type(model.classifier) is nn.Linear
    with torch.no_grad():
        assert not torch.allclose(model(pixels).logits, real)
    model.train()(pixels, labels=torch.tensor([0, 2])).loss.backward()
    layers = [m for m in model.modules() if isinstance(m, BiVitLinear)]
    assert len(layers) >= 8
    for layer in layers:
        assert torch.isfinite(layer.weight.grad).all() and torch.isfinite(layer.scaling_factor.grad).all()
        torch.testing.assert_close(layer.scaling_factor[:, 0], layer.weight.abs().mean(1))


def test_attention_of_the_interface_is_the_softmax_aware_one():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    output, mask = softmax_aware_attention(nn.Identity(), query, key, value, bias, 0.3, threshold=0.4)
    logits = query.sign() @ key.sign().transpose(-1, -2) * 0.3 + bias
    expected = (logits >= logits.amax(-1, keepdim=True) + torch.tensor(0.4).double().log()).double()
    assert torch.equal(mask, expected)
    torch.testing.assert_close(output, (expected @ value.sign()).transpose(1, 2))
    upstream = torch.randn_like(output)
    output.backward(upstream)
    # The mask's gradient is that of the probabilities, the signs' passes where |x| < 1.
    q = query.detach().clone().requires_grad_()
    products = q @ key.detach().sign().transpose(-1, -2) * 0.3
    soft = (products - products.detach() + logits.detach()).softmax(-1)
    (soft @ value.detach().sign()).transpose(1, 2).backward(upstream)
    torch.testing.assert_close(query.grad, q.grad * (query.abs() < 1))


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.1, 0.25, 0.9])
@pytest.mark.parametrize("aware", [True, False])
def test_the_layer_keeps_what_reaches_its_own_threshold(aware, threshold):
    torch.manual_seed(0)
    layer = BiVitAttention(8, 2, softmax_aware=aware, threshold=threshold).double().eval()
    layer.qkv.weight.normal_()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    query, key, value = layer.qkv(x).reshape(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).sign()
    logits = query @ key.mT / 2  # the root of a head's width
    shares = logits.exp() / logits.exp().amax(-1, keepdim=True)
    kept = (shares >= threshold - 1e-9).double() if aware else (logits > 0).double()
    assert 0.1 < kept.mean() < 0.9
    torch.testing.assert_close(layer(x), layer.proj((kept @ value).transpose(1, 2).reshape(2, 6, 8)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    """The class token would not see it: signs of what is not a number are 0."""
    pixels = torch.randn(2, 3, 32, 32)
    pixels[1, 0, 0, 0] = value
    for model in (binarize_transformer(NETWORKS["vit"]()), BiVitAttention(8, 2), BiVitLinear(8, 2)):
        given = pixels if hasattr(model, "config") else pixels[:, 0, :, :8]
        with pytest.raises(ValueError, match="inputs: got values that are not finite"):
            model.eval()(given)
        model.train()(given)


def test_the_interface_gets_the_attention_by_its_name():
    model = binarize_transformer(NETWORKS["vit"](), scale="mean", binary_inputs=True, skip=["layers.0"])
    assert model.config._attn_implementation == ATTENTION
    layers = {name: m for name, m in model.named_modules() if isinstance(m, BiVitLinear)}
    assert layers and all(m.scale == "mean" and m.binary_inputs for m in layers.values())
    assert not [name for name in layers if "layers.0" in name]
    assert type(binarize_transformer(NETWORKS["vit"](), skip="classif").classifier) is nn.Linear
    for network, given, message in (
        (nn.Sequential(nn.Linear(2, 2)), {}, "no linear layers in blocks"),
        (nn.ModuleList([nn.Linear(2, 2)]), {}, "no linear layers in blocks"),
        (nn.Sequential(nn.ModuleList([nn.Linear(2, 2)])), {}, "attention: Sequential does not have"),
        (Swinv2Model(Swinv2Config(**SWIN)), {}, "attention: Swinv2Model does not have transformers' attention"),
        (NETWORKS["vit"](), {"skip": ["atention"]}, "skip: no module of the model has 'atention' in its name"),
        (NETWORKS["vit"](), {"skip": 1}, "skip: got 1, accepted are lists of names"),
        (NETWORKS["vit"](), {"scale": "row"}, "scale: got 'row'"),
    ):
        with pytest.raises(ValueError, match=message):
            binarize_transformer(network, **given)
        assert not any(isinstance(m, BiVitLinear) for m in network.modules())
        assert getattr(getattr(network, "config", None), "_attn_implementation", None) != ATTENTION


def test_what_stands_beside_the_blocks_stays_real_whatever_its_name_begins_with():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.layers_end = nn.ModuleList([nn.Linear(2, 2)]), nn.Linear(2, 2)

    model = binarize_transformer(Network(), attention=False)
    assert type(model.layers[0]) is BiVitLinear and type(model.layers_end) is nn.Linear


def test_scales_are_set_once_and_that_is_saved():
    layer = BiVitLinear(4, 3).eval()
    layer(torch.randn(2, 4))
    layer.scaling_factor.data.zero_()
    other = BiVitLinear(4, 3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(torch.randn(2, 4)), other.bias.expand(2, 3)), "a trained zero stays"
    official = BiVitLinear(4, 3)  # whose files do not say that their scales were set
    official.scaling_factor.data.fill_(2.0)
    official(torch.randn(2, 4))
    assert torch.equal(official.scaling_factor, torch.full((3, 1), 2.0))
    partly = BiVitLinear(4, 3)  # a zero among others has been learnt
    partly.scaling_factor.data.copy_(torch.tensor([[2.0], [0.0], [1.0]]))
    partly(torch.randn(2, 4))
    assert partly.scaling_factor.flatten().tolist() == [2.0, 0.0, 1.0]
    quantizer = ElasticQuantizer(2, True)
    quantizer(torch.randn(10))
    again = ElasticQuantizer(2, True)
    quantizer.alpha.data.fill_(1.0)
    again.load_state_dict(quantizer.state_dict())
    again(5 * torch.randn(10))
    assert again.alpha.item() == 1.0


def test_what_is_asked_for_is_honoured():
    assert BiVitLinear(4, 3, bias=False).bias is None and BiVitAttention(8, 2, bias=False).qkv.bias is None
    x = torch.randn(3, 5)
    assert torch.equal(elastic(x, torch.ones(1), 32, True), x)
    layer = BiVitLinear(4, 3, scale="mean", binary_inputs=False).double()
    x = torch.randn(2, 4).double()
    rows = layer.weight
    expected = F.linear(x, (rows - rows.mean(1, keepdim=True)).sign() * rows.abs().mean(1, keepdim=True), layer.bias)
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(min_max(torch.zeros(2, 2), 4, (-1, 1), symmetric=True, layerwise=True), torch.zeros(2, 2))
    for make, message in (
        (lambda: min_max(x, 1, (-1, 1), symmetric=True, layerwise=True), "bits: got 1, accepted .* from 2 to 32"),
        (lambda: min_max(x, 0, (-1, 1), symmetric=False, layerwise=True), "bits: got 0, accepted .* from 1 to 32"),
        (lambda: min_max(x, 4.0, (-1, 1), symmetric=True, layerwise=True), "bits: got 4.0, accepted are whole"),
        (lambda: min_max(x, True, (-1, 1), symmetric=False, layerwise=True), "bits: got True, accepted are whole"),
        (lambda: BiVitLinear(4, 3, scale="row"), "scale: got 'row'"),
        (lambda: ElasticQuantizer(0, True), "bits: got 0"),
        (lambda: BiVitAttention(9, 2), "num_heads: got 2, which does not divide the width 9"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_a_scale_that_nothing_has_set_is_left_alone_by_an_export(monkeypatch):
    """A graph holds the scales that training has found; tracing one sets none."""
    inputs = torch.tensor([[4.0, -2.0, 1.0, 3.0]])
    quantizer, layer = ElasticQuantizer(2, signed=True), BiVitLinear(4, 3, scale="learned")
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    before = copy.deepcopy((quantizer.state_dict(), layer.state_dict()))
    torch.testing.assert_close(quantizer(inputs), torch.tensor([[1.0, -2.0, 1.0, 1.0]]))
    layer(inputs)
    for module, state in zip((quantizer, layer), before, strict=True):
        assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())
    monkeypatch.undo()
    quantizer(inputs)
    layer(inputs)
    assert quantizer.is_initialized and quantizer.alpha != 1 and layer.is_initialized
    torch.testing.assert_close(layer.scaling_factor.flatten(), layer.weight.abs().mean(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_binary_layers_have_the_precision_of_those_whose_weights_they_take(dtype):
    model = NETWORKS["vit"]().to(dtype)
    weights = {name: p for name, p in model.named_parameters() if "classifier" not in name}
    binarize_transformer(model)
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(dict(model.named_parameters())[name] is p for name, p in weights.items())
    assert sum(name.endswith("scaling_factor") for name, _ in model.named_parameters()) >= 8
    assert model(torch.randn(1, 3, 32, 32, dtype=dtype)).logits.dtype == dtype
