"""Contrastive representation distillation (https://arxiv.org/abs/1910.10699)."""

import math

import torch
from torch import nn
from torch.nn import functional as F

_EPS = 1e-7


class ContrastiveRepresentationLoss(nn.Module):
    """CRD: each network's embedding of a sample is to be found among K others in the other network's memory.

    Args:
        student_dim, teacher_dim: widths of the pooled features.
        num_samples: size of the training set: both memories have a row for each sample.
        embed_dim: width of the embeddings.
        temperature: of the scores.
        momentum: of the memories.

    The memories and the two normalisers, which the first batch sets once and for all, are buffers: they are saved.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        num_samples: int,
        *,
        embed_dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ):
        super().__init__()
        if num_samples < 2:
            raise ValueError(f"num_samples: got {num_samples}, accepted are whole numbers from 2.")
        self.temperature, self.momentum = temperature, momentum
        self.embed_student = nn.Linear(student_dim, embed_dim)
        self.embed_teacher = nn.Linear(teacher_dim, embed_dim)
        bound = 1 / math.sqrt(embed_dim / 3)
        self.register_buffer("student_memory", torch.empty(num_samples, embed_dim).uniform_(-bound, bound))
        self.register_buffer("teacher_memory", torch.empty(num_samples, embed_dim).uniform_(-bound, bound))
        self.register_buffer("normalizers", torch.full((2,), -1.0))  # student, teacher; negative: not set yet

    def forward(
        self,
        student_features: torch.Tensor,
        teacher_features: torch.Tensor,
        index: torch.Tensor,
        negatives: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            student_features, teacher_features: (batch, width); no gradient flows into the teacher's.
            index: number of each sample in the training set, (batch,).
            negatives: numbers of K samples of other classes for each, (batch, K).
        """
        student = F.normalize(self.embed_student(student_features.flatten(1)), dim=1)
        teacher = F.normalize(self.embed_teacher(teacher_features.detach().flatten(1)), dim=1)
        chosen = torch.cat([index[:, None], negatives], dim=1)
        # Each network's embedding against the memory of the other one's.
        of_teacher = self._scores(self.student_memory, teacher, chosen)
        of_student = self._scores(self.teacher_memory, student, chosen)
        loss = self._contrast(of_student, 0) + self._contrast(of_teacher, 1)
        with torch.no_grad():
            for memory, embedding in ((self.student_memory, student), (self.teacher_memory, teacher)):
                moved = self.momentum * memory[index] + (1 - self.momentum) * embedding.to(memory.dtype)
                memory[index] = F.normalize(moved, dim=1)
        return loss

    def _scores(self, memory: torch.Tensor, embedding: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        rows = memory[chosen].detach()
        return ((rows @ embedding[:, :, None])[..., 0] / self.temperature).exp()

    def _contrast(self, scores: torch.Tensor, which: int) -> torch.Tensor:
        """Noise-contrastive estimation with the positive in column 0."""
        samples = len(self.student_memory)
        if self.normalizers[which] < 0:
            self.normalizers[which] = scores.detach().mean() * samples
        scores = scores / self.normalizers[which].clone()
        noise = (scores.shape[1] - 1) / samples
        positive = (scores[:, 0] / (scores[:, 0] + noise + _EPS)).log()
        negative = (noise / (scores[:, 1:] + noise + _EPS)).log()
        return -(positive.sum() + negative.sum()) / len(scores)
