"""Distillation losses beyond the settings of the parity cases: where they vanish, what they leave alone, options."""

import math

import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.training.losses.adaptive_confidence import (
    adaptive_confidence_loss,
    auxiliary_confidence_loss,
    ramp,
    student_confidence,
)
from hf_effmodels.training.losses.codebook import codebook_loss
from hf_effmodels.training.losses.contrastive_domain import contrastive_domain_discrepancy
from hf_effmodels.training.losses.contrastive_representation import ContrastiveRepresentationLoss
from hf_effmodels.training.losses.data_free import disagreement, head_losses, soft_head_losses
from hf_effmodels.training.losses.decoupled import decoupled_loss
from hf_effmodels.training.losses.dist import dist_loss
from hf_effmodels.training.losses.feature_correlation import FeatureCorrelationLoss
from hf_effmodels.training.losses.kl_divergence import binary_soft_target_loss, kl_divergence_loss, per_sample_kl
from hf_effmodels.training.losses.knowledge_review import KnowledgeReviewLoss, context_loss
from hf_effmodels.training.losses.label_maps import pooled_targets
from hf_effmodels.training.losses.mask_distillation import dice_loss, focal_loss, full_stage_distillation_loss
from hf_effmodels.training.losses.relational import relational_loss
from hf_effmodels.training.losses.soft_targets import soft_target_loss
from hf_effmodels.training.losses.stored_soft_labels import stored_soft_label_loss

LABELS = torch.tensor([0, 3, 1, 4, 4, 2])
OF_LOGITS = {
    "kd": kl_divergence_loss,
    "soft": soft_target_loss,
    "bkd": binary_soft_target_loss,
    "dkd": lambda s, t, **o: decoupled_loss(s, t, LABELS, **o),
    "dist": dist_loss,
    "rkd": relational_loss,
    "adaptconf": lambda s, t: sum(adaptive_confidence_loss(s, t).values()),
    "augconf": lambda s, t: sum(auxiliary_confidence_loss(s, t).values()),
}


def logits(seed: int, dtype=torch.float64) -> torch.Tensor:
    return 3 * torch.randn(6, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "rkd"])
def test_equal_networks_have_nothing_to_learn(name):
    student = logits(0).requires_grad_()
    loss = OF_LOGITS[name](student, logits(0))
    loss.backward()
    # DIST keeps classes that hardly occur from dividing by zero.
    assert loss.item() == pytest.approx(0, abs=1e-4 if name == "dist" else 1e-9)
    assert student.grad.abs().max() < (1e-4 if name == "dist" else 1e-6)
    assert OF_LOGITS[name](student, logits(1)) > 0.01


@pytest.mark.parametrize("name", OF_LOGITS)
def test_the_teacher_gets_no_gradient_and_half_precision_is_computed_in_single(name):
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    OF_LOGITS[name](student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0
    low = OF_LOGITS[name](logits(0).bfloat16(), logits(1).bfloat16())
    rounded = OF_LOGITS[name](logits(0).bfloat16().float(), logits(1).bfloat16().float())
    assert low.dtype == torch.float32 and torch.equal(low, rounded)
    extreme = torch.tensor([[3e4, -3e4, 0, 0, 0]] * 6)
    assert OF_LOGITS[name](extreme, extreme.flip(1)).isfinite()


MASKS = torch.tensor([True, False, True, True, False]).expand(6, 6, 5)
MAP = torch.arange(5).expand(6, 6, 5)
#: Two of (6, 6, 5), of features, of logits of masks or of heads -> what is learned from.
OF_PAIRS = {
    "review": lambda s, t: context_loss(s[:, None], t[:, None]),
    "cc": lambda s, t: correlation().to(s.dtype)(s.flatten(1), t.flatten(1)),
    "codebook": codebook_loss,
    "domains": lambda s, t: contrastive_domain_discrepancy([(s.flatten(1), t.flatten(1))], [2, 4], 3)["loss"],
    "heads": lambda s, t: sum(head_losses(s, t, s, t).values()),
    "soft heads": lambda s, t: sum(soft_head_losses(s, t).values()),
    "generator": lambda s, t: disagreement(s[:, 0], t[:, 0], 3),
    "label map": lambda s, t: pooled_targets(s.abs()[:, None], MAP[:, None], [[0.1, 0.2, 0.7, 0.8]] * 6, 9),
    "stored": lambda s, t: stored_soft_label_loss(s[:, 0], MAP[:, 0, :2], torch.tensor([[0.5, 0.25]] * 6).to(t)),
    "masks": lambda s, t: full_stage_distillation_loss(s, t, s.mT, t.mT, s, t, MASKS),
    "focal": lambda s, t: focal_loss(s, MASKS).sum() + focal_loss(t, MASKS).sum(),
    "dice": lambda s, t: dice_loss(s, MASKS).sum() + dice_loss(t, MASKS).sum(),
}


def correlation() -> FeatureCorrelationLoss:
    """Whose embeddings pick values out: half precision holds them exactly."""
    loss = FeatureCorrelationLoss(30, 30, embed_dim=8, scale=1.0)
    for layer in (loss.embed_student, loss.embed_teacher):
        layer.weight.data = torch.eye(8, 30)
        layer.bias.data.zero_()
    return loss


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_small_differences_of_half_precision_count_as_in_double(name, dtype):
    """Of what a network in half precision, or with its layers cast to it, gives to a loss."""
    generator = torch.Generator().manual_seed(6)
    student = torch.randn(6, 6, 5, generator=generator).to(dtype)
    teacher = (student + 0.01 * torch.randn(6, 6, 5, generator=generator)).to(dtype)
    found = OF_PAIRS[name](student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), OF_PAIRS[name](student.double(), teacher.double()), rtol=1e-4, atol=1e-6
    )


