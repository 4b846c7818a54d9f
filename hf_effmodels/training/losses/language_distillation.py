"""Distillation of a language model token by token (Minitron, https://arxiv.org/abs/2407.14679, section 3)."""

import torch
from torch.nn import functional as F

from .checks import check_temperature


def language_distillation_losses(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor,
    temperature: float = 1.0,
    student_states: torch.Tensor | None = None,
    teacher_states: torch.Tensor | None = None,
    inverse: bool = False,
) -> dict[str, torch.Tensor]:
    r"""The divergence of the student from the teacher, and of hidden states where they are given.

    KL(teacher ‖ student) at temperature T, times T², and the mean square error of the states over their channels, each
    the mean over the tokens that count. The total is KL + α · MSE with α = KL / MSE, which has no gradient: both weigh
    the same.

    Args:
        student_logits, teacher_logits: (batch, tokens, vocabulary); no gradient flows into the teacher's.
        mask: (batch, tokens), 1 where a token counts.
        temperature: T, above 0.
        student_states, teacher_states: (batch, tokens, width), projected to the same width.
        inverse: KL(student ‖ teacher) instead, as an option of DeLVM (https://arxiv.org/abs/2402.04841) has it.

    Returns:
        `kl` and `total`; with states `intermediate` and `alpha`.

    Raises:
        ValueError: other shapes, no token that counts, or states of one of the two only.
    """
    check_temperature(temperature)
    if student_logits.shape != teacher_logits.shape or student_logits.shape[:2] != mask.shape:
        raise ValueError(
            f"student_logits, teacher_logits, mask: got the shapes {tuple(student_logits.shape)}, "
            f"{tuple(teacher_logits.shape)} and {tuple(mask.shape)}, expected (batch, tokens, vocabulary) twice and "
            "(batch, tokens)."
        )
    if not mask.any():
        raise ValueError("mask: no token counts.")
    weights = mask.to(torch.promote_types(student_logits.dtype, torch.float32))
    weights = weights / weights.sum()
    found = (student_logits.to(weights.dtype) / temperature).log_softmax(-1)
    expected = (teacher_logits.detach().to(weights.dtype) / temperature).log_softmax(-1)
    found, expected = (expected, found) if inverse else (found, expected)
    divergence = F.kl_div(found, expected, reduction="none", log_target=True).sum(-1)
    losses = {"kl": temperature**2 * (divergence * weights).sum()}
    losses["total"] = losses["kl"]
    if (student_states is None) != (teacher_states is None):
        raise ValueError("student_states, teacher_states: give both or none.")
    if student_states is not None:
        if student_states.shape != teacher_states.shape or student_states.shape[:2] != mask.shape:
            shapes = f"{tuple(student_states.shape)} and {tuple(teacher_states.shape)}"
            raise ValueError(
                f"student_states, teacher_states: got the shapes {shapes}, expected the same, as the mask."
            )
        errors = (student_states.to(weights.dtype) - teacher_states.detach().to(weights.dtype)).square().mean(-1)
        losses["intermediate"] = (errors * weights).sum()
        losses["alpha"] = (losses["kl"] / losses["intermediate"]).detach()
        losses["total"] = losses["kl"] + losses["alpha"] * losses["intermediate"]
    return losses
