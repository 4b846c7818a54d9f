"""AdderNet's own: the layer against its definition, its memory, the local rate, the folded form."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

import hf_effmodels
from hf_effmodels.modeling.addernet.configuration_addernet import AdderNetConfig
from hf_effmodels.modeling.addernet.modeling_addernet import AdderNetForImageClassification
from hf_effmodels.modeling.layers.adder import AdderConv2d, adder_conv2d, scale_gradients

from .tiny.addernet import TINY


def build(**overrides) -> AdderNetForImageClassification:
    torch.manual_seed(0)
    return AdderNetForImageClassification(AdderNetConfig(**{**TINY["addernet"], "num_labels": 3, **overrides})).eval()


def by_definition(inputs, weight, stride, padding):
    """The broadcast form: all differences at once."""
    patches = F.unfold(inputs, weight.shape[2:], padding=padding, stride=stride)
    return patches[:, None] - weight.flatten(1)[None, :, :, None]


@pytest.mark.parametrize("size, stride, padding", [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 3, 2), (2, 1, 0)])
def test_forward_and_gradients_are_those_of_the_definition(size, stride, padding):
    torch.manual_seed(0)
    inputs = (2 * torch.randn(2, 3, 9, 7, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(4, 3, size, size, dtype=torch.float64, requires_grad=True)
    output = adder_conv2d(inputs, weight, stride, padding, eta=0.3)
    differences = by_definition(inputs.detach(), weight.detach(), stride, padding)
    torch.testing.assert_close(output.flatten(2), -differences.abs().sum(2))
    gradient = torch.randn_like(output)
    output.backward(gradient)
    upstream = gradient.flatten(2)[:, :, None]
    of_weight = (differences * upstream).sum((0, 3)).view_as(weight)
    torch.testing.assert_close(weight.grad, of_weight / of_weight.norm() * weight.numel() ** 0.5 * 0.3)
    of_patches = ((-differences).clamp(-1, 1) * upstream).sum(1)
    expected = F.fold(of_patches, inputs.shape[2:], size, padding=padding, stride=stride)
    torch.testing.assert_close(inputs.grad, expected)


@torch.no_grad()
def test_what_is_exported_is_the_same(monkeypatch):
    inputs, weight = torch.randn(2, 3, 9, 7).double(), torch.randn(4, 3, 3, 3).double()
    expected = adder_conv2d(inputs, weight, 2, 1)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(adder_conv2d(inputs, weight, 2, 1), expected)


@torch.no_grad()
def test_half_precision_is_summed_up_in_full():
    inputs, weight = torch.randn(1, 64, 8, 8).bfloat16(), torch.randn(8, 64, 3, 3).bfloat16()
    output = adder_conv2d(inputs, weight, 1, 1)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, adder_conv2d(inputs.double(), weight.double(), 1, 1).bfloat16())


def test_layers_swapped_into_a_resnet_of_transformers_learn_and_come_back(tmp_path):
    def network():
        torch.manual_seed(0)
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        model = ResNetForImageClassification(config).eval()
        convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "encoder" in n}
        for name, conv in convolutions.items():
            sizes = (conv.kernel_size[0], conv.stride[0], conv.padding[0])
            model.set_submodule(name, AdderConv2d(conv.in_channels, conv.out_channels, *sizes, eta=0.3))
        return model, list(convolutions)

    (model, names), images = network(), torch.randn(2, 3, 32, 32)
    assert len(names) == 7
    model.train()(images, labels=torch.tensor([0, 1])).loss.backward()
    for layer in map(model.get_submodule, names):
        assert layer.weight.grad.norm().item() == pytest.approx(0.3 * layer.weight.numel() ** 0.5, rel=1e-4)
    assert model.resnet.embedder.embedder.convolution.weight.grad.abs().sum() > 0
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.eval().save_pretrained(tmp_path)
    maps = model(images, output_hidden_states=True).hidden_states
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 8, 8), (8, 8, 8), (16, 4, 4)]
    again, _ = network()
    before = again(images).logits
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(images).logits, model(images).logits) and not torch.equal(before, again(images).logits)


def test_accumulated_batches_have_the_local_rate_of_one():
    layer = AdderConv2d(3, 4, 3, padding=1, eta=0.3).double()
    batches = [torch.randn(1, 3, 5, 5).double() for _ in range(3)]
    weights = [10.0**n for n in range(3)]
    layer.scales_gradient = False
    for batch, factor in zip(batches, weights, strict=True):
        (factor * layer(batch)).sum().backward()
    scale_gradients(layer)
    once, layer.weight.grad, layer.scales_gradient = layer.weight.grad, None, True
    together = layer(torch.cat(batches))
    sum((factor * output).sum() for output, factor in zip(together, weights, strict=True)).backward()
    torch.testing.assert_close(once, layer.weight.grad)
    assert once.norm().item() == pytest.approx(0.3 * layer.weight.numel() ** 0.5)


def test_the_trainers_callback_scales_once_per_step():
    model = build().train()
    (callback,) = model.training_callbacks()
    callback.on_train_begin(None, None, None)
    weight = model.addernet.stages[0].blocks[0].adder1.conv.weight
    for seed in range(2):
        torch.manual_seed(seed)
        model(torch.randn(4, 3, 32, 32), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    plain = weight.grad.clone()
    callback.on_pre_optimizer_step(None, None, None)
    torch.testing.assert_close(weight.grad, plain / plain.norm() * 0.2 * weight.numel() ** 0.5)
    callback.on_train_end(None, None, None)
    assert model.addernet.stages[0].blocks[0].adder1.conv.scales_gradient


def test_depths_widths_and_constants_are_the_configurations():
    model = build(block="basic", stem="cifar", hidden_sizes=[8, 8, 12], classifier_bias=False, adder_eta=0.5)
    maps = model(torch.randn(1, 3, 32, 32), output_hidden_states=True).hidden_states
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 32, 32), (8, 32, 32), (12, 16, 16)]
    layers = [m for m in model.modules() if isinstance(m, AdderConv2d)]
    assert {layer.eta for layer in layers} == {0.5} and len(layers) == 7
    assert model.classifier.bias is None and isinstance(model.norm, nn.BatchNorm1d)
    assert build(classifier_norm=False).norm is None
    blocks = build().addernet.stages[1].blocks
    assert blocks[0].adder2.conv.stride == 2 and blocks[0].adder1.conv.stride == 1, "the stride is on the 3×3"
    assert blocks[0].shortcut.conv.kernel_size == 1 and blocks[1].shortcut is None
    weight = torch.cat([layer.weight.flatten() for layer in layers])
    assert weight.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name, adders", [("resnet20-cifar10", 269_824), ("resnet50", 23_445_504)])
def test_adder_weights_of_the_presets(name, adders):
    with torch.device("meta"):
        model = hf_effmodels.create_model(f"addernet-{name}")
    assert sum(m.weight.numel() for m in model.modules() if isinstance(m, AdderConv2d)) == adders


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"stem": "mnist"}, "stem: got 'mnist'"),
        ({"block": "plain"}, "block: got 'plain', accepted are 'basic', 'bottleneck'"),
        ({"hidden_sizes": [8, 16]}, r"hidden_sizes: got \[8, 16\], accepted are 3 numbers"),
        ({"hidden_sizes": [8, 16, 18]}, "accepted for bottlenecks are multiples of 4"),
        ({"depths": [0, 1]}, "depths: got .*from 1"),
        ({"adder_eta": 0.0}, "adder_eta: got 0.0"),
        ({"classifier_dropout": 1.0}, "classifier_dropout: got 1.0"),
    ],
)
def test_wrong_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        hf_effmodels.get_config("addernet-resnet50", **{**TINY["addernet"], **wrong})


def test_wrong_layers_are_named():
    for wrong, message in (({"stride": 0}, "stride: got 0"), ({"kernel_size": (3, 3)}, r"kernel_size: got \(3, 3\)")):
        with pytest.raises(ValueError, match=message):
            AdderConv2d(**{"in_channels": 3, "out_channels": 4, "kernel_size": 3, **wrong})
    for size, given, message in (
        (5, torch.randn(1, 3, 3, 3), "smaller than the kernel"),
        (3, torch.ones(1, 3, 5, 5, dtype=torch.int64), "inputs: got torch.int64, accepted are floating point"),
        (3, torch.full((1, 3, 5, 5), float("inf")), "inputs: got values that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            AdderConv2d(3, 4, size).eval()(given)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_classifiers_norm_is_folded_into_it_whether_it_has_a_bias_or_not(bias, norm):
    model = build(stem="cifar", classifier_bias=bias, classifier_norm=norm)
    if norm:
        model.norm.running_mean.normal_(), model.norm.running_var.uniform_(0.5, 2), model.norm.weight.uniform_(0.5, 2)
    pixels = torch.randn(2, 3, 16, 16)
    expected = model(pixels).logits
    model.reparameterize()
    torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-4, atol=1e-5)
    built = build(stem="cifar", classifier_bias=bias, classifier_norm=norm, reparameterized=True)
    assert (built.classifier.bias is None) == (not bias and not norm) and built.norm is None
    built.load_state_dict(model.state_dict())
    torch.testing.assert_close(built(pixels).logits, expected, rtol=1e-4, atol=1e-5)
