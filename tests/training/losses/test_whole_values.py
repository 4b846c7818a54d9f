"""Losses where two of their parts meet: what is constant in which, odd shapes, and what another loss asks for."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_effmodels.training.losses.adaptive_confidence import adaptive_confidence_loss
from hf_effmodels.training.losses.channel_wise import channel_wise_loss
from hf_effmodels.training.losses.contrastive_domain import contrastive_domain_discrepancy
from hf_effmodels.training.losses.fitnet import hint_loss
from hf_effmodels.training.losses.interface import Batch, FeatureSpec, Networks
from hf_effmodels.training.losses.knowledge_review import KnowledgeReviewLoss
from hf_effmodels.training.losses.ofa import PatchMerging, token_branch
from hf_effmodels.training.losses.registry import make_losses
from hf_effmodels.training.losses.text_alignment import TEXT_EMBEDS, text_alignment_loss

from .test_settings import draw, vector


def test_how_far_a_student_is_trusted_has_no_gradient():
    student, teacher = draw(6, 5).requires_grad_(), draw(6, 5, seed=1)
    (gradient,) = torch.autograd.grad(sum(adaptive_confidence_loss(student, teacher).values()), student)
    scores = student.detach().log_softmax(1)
    own, theirs = scores.max(1).values, scores[torch.arange(6), teacher.argmax(1)]
    beta = 1 / (1 + ((own - theirs) / 0.5).exp())
    found = student.softmax(1).detach()
    toward_teacher = found - teacher.softmax(1)
    toward_own = found - F.one_hot(student.argmax(1), 5)
    expected = ((1 - beta)[:, None] * toward_teacher + beta[:, None] * toward_own) / 6
    torch.testing.assert_close(gradient, expected)


def test_the_bandwidth_of_a_discrepancy_is_that_of_all_pairs_and_has_no_gradient():
    """Two classes of two and one samples: distances between different samples, averaged, then held."""
    source, target, counts = draw(3, 4), draw(3, 4, seed=1).requires_grad_(), [2, 1]
    spans = [slice(0, 2), slice(2, 3)]

    def discrepancy(c: int, d: int) -> torch.Tensor:
        both = torch.cat([source[spans[c]], target[spans[d]]])
        distances = (both[:, None] - both[None]).square().sum(-1)
        number = len(both)
        width = (distances.sum() / (number * (number - 1))).detach()
        kernel = sum((-(distances / (width * 3.0**power)).clamp(1e-5, 1e5)).exp() for power in (-2, -1, 0, 1))
        first = counts[c]
        return kernel[:first, :first].mean() + kernel[first:, first:].mean() - 2 * kernel[:first, first:].mean()

    intra = (discrepancy(0, 0) + discrepancy(1, 1)) / 5
    expected = intra - (discrepancy(0, 1) + discrepancy(1, 0)) / (5 * 4)
    found = contrastive_domain_discrepancy([(source, target)], counts, 5, kernels=4, factor=3.0)["loss"]
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, target, retain_graph=True)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", [channel_wise_loss, hint_loss], ids=["cwd", "fitnet"])
@pytest.mark.parametrize("ours, theirs", [((6, 4), (3, 5)), ((2, 3), (4, 6)), ((3, 5), (3, 5))])
def test_maps_of_a_student_are_brought_to_the_height_and_the_width_of_the_teachers(loss, ours, theirs):
    student, teacher = draw(2, 3, *ours), draw(2, 3, *theirs, seed=1)
    resized = F.interpolate(student, theirs, mode="bilinear")
    if loss is hint_loss:
        expected = (resized - teacher).square().sum() / (2 * 3 * theirs[0] * theirs[1])
    else:
        found, given = ((maps.reshape(2, 3, -1) / 4).softmax(-1) for maps in (resized, teacher))
        expected = 16 * (given * (given.log() - found.log())).sum() / (2 * 3)
    torch.testing.assert_close(loss(student, teacher), expected)


@pytest.mark.parametrize("widest, given, used", [(8, 512, 8), (8, 4, 4), (16, 16, 16)])
def test_maps_are_fused_in_no_more_channels_than_the_students_deepest_have(widest, given, used):
    review = KnowledgeReviewLoss([4, widest], [6, 6], [1, 4], mid_channels=given)
    assert {fusion.reduce[0].out_channels for fusion in review.fusions} == {used}
    assert [fusion.gates is None for fusion in review.fusions] == [True, False]  # nothing is deeper than the deepest


def test_four_neighbours_lie_side_by_side_column_by_column():
    """As in Swin's patch merging: upper left, lower left, upper right, lower right."""
    merging = PatchMerging(1, 4, activated=False)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    grid = torch.arange(16.0).reshape(1, 16, 1)  # rows of four
    assert merging(grid).tolist() == [[[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]]]
    assert merging(torch.arange(9.0).reshape(1, 9, 1)).tolist() == [
        [[0, 3, 1, 4], [2, 5, 0, 0], [6, 0, 7, 0], [8, 0, 0, 0]]
    ]
    activated = PatchMerging(1, 4, activated=True)
    activated.norm, activated.reduction = nn.Identity(), nn.Identity()
    torch.testing.assert_close(activated(-grid), F.gelu(merging(-grid)))


