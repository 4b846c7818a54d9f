"""A student in training beside its teacher, with and without what a distillation adds to the two."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from ..training.losses.interface import POOLED, Networks
from ..training.losses.registry import make_losses
from ..training.tasks.distillation.model import DistillationModel
from ..training.tasks.distillation.taps import Taps, dry_run, example_input
from ..training.tasks.distillation.teacher import make_teacher

#: The teacher: ViT-S/16 with random weights, for as many pixels as the student takes.
_TEACHER = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 12}


class Distilled(nn.Module):
    """In a training step: the teacher runs, then the student learns by these losses; without any, by the task alone.

    Args:
        student: a classifier.
        losses: their names in recipes.
    """

    def __init__(self, student: nn.Module, losses: Sequence[str]):
        super().__init__()
        config, pixels = student.config, example_input(student)
        vit = ViTConfig(
            **_TEACHER, image_size=pixels.shape[-1], num_channels=pixels.shape[1], num_labels=config.num_labels
        )
        vit.id2label, vit.label2id = config.id2label, config.label2id
        self._teacher = [make_teacher(ViTForImageClassification(vit), None, student, None)]  # in a list: no sub-module
        made = make_losses({name: {} for name in losses})
        needed = [POOLED, *(name for loss in made.values() for name in loss.student_features())]
        taps = Taps(student, dry_run(student, pixels), needed)
        self._teacher[0].tap(self._teacher[0].try_out(pixels), [POOLED], None, "teacher")
        for loss in made.values():
            loss.build(Networks(taps.specs, self._teacher[0].specs, config.num_labels))
        self.distilled, self.losses = DistillationModel(student, made, taps), tuple(losses)

    def forward(self, pixels: torch.Tensor):
        teacher = self._teacher[0](pixels)
        if not self.losses:
            return self.distilled(pixels)
        labels = torch.arange(len(pixels)) % 10
        return self.distilled(pixels, {"teacher": teacher, "labels": labels, "epochs": 1.0})
