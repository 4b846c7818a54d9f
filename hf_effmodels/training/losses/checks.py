"""What the distillation losses expect, said in one way."""

import torch


def check_logits(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float32 at least, the teacher's without gradient; ValueError unless they are (batch, classes) alike."""
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"teacher_logits: got shape {tuple(teacher.shape)}, expected the student's {tuple(student.shape)}, "
            "which is (batch, classes)."
        )
    return exact(student), exact(teacher).detach()


def exact(values: torch.Tensor) -> torch.Tensor:
    """In float32 at least: sums of exponentials and of squares lose too much in half precision."""
    return values if values.dtype == torch.float64 else values.float()


def check_temperature(temperature: float, name: str = "temperature") -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{name}: got {temperature}, accepted are positive numbers.")


def hard_labels(labels: torch.Tensor) -> torch.Tensor:
    """(batch,) classes of labels that may be probabilities (batch, classes)."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value}, accepted are numbers from 0 to 1.")
