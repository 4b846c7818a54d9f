"""What is GhostNet's own."""

import pytest
import torch

import hf_effmodels
from hf_effmodels.modeling.layers.reparameterization import RepConvNorm


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