def test_a_temperature_softens_both_and_keeps_the_size_of_the_gradient():
    student, teacher = logits(0), logits(1)
    p, q = (teacher / 5).softmax(1), (student / 5).softmax(1)
    expected = 25 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(per_sample_kl(student, teacher, 5.0), expected)
    torch.testing.assert_close(kl_divergence_loss(student, teacher, 5.0), expected.mean())


def test_targets_and_the_other_classes_are_told_apart():
    student, teacher = logits(0), logits(1)
    for options, part in (({"alpha": 3.0, "beta": 0.0}, "target"), ({"alpha": 0.0, "beta": 0.5}, "others")):
        total = 0.0
        for row in range(6):
            y = LABELS[row]
            p, q = ((z[row] / 2).softmax(0) for z in (teacher, student))
            if part == "target":
                p, q = (torch.stack([v[y], 1 - v[y]]) for v in (p, q))
            else:
                p, q = (torch.cat([v[:y], v[y + 1 :]]) / (1 - v[y]) for v in (p, q))
            total += (p * (p / q).log()).sum()
        weight = 3.0 if part == "target" else 0.5
        found = decoupled_loss(student, teacher, LABELS, temperature=2.0, **options)
        torch.testing.assert_close(found, 4 * weight * total / 6)
    dense = 0.6 * F.one_hot(LABELS, 5) + 0.4 * F.one_hot((LABELS + 1) % 5, 5)
    assert decoupled_loss(student, teacher, dense) == decoupled_loss(student, teacher, LABELS)


def test_correlations_are_pearsons_of_rows_and_of_columns():
    student, teacher = logits(0), logits(1)
    p, q = ((z / 3).softmax(1) for z in (student, teacher))
    rows = sum(1 - torch.corrcoef(torch.stack([p[i], q[i]]))[0, 1] for i in range(6)) / 6
    columns = sum(1 - torch.corrcoef(torch.stack([p[:, i], q[:, i]]))[0, 1] for i in range(5)) / 5
    found = dist_loss(student, teacher, beta=0.7, gamma=1.9, temperature=3.0)
    torch.testing.assert_close(found, 9 * (0.7 * rows + 1.9 * columns), rtol=1e-6, atol=0)


def test_relations_are_distances_and_angles_of_the_batch():
    student, teacher = logits(0), torch.randn(6, 9, dtype=torch.float64)

    def distances(x, power):
        d = torch.cdist(x, x) ** power
        return d / d[d > 0].mean()

    for squared, power in ((False, 1), (True, 2)):
        expected = 2.0 * F.smooth_l1_loss(distances(student, power), distances(teacher, power))
        found = relational_loss(student, teacher, distance_weight=2.0, angle_weight=0.0, squared=squared)
        torch.testing.assert_close(found, expected)
    total = 0.0
    for a in range(6):
        for b in range(6):
            for c in range(6):
                cosines = [
                    0.0 if a in (b, c) else F.cosine_similarity(x[b] - x[a], x[c] - x[a], dim=0)
                    for x in (student, teacher)
                ]
                total += F.smooth_l1_loss(*(torch.as_tensor(c, dtype=torch.float64) for c in cosines))
    found = relational_loss(student, teacher, distance_weight=0.0, angle_weight=3.0)
    torch.testing.assert_close(found, 3 * total / 216)


def test_confidence_is_half_where_both_agree_and_less_the_surer_the_student_is_of_something_else():
    student = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [6.0, 0, 0]])
    teacher = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 0]])
    expected = [0.5, 1 / (1 + math.exp(2 / 0.8)), 1 / (1 + math.exp(6 / 0.8))]
    assert student_confidence(student, teacher, tau=0.8).tolist() == pytest.approx(expected)


def test_weights_grow_over_the_first_epochs():
    assert [ramp(epoch, 20, 0.25) for epoch in (0, 1, 4.5, 5, 19)] == pytest.approx([0, 0.2, 0.9, 1, 1])
    assert ramp(7, 25, 0.3) == 1, "cut off at whole epochs, as published"
    assert ramp(0, 0, 0.25) == 1
    student, teacher = logits(0), logits(1)
    kd, own = kl_divergence_loss(student, teacher, 2.0), F.cross_entropy(student, student.argmax(1))
    parts = auxiliary_confidence_loss(student, teacher, alpha=0.8, temperature=2.0, epoch=1, epochs=10, warmup=0.4)
    torch.testing.assert_close((parts["teacher"], parts["own"]), (0.8 * kd, 0.2 * own))
    beta = 0.5 * student_confidence(student, teacher, 0.7)
    parts = adaptive_confidence_loss(student, teacher, tau=0.7, temperature=3.0, epoch=2, epochs=10, warmup=0.4)
    expected = ((1 - beta) * per_sample_kl(student, teacher, 3.0)).mean()
    own = (beta * F.cross_entropy(student, student.argmax(1), reduction="none")).mean()
    torch.testing.assert_close((parts["teacher"], parts["own"]), (expected, own))


