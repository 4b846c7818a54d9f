"""Generators, statistics of batch norms, and the losses at values that no published case has."""

import pytest
import torch
from torch import nn

from hf_effmodels.training.data_free import DataFreeGenerator, generator_from_official, statistics_gap, watched_gaps
from hf_effmodels.training.losses.data_free import disagreement, head_losses, soft_head_losses


def parameters(*arguments, **options) -> float:
    with torch.device("meta"):
        return sum(p.numel() for p in DataFreeGenerator(*arguments, **options).parameters()) / 1e6


def test_generators_have_the_published_sizes_and_make_such_images():
    assert parameters("small", 32) == pytest.approx(2.3, abs=0.06)
    assert parameters("large", 128) == pytest.approx(11.2, abs=0.06)
    assert parameters("large_normalized", 224) == pytest.approx(28.6, abs=0.06)
    noise = torch.randn(6, 9)
    bounded = DataFreeGenerator("large", 32, latent_size=9, num_channels=1)(noise)
    assert bounded.shape == (6, 1, 32, 32) and bounded.abs().max() <= 1
    normalised = DataFreeGenerator("large_normalized", 16, latent_size=9)(noise)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tiny"}, "generator: got 'tiny', accepted are small, large"),
        ({"image_size": 30}, "image_size: got 30, accepted with generator small are multiples of 4"),
        ({"kind": "large", "image_size": 8}, "multiples of 16"),
        ({"latent_size": 0}, "latent_size: got 0"),
    ],
)
def test_generators_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataFreeGenerator(**options)


def test_what_is_no_official_generator_is_refused():
    with pytest.raises(ValueError, match="layout of a generator"):
        generator_from_official({"fc.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gaps_are_those_of_each_batch_norm_and_the_first_counts_as_often_as_it_is_told(layout):
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        teacher[3].running_mean.normal_()
        teacher[3].running_var.uniform_(0.5, 2)
    images = (2 * torch.randn(5, 3, 6, 6) + 1).contiguous(memory_format=layout).requires_grad_()
    with watched_gaps(teacher) as gaps:
        teacher(images)
    expected = []
    for norm, values in ((teacher[0], images), (teacher[3], teacher[:3](images))):
        flat = values.transpose(0, 1).flatten(1)
        variance = flat.square().mean(1) - flat.mean(1).square()
        expected.append(
            ((norm.running_var - variance) ** 2).sum() ** 0.5 + ((norm.running_mean - flat.mean(1)) ** 2).sum() ** 0.5
        )
    torch.testing.assert_close(torch.stack(gaps), torch.stack(expected))
    whole, by_hand = statistics_gap(gaps, 3.0), 3 * expected[0] + expected[1]
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(*(torch.autograd.grad(2 * gap, images)[0] for gap in (whole, by_hand)))
    teacher(images)
    assert len(gaps) == 2, "it goes on watching"


def test_a_teacher_without_batch_norms_is_refused():
    with pytest.raises(ValueError, match="Linear has no batch norm"), watched_gaps(nn.Linear(2, 2)):
        pass


def test_losses_of_two_heads_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, -1.0]]])
    teacher = torch.tensor([[[0.0, 4.0], [1.0, -1.0]]])
    features = torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]]]), torch.zeros(1, 2, 3)
    losses = head_losses(student, teacher, *features)
    assert losses["heads"] == pytest.approx((1 + 2 + 1 + 0) / 4)
    assert losses["ensemble"] == pytest.approx((abs(0.5 - 0.5) + abs(0.5 - 1.5)) / 2)
    assert losses["features"] == pytest.approx((3 + 2) / 2)
    assert disagreement(student[:, 0], teacher[:, 0], 4) == pytest.approx(-1.5 / 4)
    soft = soft_head_losses(student, teacher)
    expected = teacher.softmax(-1), student.softmax(-1)
    by_hand = (expected[0] * (expected[0] / expected[1]).log()).sum(-1)
    assert soft["heads"] == pytest.approx(by_hand.mean().item(), rel=1e-5)
    means = teacher.mean(1).softmax(-1), student.mean(1).softmax(-1)
    assert soft["ensemble"] == pytest.approx((means[0] * (means[0] / means[1]).log()).sum().item(), rel=1e-5)
    with pytest.raises(ValueError, match="student_features: got shape"):
        head_losses(student, teacher, features[0], torch.zeros(1, 2, 4))
