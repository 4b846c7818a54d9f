"""The losses that a recipe can name, on the logits of student and teacher."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial

import torch

from ...losses.adaptive_confidence import adaptive_confidence_loss, auxiliary_confidence_loss
from ...losses.decoupled import decoupled_loss
from ...losses.dist import dist_loss
from ...losses.kl_divergence import binary_soft_target_loss, kl_divergence_loss
from ...losses.soft_targets import soft_target_loss

#: name -> function of the student's and the teacher's logits (batch, classes); some take labels, or the epoch.
LOSSES: Mapping[str, Callable] = {
    "kd": kl_divergence_loss,
    "soft_targets": soft_target_loss,
    "bkd": binary_soft_target_loss,
    "dkd": decoupled_loss,
    "dist": dist_loss,
    "adaptconf": adaptive_confidence_loss,
    "augconf": auxiliary_confidence_loss,
}
#: Those that consist of two parts, logged each: the teacher's and the student's own.
IN_PARTS = ("adaptconf", "augconf")
_GIVEN = frozenset({"student_logits", "teacher_logits", "labels", "epoch", "epochs"})


def read_losses(asked_for: Mapping) -> dict[str, tuple[Callable, float]]:
    """For each name of `--losses` its function with the settings bound, and its weight.

    Raises:
        ValueError: an unknown loss or setting, or a value that the loss refuses.
    """
    read = {}
    for name, settings in asked_for.items():
        if name not in LOSSES:
            raise ValueError(f"--losses: got {name!r}, accepted are {', '.join(LOSSES)}.")
        settings = dict(settings or {})
        weight = settings.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"--losses: {name}: weight: got {weight!r}, accepted are numbers from 0.")
        accepted = inspect.signature(LOSSES[name]).parameters.keys() - _GIVEN
        for key, value in settings.items():
            if key not in accepted:
                known = ", ".join(sorted({*accepted, "weight"}))
                raise ValueError(f"--losses: {name} takes no {key!r}, accepted are {known}.")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"--losses: {name}: {key}: got {value!r}, accepted are numbers.")
        read[name] = partial(LOSSES[name], **settings), float(weight)
        _try_out(name, read[name][0])
    return read


def call(loss: Callable, student: torch.Tensor, teacher: torch.Tensor, labels, epoch: float, epochs: float):
    """A loss of `read_losses` with those of the arguments that it takes."""
    given = {"labels": labels, "epoch": epoch, "epochs": epochs}
    taken = inspect.signature(loss).parameters
    return loss(student, teacher, **{name: value for name, value in given.items() if name in taken})


def _try_out(name: str, loss: Callable) -> None:
    try:
        call(loss, torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0, 1]), 0.0, 1.0)
    except ValueError as error:
        raise ValueError(f"--losses: {name}: {error}") from None
