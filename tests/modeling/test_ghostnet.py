"""What is GhostNet's own."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

import hf_effmodels
from hf_effmodels.modeling.ghostnet.configuration_ghostnet import GhostNetV3Config
from hf_effmodels.modeling.ghostnet.modeling_ghostnet import GhostBottleneck, GhostNetV3ForImageClassification
from hf_effmodels.modeling.layers import fast_path
from hf_effmodels.modeling.layers.reparameterization import RepConvNorm
from hf_effmodels.modeling.layers.widths import round_width

from . import by_hand
from .tiny.ghostnet import GHOSTNET

#: The third block has all that a block can have: a stride, a squeeze-and-excitation, an attention, a shortcut.
STAGES = [[[3, 8, 8, 0, 1]], [[3, 22, 12, 0, 2]], [[5, 24, 16, 0.25, 2], [5, 32, 16, 0.25, 1]]]
TINY = {"stem_size": 8, "stages": STAGES, "final_size": 24, "head_size": 16, "num_labels": 5}


def folded_tiny() -> GhostNetV3ForImageClassification:
    torch.manual_seed(1)
    return GhostNetV3ForImageClassification(GhostNetV3Config(**TINY)).eval().double().reparameterize()


def blocks_in_halves(model, pixels, monkeypatch) -> list[str]:
    """The blocks that take the short way for these images."""
    taken, names = [], {module: name for name, module in model.named_modules()}
    short_way = GhostBottleneck._forward_in_halves
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(
            GhostBottleneck,
            "_forward_in_halves",
            lambda self, features: (taken.append(names[self]), short_way(self, features))[1],
        )
        model(pixels)
    return taken


@torch.no_grad()
def test_identity_branch_on_the_pointwise_path_folds():
    """At width 0.35 one ghost module's input is as wide as half of its output; the official fusion crashes there."""
    model = hf_effmodels.create_model("ghostnetv3-0.5x", width_multiplier=0.35, num_labels=5).double()
    with_identity = [
        name for name, m in model.named_modules() if isinstance(m, RepConvNorm) and m.scale is None and m.skip
    ]
    assert with_identity == ["ghostnetv3.stages.1.blocks.0.expand.primary"]
    skip = model.get_submodule(with_identity[0]).skip
    skip.weight.fill_(3.0)
    skip.running_mean.normal_()
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    before = model(pixels).logits
    torch.testing.assert_close(model.reparameterize()(pixels).logits, before, rtol=1e-9, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("groups, stride, kernel_size", [(1, 1, 5), (4, 1, 3), (2, 1, 7), (8, 2, 5), (1, 2, 3)])
def test_branches_fold_whatever_their_shape(groups, stride, kernel_size):
    layer = RepConvNorm(8, 8, kernel_size, groups=groups, stride=stride, num_branches=2).double().eval()
    for norm in layer.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(-2, 2)
            norm.bias.normal_()
    assert (layer.skip is None) == (stride > 1)
    features = torch.randn(2, 8, 11, 10, dtype=torch.float64)
    before = layer(features)
    layer.fold()
    torch.testing.assert_close(layer(features), before, rtol=1e-10, atol=1e-12)


def test_images_too_small_for_the_attention_are_refused():
    model = hf_effmodels.create_model("ghostnetv2-1.0x", num_labels=5)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 33, 33)).logits.shape == (1, 5)
        with pytest.raises(ValueError, match="images are too small: .* from 33×33 pixels"):
            model(torch.randn(1, 3, 32, 64))
        # GhostNet itself has no such limit.
        assert (
            hf_effmodels.create_model("ghostnet-0.5x", num_labels=5)(torch.randn(1, 3, 32, 32)).logits.isfinite().all()
        )


@pytest.mark.parametrize("stages, side", [(5, 33), (3, 9)])
def test_the_smallest_images_are_those_of_the_network(stages, side):
    """TINY halves 33 to 17, 9, 5, 3 and 2 before its last attention; its first three stages 9 to 5, 3 and 2."""
    model = hf_effmodels.create_model(
        "ghostnetv2-1.0x", num_labels=5, **{**GHOSTNET, "stages": GHOSTNET["stages"][:stages]}
    )
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, side, side)).logits.shape == (1, 5)
        with pytest.raises(ValueError, match=f"This network accepts images from {side}×{side} pixels"):
            model(torch.randn(1, 3, side - 1, side))


