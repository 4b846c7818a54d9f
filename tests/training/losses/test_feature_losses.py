"""Losses on features beyond the settings of the parity cases: options by their formulas, other shapes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.training.losses.contrastive_representation import (
    ContrastiveRepresentationLoss,
    CrdLoss,
    OtherClasses,
)
from hf_effmodels.training.losses.fitnet import FitNetLoss, hint_loss
from hf_effmodels.training.losses.interface import Batch, DistillationLoss, FeatureSpec, Networks
from hf_effmodels.training.losses.knowledge_review import ReviewKdLoss
from hf_effmodels.training.losses.ofa import OfaLoss, PatchMerging, map_branch, ofa_loss, token_branch
from hf_effmodels.training.losses.registry import losses_by_name, make_losses, settings_of

LABELS = torch.tensor([0, 3, 1, 4, 4, 2])


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def vector(width: int) -> FeatureSpec:
    return FeatureSpec((width,), "vector")


def test_the_power_enhances_the_target_alone_in_the_papers_form():
    student, teacher = logits(0), logits(1)
    p, log_q = (teacher / 2).softmax(1), (student / 2).log_softmax(1)
    expected, published = 0.0, 0.0
    for row, y in enumerate(LABELS):
        for c in range(5):
            expected -= ((1 + p[row, c]) ** 1.7 if c == y else p[row, c]) * log_q[row, c] / 6
            published -= ((1 + p[row, c]) ** 1.7 - 1 if c == y else p[row, c] ** 1.7) * log_q[row, c] / 6
    options = {"eps": 1.7, "temperature": 2.0}
    torch.testing.assert_close(ofa_loss(student, teacher, LABELS, non_target_power=False, **options), expected)
    torch.testing.assert_close(ofa_loss(student, teacher, LABELS, **options), published)
    dense = 0.6 * F.one_hot(LABELS, 5) + 0.4 * F.one_hot((LABELS + 1) % 5, 5)
    assert ofa_loss(student, teacher, dense) == ofa_loss(student, teacher, LABELS)


def test_the_enhancement_leaves_the_teacher_alone_and_is_computed_in_single_precision():
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    ofa_loss(student, teacher, LABELS, eps=1.5).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    low = ofa_loss(logits(0).bfloat16(), logits(1).bfloat16(), LABELS)
    assert low.dtype == torch.float32
    extreme = torch.tensor([[3e4, -3e4, 0, 0, 0]] * 6)
    assert ofa_loss(extreme, extreme.flip(1), LABELS, eps=0.5).isfinite()


def test_parts_of_one_for_all_are_weighed_and_each_stage_has_its_own_power():
    torch.manual_seed(0)
    specs = {"pooled": vector(8), "stage2": FeatureSpec((4, 8, 8), "maps"), "stage4": FeatureSpec((8, 2, 2), "maps")}
    loss = OfaLoss(stages=[2, 4], eps=[1.2, 1.4, 0.7], temperature=3.0, kd_weight=0.3, stage_weight=2.0).double()
    loss.build(Networks(specs, {"pooled": vector(12)}, 5))
    loss.double().eval()
    student = {
        "logits": logits(0),
        "stage2": torch.randn(6, 4, 8, 8).double(),
        "stage4": torch.randn(6, 8, 2, 2).double(),
    }
    parts = loss(student, {"logits": logits(1)}, Batch(labels=LABELS))
    expected = 0.3 * ofa_loss(logits(0), logits(1), LABELS, eps=0.7, temperature=3.0)
    torch.testing.assert_close(parts["logits"], expected)
    found = 0.0
    for stage, eps in ((2, 1.2), (4, 1.4)):
        branch = loss.projector[str(stage)](student[f"stage{stage}"])
        found = found + 2 * ofa_loss(branch, logits(1), LABELS, eps=eps, temperature=3.0)
    torch.testing.assert_close(parts["stages"], found)
    assert loss.projector["4"][0].out_channels == 12, "the wider of both"


def test_branches_take_grids_and_widths_that_the_published_ones_refuse():
    torch.manual_seed(0)
    odd = PatchMerging(3, 8, activated=False)
    tokens = torch.randn(2, 9, 3)
    padded = F.pad(tokens.unflatten(1, (3, 3)), (0, 0, 0, 1, 0, 1)).flatten(1, 2)
    torch.testing.assert_close(odd(tokens), odd(padded))
    assert odd(tokens).shape == (2, 4, 8)
    # A 7×7 grid of other channels than the pooled features: nothing is merged, a linear layer brings them there.
    branch = token_branch(FeatureSpec((50, 6), "tokens", 1), 3, 8, 5)
    assert branch(torch.randn(2, 50, 6)).shape == (2, 5)
    assert len(branch[1]) == 1 and branch[3].in_features == 8
    # Two prefix tokens, both of which the head reads; and 16 × 16 patches merged once.
    branch = token_branch(FeatureSpec((258, 8), "tokens", 2), 1, 8, 5)
    assert branch(torch.randn(2, 258, 8)).shape == (2, 5)
    assert branch[3].in_features == 16 and len(branch[0].fn) == 1 and len(branch[1]) == 3
    for stage, units in ((1, 3), (2, 2), (3, 1)):
        layers = map_branch(4, stage, 32, 5)
        assert len(layers) == units + 3 and layers(torch.randn(2, 4, 4, 4)).shape == (2, 5)


def test_maps_with_channels_last_are_tokens_of_a_transformer():
    specs = {"pooled": vector(8), "stage4": FeatureSpec((7, 7, 8), "maps_last")}
    loss = OfaLoss(stages=[4])
    loss.build(Networks(specs, {"pooled": vector(12)}, 5))
    maps = torch.randn(2, 7, 7, 8)
    torch.testing.assert_close(loss.branch_logits(4, maps), loss.projector["4"](maps.flatten(1, 2)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: token_branch(FeatureSpec((197, 6), "tokens", 1), 1, 6, 5), "6 channels, accepted are multiples of 4"),
        (lambda: token_branch(FeatureSpec((12, 8), "tokens", 0, "x"), 1, 8, 5), "x: 12 tokens .* fill no square"),
        (lambda: token_branch(FeatureSpec((197, 6), "tokens", 1, "x"), 1, 8, 5), "x: class tokens have 6 channels"),
        (lambda: ofa_loss(logits(0), logits(1), LABELS, eps=0.0), "eps: got 0.0"),
        (
            lambda: hint_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 3, 3)),
            r"teacher_maps: got shape \(1, 4, 3, 3\)",
        ),
        (lambda: CrdLoss().build(Networks({}, {}, 3)), "it needs the classes of all training samples"),
        (lambda: OtherClasses(np.zeros(4)), "labels: got samples of one class"),
        (lambda: DistillationLoss(weight=-1), "weight: got -1"),
    ],
)
def test_what_a_branch_or_a_loss_cannot_use_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_hints_are_squared_differences_after_projection_and_resizing():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    specs = {"stage1": FeatureSpec((17, 3), "tokens", 1)}, {"stage1": FeatureSpec((8, 8, 5), "maps_last")}
    loss = FitNetLoss(stages=[1])
    loss.build(Networks(*specs, 5))
    weight = loss.projector["1"].weight[:, :, 0, 0]
    projected = torch.einsum("oc,bchw->bohw", weight, student)
    projected = F.interpolate(projected, (8, 8), mode="bilinear")
    tokens = torch.cat([torch.randn(2, 1, 3), student.flatten(2).transpose(1, 2)], dim=1)
    found = loss({"stage1": tokens}, {"stage1": teacher.permute(0, 2, 3, 1).requires_grad_()}, Batch())
    torch.testing.assert_close(found, (projected - teacher).square().mean())


def test_a_review_grows_by_whole_epochs_and_takes_the_teachers_sizes():
    torch.manual_seed(0)
    ours = {
        "stage1:pre": FeatureSpec((4, 8, 8), "maps"),
        "stage2:pre": FeatureSpec((6, 4, 4), "maps"),
        "pooled": vector(6),
    }
    theirs = {
        "stage1:pre": FeatureSpec((5, 16, 16), "maps"),
        "stage2:pre": FeatureSpec((17, 8), "tokens", 1),
        "pooled": vector(8),
    }
    loss = ReviewKdLoss(stages=[1, 2], mid_channels=3, warmup_epochs=4)
    loss.build(Networks(ours, theirs, 5))
    loss.eval()
    student = {n: torch.randn(2, *s.shape) for n, s in ours.items()}
    teacher = {n: torch.randn(2, *s.shape) for n, s in theirs.items()}
    at = [float(loss(student, teacher, Batch(epoch=epoch, epochs=9)).detach()) for epoch in (0.9, 1.0, 2.7, 4, 8)]
    assert at[0] == 0 and at[3] == at[4] > 0
    np.testing.assert_allclose(np.array(at[1:3]) / at[4], [1 / 4, 2 / 4], rtol=1e-5)
    maps = teacher["stage2:pre"][:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    direct = loss.review([*list(student.values())], [teacher["stage1:pre"], maps, teacher["pooled"]])
    assert float(direct.detach()) == pytest.approx(at[4])


def test_negatives_are_of_other_classes_and_depend_on_the_samples_seed_alone():
    labels = np.array([2, 0, 1, 0, 2, 2, 1])
    others = OtherClasses(labels)
    drawn = others.draw(4, 2000, seed=5)
    assert {*drawn} == {1, 2, 3, 6}, "all of the others, and none of its own"
    # So it is for the class that comes first in order, for the one in the middle and for the last.
    assert {*others.draw(1, 2000, seed=5)} == {0, 2, 4, 5, 6} and {*others.draw(6, 2000, seed=5)} == {0, 1, 3, 4, 5}
    np.testing.assert_allclose(np.bincount(drawn, minlength=7)[[1, 2, 3, 6]] / 2000, 0.25, atol=0.05)
    assert np.array_equal(drawn, others.draw(4, 2000, seed=5)) and not np.array_equal(
        drawn, others.draw(4, 2000, seed=6)
    )


def test_memories_move_at_the_end_of_a_step_however_it_is_divided():
    features = [torch.randn(4, 6, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]
    index, seeds = torch.tensor([3, 0, 5, 1]), torch.tensor([7, 8, 9, 10])
    networks = Networks({"pooled": vector(6)}, {"pooled": vector(6)}, 3, torch.tensor([0, 1, 2, 0, 1, 2]))
    moved = []
    for parts in (1, 2):
        torch.manual_seed(0)
        loss = CrdLoss(num_negatives=3, embed_dim=4, momentum=0.25)
        loss.build(networks)
        before = loss.contrast.student_memory.clone()
        for chosen in torch.arange(4).chunk(parts):
            batch = Batch(index=index[chosen], seeds=seeds[chosen])
            loss({"pooled": features[0][chosen]}, {"pooled": features[1][chosen]}, batch)
        assert torch.equal(loss.contrast.student_memory, before)
        embedded = F.normalize(loss.contrast.embed_student(features[0]), dim=1)
        loss.end_step()
        moved.append(loss.contrast.student_memory)
        expected = F.normalize(0.25 * before[index] + 0.75 * embedded, dim=1)
        torch.testing.assert_close(moved[-1][index], expected)
    torch.testing.assert_close(*moved)
    loss.eval()  # a process without samples of its own repeats one, which does not count
    loss({"pooled": features[0]}, {"pooled": features[1]}, Batch(index=index, seeds=seeds))
    loss.end_step()
    assert torch.equal(loss.contrast.student_memory, moved[-1])


def test_contrast_uses_its_temperature():
    torch.manual_seed(0)
    module = ContrastiveRepresentationLoss(4, 4, 9, embed_dim=3, temperature=2.0)
    a, b = torch.randn(2, 4), torch.randn(2, 4)
    index, negatives = torch.tensor([2, 5]), torch.tensor([[0, 1, 3], [6, 7, 8]])
    student, teacher = module.embed(a, b)
    rows = module.teacher_memory[torch.cat([index[:, None], negatives], dim=1)]
    scores = (torch.einsum("bkd,bd->bk", rows, student) / 2.0).exp()
    module.contrast(student, teacher, index, negatives)
    assert module.normalizers[0] == pytest.approx(9 * scores.mean().item(), rel=1e-5)


def test_every_loss_is_found_by_its_name_with_typed_settings():
    names = losses_by_name()
    assert {"kd", "bkd", "dkd", "dist", "rkd", "cc", "crd", "fitnet", "review", "ofa", "adaptconf", "augconf"} <= {
        *names
    }
    for name, loss in names.items():
        assert loss.__doc__ and "weight" in settings_of(loss), name
        made = make_losses({name: {"weight": 0.5}})[name]
        assert made.weight == 0.5
    for stages in (["one"], [1.5], 1):
        with pytest.raises(ValueError, match="stages: got .*, accepted are .*lists of whole numbers"):
            make_losses({"ofa": {"stages": stages}})
