"""What is GhostNet's own."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import hf_effmodels
from hf_effmodels.modeling.ghostnet.configuration_ghostnet import GhostNetV3Config
from hf_effmodels.modeling.ghostnet.modeling_ghostnet import GhostBottleneck, GhostNetV3ForImageClassification
from hf_effmodels.modeling.layers import fast_path
from hf_effmodels.modeling.layers.reparameterization import RepConvNorm

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
        with pytest.raises(ValueError, match="images are too small: .* 33×33"):
            model(torch.randn(1, 3, 32, 64))
        # GhostNet itself has no such limit.
        assert (
            hf_effmodels.create_model("ghostnet-0.5x", num_labels=5)(torch.randn(1, 3, 32, 32)).logits.isfinite().all()
        )


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
