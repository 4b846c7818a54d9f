"""Correlation congruence (https://arxiv.org/abs/1904.01802) in RepDistiller's form, which VanillaKD compares with."""

import torch
from torch import nn

from .checks import exact
from .interface import POOLED, DistillationLoss, Networks


class FeatureCorrelationLoss(nn.Module):
    """CC: 0.02 · mean_i Σ_d δ_i · δ_{i+1} with δ the absolute difference of two learnt embeddings, over neighbours in
    the batch.

    Both embeddings are trained, the teacher's too, so that they can agree on little. This is what the code does; the
    paper compares matrices of correlations.

    Args:
        student_dim, teacher_dim: widths of the pooled features.
        embed_dim: width of the embeddings.
        scale: factor of the loss.
    """

    def __init__(self, student_dim: int, teacher_dim: int, *, embed_dim: int = 128, scale: float = 0.02):
        super().__init__()
        self.scale = scale
        self.embed_student = nn.Linear(student_dim, embed_dim)
        self.embed_teacher = nn.Linear(teacher_dim, embed_dim)

    def forward(self, student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
        """Features (batch, width), a batch of two at least; no gradient flows into the teacher's."""
        if len(student_features) < 2:
            raise ValueError(f"student_features: got {len(student_features)} sample, accepted are 2 and more.")
        student = self.embed_student(student_features.flatten(1))
        teacher = self.embed_teacher(teacher_features.detach().flatten(1))
        difference = (exact(student) - exact(teacher)).abs()
        return self.scale * (difference[:-1] * difference[1:]).sum(1).mean()


class CorrelationLoss(DistillationLoss):
    """`FeatureCorrelationLoss` of the pooled features, over neighbours in the batch of a process.

    Args:
        embed_dim: width of the embeddings.
        scale: factor of the loss.
        weight: see `DistillationLoss`.
    """

    name = "cc"

    def __init__(self, embed_dim: int = 128, scale: float = 0.02, weight: float = 1.0):
        super().__init__(weight)
        if embed_dim < 1:
            raise ValueError(f"embed_dim: got {embed_dim}, accepted are whole numbers from 1.")
        self.settings = {"embed_dim": embed_dim, "scale": scale}

    def build(self, networks: Networks) -> None:
        widths = networks.student[POOLED].channels, networks.teacher[POOLED].channels
        self.correlation = FeatureCorrelationLoss(*widths, **self.settings)

    def forward(self, student, teacher, batch):
        return self.correlation(student[POOLED], teacher[POOLED])
