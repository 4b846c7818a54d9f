"""AdaBin's own: options of the configuration, the annealed surrogate, binarising any model."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    TrainerControl,
    TrainerState,
)

import hf_effmodels
from hf_effmodels.modeling.adabin.configuration_adabin import AdaBinConfig
from hf_effmodels.modeling.adabin.modeling_adabin import AdaBinForImageClassification
from hf_effmodels.modeling.adabin.progressive_training import surrogate_at
from hf_effmodels.modeling.layers.adder import AdderConv2d
from hf_effmodels.modeling.layers.binary import (
    BinaryConv2d,
    BinaryLinear,
    binarize,
    binarized_weights,
    equalized_weights,
)

from .tiny.adabin import TINY


def build(**overrides) -> AdaBinForImageClassification:
    torch.manual_seed(0)
    return AdaBinForImageClassification(AdaBinConfig(**{**TINY["adabin"], "num_labels": 3, **overrides})).eval()


@torch.no_grad()
def test_a_layer_computes_with_two_values_for_inputs_and_for_each_filter():
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 4, 3, padding=1).double()
    conv.binarizer.alpha.fill_(-0.7)
    conv.binarizer.beta.fill_(0.3)
    pixels = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    levels = torch.where((pixels - 0.3) / -0.7 > 0, -0.7 * 1.3, -0.7 * -0.7).double()
    weight = torch.stack(
        [
            torch.where(w > w.mean(), w.mean() + w.std(correction=0), w.mean() - w.std(correction=0))
            for w in conv.weight
        ]
    )
    torch.testing.assert_close(conv(pixels), F.conv2d(levels, weight, conv.bias, padding=1))
    assert {len(set(row.tolist())) for row in conv.binary_weight().flatten(1)} == {2}
    with pytest.raises(ValueError, match="inputs: got values that are not finite"):
        conv.eval()(pixels / 0)


def test_a_filter_without_deviation_becomes_its_mean_and_gets_a_gradient():
    weight = torch.randn(2, 3, 3, 3)
    weight[1] = 0.25
    weight.requires_grad_()
    binary = equalized_weights(weight)
    assert torch.equal(binary[1], torch.full((3, 3, 3), 0.25))
    (binary * torch.randn_like(binary)).sum().backward()
    assert torch.isfinite(weight.grad).all()


def test_the_gradient_is_that_of_the_surrogate_whose_gain_and_sharpness_are_the_configurations():
    model = build(surrogate_gain=2.0, surrogate_sharpness=3.0)
    conv = model.adabin.stages[0].blocks[0].convolution1.conv
    assert (conv.gain, conv.sharpness) == (2.0, 3.0)
    weight = conv.weight.detach().double().requires_grad_()
    upstream = torch.randn_like(weight)
    (binarized_weights(weight, "equalized", conv.gain, conv.sharpness) * upstream).sum().backward()
    again = weight.detach().clone().requires_grad_()
    mean = again.mean((1, 2, 3), keepdim=True)
    deviation = again.std((1, 2, 3), correction=0, keepdim=True)
    z = (again - mean) / deviation
    smooth = 2 * torch.tanh(3 * z)
    value = z.sign().detach() + smooth - smooth.detach()
    ((deviation * value + mean) * upstream).sum().backward()
    torch.testing.assert_close(weight.grad, again.grad)


@pytest.mark.parametrize("gain, sharpness", [(0.0, 1.0), (1.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_a_surrogate_that_is_not_positive_is_refused_and_nothing_is_changed(gain, sharpness):
    model = build(surrogate_gain=2.0, surrogate_sharpness=3.0)
    with pytest.raises(ValueError, match=f"^gain, sharpness: got {gain} and {sharpness}, accepted are positive"):
        model.set_surrogate(gain, sharpness)
    assert (model.config.surrogate_gain, model.config.surrogate_sharpness) == (2.0, 3.0)


def test_training_sharpens_the_surrogate_with_the_epoch():
    assert surrogate_at(0, 400) == (pytest.approx(1000), pytest.approx(1e-3))
    assert surrogate_at(200, 400) == (pytest.approx(10), pytest.approx(0.1))
    assert surrogate_at(399, 400) == (1.0, pytest.approx(10 ** (-3 + 4 * 399 / 400)))
    assert build().training_callbacks() == []
    model = build(progressive=True)
    (callback,) = model.training_callbacks()
    state = TrainerState(epoch=1.0, num_train_epochs=4)  # of a run that goes on
    callback.on_train_begin(None, state, TrainerControl())
    assert (model.config.surrogate_gain, model.config.surrogate_sharpness) == (pytest.approx(100), pytest.approx(0.01))
    assert model.adabin.stages[1].blocks[0].convolution2.conv.sharpness == pytest.approx(0.01)
    # The epoch as divided steps have it, and a run of less than one.
    for epoch, epochs, expected in ((3 - 1e-9, 4, 1.0), (3.5, 4, 1.0), (0.0, 0.5, 1e-3), (0.4, 0.5, 1e-3)):
        callback.on_epoch_begin(None, TrainerState(epoch=epoch, num_train_epochs=epochs), TrainerControl())
        assert model.config.surrogate_sharpness == pytest.approx(expected)


@torch.no_grad()
def test_the_first_of_two_steps_leaves_the_weights_real():
    model, real = build(), build(binary_weights=False)
    real.load_state_dict(model.state_dict())
    block, other = (m.adabin.stages[0].blocks[0].convolution1.conv for m in (model, real))
    pixels = torch.randn(1, 16, 6, 6)
    torch.testing.assert_close(other(pixels), F.conv2d(other.binarizer(pixels), other.weight, padding=1))
    assert not torch.allclose(block(pixels), other(pixels))


@torch.no_grad()
@pytest.mark.parametrize("shortcut", ["pad", "conv", "avgpool_conv"])
@pytest.mark.parametrize("side", [7, 8])
def test_shortcuts_that_change_the_shape(shortcut, side):
    model = build(shortcut=shortcut).double()
    block = model.adabin.stages[1].blocks[0]
    pixels = torch.randn(1, 16, side, side, dtype=torch.float64)
    if shortcut == "pad":
        expected = torch.zeros(1, 32, 4, 4, dtype=torch.float64)
        expected[:, 8:24] = pixels[:, :, ::2, ::2]
    else:
        conv, norm = block.shortcut.projection.conv, block.shortcut.projection.norm
        if shortcut == "conv":
            reduced = pixels[:, :, ::2, ::2]
        else:
            reduced = F.avg_pool2d(pixels, 2, 2, ceil_mode=True, count_include_pad=False)
        expected = norm(torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], reduced))
    torch.testing.assert_close(block.shortcut(pixels), expected)


def test_stems_depths_and_pools_are_the_configurations():
    small = build(stem="cifar", block="plain", downsample_first=True, pool_size=2, classifier_norm=False)
    maps = small(torch.randn(1, 3, 32, 32), output_hidden_states=True).hidden_states
    assert [m.shape[-1] for m in maps] == [32, 16, 8]
    assert small.classifier.in_features == 32 * 4 and small.norm is None
    # A plain stage halves the map at its end, a basic one at its beginning.
    plain, basic = build(block="plain", depths=[2, 3]), build(block="basic", depths=[2, 3])
    assert [block.stride for block in plain.adabin.stages[1].blocks] == [1, 1, 2]
    assert [block.convolution1.conv.stride[0] for block in basic.adabin.stages[1].blocks] == [2, 1, 1]
    large = build()
    assert [m.shape[-1] for m in large(torch.randn(1, 3, 64, 64), output_hidden_states=True).hidden_states] == [
        16,
        16,
        8,
    ]
    assert large.norm.num_features == 32


@pytest.mark.parametrize("name", ["adabin-resnet20-cifar10", "adabin-resnet18", "adabin-vgg-small-cifar10"])
def test_binary_weights_of_the_presets(name):
    with torch.device("meta"):
        model = hf_effmodels.create_model(name)
    count = sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    expected = {"adabin-resnet20-cifar10": 267_264, "adabin-resnet18": 10_985_472}
    assert count == expected.get(name, 4_571_136)


NETWORKS = {
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ),
    "regnet": lambda: RegNetForImageClassification(
        RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8, num_labels=3)
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_labels=3)
    ),
    "mobilenet": lambda: MobileNetV2ForImageClassification(
        MobileNetV2Config(depth_multiplier=0.1, num_labels=3, image_size=32)
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_any_model_becomes_binary_and_learns(network):
    torch.manual_seed(0)
    model = NETWORKS[network]()
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    weights = copy.deepcopy(model.state_dict())
    assert binarize(model) is model
    binary = {name for name, m in model.named_modules() if isinstance(m, BinaryConv2d)}
    assert binary == set(convolutions[1:])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    model.train()(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 2])).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(ValueError, match="are binary already"):
        binarize(model)


def test_what_is_skipped_and_which_rules_hold():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2, groups=1), nn.Conv2d(8, 8, 3, groups=4, bias=False),
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.Linear(4, 4)), nn.Linear(4, 2),
    )  # fmt: skip
    some = binarize(copy.deepcopy(model), skip=["2.0"], weights="scaled", activations="ternary")
    assert [type(m).__name__ for m in (some[0], some[1], some[2][0])] == ["BinaryConv2d", "BinaryConv2d", "Conv2d"]
    assert (some[0].dilation, some[1].groups, some[1].bias) == ((2, 2), 4, None)
    assert some[0].weight_rule == "scaled" and type(some[0].binarizer).__name__ == "Ternary"
    assert (some[0].gain, some[0].sharpness) == (10.0, 0.1)  # k = 1 / t, where no training has set them
    both = binarize(copy.deepcopy(model), skip="last", linear=True)
    assert isinstance(both[2][1], BinaryLinear) and type(both[3]) is nn.Linear
    for wrong, message in (
        ({"skip": ["nothing"]}, "skip: the model has no 'nothing', accepted are 'first', 'last' and names"),
        ({"skip": None}, "skip: got None, accepted are lists of names"),
        ({"weights": "binary"}, "weights: got 'binary', accepted are 'equalized'"),
        ({"activations": "relu"}, "activations: got 'relu', accepted are 'adaptive'"),
        ({"skip": ["0", "1", "2"]}, "no convolution left"),
    ):
        with pytest.raises(ValueError, match=message):
            binarize(copy.deepcopy(model), **wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"stem": "mnist"}, "stem: got 'mnist', accepted are 'cifar', 'imagenet'"),
        ({"block": "bottleneck"}, "block: got 'bottleneck'"),
        ({"shortcut": "none"}, "shortcut: got 'none'"),
        ({"hidden_sizes": [16, 16]}, r"hidden_sizes: got \[16, 16\], accepted are 3 numbers"),
        ({"hidden_sizes": [16, 16, 19], "shortcut": "pad"}, "hidden_sizes: 16 to 19 channels"),
        ({"hidden_sizes": [16, 16, 12], "shortcut": "pad"}, "hidden_sizes: 16 to 12 channels"),
        ({"depths": [0, 1]}, "depths: got .*from 1"),
        ({"surrogate_gain": 0.0}, "surrogate_gain: got 0.0"),
        ({"pool_size": 0}, "pool_size: got 0"),
    ],
)
def test_wrong_configurations_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        hf_effmodels.get_config("adabin-resnet18", **{**TINY["adabin"], **wrong})


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("weights", ["equalized", "scaled", "centered", None], ids=str)
def test_gradients_have_the_strides_of_the_weights(weights, kernel):
    """Those of sizes of one, too: else torch's data parallel training warns in every run."""
    layer = AdderConv2d(4, 6, kernel) if weights is None else BinaryConv2d(4, 6, kernel, weights=weights)
    layer.to(memory_format=torch.channels_last)
    layer(torch.randn(2, 4, 5, 5)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride() == (4 * kernel**2, 1, 4 * kernel, 4)
