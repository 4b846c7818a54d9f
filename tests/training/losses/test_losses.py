"""Losses are what their formulas say, away from the values at which an option does nothing."""

import numpy as np
import pytest
import torch

from hf_effmodels.training.losses.soft_targets import soft_target_loss
from hf_effmodels.training.losses.token_losses import IGNORED, token_losses


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets_are_at_their_temperature_and_scaled_by_its_square(temperature):
    student, teacher = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    targets = np.exp(log_softmax(teacher.numpy() / temperature))
    expected = -(targets * log_softmax(student.numpy() / temperature)).sum(-1).mean() * temperature**2
    student.requires_grad_()
    teacher.requires_grad_()
    loss = soft_target_loss(student, teacher, temperature)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    # ∂/∂s of T²·(-Σ p log q) / n is T·(q - p) / n, and nothing flows into the teacher.
    gradient = temperature * (np.exp(log_softmax(student.detach().numpy() / temperature)) - targets) / 5
    np.testing.assert_allclose(student.grad, gradient, atol=1e-12)
    assert teacher.grad is None


def test_token_losses_are_sums_over_what_is_predicted_one_place_later():
    logits = torch.randn(3, 6, 11)
    labels = torch.randint(0, 11, (3, 6))
    labels[0, 2:4], labels[2, 1:] = IGNORED, IGNORED
    sums, counts = token_losses(logits, labels)
    assert sums.dtype == counts.dtype == torch.float64
    for row in range(3):
        predicted = [place for place in range(1, 6) if labels[row, place] != IGNORED]
        lines = log_softmax(logits[row].double().numpy())
        expected = -sum(lines[place - 1, int(labels[row, place])] for place in predicted)
        assert sums[row].item() == pytest.approx(expected, rel=1e-5) and counts[row] == len(predicted)