def test_embeddings_of_neighbours_are_correlated():
    torch.manual_seed(0)
    module = FeatureCorrelationLoss(4, 7, embed_dim=3, scale=0.5)
    student, teacher = torch.randn(3, 4), torch.randn(3, 7)
    delta = (module.embed_student(student) - module.embed_teacher(teacher)).abs()
    expected = 0.5 * ((delta[0] * delta[1]).sum() + (delta[1] * delta[2]).sum()) / 2
    torch.testing.assert_close(module(student, teacher), expected)


def test_memories_move_by_their_momentum_and_are_saved_with_their_normalisers():
    torch.manual_seed(0)
    module = ContrastiveRepresentationLoss(4, 7, 9, embed_dim=3, temperature=0.5, momentum=0.9)
    before = module.student_memory.clone(), module.teacher_memory.clone()
    index, negatives = torch.tensor([2, 5]), torch.tensor([[0, 1, 3], [6, 7, 8]])
    student, teacher = torch.randn(2, 4), torch.randn(2, 7)
    loss = module(student, teacher, index, negatives)
    s, t = F.normalize(module.embed_student(student), dim=1), F.normalize(module.embed_teacher(teacher), dim=1)
    expected = 0.0
    for embedding, memory in ((s, before[1]), (t, before[0])):
        scores = torch.stack(
            [
                (memory[[int(i), *n.tolist()]] @ e / 0.5).exp()
                for i, n, e in zip(index, negatives, embedding, strict=True)
            ]
        )
        scores = scores / (9 * scores.mean())
        for row in scores:
            terms = [row[0] / (row[0] + 3 / 9), *((3 / 9) / (other + 3 / 9) for other in row[1:])]
            expected = expected - sum(term.log() for term in terms) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        module.student_memory[index], F.normalize(0.9 * before[0][index] + 0.1 * s.detach(), dim=1)
    )
    untouched = [0, 1, 3, 4, 6, 7, 8]
    assert torch.equal(module.teacher_memory[untouched], before[1][untouched])
    fixed = module.normalizers.clone()
    module(student + 1, teacher, index, negatives)
    assert torch.equal(module.normalizers, fixed) and (fixed > 0).all()
    assert {"student_memory", "teacher_memory", "normalizers"} <= module.state_dict().keys()


def test_context_is_compared_at_the_sizes_that_are_smaller():
    student, teacher = torch.randn(2, 3, 3, 3), torch.randn(2, 3, 3, 3)
    expected = F.mse_loss(student, teacher)
    for side, weight in ((2, 0.5), (1, 0.25)):
        expected = expected + weight * F.mse_loss(
            F.adaptive_avg_pool2d(student, side), F.adaptive_avg_pool2d(teacher, side)
        )
    torch.testing.assert_close(context_loss(student, teacher), expected / 1.75)


def test_a_student_with_maps_of_other_sizes_is_resized_to_the_teachers():
    module = KnowledgeReviewLoss([4, 6, 6], [5, 8, 8], [1, 4, 8], student_sizes=[1, 2, 4], mid_channels=3).eval()
    student = [torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2), torch.randn(2, 6)]
    teacher = [torch.randn(2, 5, 8, 8), torch.randn(2, 8, 4, 4), torch.randn(2, 8)]
    assert module(student, teacher).isfinite()
    assert module.fusions[0].gates is None and module.fusions[0].reduce[0].out_channels == 3


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kl_divergence_loss(logits(0), logits(1)[:, :4]), "teacher_logits: got shape"),
        (lambda: kl_divergence_loss(logits(0), logits(1), 0.0), "temperature: got 0.0, accepted are positive"),
        (lambda: dist_loss(logits(0), logits(1), temperature=-1.0), "temperature: got -1.0"),
        (lambda: decoupled_loss(logits(0)[:, :1], logits(1)[:, :1], LABELS * 0), "got 1 class, accepted are 2"),
        (lambda: student_confidence(logits(0), logits(1), tau=0.0), "tau: got 0.0"),
        (lambda: auxiliary_confidence_loss(logits(0), logits(1), alpha=1.5), "alpha: got 1.5"),
        (lambda: relational_loss(logits(0)[:1], logits(1)[:1]), "accepted are as many, at least 2"),
        (lambda: FeatureCorrelationLoss(5, 5)(logits(0)[:1], logits(1)[:1]), "got 1 sample"),
        (lambda: ContrastiveRepresentationLoss(4, 4, 1), "num_samples: got 1"),
        (lambda: KnowledgeReviewLoss([4, 4], [4, 4], [1]), "sizes: got 2 widths"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
