"""A student in training beside its teacher, with and without what a distillation adds to the two."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from ..training.data.stored_labels import IDS, PROBABILITIES, SEED, SETTINGS_FILE, StoredLabels
from ..training.data.stored_tables import TableWriter
from ..training.losses.interface import LOGITS, POOLED, Networks
from ..training.losses.registry import make_losses
from ..training.tasks.distillation.model import DistillationModel
from ..training.tasks.distillation.taps import Taps, dry_run, example_input
from ..training.tasks.distillation.teacher import make_teacher
from .workloads import LABELS

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
        self.classes = min(LABELS, student.config.num_labels)
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
        labels = torch.arange(len(pixels)) % self.classes
        return self.distilled(pixels, {"teacher": teacher, "labels": labels, "epochs": 1.0})


class DistilledByStored(nn.Module):
    """In a training step: what a teacher has said of the batch is read from a table, and the student learns by KD.

    Args:
        student: a classifier.
        rows, top_k: of the table.
    """

    def __init__(self, student: nn.Module, rows: int = 512, top_k: int = 10):
        super().__init__()
        self.classes = min(LABELS, student.config.num_labels)
        made, classes = make_losses({"kd": {}}), student.config.num_labels
        taps = Taps(student, dry_run(student, example_input(student)), [POOLED])
        self.distilled = DistillationModel(student, made, taps)
        self._folder = tempfile.TemporaryDirectory()
        self._labels = _stored(Path(self._folder.name, "labels"), classes, rows, min(top_k, classes))
        self.rows = rows

    def forward(self, pixels: torch.Tensor):
        if not self.training:
            return self.distilled(pixels)
        numbers = torch.arange(len(pixels)) % self.rows
        known = {LOGITS: self._labels.logits(0, numbers, numbers).to(pixels.device)}
        return self.distilled(pixels, {"teacher": known, "labels": numbers % self.classes, "epochs": 1.0})


def _stored(folder: Path, classes: int, rows: int, top_k: int) -> StoredLabels:
    """As `hf-effmodels prepare soft-labels` writes them, with float16 probabilities."""
    import pyarrow as pa

    settings = {"classes": [str(number) for number in range(classes)], "samples": rows, "epochs": 1}
    table = TableWriter(folder, rows, rows, settings, SETTINGS_FILE)
    kept = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)).softmax(1).topk(top_k)
    ids, values = kept.indices.numpy().astype(np.int32), kept.values.numpy().astype(np.float16)
    for name in table.missing():
        columns = {SEED: pa.array(np.arange(rows))}
        for column, found in ((IDS, ids), (PROBABILITIES, values)):
            columns[column] = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), top_k)
        table.write(name, columns)
    return StoredLabels(table.finish(), cache_dir=str(folder.parent / "cache"))
