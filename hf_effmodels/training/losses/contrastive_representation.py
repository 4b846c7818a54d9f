"""Contrastive representation distillation (https://arxiv.org/abs/1910.10699)."""

import math

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from .checks import check_share, check_temperature, exact
from .interface import POOLED, DistillationLoss, Networks

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
        """The loss; afterwards the memories have moved.

        Args:
            student_features, teacher_features: (batch, width); no gradient flows into the teacher's.
            index: number of each sample in the training set, (batch,).
            negatives: numbers of K samples of other classes for each, (batch, K).
        """
        student, teacher = self.embed(student_features, teacher_features)
        loss = self.contrast(student, teacher, index, negatives)
        self.move(index, student, teacher)
        return loss

    def embed(
        self, student_features: torch.Tensor, teacher_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors (batch, embed_dim) of both."""
        student = F.normalize(exact(self.embed_student(student_features.flatten(1))), dim=1)
        return student, F.normalize(exact(self.embed_teacher(teacher_features.detach().flatten(1))), dim=1)

    def contrast(
        self, student: torch.Tensor, teacher: torch.Tensor, index: torch.Tensor, negatives: torch.Tensor
    ) -> torch.Tensor:
        """The loss of what `embed` gives; the memories stay as they are."""
        chosen = torch.cat([index[:, None], negatives], dim=1)
        # Each network's embedding against the memory of the other one's.
        of_teacher = self._scores(self.student_memory, teacher, chosen)
        of_student = self._scores(self.teacher_memory, student, chosen)
        self._set_normalizers(of_student, of_teacher)
        return self._estimate(of_student, 0) + self._estimate(of_teacher, 1)

    @torch.no_grad()
    def move(self, index: torch.Tensor, student: torch.Tensor, teacher: torch.Tensor) -> None:
        """Take the embeddings of samples into the memories."""
        for memory, embedding in ((self.student_memory, student), (self.teacher_memory, teacher)):
            moved = self.momentum * memory[index] + (1 - self.momentum) * embedding.detach().to(memory.dtype)
            memory[index] = F.normalize(moved, dim=1)

    def _scores(self, memory: torch.Tensor, embedding: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        rows = memory[chosen].detach()
        return ((rows @ embedding.to(rows.dtype)[:, :, None])[..., 0] / self.temperature).exp()

    @torch.no_grad()
    def _set_normalizers(self, *scores: torch.Tensor) -> None:
        """Of the first batch, that of all processes together; a process without samples of its own (in evaluation
        mode) does not count."""
        if self.normalizers[0] >= 0:
            return
        counts = [float(self.training) * values.numel() for values in scores]
        sums = [float(self.training) * values.double().sum() for values in scores]
        totals = torch.stack([torch.as_tensor(v, device=scores[0].device).double() for v in (*sums, *counts)])
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(totals)
        self.normalizers.copy_(totals[:2] / totals[2:].clamp(min=1) * len(self.student_memory))

    def _estimate(self, scores: torch.Tensor, which: int) -> torch.Tensor:
        """Noise-contrastive estimation with the positive in column 0."""
        scores = scores / self.normalizers[which].clone()
        noise = (scores.shape[1] - 1) / len(self.student_memory)
        positive = (scores[:, 0] / (scores[:, 0] + noise + _EPS)).log()
        negative = (noise / (scores[:, 1:] + noise + _EPS)).log()
        return -(positive.sum() + negative.sum()) / len(scores)


class OtherClasses:
    """Draws samples of other classes than a given one, with replacement.

    Args:
        labels: class of each training sample, (samples,).
    """

    def __init__(self, labels: np.ndarray):
        self.labels = np.asarray(labels)
        self.order = np.argsort(self.labels, kind="stable")
        classes, starts, counts = np.unique(self.labels[self.order], return_index=True, return_counts=True)
        if len(classes) < 2:
            raise ValueError("labels: got samples of one class, accepted are those of two and more.")
        self._place = {int(name): (int(s), int(c)) for name, s, c in zip(classes, starts, counts, strict=True)}

    def draw(self, index: int, count: int, seed: int) -> np.ndarray:
        """Numbers of `count` samples for sample `index`; they depend on `seed` alone."""
        start, own = self._place[int(self.labels[index])]
        drawn = np.random.default_rng([seed, 0x637264]).integers(len(self.order) - own, size=count)
        return self.order[drawn + own * (drawn >= start)]


class CrdLoss(DistillationLoss):
    """`ContrastiveRepresentationLoss` of the pooled features: contrast with a memory of the whole training set.

    It needs a training set with numbers and classes of all samples. The memories move after each step of the
    optimizer, by the samples of all processes, so that they are the same in each; so a step may be divided as one
    likes (but the two normalisers are those of the first batch).

    Args:
        num_negatives: K, samples of other classes that each one is compared with.
        embed_dim: width of the embeddings.
        temperature: of the scores.
        momentum: of the memories.
        weight: see `DistillationLoss`.
    """

    name = "crd"
    needs_index = True
    shared_buffers = ("contrast.student_memory", "contrast.teacher_memory", "contrast.normalizers")

    def __init__(
        self,
        num_negatives: int = 16384,
        embed_dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        check_share("momentum", momentum)
        for name, value in (("num_negatives", num_negatives), ("embed_dim", embed_dim)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, accepted are whole numbers from 1.")
        self.num_negatives = num_negatives
        self.settings = {"embed_dim": embed_dim, "temperature": temperature, "momentum": momentum}
        self._moves: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def build(self, networks: Networks) -> None:
        if networks.labels is None:
            raise ValueError("it needs the classes of all training samples, which this training set does not tell.")
        self.others = OtherClasses(networks.labels.cpu().numpy())
        widths = networks.student[POOLED].channels, networks.teacher[POOLED].channels
        self.contrast = ContrastiveRepresentationLoss(*widths, len(networks.labels), **self.settings)

    def forward(self, student, teacher, batch):
        index = batch.index
        negatives = [
            self.others.draw(number, self.num_negatives, seed)
            for number, seed in zip(index.tolist(), batch.seeds.tolist(), strict=True)
        ]
        negatives = torch.from_numpy(np.stack(negatives)).to(index.device)
        embeddings = self.contrast.embed(student[POOLED], teacher[POOLED])
        if self.training:  # not so where a process that has no samples left repeats one
            self._moves.append((index, *(embedding.detach() for embedding in embeddings)))
        return self.contrast.contrast(*embeddings, index, negatives)

    def end_step(self) -> None:
        own = [torch.cat(column) for column in zip(*self._moves, strict=True)] if self._moves else None
        self._moves = []
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            everyone = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, own and [tensor.cpu() for tensor in own])
            device = self.contrast.student_memory.device
            own = [torch.cat(column).to(device) for column in zip(*filter(None, everyone), strict=True)]
        if own:
            self.contrast.move(*own)