def test_reentrant_checkpointing_is_refused():
    model = hf_effmodels.create_model("ghostnet-0.5x")
    with pytest.raises(ValueError, match="use_reentrant=True would update"):
        model.activation_checkpointing_enable({"use_reentrant": True})


# The short way through folded blocks


BLOCK = "ghostnetv3.stages.2.blocks.0"
PIXELS = torch.randn(2, 3, 128, 120, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_large_maps_of_a_folded_model_go_the_short_way_with_the_same_results(monkeypatch):
    model = folded_tiny()
    short = model(PIXELS).logits
    large = [f"ghostnetv3.stages.{index}.blocks.0" for index in range(3)]
    assert blocks_in_halves(model, PIXELS, monkeypatch) == large
    assert blocks_in_halves(model, PIXELS[:, :, :64, :64], monkeypatch) == large[:2]
    monkeypatch.setattr(GhostBottleneck, "_can_run_in_halves", lambda self: False)
    torch.testing.assert_close(model(PIXELS).logits, short, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "module", ["expand", "depthwise", "depthwise.conv", "squeeze_excite", "project", "project.primary.conv"]
)
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_on_what_the_short_way_passes_by_is_run(module, kind, monkeypatch):
    model, calls = folded_tiny(), []
    watched = model.get_submodule(f"{BLOCK}.{module}")
    getattr(watched, f"register_{kind}_hook")(lambda *args: calls.append(kind))
    model(PIXELS).logits.sum().backward()
    assert calls
    assert BLOCK not in blocks_in_halves(model, PIXELS, monkeypatch)


def test_hooks_on_all_modules_are_run():
    model, seen = folded_tiny(), set()
    with torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.add(module)):
        model(PIXELS)
    assert {m for m in model.modules() if isinstance(m, torch.nn.Conv2d)} <= seen


@torch.no_grad()
@pytest.mark.parametrize("name", ["depthwise", "project.primary"])
def test_what_stands_in_for_a_convolution_is_asked(name):
    """Each of these gives zeros or something else than the convolution's own weights would."""

    class Silent(torch.nn.Conv2d):
        def forward(self, features):
            return super().forward(features) * 0

    class Zeros(torch.nn.Module):
        def forward(self, values):
            return values * 0

    def silence(model, how):
        layer = model.get_submodule(f"{BLOCK}.{name}")
        conv = layer.conv
        if how == "weights":
            conv.weight.zero_()
            conv.bias.zero_()
        elif how == "parametrisation":
            torch.nn.utils.parametrize.register_parametrization(conv, "weight", Zeros())
            conv.bias.zero_()
        elif how == "another class":
            conv.__class__ = Silent
        elif how == "a forward of its own":
            forward = conv.forward
            conv.forward = lambda features: forward(features) * 0
        return model(PIXELS).logits

    plain, expected = folded_tiny()(PIXELS).logits, silence(folded_tiny(), "weights")
    assert not torch.allclose(expected, plain)
    for how in ("parametrisation", "another class", "a forward of its own"):
        torch.testing.assert_close(silence(folded_tiny(), how), expected, msg=how)


def test_adapters_on_a_folded_model_reach_large_maps():
    model = get_peft_model(folded_tiny(), LoraConfig(r=2, target_modules=["project.primary.conv"])).double()
    with torch.no_grad():
        before = model(PIXELS).logits
        for parameter in (p for n, p in model.named_parameters() if "lora_B" in n and "stages.0" in n):
            parameter.normal_()
        after = model(PIXELS).logits
        assert not torch.allclose(after, before)
        torch.testing.assert_close(model.merge_and_unload()(PIXELS).logits, after)


