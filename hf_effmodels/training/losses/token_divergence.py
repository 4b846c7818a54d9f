"""How far a language model's predictions are from another's, token by token."""

import math

import torch

from .checks import check_temperature

#: forward: KL(teacher ‖ student); reverse: KL(student ‖ teacher) (MiniLLM, https://arxiv.org/abs/2306.08543);
#: jsd: the generalised Jensen-Shannon divergence (GKD, https://arxiv.org/abs/2306.13649, section 2).
DIVERGENCES = ("forward", "reverse", "jsd")


def check_divergence(kind: str, temperature: float, top_k: int | None, beta: float) -> None:
    """Raise ValueError for settings of `token_divergence` that are none."""
    if kind not in DIVERGENCES:
        raise ValueError(f"divergence: got {kind!r}, accepted are {', '.join(DIVERGENCES)}.")
    check_temperature(temperature)
    if top_k is not None and top_k < 2:
        raise ValueError(f"top_k: got {top_k}, accepted are whole numbers from 2: one token has nothing to compare.")
    if not 0 < beta < 1:
        raise ValueError(f"beta: got {beta}, accepted are numbers between 0 and 1.")


def token_divergence(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    kind: str = "forward",
    temperature: float = 1.0,
    top_k: int | None = None,
    beta: float = 0.5,
) -> torch.Tensor:
    """T² times the divergence of the predictions at temperature T, for each token; in float32 at least.

    Args:
        student_logits, teacher_logits: (..., vocabulary); no gradient flows into the teacher's.
        kind: one of `DIVERGENCES`. With p the teacher's and q the student's probabilities and m = β p + (1 - β) q, jsd
            is β KL(p ‖ m) + (1 - β) KL(q ‖ m).
        temperature: T, above 0.
        top_k: compare the probabilities of the teacher's k likeliest tokens alone, each renormalised over these; None
            for the whole vocabulary.
        beta: β of jsd.

    Returns:
        (...)

    Raises:
        ValueError: other shapes or settings.
    """
    check_divergence(kind, temperature, top_k, beta)
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits, teacher_logits: got the shapes {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}, expected the same."
        )
    teacher_logits = teacher_logits.detach()
    if top_k is not None and top_k < teacher_logits.shape[-1]:
        teacher_logits, chosen = teacher_logits.topk(top_k, dim=-1)
        student_logits = student_logits.gather(-1, chosen)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = (student_logits.to(dtype) / temperature).log_softmax(-1)
    teacher = (teacher_logits.to(dtype) / temperature).log_softmax(-1)
    if kind == "forward":
        divergence = _kl(teacher, student)
    elif kind == "reverse":
        divergence = _kl(student, teacher)
    else:
        mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        divergence = beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
    return temperature**2 * divergence


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) of log probabilities."""
    return (p.exp() * (p - q)).sum(-1)
