"""Self-distillation with labels of class and rotation at once, on heads after every stage.

HSAKD (https://arxiv.org/abs/2107.13715) is the published code behind them; LSSKD (https://arxiv.org/abs/2506.07055)
has one network teach itself, for which no code was published.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .checks import exact
from .kl_divergence import kl_divergence_loss

#: Rotations of an image: by 0, 90, 180 and 270 degrees.
ROTATIONS = 4


def rotated(pixels: torch.Tensor) -> torch.Tensor:
    """Each square image (batch, channels, side, side) at 0, 90, 180 and 270 degrees, counter-clockwise, then the next:
    (4 · batch, channels, side, side)."""
    if pixels.ndim != 4 or pixels.shape[2] != pixels.shape[3]:
        raise ValueError(
            f"pixels: got shape {tuple(pixels.shape)}, accepted are square images (batch, channels, side, side): "
            "others change their shape when they are turned."
        )
    return torch.stack([torch.rot90(pixels, turns, (2, 3)) for turns in range(ROTATIONS)], dim=1).flatten(0, 1)


def joint_labels(labels: torch.Tensor, transforms: int = ROTATIONS) -> torch.Tensor:
    """transforms · class + number of the transform, (transforms · batch,), of classes (batch,)."""
    return (transforms * labels[:, None] + torch.arange(transforms, device=labels.device)).flatten()


def class_logits(logits: torch.Tensor, transforms: int = ROTATIONS) -> torch.Tensor:
    """What a head for joint labels (batch, transforms · classes) says of the classes: the sum of the logits."""
    return logits.unflatten(1, (-1, transforms)).sum(2)


def joint_label_loss(
    logits: torch.Tensor, joint_logits: Sequence[torch.Tensor], labels: torch.Tensor, transforms: int = ROTATIONS
) -> dict[str, torch.Tensor]:
    """Learning from labels: `task`, the cross entropy of the plain head on what was not transformed, and `joint`, that
    of all heads for joint labels on everything. Their sum is the loss.

    Args:
        logits: of the plain head, (transforms · batch, classes).
        joint_logits: of each further head, (transforms · batch, transforms · classes).
        labels: classes, (batch,).
    """
    _check(logits, joint_logits, len(labels), transforms)
    joint = joint_labels(labels, transforms)
    return {
        "task": F.cross_entropy(exact(logits[::transforms]), labels),
        "joint": sum(F.cross_entropy(exact(head), joint) for head in joint_logits),
    }


def joint_teacher_loss(
    logits: torch.Tensor,
    joint_logits: Sequence[torch.Tensor],
    teacher_logits: torch.Tensor,
    teacher_joint_logits: Sequence[torch.Tensor],
    *,
    temperature: float = 3.0,
) -> torch.Tensor:
    """Head by head the divergence from a teacher with the same heads, that of the plain ones included; `transforms` of
    each image take part. Between two networks that learn at once it is taken both ways (HSAKD, section 3.4).

    Args:
        logits, joint_logits: see `joint_label_loss`.
        teacher_logits, teacher_joint_logits: the same of the teacher; no gradient flows into them.
        temperature: T, above 0.
    """
    pairs = zip([logits, *joint_logits], [teacher_logits, *teacher_joint_logits], strict=True)
    return sum(kl_divergence_loss(student, teacher, temperature) for student, teacher in pairs)


def layered_loss(
    joint_logits: Sequence[torch.Tensor], features: Sequence[torch.Tensor], *, temperature: float = 3.0
) -> dict[str, torch.Tensor]:
    """LSSKD's part that needs no teacher: the deepest head teaches the others, `divergence`, and their pooled features
    are drawn to its, `features`, a mean squared difference. The deepest one is constant in both.

    The paper's text was not at hand: the form is read from its abstract, weights (1 and 0.01) are ours.

    Args:
        joint_logits: of the heads, from shallow to deep.
        features: what each head's classifier gets, (batch, width).
        temperature: T, above 0.
    """
    if len(joint_logits) < 2 or len(features) != len(joint_logits):
        raise ValueError(
            f"joint_logits: got {len(joint_logits)} heads and {len(features)} features, accepted are as many, 2 and "
            "more."
        )
    divergences = [kl_divergence_loss(head, joint_logits[-1], temperature) for head in joint_logits[:-1]]
    deepest = exact(features[-1]).detach()
    return {
        "divergence": sum(divergences),
        "features": sum(F.mse_loss(exact(own), deepest) for own in features[:-1]),
    }


def _check(logits: torch.Tensor, joint_logits: Sequence[torch.Tensor], batch: int, transforms: int) -> None:
    expected = (transforms * batch, transforms * logits.shape[1])
    for head in joint_logits:
        if tuple(head.shape) != expected or len(logits) != expected[0]:
            raise ValueError(
                f"joint_logits: got shape {tuple(head.shape)} beside logits {tuple(logits.shape)}, expected "
                f"{expected} for {batch} labels and {transforms} transforms."
            )