def test_convolutions_of_parts_are_those_of_the_whole():
    features = torch.randn(2, 7, 9, 8, dtype=torch.float64)
    parts = features.split([4, 3], dim=1)
    pointwise = torch.nn.Conv2d(7, 5, 1).double()
    torch.testing.assert_close(fast_path.pointwise_conv_of_parts(pointwise, parts), pointwise(features))
    depthwise = torch.nn.Conv2d(7, 7, 3, stride=2, padding=1, groups=7).double()
    whole = torch.cat(fast_path.depthwise_conv_of_parts(depthwise, parts), dim=1)
    torch.testing.assert_close(whole, depthwise(features))
    assert fast_path.is_plain_conv(depthwise)
    assert not fast_path.is_plain_conv(torch.nn.Conv2d(7, 7, 3, padding=1, padding_mode="reflect", groups=7))


# The network, by hand


def branches_by_hand(weights, name, features, config, stride=1, groups=1):
    """The sum of the k×k branches, the 1×1 branch and the identity, each with its norm (GhostNetV3, section 3.1)."""
    eps = config.batch_norm_eps
    if not config.num_conv_branches:
        return by_hand.conv_norm(weights, name, features, eps, stride, groups)
    output = sum(
        by_hand.conv_norm(weights, f"{name}.branches.{index}", features, eps, stride, groups)
        for index in range(config.num_conv_branches)
    )
    if f"{name}.scale.conv.weight" in weights:
        output = output + by_hand.conv_norm(weights, f"{name}.scale", features, eps, stride, groups)
    if f"{name}.skip.weight" in weights:
        output = output + by_hand.norm(weights, f"{name}.skip", features, eps)
    return output


def ghost_by_hand(weights, name, features, config, out_channels, *, activation, attention):
    intrinsic = branches_by_hand(weights, f"{name}.primary", features, config)
    intrinsic = intrinsic.relu() if activation else intrinsic
    ghost = branches_by_hand(weights, f"{name}.cheap", intrinsic, config, groups=intrinsic.shape[1])
    ghost = ghost.relu() if activation else ghost
    output = torch.cat((intrinsic, ghost), dim=1)[:, :out_channels]
    if attention:
        gate, eps = F.avg_pool2d(features, 2), config.batch_norm_eps
        gate = by_hand.conv_norm(weights, f"{name}.attention.pointwise", gate, eps)
        for direction in ("horizontal", "vertical"):
            gate = by_hand.conv_norm(weights, f"{name}.attention.{direction}", gate, eps, groups=gate.shape[1])
        output = output * F.interpolate(gate.sigmoid(), size=output.shape[-2:], mode="nearest")
    return output


def ghostnet_by_hand(weights, config, pixels):
    def width(base):
        return by_hand.nearest_multiple(base * config.width_multiplier, 4)

    eps, number = config.batch_norm_eps, 0
    hidden = by_hand.conv_norm(weights, "stem.convolution", pixels, eps, stride=2).relu()
    assert hidden.shape[1] == width(config.stem_size)
    for stage, rows in enumerate(config.stages):
        for index, (kernel, expansion, size, ratio, stride) in enumerate(rows):
            name, attention = f"stages.{stage}.blocks.{index}", config.dfc_attention and number > 1
            number += 1
            residual = hidden
            if f"{name}.shortcut.depthwise.conv.weight" in weights:
                groups = hidden.shape[1]
                assert weights[f"{name}.shortcut.depthwise.conv.weight"].shape[2:] == (kernel, kernel)
                residual = by_hand.conv_norm(weights, f"{name}.shortcut.depthwise", hidden, eps, stride, groups)
                residual = by_hand.conv_norm(weights, f"{name}.shortcut.pointwise", residual, eps)
            assert residual.shape[1] == width(size)
            hidden = ghost_by_hand(
                weights, f"{name}.expand", hidden, config, width(expansion), activation=True, attention=attention
            )
            if stride > 1:
                first = f"{name}.depthwise.{'branches.0.' if config.num_conv_branches else ''}conv.weight"
                assert weights[first].shape[2:] == (kernel, kernel)
                hidden = branches_by_hand(weights, f"{name}.depthwise", hidden, config, stride, hidden.shape[1])
            if ratio:
                squeeze = by_hand.linear(weights, f"{name}.squeeze_excite.reduce", hidden.mean((2, 3))).relu()
                assert squeeze.shape[1] == by_hand.nearest_multiple(hidden.shape[1] * ratio, 4)
                gate = by_hand.linear(weights, f"{name}.squeeze_excite.expand", squeeze)
                hidden = hidden * ((gate + 3).clamp(0, 6) / 6)[:, :, None, None]
            project = f"{name}.project"
            hidden = residual + ghost_by_hand(
                weights, project, hidden, config, width(size), activation=False, attention=False
            )
    pooled = by_hand.conv_norm(weights, "final", hidden, eps).relu().mean((2, 3))
    assert pooled.shape[1] == width(config.final_size)
    hidden = by_hand.linear(weights, "head", pooled).relu()
    assert hidden.shape[1] == config.head_size
    return by_hand.linear(weights, "classifier", hidden)


