"""CMT's own: the two ways to compute its attention, its tables of positions, its smallest images."""

import pytest
import torch

from hf_effmodels.modeling.cmt.modeling_cmt import CmtForImageClassification, CmtModel
from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config

CMT = ARCHITECTURES["cmt"]


def build(kind=CmtForImageClassification, attention="sdpa", **overrides):
    torch.manual_seed(0)
    model = kind._from_config(tiny_config(CMT, num_labels=3, **overrides), attn_implementation=attention).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("relative_positions"):
            torch.nn.init.normal_(parameter)
    return model


@torch.no_grad()
def test_attention_written_out_is_that_of_the_fused_kernel_and_shows_its_weights():
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    fused, eager = build(), build(attention="eager")
    torch.testing.assert_close(eager(pixels).logits, fused(pixels).logits, rtol=1e-4, atol=1e-5)
    weights = eager(pixels, output_attentions=True).attentions
    assert len(weights) == sum(eager.config.depths)
    assert all((w >= 0).all() and torch.allclose(w.sum(-1), torch.ones(())) for w in weights)


def test_tables_of_positions_are_not_to_be_decayed():
    model = build()
    names = set(model.no_weight_decay())
    assert names == {f"cmt.stages.{stage}.relative_positions" for stage in range(len(model.config.depths))}
    assert names < {name for name, _ in model.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize("ratios, least", [((4, 2, 1, 1), 32), ((4, 2, 1, 2), 64)])
def test_images_that_leave_the_last_stage_no_key_are_refused(ratios, least):
    """Two strides of 2 before the first stage, one before each other, and the keys' own."""
    model = build(CmtModel, sr_ratios=ratios)
    assert model(torch.randn(1, 3, least, least)).pooler_output.shape[0] == 1
    for height, width in ((least - 1, least), (least, least - 1)):
        with pytest.raises(ValueError, match=rf"pixel_values: got .*, accepted are sides from {least} pixels"):
            model(torch.randn(1, 3, height, width))


@torch.no_grad()
def test_the_last_norm_is_there_where_it_is_asked_for():
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plain, normed = build(CmtModel)(pixels).last_hidden_state, build(CmtModel, final_norm=True)(pixels)
    expected = torch.nn.functional.layer_norm(plain.permute(0, 2, 3, 1), plain.shape[1:2], eps=1e-6)
    torch.testing.assert_close(normed.last_hidden_state, expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normed.pooler_output.flatten(), normed.last_hidden_state.mean((2, 3)).flatten())
    # A classifier has its own way to the classes, whatever the encoder ended with.
    assert torch.equal(build(final_norm=True)(pixels).logits, build()(pixels).logits)
    # Patches have an epsilon of their own.
    norms = {name: m.eps for name, m in build(embedding_norm_eps=0.3).named_modules() if hasattr(m, "eps")}
    patches = {name: eps for name, eps in norms.items() if name.endswith("patch_embed.norm")}
    assert set(patches.values()) == {0.3} and len(patches) == 4
    assert 0.3 not in {eps for name, eps in norms.items() if name not in patches}
