"""Losses of tokens, dense maps, texts, label maps and joint labels, at options that their parity cases leave alone."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_effmodels.training.data.soft_mixing import cutmix
from hf_effmodels.training.losses import layered, manifold
from hf_effmodels.training.losses.channel_wise import channel_wise_loss
from hf_effmodels.training.losses.codebook import codebook_loss, straight_through
from hf_effmodels.training.losses.interface import Batch, DistillationLoss, FeatureSpec, Networks
from hf_effmodels.training.losses.joint_heads import JointHeads, light_extractors, remaining_stages, same_width
from hf_effmodels.training.losses.joint_labels import joint_label_loss, layered_loss, rotated
from hf_effmodels.training.losses.kl_divergence import kl_divergence_loss
from hf_effmodels.training.losses.label_maps import dense_label_map, pooled_logits, pooled_targets
from hf_effmodels.training.losses.language_distillation import language_distillation_losses
from hf_effmodels.training.losses.manifold import ManifoldLoss, manifold_loss, merge_patches
from hf_effmodels.training.losses.multi_granularity import image_level_loss, pixel_level_loss, region_level_loss
from hf_effmodels.training.losses.text_alignment import (
    TextAlignmentLoss,
    TextProjection,
    gather_rows,
    text_alignment_loss,
)
from hf_effmodels.training.losses.token_distillation import token_distillation_loss

from ...processes import run_in_two


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_neighbouring_patches_are_laid_side_by_side_on_a_smaller_grid():
    tokens = draw(2, 36, 3)
    merged = merge_patches(tokens, 10)  # a 3×3 grid of 2×2 patches each
    grid = tokens.view(2, 6, 6, 3)
    expected = torch.cat([grid[:, 2, 4], grid[:, 2, 5], grid[:, 3, 4], grid[:, 3, 5]], dim=1)
    assert merged.shape == (2, 9, 12)
    torch.testing.assert_close(merged[:, 5], expected)
    assert merge_patches(tokens, 36) is tokens
    parts = manifold_loss([tokens], [draw(2, 36, 5, seed=1)], max_patches=9, sample_weight=0.0, random_weight=0.0)
    a, b = (F.normalize(merge_patches(x, 9), dim=-1) for x in (tokens, draw(2, 36, 5, seed=1)))
    torch.testing.assert_close(parts["patch"], 4 * F.mse_loss(a @ a.mT, b @ b.mT))
    assert parts["sample"] == 0 == parts["random"]


def test_patches_of_the_batch_are_drawn_by_torch_and_their_number_counts():
    tokens, teacher = draw(2, 9, 3), draw(2, 10, 5, seed=1)
    torch.manual_seed(3)
    found = manifold_loss([tokens], [teacher], num_random=4, random_weight=1.5)["random"]
    torch.manual_seed(3)
    chosen = torch.randperm(18)[:4]
    a, b = (F.normalize(x, dim=-1).flatten(0, 1)[chosen] for x in (tokens, teacher[:, 1:]))
    torch.testing.assert_close(found, 1.5 * F.mse_loss(a @ a.T, b @ b.T))


def test_patches_that_are_laid_together_need_not_be_as_many():
    """4×4 patches on 2×2, those of the teacher with a class token; and what the loss makes of them."""
    settings = {"student_blocks": ["a"], "teacher_blocks": ["b"], "max_patches": 4, "num_random": 3}
    loss = ManifoldLoss(**settings, random_weight=0.0, sample_weight=2.0)
    loss.build(Networks({"a": FeatureSpec((3, 4, 4), "maps")}, {"b": FeatureSpec((5, 6), "tokens", 1)}, 5))
    maps, blocks = draw(2, 3, 4, 4), draw(2, 5, 6, seed=1)
    found = loss({"a": maps}, {"b": blocks}, Batch())
    merged = F.normalize(merge_patches(maps.flatten(2).mT, 4), dim=-1), F.normalize(blocks[:, 1:], dim=-1)
    own, their = (x.transpose(0, 1) @ x.transpose(0, 1).mT for x in merged)
    torch.testing.assert_close(found["sample"], 2 * F.mse_loss(own, their))
    torch.testing.assert_close(found["patch"], 4 * F.mse_loss(*(x @ x.mT for x in merged)))
    assert found["random"] == 0


def test_channels_are_compared_as_distributions_over_places():
    student, teacher = draw(2, 3, 2, 2), draw(2, 3, 4, 4, seed=1)
    resized = F.interpolate(student, (4, 4), mode="bilinear", align_corners=False)
    total = 0.0
    for image in range(2):
        for channel in range(3):
            p, q = ((x[image, channel].flatten() / 2.5).softmax(0) for x in (teacher, resized))
            total += (p * (p / q).log()).sum()
    torch.testing.assert_close(channel_wise_loss(student, teacher, temperature=2.5), 2.5**2 * total / (2 * 3))


def test_regions_have_a_grid():
    student, teacher = draw(2, 3, 6, 6), draw(2, 5, 8, 8, seed=1)
    similarities = []
    for maps, size in ((student, 3), (teacher, 4)):
        vectors = F.normalize(F.avg_pool2d(maps, size).flatten(2), dim=1)
        similarities.append(torch.einsum("bci,bcj->bij", vectors, vectors))
    torch.testing.assert_close(region_level_loss(student, teacher, grid=2), F.mse_loss(*similarities))


def test_copies_of_a_sample_are_not_each_others_negatives():
    images, texts = draw(4, 6), F.normalize(draw(4, 6, seed=1), dim=-1)
    ids = torch.tensor([7, 8, 7, 9])
    scores = F.normalize(images, dim=-1) @ texts.T / 0.3
    rows = []
    for row in range(4):
        others = [c for c in range(4) if c == row or ids[c] != ids[row]]
        rows.append([s[row, others].logsumexp(0) - scores[row, row] for s in (scores, scores.T)])
    found = text_alignment_loss(images, texts, temperature=0.3, ids=ids)
    torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64).mean())
    assert found != text_alignment_loss(images, texts, temperature=0.3)


def test_the_linear_head_has_no_bias_and_weights_are_drawn_as_published():
    head = TextProjection(400, 300, kind="linear", norm=False)
    assert [type(layer) for layer in head] == [nn.Linear] and head[0].bias is None
    assert head[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    mlp = TextProjection(400, 300)
    assert mlp[0].bias is None and mlp[3].weight.std().item() == pytest.approx(1 / 32, rel=0.02)
    assert TextProjection(400, 300, init_std=0.5)[3].weight.std().item() == pytest.approx(0.5, rel=0.02)


def test_the_sparse_reading_of_a_label_map_is_that_of_the_dense_one():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.uniform(1, 9, (1, 2, 4, 6)))
    classes = torch.from_numpy(rng.permuted(np.tile(np.arange(5), (24, 1)), axis=1)[:, :2].T.reshape(1, 2, 4, 6))
    # The left half, from row 1 to row 3, in whole cells: the mean over the cells that half-cell shifts interpolate.
    dense = dense_label_map(scores, classes, 5)
    found = pooled_logits(scores, classes, [[0.25, 0.0, 0.75, 0.5]], 5)
    torch.testing.assert_close(found, dense[:, :, 1:3, 0:3].mean((2, 3)))
    square = scores[..., :4], classes[..., :4]
    exchanged = pooled_logits(*(part.mT for part in square), [[0.25, 0.0, 0.75, 0.5]], 5, axis_order="published")
    torch.testing.assert_close(exchanged, pooled_logits(*square, [[0.25, 0.0, 0.75, 0.5]], 5))
    # The official loader takes the cells of the last axis, six, for the side of both: columns 1 to 4, "rows" 0 to 3.
    official = pooled_logits(scores, classes, [[1 / 6, 0.0, 4 / 6, 0.5]], 5, axis_order="published")
    torch.testing.assert_close(official, dense[:, :, 0:3, 1:4].mean((2, 3)))
    used = classes[0].unique()
    sparse = pooled_targets(scores[:, :1], classes[:, :1] * 0 + 3, [[0, 0, 1, 1]], 5, missing="excluded")
    torch.testing.assert_close(sparse, F.one_hot(torch.tensor([3]), 5).double())
    warm = pooled_targets(scores, classes, [[0.25, 0.0, 0.75, 0.5]], 5, temperature=3.0)
    torch.testing.assert_close(warm, (found / 3).softmax(1))
    assert len(used) == 5


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_only_classes_that_a_map_stores_nowhere_are_excluded(temperature):
    """Of five classes the map stores three: 3 with the score 0, 1 with 2, and 4 outside the crop alone."""
    scores = torch.tensor([[[[0.0, 5.0]], [[2.0, 2.0]]]], dtype=torch.float64)
    classes = torch.tensor([[[[3, 4]], [[1, 1]]]])
    left = [[0.0, 0.0, 1.0, 0.5]]
    weights = [math.exp(logit / temperature) for logit in (2.0, 0.0, 0.0)]
    shares = [weight / sum(weights) for weight in weights]
    found = pooled_targets(scores, classes, left, 5, missing="excluded", temperature=temperature)
    assert found[0].tolist() == pytest.approx([0, shares[0], 0, shares[1], shares[2]], abs=1e-12)
    # As published all five have their part.
    weights += [1.0, 1.0]
    shares = [weight / sum(weights) for weight in weights]
    found = pooled_targets(scores, classes, left, 5, temperature=temperature)
    assert found[0].tolist() == pytest.approx([shares[1], shares[0], shares[1], shares[1], shares[1]], abs=1e-12)


def test_a_crop_of_less_than_a_cell_is_read_as_one():
    scores = torch.arange(16.0).view(1, 1, 4, 4)
    found = pooled_logits(scores, torch.zeros(1, 1, 4, 4, dtype=torch.long), [(0.5, 0.25, 0.501, 0.251)], 2)
    assert found.tolist() == [[scores[0, 0, 2, 1], 0]]  # from 1.5 and 0.5 cells on


def test_a_crop_between_cells_is_read_between_them():
    """Where the logit of a cell is the number of its row, a crop's is the mean row of its points: of [1.2, 3.2) cells,
    moved by half a cell, those at 1.2 and 2.2."""
    scores = torch.arange(4.0)[None, None, :, None].expand(1, 1, 4, 4).contiguous()
    found = pooled_logits(scores, torch.zeros(1, 1, 4, 4, dtype=torch.long), [(0.3, 0.25, 0.8, 0.75)], 2)
    assert found.tolist() == [[pytest.approx(1.7), 0]]


def test_soft_labels_are_mixed_by_the_area_of_the_box():
    pixels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
    targets = F.one_hot(torch.arange(4), 6).double()
    shares = []
    for seed in range(10):
        mixed, probabilities = cutmix(pixels, targets, np.random.default_rng(seed), alpha=1.0, smoothing=0.3)
        for number in range(4):
            share = (mixed[number] == number).double().mean()
            partner = mixed[number][mixed[number] != number]
            expected = share * targets[number]
            if len(partner):
                expected = expected + (1 - share) * targets[int(partner[0])]
            torch.testing.assert_close(probabilities[number], 0.7 * expected + 0.05)
            shares.append(share.item())
    assert min(shares) < 0.6


def test_heads_are_new_copies_of_the_stages_that_follow():
    def stage(channels, out, stride):
        first, second = nn.Conv2d(channels, out, 3, stride, 1), nn.Conv2d(out, out, 3, 1, 1)
        return nn.Sequential(first, second)

    stages = [stage(3, 4, 1), stage(4, 6, 2), stage(6, 8, 2)]
    finish = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())
    heads = JointHeads(remaining_stages(stages), 8, 5, finish=finish)
    features, hidden = [], torch.randn(2, 3, 8, 8, requires_grad=True)
    pixels = hidden
    for part in stages:
        hidden = part(hidden)
        features.append(hidden)
    joint, pooled = heads(features)
    assert [tuple(j.shape) for j in joint] == [(2, 20)] * 3 and [tuple(p.shape) for p in pooled] == [(2, 8)] * 3
    assert [len(extractor) for extractor in heads.extractors] == [2, 1, 1]
    last = heads.extractors[2][0]
    assert [layer.stride for layer in last] == [(1, 1)] * 2 and [layer.in_channels for layer in last] == [8, 8]
    copied = heads.extractors[0][1][0].weight
    assert copied.shape == stages[2][0].weight.shape and not torch.equal(copied, stages[2][0].weight)
    heads(features, detach=True)[0][0].sum().backward(retain_graph=True)
    assert pixels.grad is None and heads.classifiers[0].weight.grad is not None
    joint[0].sum().backward()
    assert pixels.grad is not None
    light = JointHeads(light_extractors([4, 6, 8]), 8, 5, transforms=3)
    assert [tuple(j.shape) for j in light(features)[0]] == [(2, 15)] * 3
    with pytest.raises(ValueError, match="has no second block"):
        same_width(nn.Conv2d(3, 3, 1))


def test_what_a_head_copies_begins_anew_with_blocks_as_the_second_is():
    learned = nn.BatchNorm2d(8)
    with torch.no_grad():
        learned.weight.fill_(5.0)
        learned.running_mean.fill_(3.0)
    heads = JointHeads(light_extractors([4, 8]), 8, 5, finish=nn.Sequential(learned, nn.ReLU()))
    for finish in heads.finish:
        assert finish[0].weight.eq(1).all() and not finish[0].running_mean.any()
    assert learned.weight.eq(5).all(), "the network's own stays"
    mixed = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 5, 1, 2))
    assert [layer.kernel_size for layer in same_width(mixed)] == [(3, 3), (3, 3), (5, 5)]
    assert [layer.stride for layer in same_width(mixed)] == [(1, 1)] * 3


def test_convolutions_of_new_heads_are_drawn_by_what_they_give():
    """He's rule over the 9 · 64 numbers that a channel goes to, whatever it comes from."""
    specs = [FeatureSpec((4, 8, 8), "maps"), FeatureSpec((64, 4, 4), "maps")]
    heads = layered._new_heads("light", nn.Identity(), specs, 5)
    for convolution in (module for module in heads.modules() if isinstance(module, nn.Conv2d)):
        assert convolution.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


