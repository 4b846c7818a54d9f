"""The first stage of Entropic Student (https://arxiv.org/abs/2108.11898): a code of few bits imitates a network's
features."""

import torch
from torch import nn

from .checks import exact
from .interface import DistillationLoss, Networks

#: Of a coded classifier what the decoder is given (the code, rounded or with noise), and its numbers' likelihoods.
_CODE, _LIKELIHOODS = "bottleneck.decoder:input", "bottleneck.likelihoods"
RESNET_STAGES = tuple(f"resnet.encoder.stages.{number}" for number in range(4))


def squared_error(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Squared differences, summed up over all of an image; the mean over the batch.

    Args:
        student, teacher: (batch, ...) of one shape; no gradient flows into the teacher's.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"teacher: got shape {tuple(teacher.shape)}, accepted is the student's {tuple(student.shape)}."
        )
    return (exact(student) - exact(teacher).detach()).square().sum() / len(student)


class CodedFeaturesLoss(DistillationLoss):
    """`squared_error` of features at the cut and behind it, β times the bits of an image, and what moves the ends of
    the prior's tables (only they learn by it, and nothing else learns them).

    The published sums go over the batch, too; the means over it lead Adam the same way.

    Args:
        features: modules of the teacher whose outputs are imitated: the one that the code is in the place of
            (published: and the ends of all further stages). By default those of transformers' ResNets.
        beta: factor of the bits (published: 0.01 to 5.12).
        weight: see `DistillationLoss`.
    """

    name = "coded_features"
    parts = ("error", "bits", "quantiles")

    def __init__(self, features: list[str] = RESNET_STAGES, beta: float = 0.16, weight: float = 1.0):
        super().__init__(weight)
        self.features = tuple(features)
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"features: got {list(features)}, accepted are names of different modules, 1 and more.")
        if isinstance(beta, bool) or not 0 <= beta < float("inf"):
            raise ValueError(f"beta: got {beta!r}, accepted are numbers from 0.")
        self.beta = float(beta)
        self._coded: tuple[nn.Module, ...] = ()  # not a child: the student has its parameters already

    def student_features(self):
        return (*(f"network.{path}" for path in self.features), _CODE, _LIKELIHOODS)

    def teacher_features(self):
        return self.features

    def build(self, networks: Networks) -> None:
        model = networks.model
        if not hasattr(model, "bottleneck") or model.code_is_fixed:
            raise ValueError("features: they are of a student whose code learns; --codec says where it is.")
        for path in self.features:
            ours, theirs = networks.student[f"network.{path}"], networks.teacher[path]
            if ours.shape != theirs.shape:
                raise ValueError(
                    f"features: {path} gives {ours.shape} and the teacher's {theirs.shape}; accepted are the same."
                )
        self._coded = (model,)

    def forward(self, student, teacher, batch):
        error = sum(squared_error(student[f"network.{path}"], teacher[path]) for path in self.features)
        code = student[_CODE]
        prior = self._coded[0].bottleneck.prior(code.shape[1])
        bits = -exact(student[_LIKELIHOODS]).log2().sum() / len(code)
        return {"error": error, "bits": self.beta * bits, "quantiles": prior.auxiliary_loss()}