@pytest.mark.parametrize(
    "side, activated", [(7, []), (13, []), (14, [True]), (28, [True, False]), (56, [True, True, False])]
)
def test_patches_are_merged_down_to_about_seven_a_side_and_the_last_of_several_is_not_activated(side, activated):
    branch = token_branch(FeatureSpec((side * side, 8), "tokens", 0, "x"), 3, 8, 5)
    merges = [module for module in branch.modules() if isinstance(module, PatchMerging)]
    assert [isinstance(module.activation, nn.GELU) for module in merges] == activated


@pytest.mark.parametrize("masks", [True, False])
def test_copies_in_a_batch_are_told_apart_where_that_is_asked_for_alone(masks):
    """Their numbers are in the batch as soon as any other loss asks for them."""
    torch.manual_seed(0)
    loss = make_losses({"text_alignment": {"mask_copies": masks, "norm": False, "temperature": 0.5}})["text_alignment"]
    assert loss.needs_index == masks
    loss.build(Networks({"pooled": vector(4)}, {}, 3, columns={TEXT_EMBEDS: (6,)}))
    loss.double()
    pooled, texts = draw(4, 4), F.normalize(draw(4, 6, seed=1), dim=-1)
    index = torch.tensor([5, 9, 5, 7])
    found = loss({"pooled": pooled}, {}, Batch(index=index, extra={TEXT_EMBEDS: texts}))
    ids = index if masks else None
    expected = text_alignment_loss(loss.projection(pooled), texts, temperature=0.5, ids=ids)
    torch.testing.assert_close(found, expected)
    images = F.normalize(loss.projection(pooled), dim=-1)
    scores = (images @ texts.T / 0.5).exp()
    kept = torch.ones(4, 4, dtype=torch.float64)
    if masks:
        kept[0, 2] = kept[2, 0] = 0
    rows, columns = (scores * kept).sum(1), (scores * kept).sum(0)
    by_hand = -(scores.diagonal() / rows).log().mean() / 2 - (scores.diagonal() / columns).log().mean() / 2
    assert math.isclose(found.item(), by_hand.item(), rel_tol=1e-9)


@pytest.mark.parametrize("keeps", [True, False])
def test_heads_are_written_beside_the_network_where_that_is_asked_for_alone(keeps):
    loss = make_losses({"lsskd": {"stages": [1, 3], "heads": "light", "keep_heads": keeps}})["lsskd"]
    maps = {f"stage{n}": FeatureSpec((4, 8 // n, 8 // n), "maps", 0, f"stages.{n}") for n in (1, 3)}
    loss.build(Networks(maps, {}, 5, model=nn.Identity()))
    kept = loss.kept()
    assert list(kept) == (["joint_heads.safetensors"] if keeps else [])
    if keeps:
        heads, facts = kept["joint_heads.safetensors"]
        assert heads is loss.heads and facts == {"heads": "light", "stages": "1,3"}