def test_as_many_patches_are_drawn_as_are_asked_for(monkeypatch):
    given = []
    monkeypatch.setattr(manifold, "manifold_loss", lambda *_, **options: given.append(options) or {})
    options = {"sample_weight": 0.5, "patch_weight": 3.0, "random_weight": 0.7, "num_random": 5, "max_patches": 16}
    loss = ManifoldLoss(student_blocks=["a"], teacher_blocks=["b"], **options)
    loss.build(Networks({"a": FeatureSpec((3, 4, 4), "maps")}, {"b": FeatureSpec((17, 6), "tokens", 1)}, 5))
    loss({"a": draw(2, 3, 4, 4)}, {"b": draw(2, 17, 6)}, Batch())
    assert given == [options]


def test_the_deepest_head_teaches_the_others_and_does_not_move():
    joint = [draw(4, 12, seed=n).requires_grad_() for n in range(3)]
    features = [draw(4, 5, seed=n + 5).requires_grad_() for n in range(3)]
    parts = layered_loss(joint, features, temperature=2.0)
    expected = sum(kl_divergence_loss(joint[n], joint[2], 2.0) for n in range(2))
    torch.testing.assert_close(parts["divergence"], expected)
    torch.testing.assert_close(parts["features"], sum(((features[n] - features[2]) ** 2).mean() for n in range(2)))
    sum(parts.values()).backward()
    assert joint[2].grad is None and features[2].grad is None and joint[0].grad is not None


