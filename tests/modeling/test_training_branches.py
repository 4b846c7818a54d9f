"""Networks that we did not write train with branches, and are themselves again afterwards."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    EfficientNetConfig,
    MobileNetV1Config,
    MobileNetV2Config,
    RegNetConfig,
    ResNetConfig,
)

import hf_effmodels
from hf_effmodels.modeling.layers.training_branches import (
    BranchedConvNorm,
    fold_training_branches,
    with_training_branches,
)

NETWORKS = {
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.1, image_size=64, finegrained_output=False, num_labels=3),
    "mobilenet_v2-torch-padding": MobileNetV2Config(
        depth_multiplier=0.1, image_size=64, finegrained_output=False, num_labels=3, tf_padding=False
    ),
    "mobilenet_v1": MobileNetV1Config(depth_multiplier=0.1, image_size=64, num_labels=3),
    "resnet": ResNetConfig(hidden_sizes=[8, 16], depths=[1, 2], embedding_size=8, layer_type="basic", num_labels=3),
    "regnet": RegNetConfig(hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8, groups_width=4, num_labels=3),
    "efficientnet": EfficientNetConfig(
        width_coefficient=0.2, depth_coefficient=0.2, image_size=64, hidden_dim=256, num_labels=3
    ),
}


def network(name):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(copy.deepcopy(NETWORKS[name])).eval()
    with torch.no_grad():
        for module in model.modules():  # as after a training
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_train_and_fold_back_to_the_plain_network(name, tmp_path):
    model = network(name).double()
    plain, pixels = copy.deepcopy(model), torch.randn(4, 3, 64, 64, dtype=torch.float64)
    expected = plain(pixel_values=pixels).logits
    with_training_branches(model)
    assert sum(isinstance(module, BranchedConvNorm) for module in model.modules()) >= 5
    torch.testing.assert_close(model(pixel_values=pixels).logits, expected)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixel_values=pixels).logits, torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
    trained = model.eval()(pixel_values=pixels).logits
    assert (trained - expected).abs().max() > 1e-3
    fold_training_branches(model)
    torch.testing.assert_close(model(pixel_values=pixels).logits, trained, rtol=1e-7, atol=1e-9)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(loaded(pixel_values=pixels).logits, trained, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("stride, padding, dilation, groups", [(1, 1, 1, 1), (2, 1, 1, 4), (1, 0, 2, 4), (2, 3, 1, 2)])
def test_a_sum_of_branches_is_that_of_its_parts(stride, padding, dilation, groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=True)
    branched = BranchedConvNorm(conv, nn.BatchNorm2d(4), 2, True, keeps_function=False)
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2), nn.init.uniform_(module.bias)
    branched, pixels = branched.double().eval(), torch.randn(2, 4, 9, 11, dtype=torch.float64)
    expected = sum(branch["norm"](branch["conv"](pixels)) for branch in branched.branches)
    if padding == 3:  # the first window's centre lies in the padding
        assert branched.scale is None and branched.skip is None
    else:
        margin = dilation - padding
        inner = pixels[..., margin : 9 - margin, margin : 11 - margin]
        point = nn.functional.conv2d(inner, branched.scale["conv"].weight, stride=stride, groups=groups)
        expected = expected + branched.scale["norm"](point)
        assert (branched.skip is None) == (stride == 2)
        expected = expected if branched.skip is None else expected + branched.skip(inner)
    torch.testing.assert_close(branched(pixels), expected)
    folded = nn.Sequential(*branched.folded())
    torch.testing.assert_close(folded(pixels), expected)


def test_a_kernel_without_a_centre_has_branches_of_its_own_shape_alone():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 2, padding="same")
    branched = BranchedConvNorm(conv, nn.BatchNorm2d(4), 2, True, keeps_function=False).eval()
    assert branched.scale is None and branched.skip is None and len(branched.branches) == 2
    pixels = torch.randn(2, 4, 6, 6)
    expected = sum(branch["norm"](branch["conv"](pixels)) for branch in branched.branches)
    torch.testing.assert_close(branched(pixels), expected)
    for padding, reach in (("same", 1), ("valid", 0)):
        layer = BranchedConvNorm(nn.Conv2d(4, 4, 3, padding=padding), nn.BatchNorm2d(4), 1, True, True).eval()
        assert layer.scale is not None and layer.skip is not None
        assert layer(pixels).shape[-1] == 4 + 2 * reach
        torch.testing.assert_close(nn.Sequential(*layer.folded())(pixels), layer(pixels))


def test_options_decide_which_branches_there_are():
    model = with_training_branches(network("resnet"), 2, scale=False)
    branched = [module for module in model.modules() if isinstance(module, BranchedConvNorm)]
    assert {len(module.branches) for module in branched} == {2} and all(module.scale is None for module in branched)
    assert any(module.skip is not None for module in branched)
    # For random weights each branch begins as if it were alone.
    new = with_training_branches(network("resnet"), keeps_function=False)
    pair = next(module for module in new.modules() if isinstance(module, BranchedConvNorm))
    assert (pair.branches[2]["norm"].weight == 1).all()
    own, added = (pair.branches[number]["conv"].weight.std().item() for number in (0, 2))
    assert added == pytest.approx(own, rel=0.3)


def test_what_has_no_pairs_or_has_branches_is_refused():
    convnext = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)
    with pytest.raises(
        ValueError, match="ConvNextForImageClassification has no convolution that a batch norm follows"
    ):
        with_training_branches(AutoModelForImageClassification.from_config(convnext))
    with pytest.raises(ValueError, match="have branches already"):
        with_training_branches(hf_effmodels.create_model("ghostnetv3-0.5x"))
    with pytest.raises(ValueError, match="have branches already"):
        with_training_branches(with_training_branches(network("resnet")))
    with pytest.raises(ValueError, match="num_branches: got 0, accepted are whole numbers from 1"):
        with_training_branches(network("resnet"), 0)


def test_one_of_ours_without_branches_takes_them_and_folds_further_afterwards():
    torch.manual_seed(0)
    model = hf_effmodels.create_model("ghostnetv2-1.0x", width_multiplier=0.25, num_labels=3)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixels).logits
        with_training_branches(model)
        torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-3, atol=1e-4)
        fold_training_branches(model).reparameterize()
        torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-3, atol=1e-4)


class Layers(nn.Module):
    """Plain layers, one after the other as `use` has it."""

    config = SimpleNamespace(image_size=(8, 12))

    def __init__(self, use, norm=None):
        super().__init__()
        self.first, self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), norm or nn.BatchNorm2d(4)
        self.other, self.use = nn.BatchNorm2d(4), use

    def forward(self, pixel_values):
        return self.use(self, pixel_values)


def pre_activated(net, x):
    """The first convolution's output is read by the shortcut, too."""
    x = net.first(x)
    return {"logits": net.other(net.conv(net.norm(x).relu())) + x}


