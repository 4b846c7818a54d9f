"""Shared layers called directly: every argument away from its default, and what they say of themselves."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_effmodels.modeling.layers.adder import AdderConv2d, adder_conv2d, scale_gradients
from hf_effmodels.modeling.layers.batch_norm import BatchNormMixin
from hf_effmodels.modeling.layers.binary import (
    AdaptiveSign,
    BinaryConv2d,
    BinaryConvNorm,
    BinaryLinear,
    ChannelAffine,
    ClippedSign,
    FoldableNorm,
    Real,
    Sign,
    Ternary,
    binarize,
    binarized_weights,
    clip_derivative,
    closed_clip_derivative,
    filter_moments,
    identity_derivative,
    polynomial_derivative,
    sign,
    straight_through,
    tanh_derivative,
    two_values,
)
from hf_effmodels.modeling.layers.bivit import (
    BiVitAttention,
    BiVitLinear,
    BiVitMlp,
    ElasticQuantizer,
    elastic,
    elastic_scale,
    min_max,
    softmax_aware_attention,
    softmax_aware_mask,
    zero_one,
)
from hf_effmodels.modeling.layers.drop_path import DropPath
from hf_effmodels.modeling.layers.fast_path import (
    depthwise_conv_of_parts,
    is_plain,
    is_plain_conv,
    pointwise_conv_of_parts,
)
from hf_effmodels.modeling.layers.finite import check_finite
from hf_effmodels.modeling.layers.gradient_strides import latent
from hf_effmodels.modeling.layers.left_alone import list_of_names, names_of_modules
from hf_effmodels.modeling.layers.nms import nms, select_detections
from hf_effmodels.modeling.layers.reparameterization import (
    ConvNorm,
    RepConvNorm,
    fold_conv_norm,
    norm_scale_and_shift,
)
from hf_effmodels.modeling.layers.squeeze_excite import SqueezeExcite
from hf_effmodels.modeling.layers.training_branches import BranchedConvNorm, with_training_branches
from hf_effmodels.modeling.layers.untrainable import refuse_training, without_gradient
from hf_effmodels.modeling.layers.visible import only_visible, see_visible_only, spread


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def used(norm):
    """A batch norm that has seen a training."""
    for values, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)):
        nn.init.uniform_(values, low, high)
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2), nn.init.uniform_(norm.bias, -1, 1)
    return norm.double().eval()


# adder layers


@pytest.mark.parametrize(
    "kernel, stride, padding", [((2, 3), (1, 2), (0, 1)), ((2, 3), (3, 1), (2, 0)), ((1, 1), (1, 1), (1, 2))]
)
def test_adder_layers_take_other_strides_and_paddings_up_than_across(kernel, stride, padding):
    x, w = draw(2, 3, 7, 9), draw(4, 3, *kernel, seed=1)
    x.requires_grad_(), w.requires_grad_()
    output = adder_conv2d(x, w, stride, padding, eta=None)
    patches = F.unfold(x, kernel, padding=padding, stride=stride)
    expected = -(patches[:, None] - w.flatten(1)[None, :, :, None]).abs().sum(2)
    torch.testing.assert_close(output.flatten(2), expected)
    upstream = draw(*output.shape, seed=2)
    output.backward(upstream)
    # Plain: the differences weighed by what comes down, with no rate of the layer's own.
    differences = (patches[:, None] - w.flatten(1)[None, :, :, None]).detach()
    torch.testing.assert_close(w.grad.flatten(1), (differences * upstream.flatten(2)[:, :, None]).sum((0, 3)))
    of_patches = ((-differences).clamp(-1, 1) * upstream.flatten(2)[:, :, None]).sum(1)
    expected = F.fold(of_patches, x.shape[2:], w.shape[2:], padding=padding, stride=stride)
    torch.testing.assert_close(x.grad, expected)


def test_adder_layers_refuse_maps_that_are_too_small_either_way():
    for shape in ((1, 3, 2, 9), (1, 3, 9, 2)):
        with pytest.raises(ValueError, match="is smaller than the kernel"):
            AdderConv2d(3, 4, 3)(torch.zeros(shape))
    for wrong in ({"in_channels": 0}, {"out_channels": 0}, {"kernel_size": 0}, {"stride": 0}, {"padding": -1}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name}: got {value}, accepted are whole numbers from"):
            AdderConv2d(**{"in_channels": 3, "out_channels": 4, "kernel_size": 3, **wrong})
    assert "3, 4, kernel_size=3, stride=2, padding=0, bias=True" in repr(AdderConv2d(3, 4, 3, stride=2, bias=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_adder_layers_are_traced_as_plain_operators():
    x, w = draw(1, 2, 5, 5), draw(3, 2, 3, 3, seed=1)
    traced = torch.jit.trace(lambda x: adder_conv2d(x, w, 2, 1), x)
    assert "PythonOp" not in str(traced.graph) and "_Adder" not in str(traced.graph)
    torch.testing.assert_close(traced(x), adder_conv2d(x, w, 2, 1))


def test_gradients_are_scaled_once_and_only_where_the_layer_does_not_do_so():
    layers = nn.ModuleList(AdderConv2d(2, 3, 1, eta=0.5) for _ in range(3))
    layers[0].scales_gradient = layers[2].scales_gradient = False
    for layer in layers[:2]:
        layer.weight.grad = torch.full_like(layer.weight, 7.0)
    scale_gradients(layers)
    torch.testing.assert_close(layers[0].weight.grad, torch.full_like(layers[0].weight, 0.5))
    assert (layers[1].weight.grad == 7).all() and layers[2].weight.grad is None
    layers[0].weight.grad.zero_()  # a layer that nothing reaches stays where it is
    scale_gradients(layers)
    assert not layers[0].weight.grad.any()


def test_an_adder_layers_factor_comes_before_its_bias():
    layer = AdderConv2d(2, 3, 1, bias=True, scale=True).double().eval()
    nn.init.uniform_(layer.scale, 1, 2), nn.init.uniform_(layer.bias, -1, 1)
    x = draw(1, 2, 4, 4)
    plain = adder_conv2d(x, layer.weight)
    torch.testing.assert_close(layer(x), plain * layer.scale[:, None, None] + layer.bias[:, None, None])


# binary layers


def test_derivatives_of_the_sign_at_their_ends():
    x = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.25, 1.0, 2.0], dtype=torch.float64)
    assert identity_derivative(x).tolist() == [1] * 7
    assert clip_derivative(x).tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert closed_clip_derivative(x).tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert polynomial_derivative(x).tolist() == [0, 0, 1, 2, 1.5, 0, 0]
    expected = 4 * 3 * (1 - torch.tanh(3 * x) ** 2)
    torch.testing.assert_close(tanh_derivative(x, 4.0, 3.0), expected)
    assert sign(x, clip_derivative).tolist() == [-1, -1, -1, 0, 1, 1, 1]


def test_what_stands_in_for_a_gradient_does_so_only_where_one_is_asked_for():
    x = draw(3).requires_grad_()
    values = torch.tensor([5.0, 6, 7], dtype=torch.float64)
    y = straight_through(x, values, lambda u: 3 * torch.ones_like(u))
    assert torch.equal(y, values)
    y.sum().backward()
    assert x.grad.tolist() == [3, 3, 3]
    with torch.no_grad():
        assert straight_through(x, values, None) is values
    assert straight_through(x.detach(), values, None) is values


@torch.no_grad()
def test_levels_are_those_the_activations_take():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64) + 0.013
    for alpha in (0.7, -0.7):
        rule = AdaptiveSign().double()
        rule.alpha.fill_(alpha), rule.beta.fill_(0.3)
        for one in (rule, Sign(), ClippedSign(), Ternary()):
            lower, upper, factor, offset = one.levels()
            s = (x > upper).double() - (x < lower).double()
            torch.testing.assert_close(one(x), factor * (s + offset))
    assert torch.equal(Real()(x), x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "weights, shape, found",
    [
        ("equalized", (3, 4, 3, 3), "1 bit"),
        ("centered", (3, 4, 3, 3), "1 bit"),
        # A scale of its own for each place of the kernel, and for each channel of a depthwise one.
        ("scaled", (3, 4, 1, 1), "1 bit"),
        ("scaled", (3, 4, 3, 3), "real"),
        ("scaled", (4, 1, 1, 1), "1 bit or real"),
        ("real", (3, 4, 1, 1), "real"),
    ],
)
def test_cards_are_told_how_many_values_weights_have(weights, shape, found, device):
    out, per_group, *kernel = shape
    groups = out if per_group == 1 else 1
    with torch.device(device):
        layer = BinaryConv2d(per_group * groups, out, kernel, groups=groups, weights=weights, activations="ternary")
    said = layer.precision()
    if found == "1 bit or real":  # one weight for each filter: a number, which says nothing of its sign alone
        assert said == f"weights {'real' if device == 'meta' else '1 bit'}, inputs three levels"
    else:
        assert said == f"weights {found}, inputs three levels"
    assert f"weights={weights}" in repr(layer)


def test_two_values_of_each_filter_are_told_from_more():
    bits, levels = two_values(torch.tensor([[[1.0, -2], [1, 1]], [[3, 3], [3, 3]]]))
    assert bits.tolist() == [[True, False, True, True], [True] * 4]
    assert levels.tolist() == [[-2, 1], [3, 3]]
    assert two_values(torch.tensor([[1.0, -2, 1], [0, 1, 2]])) is None


def test_moments_are_those_of_each_filter():
    weight = draw(3, 2, 2, 2)
    mean, deviation = filter_moments(weight)
    rows = weight.flatten(1)
    torch.testing.assert_close(mean.flatten(), rows.mean(1))
    torch.testing.assert_close(deviation.flatten(), rows.var(1, correction=0).sqrt())
    assert mean.shape == deviation.shape == (3, 1, 1, 1)
    centred = (rows - rows.mean(1, keepdim=True)).sign() * rows.abs().mean(1, keepdim=True)
    torch.testing.assert_close(binarized_weights(weight, "centered").flatten(1), centred)
    assert binarized_weights(weight, "real") is weight and binarized_weights(weight, "fixed") is weight


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3, (1, 5), (3, 1)])
def test_a_binary_convolution_with_a_norm_keeps_its_geometry_when_folded(kernel):
    layer = BinaryConvNorm(
        4, 6, kernel, stride=2, groups=2, weights="scaled", activations="sign", eps=0.2, momentum=0.3
    )
    assert (layer.norm.eps, layer.norm.momentum, layer.conv.bias) == (0.2, 0.3, None)
    used(layer.norm), layer.double().eval()
    x = draw(2, 4, 7, 9)
    expected = layer(x)
    assert expected.shape == (2, 6, 4, 5)
    shape = BinaryConvNorm(4, 6, kernel, stride=2, groups=2, folded=True, activations="sign").double().eval()
    assert shape.norm is None and shape.conv.weight_rule == "fixed" and shape(x).shape == expected.shape
    layer.fold()
    torch.testing.assert_close(layer(x), expected)
    shape.load_state_dict(layer.state_dict())
    torch.testing.assert_close(shape(x), expected)


@torch.no_grad()
def test_norms_by_themselves_fold_to_a_factor_and_a_shift():
    layer = FoldableNorm(3, eps=0.2, momentum=0.3)
    assert (layer.norm.eps, layer.norm.momentum) == (0.2, 0.3)
    used(layer.norm)
    x = draw(2, 3, 4, 5)
    expected = layer(x)
    layer.fold()
    assert isinstance(layer.norm, ChannelAffine) and layer.norm.scale.dtype == torch.float64
    torch.testing.assert_close(layer(x), expected)
    folded = FoldableNorm(3, folded=True).double()
    assert torch.equal(folded(x), x)
    folded.load_state_dict(layer.state_dict())
    torch.testing.assert_close(folded(x), expected)


def test_binary_linear_layers_are_binary_and_refuse_what_is_not_finite():
    layer = BinaryLinear(4, 3, weights="centered", activations="sign").double().eval()
    x = draw(5, 4)
    torch.testing.assert_close(layer(x), F.linear(x.sign(), binarized_weights(layer.weight, "centered"), layer.bias))
    with pytest.raises(ValueError, match="inputs: got values that are not finite"):
        layer(x / 0)
    for kind in (lambda **rules: BinaryLinear(2, 2, **rules), lambda **rules: BinaryConv2d(2, 2, 1, **rules)):
        layer = kind()
        assert layer.weight_rule == "equalized" and isinstance(layer.binarizer, AdaptiveSign)
        with pytest.raises(ValueError, match="weights: got 'two', accepted are"):
            kind(weights="two")


def test_what_becomes_binary_keeps_its_geometry_and_its_mode():
    conv = nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=2, padding_mode="circular")
    model = nn.Sequential(nn.Conv2d(4, 4, 1), conv, nn.Conv2d(6, 6, 1)).double().eval()
    binarize(model, weights="real", activations="real")
    x = draw(1, 4, 9, 8)
    torch.testing.assert_close(model[1](x), conv(x))
    assert not model[1].training and model[1].binarizer.training is False
    with pytest.raises(ValueError, match="model: 1 and 0 other layers are binary already"):
        binarize(model)
    both = binarize(nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(4))))
    with pytest.raises(ValueError, match="model: 1 and 1 other layers are binary already"):
        binarize(both)
    assert binarize(nn.Sequential(*(nn.Linear(2, 2) for _ in range(3))), linear=True)[1].binarizer.alpha.item() == 1
    coarse = binarize(nn.Sequential(*(nn.Conv2d(2, 2, 1) for _ in range(3))).bfloat16())
    assert {p.dtype for p in coarse.parameters()} == {torch.bfloat16}

    class Other(nn.Conv2d):
        """An adapter or a quantised layer: what it does beside its weights would be lost."""

    kept = binarize(nn.Sequential(nn.Conv2d(2, 2, 1), Other(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)))
    assert [type(layer) for layer in kept] == [nn.Conv2d, Other, BinaryConv2d, nn.Conv2d]


# BiViT


def test_attention_masks_what_is_far_below_the_greatest_of_its_row():
    p = torch.tensor([[0.5, 0.125, 0.124, 0.251], [0.25, 0.25, 0.25, 0.25]])
    assert softmax_aware_mask(p).tolist() == [[1, 1, 0, 1], [1, 1, 1, 1]]
    assert softmax_aware_mask(p, 0.502).tolist() == [[1, 0, 0, 1], [1, 1, 1, 1]]
    x = torch.tensor([-1.0, 0.0, 0.5, 1.5])
    assert zero_one(x).tolist() == [0, 0, 1, 1] and zero_one(x, scaled=True).tolist() == [0, 0, 1, 1]
    assert (
        zero_one(2 * x, scaled=True).tolist() == [0, 0, 2, 2] and zero_one(-x.abs(), scaled=True).tolist() == [0] * 4
    )


def test_attention_is_scaled_by_its_width_and_dropped_out_in_training_only():
    query, key, value = (draw(1, 2, 5, 4, seed=n) for n in range(3))
    module = nn.Identity().eval()
    output, mask = softmax_aware_attention(module, query, key, value, None, dropout=0.9)
    expected = softmax_aware_mask((query.sign() @ key.sign().mT / 2).softmax(-1))
    assert torch.equal(mask, expected)
    torch.testing.assert_close(output, (mask @ value.sign()).transpose(1, 2))
    _, dropped = softmax_aware_attention(module.train(), query, key, value, None, dropout=0.5)
    assert set(dropped.unique().tolist()) <= {0.0, 2.0} and (dropped == 0).sum() > (mask == 0).sum()
    for place in range(3):
        parts = [query, key, value]
        parts[place] = parts[place] / 0
        with pytest.raises(ValueError, match="not finite"):
            softmax_aware_attention(module.eval(), *parts, None)


def test_layers_of_bivit_know_their_settings():
    attention = BiVitAttention(8, 2, softmax_aware=False, attention_dropout=0.3, dropout=0.2)
    assert (attention.attention_dropout.p, attention.dropout.p) == (0.3, 0.2)
    assert attention.qkv.scale == attention.proj.scale == "mean" and attention.qkv.out_features == 24
    assert BiVitAttention(8, 2).proj.scale == "learned" and BiVitAttention(8, 2).threshold == 0.25
    mlp = BiVitMlp(4, 6, scale="mean", binary_inputs=True, dropout=0.4)
    assert mlp.dropout.p == 0.4 and mlp.fc1.binary_inputs and mlp.fc2.scale == "mean"
    assert (mlp.fc1.out_features, mlp.fc2.out_features) == (6, 4) and not BiVitMlp(4, 6).fc2.binary_inputs
    for scale, weights in (("learned", "1 bit"), ("mean", "1 bit"), (None, "real")):
        for binary, inputs in ((True, "1 bit"), (False, "real")):
            layer = BiVitLinear(4, 3, scale=scale, binary_inputs=binary)
            assert layer.precision() == f"weights {weights}, inputs {inputs}"
            # The official code begins with small weights where it learns their scale.
            assert (layer.weight.abs().max() <= 0.015) == (scale != "mean")


def test_the_learnt_step_is_at_least_a_hundred_thousandth_and_begins_at_the_mean():
    x = torch.tensor([-1.0, 0.5, 1.5, 3.0])
    assert elastic_scale(x, 3, True).tolist() == pytest.approx([2 * 1.5 / math.sqrt(3)])
    assert elastic_scale(x, 3, False).tolist() == pytest.approx([4 * 1.5 / math.sqrt(7)])
    assert elastic_scale(x, 1, True).tolist() == pytest.approx([3.0])
    assert elastic(x, torch.tensor([0.5]), 2, True).tolist() == [-1, 0.5, 0.5, 0.5]
    assert elastic(x, torch.tensor([0.5]), 2, False).tolist() == [-1, 0.5, 0.5, 0.5]
    assert elastic(x, torch.tensor([0.7]), 1, True).tolist() == pytest.approx([-0.7, 0.7, 0.7, 0.7])
    assert elastic(x, torch.tensor([0.7]), 1, False).tolist() == pytest.approx([0, 0.7, 0.7, 0.7])
    torch.testing.assert_close(elastic(x, torch.tensor([-3.0]), 2, True), torch.tensor([-2e-5, 1e-5, 1e-5, 1e-5]))
    # At both ends the gradient still passes, beyond them it does not; of the step, what is cut off counts whole.
    ends, step = torch.tensor([-1.5, -1.0, 0.5, 0.75], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    elastic(ends, step, 2, True).sum().backward()
    assert ends.grad.tolist() == [0, 1, 1, 0]
    assert step.grad.item() == pytest.approx((-2 + 0 + 0 + 1) / math.sqrt(4 * 1))
    for bits in (1.0, True, 0, 33):
        with pytest.raises(ValueError, match=f"bits: got {bits}, accepted are whole numbers from 1 to 32"):
            ElasticQuantizer(bits, True)
    whole = ElasticQuantizer(32, True)
    assert torch.equal(whole(x), x) and whole.alpha.item() == 1 and whole.is_initialized


def test_the_uniform_quantiser_looks_at_a_tensor_a_row_or_a_head():
    x = draw(2, 3, 4, 5)
    for values, axes in ((x, (-2, -1)), (x[0], (-1,))):
        least, most = values.clamp(-1, 1).amin(axes, keepdim=True), values.clamp(-1, 1).amax(axes, keepdim=True)
        steps = ((values.clamp(-1, 1) - least) / (most - least) * 7).round() / 7
        found = min_max(values, 3, (-1, 1), symmetric=False, layerwise=False)
        torch.testing.assert_close(found, steps * (most - least) + least, rtol=1e-6, atol=1e-6)
        largest = values.clamp(-1, 1).abs().amax(axes, keepdim=True)
        found = min_max(values, 3, (-1, 1), symmetric=True, layerwise=False)
        torch.testing.assert_close(found, (values.clamp(-1, 1) / largest * 3).round() / 3 * largest)
    edge = torch.tensor([-1.0, -0.5, 0.0, 1.0, 2.0], requires_grad=True)
    min_max(edge, 4, (-1, 1), symmetric=True, layerwise=True).sum().backward()
    assert edge.grad.tolist() == [0, 1, 1, 0, 0]


# plain layers


def test_the_rate_of_a_dropped_path_is_shown():
    assert "rate=0.25" in repr(DropPath(0.25))


def test_a_module_that_is_watched_or_changed_is_not_plain():
    def module():
        return nn.Conv2d(2, 2, 1)

    assert is_plain(module(), module()) and is_plain_conv(module())
    for kind in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
        watched = module()
        getattr(watched, f"register_{kind}_hook")(lambda *args: None)
        assert not is_plain(module(), watched) and not is_plain_conv(watched)
    moved = module()
    moved.forward = moved.forward
    assert not is_plain(moved)
    with nn.modules.module.register_module_forward_pre_hook(lambda *args: None):
        assert not is_plain(module())
    assert is_plain(module())

    class Other(nn.Conv2d):
        pass

    parametrised = nn.utils.parametrizations.weight_norm(module())
    for other in (None, Other(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), parametrised):
        assert not is_plain_conv(other)


@torch.no_grad()
def test_convolutions_of_parts_are_those_of_the_whole():
    parts = [draw(2, 2, 6, 5), draw(2, 3, 6, 5, seed=1), draw(2, 1, 6, 5, seed=2)]
    point = nn.Conv2d(6, 4, 1).double()
    torch.testing.assert_close(pointwise_conv_of_parts(point, parts), point(torch.cat(parts, 1)))
    deep = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6).double()
    torch.testing.assert_close(torch.cat(depthwise_conv_of_parts(deep, parts), 1), deep(torch.cat(parts, 1)))


def test_what_is_not_finite_is_refused_in_evaluation_and_where_there_are_values():
    module = nn.Identity().eval()
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match="inputs: got values that are not finite"):
            check_finite(module, torch.tensor([0.0, value, 1.0]))
        check_finite(nn.Identity().train(), torch.tensor([value]))
    for harmless in (torch.zeros(3), torch.zeros(0), torch.tensor([1, 2]), torch.empty(2, device="meta")):
        check_finite(module, harmless)


def test_a_latent_weight_is_itself_with_a_gradient_in_its_strides():
    weight = torch.empty(4, 1, 1, 3).permute(0, 3, 1, 2).requires_grad_()
    with torch.no_grad():
        assert latent(weight) is weight
    assert latent(weight.detach()).data_ptr() == weight.data_ptr()
    (latent(weight) * draw(4, 3, 1, 1).float()).sum().backward()
    assert weight.grad.stride() == weight.stride()


def test_names_to_leave_alone_are_names():
    model = nn.Sequential(nn.Linear(1, 1))
    assert list_of_names("head") == ["head"] and list_of_names(("a", "b")) == ["a", "b"]
    for wrong in (None, 1, [1], ["a", None]):
        with pytest.raises(ValueError, match="skip: got .*accepted are lists of names"):
            list_of_names(wrong)
    assert names_of_modules(model, ["0", "first"], ("first",)) == ["0", "first"]
    with pytest.raises(ValueError, match="skip: the model has no 'last', accepted are 'first' and names of modules"):
        names_of_modules(model, ["last"], ("first",))
    with pytest.raises(ValueError, match="skip: the model has no 'last', accepted are names of modules"):
        names_of_modules(model, ["last"])


@torch.no_grad()
def test_norms_without_weights_fold_too():
    half = used(nn.BatchNorm2d(3))
    half.bias = None
    for affine, norm in ((True, None), (False, None), (True, half)):
        norm = used(nn.BatchNorm2d(3, eps=0.2, affine=affine)) if norm is None else norm
        scale, shift = norm_scale_and_shift(norm)
        x = draw(2, 3, 4, 4)
        torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], norm(x))
        assert scale.dtype == shift.dtype == torch.float64
        for bias in (True, False):
            conv = nn.Conv2d(2, 3, 3, bias=bias).double()
            kernel, shift = fold_conv_norm(conv, norm)
            x = draw(2, 2, 5, 5)
            torch.testing.assert_close(F.conv2d(x, kernel, shift), norm(conv(x)))


@torch.no_grad()
@pytest.mark.parametrize("kernel, stride, groups, out", [(1, 1, 1, 4), (3, 1, 2, 4), (3, 2, 4, 4), (5, 1, 2, 8)])
def test_branches_that_are_summed_fold_to_one_convolution_of_their_geometry(kernel, stride, groups, out):
    layer = RepConvNorm(4, out, kernel, stride=stride, groups=groups, num_branches=2, eps=0.2, momentum=0.3)
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.2, 0.3)} and len(layer.branches) == 2
    assert (layer.scale is not None) == (kernel > 1)
    assert (layer.skip is not None) == (stride == 1 and out == 4)
    for norm in norms:
        used(norm)
    layer.double().eval()
    x = draw(2, 4, 7, 6)
    terms = [branch.norm(branch.conv(x)) for branch in layer.branches]
    terms += [] if layer.scale is None else [layer.scale.norm(layer.scale.conv(x))]
    terms += [] if layer.skip is None else [layer.skip(x)]
    torch.testing.assert_close(layer(x), sum(terms))
    built = RepConvNorm(4, out, kernel, stride=stride, groups=groups, folded=True).double()
    layer.fold()
    torch.testing.assert_close(layer(x), sum(terms))
    built.load_state_dict(layer.state_dict())
    torch.testing.assert_close(built(x), sum(terms))
    assert len(RepConvNorm(4, 4).branches) == 3


@torch.no_grad()
def test_a_convolution_with_a_norm_takes_every_geometry():
    layer = ConvNorm(4, 6, (3, 2), stride=2, padding=(0, 1), groups=2, momentum=0.3)
    assert layer.norm.momentum == 0.3 and layer.norm.eps == 1e-5 and layer.conv.bias is None
    assert layer(torch.zeros(1, 4, 7, 7)).shape == (1, 6, 3, 4)
    assert ConvNorm(4, 6, folded=True).conv.bias is not None and ConvNorm(4, 6, folded=True).norm is None
    assert ConvNorm(4, 6, bias=True).conv.bias is not None
    assert ConvNorm(4, 6, 5).conv.padding == (2, 2) and ConvNorm(4, 6, (1, 7)).conv.padding == (0, 3)


def test_gates_are_rectified_within_unless_told_otherwise():
    layer = SqueezeExcite(2, 3).double()
    x = draw(4, 2, 3, 3)
    hidden = (x.mean((2, 3)) @ layer.reduce.weight.T + layer.reduce.bias).clamp(min=0)
    gate = ((hidden @ layer.expand.weight.T + layer.expand.bias) / 6 + 0.5).clamp(0, 1)
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_the_second_pass_of_a_checkpoint_moves_no_statistics():
    class Network(BatchNormMixin, nn.Module):
        def __init__(self):
            super().__init__()
            self.moving, self.still = nn.BatchNorm2d(2, momentum=0.3), nn.BatchNorm2d(2, track_running_stats=False)
            self.frozen = nn.BatchNorm2d(2, momentum=0.2).eval()

    from hf_effmodels.modeling.layers.batch_norm import _checkpoint_contexts

    model = Network()
    assert model.batch_norm_names() == ["moving", "still", "frozen"]
    first, second = _checkpoint_contexts(model)
    x = torch.randn(4, 2, 3, 3)
    with first:
        model.moving(x)
    seen = model.moving.running_mean.clone()
    assert seen.any() and model.moving.num_batches_tracked == 1
    with second:
        torch.testing.assert_close(model.moving(x), F.batch_norm(x, None, None, training=True))
        model.still(x), model.frozen(x)
    assert torch.equal(model.moving.running_mean, seen) and model.moving.num_batches_tracked == 1
    assert (model.moving.momentum, model.frozen.momentum) == (0.3, 0.2)


# suppression of boxes


def test_boxes_that_are_equally_good_stay_in_their_order_and_empty_ones_suppress_none():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 5], [20, 20, 30, 30]])
    scores = torch.tensor([0.5, 0.5, 0.9, 0.8, 0.5])
    assert nms(boxes, scores, 0.5).tolist() == [2, 3, 0, 4]
    assert nms(boxes, scores, 0.5, 0).tolist() == []
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []
    # Of two classes the same box stays twice; a score must be above the threshold.
    found = select_detections(boxes[:2], torch.tensor([[0.9, 0.1], [0.1, 0.9]]), 0.9, 0.5)
    assert len(found[0]) == 0
    found = select_detections(boxes[:2], torch.tensor([[0.9, 0.1], [0.1, 0.9]]), 0.89, 0.5)
    assert found[2].tolist() == [0, 1] and torch.equal(found[0], boxes[:2])
    # Nor do classes meet in a picture of more than 4096 pixels, the published distance between them.
    far = torch.tensor([[4096.0, 4096, 4106, 4106], [0, 0, 10, 10], [9000, 0, 9010, 10]])
    found = select_detections(far, torch.tensor([[0.9, 0], [0, 0.8], [0.7, 0]]), 0.5, 0.5)
    assert torch.equal(found[0], far) and found[2].tolist() == [0, 1, 0]
    assert len(select_detections(far * torch.inf, torch.ones(3, 2), 0.5, 0.5)[1])  # for others to refuse


@pytest.mark.parametrize("classes", [None, [1, 0]], ids=["any", "listed"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("most, expected", [(1, [5]), (3, [5, 2, 4]), (6, [5, 2, 4, 1, 3, 0])])
def test_of_more_candidates_than_are_compared_the_best_are(most, expected, multi_label, classes):
    """Boxes apart from each other, the best neither first nor in order."""
    values = torch.tensor([0.3, 0.6, 0.8, 0.5, 0.7, 0.9])
    corners = 20.0 * torch.arange(6)[:, None] + torch.tensor([0.0, 0, 10, 10])
    scores = torch.zeros(6, 2)
    scores[torch.arange(6), torch.arange(6) % 2] = values
    options = {"multi_label": multi_label, "max_candidates": most, "classes": classes}
    boxes, found, labels = select_detections(corners, scores, 0.1, 0.5, **options)
    assert torch.equal(boxes, corners[expected]) and torch.equal(found, values[expected])
    assert labels.tolist() == [number % 2 for number in expected]


# training branches


def test_a_branched_convolution_tells_of_its_own_geometry():
    conv = nn.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(1, 0), dilation=(1, 1), groups=2)
    norm = nn.BatchNorm2d(6, eps=0.1, momentum=0.4)
    branched = BranchedConvNorm(conv, norm, 3, True, True)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(branched, name) == getattr(conv, name)
    for branch in branched.branches[1:]:
        new = branch["conv"]
        assert (new.kernel_size, new.stride, new.padding, new.groups, new.bias) == ((3, 1), (1, 2), (1, 0), 2, None)
    assert branched.scale["conv"].kernel_size == (1, 1) and branched.scale["conv"].stride == (1, 2)
    assert branched.skip is None
    norms = [m for m in branched.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 4 and {(n.eps, n.momentum) for n in norms} == {(0.1, 0.4)}
    # New ones begin at nothing.
    assert [bool(n.weight.any()) for n in norms].count(True) == 1 and norm.weight.all()
    point = BranchedConvNorm(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), 1, True, True)
    assert point.scale is None and point.skip is not None and len(point.branches) == 1
    assert BranchedConvNorm(nn.Conv2d(4, 4, 1, stride=2), nn.BatchNorm2d(4), 1, True, True).skip is None


def test_an_example_of_another_form_can_be_given():
    class Network(nn.Module):
        def __init__(self, **config):
            super().__init__()
            self.config = SimpleNamespace(**config)
            self.conv, self.norm, self.sizes = nn.Conv2d(config.get("num_channels", 3), 4, 3), nn.BatchNorm2d(4), []

        def forward(self, pixel_values):
            self.sizes.append(tuple(pixel_values.shape))
            return self.norm(self.conv(pixel_values))

    for config, shape in (
        ({}, (1, 3, 64, 64)),
        ({"image_size": 20, "num_channels": 2}, (1, 2, 20, 20)),
        ({"image_size": (20, 30)}, (1, 3, 20, 30)),
    ):
        model = Network(**config).train()
        assert with_training_branches(model) is model and model.training
        assert model.sizes == [shape] and isinstance(model.conv, BranchedConvNorm) and len(model.conv.branches) == 3
    model = with_training_branches(Network().eval(), pixel_values=torch.zeros(2, 3, 9, 8))
    assert model.sizes == [(2, 3, 9, 8)] and not model.conv.training


# what cannot be trained


def test_a_model_that_refuses_training_stays_in_evaluation():
    model = refuse_training(nn.Sequential(nn.Dropout()).eval(), "is done.")
    with pytest.raises(RuntimeError, match="^Sequential is done.$"):
        model.train()
    assert not model[0].training and model.train(False) is model and model.eval() is model
    x = torch.ones(2, requires_grad=True)
    y = without_gradient(lambda values: 2 * values, x, "no way back")
    assert y.tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="no way back"):
        y.sum().backward()
    assert not without_gradient(lambda values: 2 * values, x.detach(), "").requires_grad
    with torch.no_grad():
        assert without_gradient(lambda values: 2 * values, x, "").tolist() == [2, 2]


# visible places


def test_a_mask_of_blocks_covers_maps_that_blocks_divide():
    mask = torch.tensor([[[[1.0, 0], [0, 1]]]])
    assert spread(mask, (2, 2)).tolist() == mask.tolist()
    assert spread(mask, (4, 2))[0, 0].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert spread(mask, (2, 4))[0, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert spread(mask, (3, 2)) is None and spread(mask, (2, 3)) is None


@torch.no_grad()
def test_only_what_looks_beyond_its_place_is_masked_and_only_within():
    network = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)).eval()
    x, mask = torch.randn(1, 2, 8, 8), torch.tensor([[[[1.0, 0], [0, 1]]]])
    before, names = network(x), list(network.state_dict())
    see_visible_only(network)
    assert list(network.state_dict()) == names and torch.equal(network(x), before)
    with only_visible(mask):
        inside = network(x)
        hidden = x * (1 - spread(mask, (8, 8)))
        assert torch.equal(network(x - hidden), inside) and not torch.equal(inside, before)
        assert not (inside * (1 - spread(mask, (4, 4)))).any()
        network[1](torch.randn(3, 2, 1, 1))  # no map that blocks divide: as it was
    assert torch.equal(network(x), before)


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, arguments",
    [
        (nn.Conv2d, (2, 2, 3, 1, 1)),
        (nn.MaxPool2d, (3, 1, 1)),
        (nn.AvgPool2d, (3, 1, 1)),
        (nn.LPPool2d, (2, 4)),
        (nn.ZeroPad2d, (1,)),
        (nn.ReflectionPad2d, (1,)),
        (nn.ReplicationPad2d, (1,)),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_no_layer_that_looks_beyond_its_place_sees_what_is_hidden(kind, arguments):
    layer = kind(*arguments).double()
    see_visible_only(layer)
    x, mask = draw(1, 2, 8, 8) + 3, torch.tensor([[[[1.0, 0], [0, 1]]]]).double()
    hidden = x * (1 - spread(mask, (8, 8)))
    with only_visible(mask):
        seen = layer(x)
        assert torch.equal(layer(x - hidden), seen)
    assert not (seen * (1 - spread(mask, seen.shape[-2:]))).any()
    assert not torch.equal(layer(x - hidden), layer(x))


@torch.no_grad()
def test_a_mask_within_a_mask_gives_way_to_it_again():
    layer, x = nn.Conv2d(2, 2, 3, padding=1), torch.randn(1, 2, 4, 4)
    see_visible_only(layer)
    outer, inner = torch.tensor([[[[1.0, 0], [0, 1]]]]), torch.tensor([[[[0.0, 1], [1, 0]]]])
    with only_visible(outer):
        expected = layer(x)
        with only_visible(inner):
            assert not torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected)
        with pytest.raises(InterruptedError), only_visible(inner):
            raise InterruptedError
        assert torch.equal(layer(x), expected)
