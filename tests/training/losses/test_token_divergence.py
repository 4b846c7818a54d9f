"""Divergences of predictions against sums by hand."""

import pytest
import torch

from hf_effmodels.training.losses.language_distillation import language_distillation_losses
from hf_effmodels.training.losses.token_divergence import token_divergence

GENERATOR = torch.Generator().manual_seed(4)
STUDENT, TEACHER = (2 * torch.randn(3, 4, 9, generator=GENERATOR, dtype=torch.float64) for _ in range(2))


def by_hand(kind, temperature, top_k, beta):
    result = torch.zeros(3, 4, dtype=torch.float64)
    for i, j in [(i, j) for i in range(3) for j in range(4)]:
        chosen = TEACHER[i, j].argsort(descending=True)[:top_k]
        q, p = (torch.exp(x[i, j, chosen] / temperature) for x in (STUDENT, TEACHER))
        p, q = p / p.sum(), q / q.sum()
        m = beta * p + (1 - beta) * q
        value = {
            "forward": (p * (p / q).log()).sum(),
            "reverse": (q * (q / p).log()).sum(),
            "jsd": beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum(),
        }[kind]
        result[i, j] = temperature**2 * value
    return result


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("temperature, top_k, beta", [(1.0, None, 0.5), (2.5, 4, 0.2)])
def test_divergences_are_their_formulas(kind, temperature, top_k, beta):
    student = STUDENT.clone().requires_grad_()
    found = token_divergence(student, TEACHER.requires_grad_(), kind, temperature, top_k, beta)
    torch.testing.assert_close(found, by_hand(kind, temperature, top_k, beta))
    found.sum().backward()
    assert student.grad.abs().sum() > 0 and TEACHER.grad is None
    torch.testing.assert_close(token_divergence(STUDENT, STUDENT, kind), torch.zeros(3, 4, dtype=torch.float64))


def test_forward_is_what_minitron_has():
    mask = torch.tensor([[1, 0, 1, 1]] * 3)
    expected = language_distillation_losses(STUDENT, TEACHER, mask, 1.7)["kl"]
    torch.testing.assert_close(token_divergence(STUDENT, TEACHER, temperature=1.7)[mask.bool()].mean(), expected)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"kind": "kl"}, "divergence: got 'kl'"),
        ({"top_k": 1}, "top_k: got 1"),
        ({"beta": 0.0}, "beta: got 0.0"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_other_settings_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        token_divergence(STUDENT, TEACHER, **options)