def given_out(net, x):
    x = net.first(x)
    normed = net.norm(x)
    return [(x, normed), net.other(net.conv(normed.relu()))]


def written_over(net, x):
    return net.other(net.conv(net.norm(net.first(x).relu_())))


def used_twice(net, x):
    x = net.first(x)
    return net.norm(net.conv(x)) + net.other(net.conv(net.conv(x)))


def normed_twice(net, x):
    return net.norm(net.conv(net.norm(net.first(x))))


@pytest.mark.parametrize(
    "use, pairs",
    [(pre_activated, ["conv"]), (given_out, ["conv"]), (written_over, ["conv"]), (used_twice, []), (normed_twice, [])],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_only_what_the_norm_alone_reads_once_gets_branches(use, pairs, frozen):
    torch.manual_seed(0)
    model = Layers(use).eval().requires_grad_(not frozen)
    for norm in (model.norm, model.other):
        nn.init.uniform_(norm.running_var, 0.5, 2), nn.init.normal_(norm.running_mean)
    pixels = torch.randn(2, 3, 9, 7)
    expected = model(pixels)
    if not pairs:
        with pytest.raises(ValueError, match="Layers has no convolution that a batch norm follows"):
            with_training_branches(model)
    else:
        with_training_branches(model)
        branched = [name for name, module in model.named_modules() if isinstance(module, BranchedConvNorm)]
        assert branched == pairs
        torch.testing.assert_close(model(pixels), expected)
        fold_training_branches(model)
    torch.testing.assert_close(model(pixels), expected)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kernel, stride", [((1, 5), 1), ((5, 3), 1), ((3, 1), (1, 2)), (3, (2, 1))])
def test_oblong_kernels_and_norms_without_weights_fold_with_their_branches(kernel, stride, affine):
    """Without padding the input of the other branches lacks what the kernel reaches on each side."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 4, kernel, stride=stride), nn.BatchNorm2d(4, affine=affine)
    branched = BranchedConvNorm(conv, norm, 2, True, keeps_function=False).double().eval()
    for module in branched.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
    pixels = torch.randn(2, 4, 11, 12, dtype=torch.float64)
    (up, left), (down, across) = (size // 2 for size in conv.kernel_size), conv.stride
    inner = pixels[..., up : 11 - up, left : 12 - left]
    point = nn.functional.conv2d(inner, branched.scale["conv"].weight, stride=(down, across))
    expected = sum(branch["norm"](branch["conv"](pixels)) for branch in branched.branches)
    expected = expected + branched.scale["norm"](point)
    assert (branched.skip is not None) == (stride == 1)
    expected = expected if branched.skip is None else expected + branched.skip(inner)
    torch.testing.assert_close(branched(pixels), expected)
    torch.testing.assert_close(nn.Sequential(*branched.folded())(pixels), expected)