@torch.no_grad()
@pytest.mark.parametrize(
    "attention, branches, first", [(False, 0, 1), (True, 0, 2), (False, 1, 2), (True, 2, 1)], ids=str
)
def test_the_network_is_the_published_formula_with_any_setting(attention, branches, first):
    """`first`: blocks of the first stage."""
    config = GhostNetV3Config(
        num_channels=2,
        width_multiplier=0.77,
        stem_size=13,
        stages=[[[3, 9, 13, 0.4, 1]] * first, [[5, 22, 17, 0.25, 2], [3, 31, 17, 0, 1]], [[7, 24, 15, 0.1, 2]]],
        final_size=30,
        head_size=18,
        dfc_attention=attention,
        num_conv_branches=branches,
        batch_norm_eps=0.05,
        num_labels=3,
    )
    model = GhostNetV3ForImageClassification(config).eval().double()
    expected = ghostnet_by_hand(by_hand.weights_of(model), config, pixels := PIXELS[:, :2, :67, :71])
    torch.testing.assert_close(model(pixels).logits, expected)
    torch.testing.assert_close(model.reparameterize()(pixels).logits, expected)


@pytest.mark.parametrize(
    "width, multiple, expected",
    [
        (5, 4, 8),
        (6, 4, 8),
        (13.5, 4, 16),
        (17, 4, 16),
        (9, 4, 12),
        (1, 4, 4),
        (44, 8, 48),
        (11, 8, 16),
        (40 / 9, 4, 4),
    ],
)
def test_widths_are_rounded_to_the_nearest_multiple_that_keeps_nine_tenths(width, multiple, expected):
    assert round_width(width, multiple) == expected == by_hand.nearest_multiple(width, multiple)


def test_weights_start_as_pytorchs_layers_do():
    """Uniform in ±1/√fan-in, weights and biases; also where a model is built without memory and filled later."""
    with torch.device("meta"):
        model = hf_effmodels.create_model("ghostnetv3-0.5x")
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    torch.manual_seed(0)
    model.apply(model._init_weights)
    block = model.ghostnetv3.stages[4].blocks[1]
    for layer, fan_in in (
        (block.expand.primary.branches[0].conv, 80),
        (block.expand.cheap.branches[1].conv, 9),
        (model.head, 480),
        (model.classifier, 1280),
    ):
        bound = fan_in**-0.5
        for values in (layer.weight, layer.bias):
            if values is not None:
                assert 0.95 * bound < values.abs().max().item() <= bound
                assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
                assert abs(values.mean().item()) < 0.1 * bound


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_channels": 0}, "num_channels: got 0, accepted are whole numbers from 1"),
        ({"stem_size": 0}, "stem_size: got 0"),
        ({"final_size": 0}, "final_size: got 0"),
        ({"head_size": 0}, "head_size: got 0"),
        ({"num_conv_branches": -1}, "num_conv_branches: got -1, accepted are whole numbers from 0"),
        ({"width_multiplier": 0}, "width_multiplier: got 0, accepted are positive numbers"),
        ({"stages": [[[3, 8, 8, 0, 3]]]}, r"stages: got the row \[3, 8, 8, 0, 3\]"),
        ({"stages": [[[4, 8, 8, 0, 1]]]}, r"stages: got the row \[4, 8, 8, 0, 1\]"),
        ({"stages": [[[3, 8, 8, 1]]]}, r"stages: got the row \[3, 8, 8, 1\]"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(StrictDataclassError, match=message):
        GhostNetV3Config(**{**TINY, **wrong})