def test_the_losses_are_zero_where_both_are_equal_and_leave_the_teacher_alone():
    maps, tokens, logits = draw(2, 3, 7, 7), draw(2, 9, 4), draw(5, 6)
    for loss, value in (
        (channel_wise_loss, maps),
        (image_level_loss, maps),
        (lambda a, b: region_level_loss(a, b, grid=3), maps),
        (lambda a, b: sum(manifold_loss([a], [b]).values()), tokens),
        (lambda a, b: token_distillation_loss(a, b, kind="soft", temperature=2.0), logits),
    ):
        student, teacher = value.clone().requires_grad_(), value.clone().requires_grad_()
        found = loss(student, teacher)
        found.backward()
        assert abs(found.item()) < 1e-12 and teacher.grad is None
        assert loss(value, value.flip(0)) > 1e-4
        assert loss(value.bfloat16(), value.flip(0).bfloat16()).dtype == torch.float32
    assert math.isfinite(pixel_level_loss(maps.bfloat16(), maps).item())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: manifold_loss([draw(2, 4, 3)], []), "teacher_tokens: got 0 layers for the student's 1"),
        (lambda: merge_patches(draw(1, 36, 2), 16), "36 patches cannot be laid together on 4×4"),
        (lambda: token_distillation_loss(draw(2, 3), draw(2, 3), kind="warm"), "kind: got 'warm'"),
        (lambda: channel_wise_loss(draw(1, 2, 3, 3), draw(1, 3, 3, 3)), r"teacher_maps: got shape \(1, 3, 3, 3\)"),
        (lambda: region_level_loss(draw(1, 2, 3, 3), draw(1, 2, 3, 3), grid=0), "grid: got 0"),
        (lambda: pixel_level_loss(draw(1, 2, 3, 3), draw(1, 2, 4, 3)), "teacher_logits: got shape"),
        (lambda: text_alignment_loss(draw(2, 3), draw(2, 3), kind="cos"), "kind: got 'cos', accepted are clip"),
        (lambda: text_alignment_loss(draw(2, 3), draw(2, 3), temperature=0.0), "temperature: got 0.0"),
        (lambda: text_alignment_loss(draw(2, 3), draw(2, 4)), "text_embeddings: got shape"),
        (lambda: TextProjection(2, 2, kind="deep"), "projection: got 'deep'"),
        (lambda: rotated(draw(1, 3, 4, 5)), "accepted are square images"),
        (lambda: rotated(draw(2, 3, 4, 4, 4)), r"pixels: got shape \(2, 3, 4, 4, 4\), accepted are square images"),
        (lambda: joint_label_loss(draw(8, 3), [draw(8, 9)], torch.tensor([0, 1])), r"expected \(8, 12\)"),
        (lambda: layered_loss([draw(4, 8)], [draw(4, 3)]), "got 1 heads and 1 features"),
        (
            lambda: pooled_logits(draw(1, 1, 2, 2), torch.full((1, 1, 2, 2), 9), [[0, 0, 1, 1]], 9),
            "9 is none of the 9",
        ),
        (
            lambda: pooled_logits(draw(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), [[0, 0, 1, 1]], 9, axis_order="xy"),
            "axis_order: got 'xy'",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_inverse_divergence_of_language_models_goes_from_the_student_to_the_teacher():
    student, teacher = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3, 7)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    found = language_distillation_losses(student, teacher, mask, temperature=2.0, inverse=True)["kl"]
    p, q = (student / 2).softmax(-1), (teacher / 2).softmax(-1)
    expected = 4 * ((p * (p.log() - q.log())).sum(-1) * mask).sum() / 3
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (found, expected)))


