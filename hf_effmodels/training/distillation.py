"""Distillation by hand: the trainer, teachers, taps and every loss.

```py
trainer = DistillationTrainer(
    model=student, teacher=teacher, losses=[OfaLoss(eps=1.5), KdLoss(temperature=1)], args=args, train_dataset=data
)
```
"""

from .losses.interface import Batch, DistillationLoss, FeatureSpec, Networks, as_maps, as_tokens
from .losses.registry import losses_by_name, make_losses
from .tasks.distillation.coded import CodedTrainer
from .tasks.distillation.model import DistillationModel
from .tasks.distillation.taps import stage_taps
from .tasks.distillation.teacher import Teacher, Teachers, load_teacher, make_teacher
from .tasks.distillation.trainer import DistillationTrainer, DistillationTrainingArguments

# Each loss under the name of its class: KdLoss, OfaLoss, FitNetLoss, ...
_LOSSES = {loss.__name__: loss for loss in losses_by_name().values()}
globals().update(_LOSSES)

__all__ = [
    "Batch",
    "CodedTrainer",
    "DistillationLoss",
    "DistillationModel",
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "FeatureSpec",
    "Networks",
    "Teacher",
    "Teachers",
    "as_maps",
    "as_tokens",
    "load_teacher",
    "losses_by_name",
    "make_losses",
    "make_teacher",
    "stage_taps",
    *sorted(_LOSSES),
]
