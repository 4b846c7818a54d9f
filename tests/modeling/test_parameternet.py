"""What is ParameterNet's own."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

import hf_effmodels
from hf_effmodels.modeling.ghostnet.configuration_ghostnet import GhostNetConfig
from hf_effmodels.modeling.ghostnet.modeling_ghostnet import GhostNetForImageClassification, GhostNetModel
from hf_effmodels.modeling.parameternet.configuration_parameternet import ParameterNetConfig
from hf_effmodels.modeling.parameternet.dynamic_conv import DynamicConv, DynamicConvNorm, dynamic_conv2d
from hf_effmodels.modeling.parameternet.modeling_parameternet import (
    ParameterNetForImageClassification,
    ParameterNetModel,
)

from . import by_hand

STAGES = [[[3, 8, 8, 0, 1]], [[5, 24, 12, 0.25, 2], [3, 24, 12, 0, 1]]]
TINY = {"stem_size": 8, "stages": STAGES, "final_size": 24, "head_size": 16, "width_multiplier": 1.0}


def tiny(**overrides) -> ParameterNetForImageClassification:
    return ParameterNetForImageClassification(ParameterNetConfig(**{**TINY, "num_labels": 4, **overrides})).eval()


SHAPES = [(1, 1, 1), (1, 2, 1), (3, 2, 1), (3, 1, 2), (5, 2, 8)]


def convolution_of_each_image(kernel_size, stride, groups, bias) -> DynamicConv:
    conv = DynamicConv(8, 16, kernel_size, stride=stride, groups=groups, num_experts=3, bias=bias).double()
    if bias:
        conv.bias.normal_()
    return conv


def check_each_image(conv, features, output, kernel_size, stride, groups):
    """Σₘ rₘ(x) Wₘ * x for each image by itself, with the mixture worked out from the router's weights."""
    assert output.shape == (len(features), 16, 8 // stride + 1, 6 // stride + 1)
    linear = conv.router.linear
    for image, got in zip(features, output, strict=True):
        mixture = 1 / (1 + (-(linear.weight @ image.mean((1, 2)) + linear.bias)).exp())
        kernel = sum(
            share * expert.view(conv.kernel_shape) for share, expert in zip(mixture, conv.weight, strict=True)
        )
        expected = F.conv2d(image[None], kernel, conv.bias, stride, kernel_size // 2, 1, groups)[0]
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [0, 1, 2, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel_size, stride, groups", SHAPES)
@torch.no_grad()
def test_every_way_to_convolve_gives_each_image_its_kernel(batch, memory_format, kernel_size, stride, groups):
    features = torch.randn(batch, 8, 9, 7, dtype=torch.float64).to(memory_format=memory_format)
    for bias in (False, True):
        conv = convolution_of_each_image(kernel_size, stride, groups, bias)
        check_each_image(conv, features, conv(features), kernel_size, stride, groups)


@pytest.mark.parametrize("batch, memory_format", [(1, torch.contiguous_format), (3, torch.channels_last)])
@pytest.mark.parametrize("kernel_size, stride, groups", SHAPES)
@torch.no_grad()
def test_compiled_convolutions_give_each_image_its_kernel(batch, memory_format, kernel_size, stride, groups):
    features = torch.randn(batch, 8, 9, 7, dtype=torch.float64).to(memory_format=memory_format)
    for bias in (False, True):
        # Beyond its limit of recompilations dynamo would run the code as it is, and nothing compiled would be tested.
        torch._dynamo.reset()
        conv = convolution_of_each_image(kernel_size, stride, groups, bias)
        counter = CompileCounter()
        compiled = torch.compile(conv, backend=counter, fullgraph=True)
        check_each_image(conv, features, compiled(features), kernel_size, stride, groups)
        assert counter.frame_count == 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_of_one_pixel_is_filled_up_with_zeros_where_that_is_asked(batch, memory_format):
    features = torch.randn(batch, 4, 5, 6, dtype=torch.float64).to(memory_format=memory_format)
    kernels, bias = torch.randn(batch, 3, 4, 1, 1, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = torch.einsum("boi,bihw->bohw", kernels[..., 0, 0], F.pad(features, (1, 1, 1, 1))) + bias[:, None, None]
    torch.testing.assert_close(dynamic_conv2d(features, kernels, bias, padding=1), expected)


@torch.no_grad()
def test_one_expert_that_is_fully_on_is_an_ordinary_convolution():
    conv = DynamicConv(3, 5, 3, num_experts=4)
    conv.router.linear.weight.zero_()
    conv.router.linear.bias.copy_(torch.tensor([-200.0, 200.0, -200.0, -200.0]))
    features = torch.randn(2, 3, 6, 6)
    static = F.conv2d(features, conv.weight[1].view(5, 3, 3, 3), padding=1)
    torch.testing.assert_close(conv(features), static, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_routing_is_what_each_convolution_mixed_by():
    model = tiny(num_experts=3)
    pixels = torch.randn(2, 3, 32, 32)
    assert model(pixels).routing is None
    outputs = model(pixels, output_routing=True, output_hidden_states=True)
    names = model.parameternet.router_names
    assert len(outputs.routing) == len(names)
    assert len(outputs.hidden_states) == 3
    assert all(r.shape == (2, 3) and (0 < r).all() and (r < 1).all() for r in outputs.routing)

    seen = {}
    for name in names:
        conv = model.parameternet.get_submodule(name)
        assert isinstance(conv, DynamicConvNorm)
        conv.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0].clone()))
    model(pixels)
    for name, routing in zip(names, outputs.routing, strict=True):
        linear = model.parameternet.get_submodule(name).conv.router.linear
        torch.testing.assert_close(routing, linear(seen[name].mean((2, 3))).sigmoid(), msg=name)
    assert torch.equal(model(pixels, output_routing=True, return_dict=False)[-1][0], outputs.routing[0])


@pytest.mark.parametrize("num_experts", [1, 3, 4])
def test_upcycled_ghostnet_starts_with_its_outputs_and_experts_part_at_once(num_experts):
    ghostnet = GhostNetForImageClassification(GhostNetConfig(**TINY, num_labels=4, num_channels=2)).double()
    pixels, labels = torch.randn(4, 2, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    for _ in range(3):
        ghostnet.train()(pixels)  # running statistics of its own
    ghostnet.eval()
    model = ParameterNetForImageClassification.from_ghostnet(ghostnet, num_experts=num_experts)
    assert (model.config.num_experts, model.config.num_channels, model.training) == (num_experts, 2, False)
    torch.testing.assert_close(model(pixels).logits, ghostnet(pixels).logits, rtol=1e-10, atol=1e-10)
    # Constants and labels come along, and the mode.
    other = GhostNetConfig(**TINY, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, image_size=40)
    other.classifier_dropout, other.batch_norm_eps, other.batch_norm_momentum = 0.37, 0.02, 0.3
    other.problem_type = "regression"
    taken = ParameterNetForImageClassification.from_ghostnet(GhostNetForImageClassification(other).train())
    for name in (
        *("classifier_dropout", "batch_norm_eps", "batch_norm_momentum", "problem_type", "image_size", "id2label"),
        *("label2id", "stages", "stem_size", "final_size", "head_size", "width_multiplier", "num_channels"),
    ):
        assert getattr(taken.config, name) == getattr(other, name), name
    assert taken.training and taken.config.num_experts == 4 and taken.config.hidden_act == "relu"
    frozen = ParameterNetModel.from_ghostnet(ghostnet.base_model, num_experts=num_experts).requires_grad_(False)
    folded = frozen.reparameterize()
    assert not folded.stem.convolution.conv.weight.requires_grad  # what is frozen stays so
    torch.testing.assert_close(
        folded(pixels).pooler_output, ghostnet.base_model(pixels).pooler_output, rtol=1e-9, atol=1e-9
    )

    model.train()(pixels, labels=labels).loss.backward()
    gradient = model.parameternet.stages[0].blocks[0].expand.primary.conv.weight.grad
    apart = torch.cdist(gradient, gradient) / gradient.norm()
    assert (apart + torch.eye(num_experts) > 1e-4).all(), "experts that get the same gradient stay equal for ever"


def test_what_is_no_plain_ghostnet_is_not_upcycled():
    other = hf_effmodels.create_model("ghostnetv3-0.5x")
    with pytest.raises(ValueError, match="got a GhostNetV3ForImageClassification, .* made of a GhostNetForImage"):
        ParameterNetForImageClassification.from_ghostnet(other)
    with pytest.raises(ValueError, match="ParameterNetModel is made of a GhostNetModel"):
        ParameterNetModel.from_ghostnet(GhostNetForImageClassification(GhostNetConfig(**TINY)))
    with pytest.raises(ValueError, match="dfc_attention=True"):
        ParameterNetModel.from_ghostnet(GhostNetModel(GhostNetConfig(**TINY, dfc_attention=True)))
    with pytest.raises(ValueError, match="num_conv_branches=2, accepted is one without either"):
        ParameterNetModel.from_ghostnet(GhostNetModel(GhostNetConfig(**TINY, num_conv_branches=2)))
    with pytest.raises(ValueError, match="got a folded model"):
        ParameterNetModel.from_ghostnet(GhostNetModel(GhostNetConfig(**TINY)).eval().reparameterize())


def test_drop_path_grows_by_groups_of_blocks_as_published():
    rates = ParameterNetConfig(drop_path_rate=0.8).drop_path_rates
    assert [[round(rate, 9) for rate in stage] for stage in rates] == [
        [0.0],
        [0.1, 0.2],
        [0.3, 0.4, 0.4],
        [0.5, *[0.6] * 6],
        [0.7, *[0.8] * 5],
    ]
    assert ParameterNetConfig(drop_path_rate=0.8, stages=[[[3, 8, 8, 0, 1]]]).drop_path_rates == [[0.0]]  # one alone
    model = tiny(drop_path_rate=0.5, classifier_dropout=0.0).train()
    branch = model.parameternet.stages[1].blocks[1].drop_path
    ones = branch(torch.ones(2000, 1, 1, 1))
    assert set(ones.unique().tolist()) == {0.0, 2.0}
    assert abs(ones.mean().item() - 1) < 0.1
    assert torch.equal(branch.eval()(ones), ones)


def test_parameters_multiply_and_computation_does_not():
    """The paper's ablation on experts, which identifies the smaller network: the official code lacks it."""
    for num_experts, millions in ((1, 8.6), (4, 15.7), (8, 25.2)):
        with torch.device("meta"):
            model = hf_effmodels.create_model("parameternet-300m", num_experts=num_experts)
        assert abs(model.num_parameters() / 1e6 - millions) < 0.1


@pytest.mark.parametrize(
    "field, value, accepted",
    [
        ("hidden_act", "tanh", "'hardswish'"),
        ("num_experts", 0, "from 1"),
        ("drop_path_rate", 1.0, "below 1"),
        ("stem_size", 0, "from 1"),
        ("final_size", 0, "from 1"),
        ("head_size", 0, "from 1"),
        ("num_channels", 0, "from 1"),
        ("width_multiplier", 0, "positive"),
    ],
)
def test_bad_settings_are_refused_by_name(field, value, accepted):
    with pytest.raises(ValueError, match=f"{field}: got .*{value}.*{accepted}"):
        hf_effmodels.get_config("parameternet-300m", **{field: value})


def test_the_smaller_network_has_ghostnets_own_rows():
    from hf_effmodels.modeling.ghostnet.configuration_ghostnet import STAGES as PUBLISHED

    assert hf_effmodels.get_config("parameternet-300m").stages == [[list(row) for row in stage] for stage in PUBLISHED]


# The network, by hand


def activations():
    def hardswish(x):
        return x * (x + 3).clamp(0, 6) / 6

    def gelu(x):
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    return {"relu": torch.relu, "hardswish": hardswish, "gelu": gelu, "silu": lambda x: x * x.sigmoid()}


def parameternet_by_hand(weights, config, pixels):
    act, eps = activations()[config.hidden_act], config.batch_norm_eps

    def width(base):
        return by_hand.nearest_multiple(base * config.width_multiplier, 4)

    def dynamic(name, features, out_channels, kernel_size=1, stride=1, groups=1):
        experts = weights[f"{name}.conv.weight"]
        assert len(experts) == config.num_experts
        mixtures = by_hand.linear(weights, f"{name}.conv.router.linear", features.mean((2, 3))).sigmoid()
        kernels = (mixtures @ experts).view(len(features), out_channels, -1, kernel_size, kernel_size)
        images = [
            F.conv2d(image[None], kernel, None, stride, kernel_size // 2, 1, groups)
            for image, kernel in zip(features, kernels, strict=True)
        ]
        return by_hand.norm(weights, f"{name}.norm", torch.cat(images), eps)

    def ghost(name, features, out_channels, act):
        half = (out_channels + 1) // 2
        intrinsic = act(dynamic(f"{name}.primary", features, half))
        return torch.cat((intrinsic, act(dynamic(f"{name}.cheap", intrinsic, half, 3, groups=half))), 1)[
            :, :out_channels
        ]

    hidden = act(dynamic("stem.convolution", pixels, width(config.stem_size), 3, 2))
    for stage, rows in enumerate(config.stages):
        for index, (kernel, expansion, size, ratio, stride) in enumerate(rows):
            name, residual, inputs = f"stages.{stage}.blocks.{index}", hidden, hidden.shape[1]
            if inputs != width(size) or stride > 1:
                residual = dynamic(f"{name}.shortcut.depthwise", hidden, inputs, kernel, stride, inputs)
                residual = dynamic(f"{name}.shortcut.pointwise", residual, width(size))
            hidden = ghost(f"{name}.expand", hidden, width(expansion), act)
            if stride > 1:
                assert weights[f"{name}.depthwise.conv.weight"].shape[2:] == (kernel, kernel)
                hidden = by_hand.conv_norm(weights, f"{name}.depthwise", hidden, eps, stride, hidden.shape[1])
            if ratio:
                squeeze_act = torch.relu if config.hidden_act == "gelu" else act
                squeeze = squeeze_act(by_hand.linear(weights, f"{name}.squeeze_excite.reduce", hidden.mean((2, 3))))
                assert squeeze.shape[1] == by_hand.nearest_multiple(hidden.shape[1] * ratio, 4)
                gate = by_hand.linear(weights, f"{name}.squeeze_excite.expand", squeeze)
                hidden = hidden * ((gate + 3).clamp(0, 6) / 6)[:, :, None, None]
            hidden = residual + ghost(f"{name}.project", hidden, width(size), lambda x: x)
    pooled = act(dynamic("final", hidden, width(config.final_size))).mean((2, 3))
    return by_hand.linear(weights, "classifier", act(by_hand.linear(weights, "head", pooled)))


@torch.no_grad()
@pytest.mark.parametrize("hidden_act", ["relu", "hardswish", "gelu", "silu"])
def test_the_network_is_the_published_formula_with_any_setting(hidden_act):
    model = tiny(
        num_channels=2,
        num_experts=3,
        stem_size=9,
        width_multiplier=1.3,
        stages=[[[3, 9, 13, 0.4, 1]], [[5, 22, 13, 0.25, 2], [3, 31, 17, 0, 1]]],
        final_size=30,
        head_size=18,
        hidden_act=hidden_act,
        batch_norm_eps=0.05,
    ).double()
    pixels = torch.randn(3, 2, 37, 42, dtype=torch.float64)
    expected = parameternet_by_hand(by_hand.weights_of(model), model.config, pixels)
    torch.testing.assert_close(model(pixels).logits, expected)
    torch.testing.assert_close(model.reparameterize()(pixels).logits, expected)


def test_experts_start_uniform_by_their_own_fan_in():
    model = tiny(num_experts=8)
    block = model.parameternet.stages[1].blocks[1]
    for conv, fan_in in ((block.expand.primary.conv, 12), (block.expand.cheap.conv, 9)):
        torch.nn.init.constant_(conv.weight, 7.0)
        model._init_weights(conv)
        bound = fan_in**-0.5
        assert 0.9 * bound < conv.weight.max().item() <= bound
        assert -bound <= conv.weight.min().item() < -0.9 * bound
        assert abs(conv.weight.mean().item()) < 0.15 * bound