def test_the_codebook_loss_moves_latents_fully_and_codes_by_the_commitment():
    latents, quantized = torch.randn(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    loss = codebook_loss(latents, quantized, 0.7)
    torch.testing.assert_close(loss, 1.7 * (latents - quantized).square().mean())
    of_latents, of_codes = torch.autograd.grad(loss, (latents, quantized))
    torch.testing.assert_close(of_codes, -0.7 * of_latents)
    passed = straight_through(latents, quantized)
    torch.testing.assert_close(passed, quantized)
    of_latents = torch.autograd.grad(passed.sum(), latents)[0]
    assert torch.equal(of_latents, torch.ones(2, 4))


def _gathered_gradient(expected: torch.Tensor, loss_of_all: float) -> None:
    """Of 5 rows the first process has 2 and the other one 3; the trainer takes the mean of the gradients, weighed by
    the shares of the rows."""
    rank = torch.distributed.get_rank()
    own = slice(0, 2) if rank == 0 else slice(2, 5)
    images, texts, ids = draw(5, 4), F.normalize(draw(5, 4, seed=1), dim=-1), torch.tensor([7, 8, 7, 9, 9])
    for true_gradient, factor in ((True, 1.0), (False, 0.5)):
        rows = images[own].clone().requires_grad_()
        gathered = gather_rows(rows, true_gradient=true_gradient), gather_rows(texts[own])
        loss = text_alignment_loss(*gathered, temperature=0.3, ids=gather_rows(ids[own]))
        assert abs(loss.item() - loss_of_all) < 1e-12
        # Of each process the loss counts by its share of the rows (true) or as a mean over processes (published).
        (loss * (len(rows) / 5 if true_gradient else 0.5)).backward()
        torch.testing.assert_close(rows.grad, factor * expected[own])


def test_texts_are_aligned_over_all_processes_by_the_true_gradient_or_the_published_one():
    images, texts, ids = draw(5, 4), F.normalize(draw(5, 4, seed=1), dim=-1), torch.tensor([7, 8, 7, 9, 9])
    images.requires_grad_()
    loss = text_alignment_loss(images, texts, temperature=0.3, ids=ids)
    loss.backward()
    run_in_two(_gathered_gradient, images.grad.clone(), loss.item())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "siglip"}, "^kind: got 'siglip', accepted are clip, ctr, byol.$"),
        ({"text_mixup": "cut"}, "^text_mixup: got 'cut', accepted are none, mix.$"),
    ],
)
def test_kinds_of_alignment_that_there_are_not_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TextAlignmentLoss(**options)


def test_a_loss_of_ones_own_says_what_it_computes():
    with pytest.raises(NotImplementedError):
        DistillationLoss()({}, {}, None)


def test_a_soft_token_loss_is_the_mean_over_batch_and_classes_and_torch_warns_of_nothing():
    student, teacher = draw(3, 5), draw(3, 5, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = token_distillation_loss(student, teacher, kind="soft", temperature=2.0)
    p, q = ((logits / 2).softmax(1) for logits in (teacher, student))
    torch.testing.assert_close(found, 4 * (p * (p / q).log()).sum() / 15)
