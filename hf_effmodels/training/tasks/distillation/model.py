"""Student and losses as one network: whatever spreads or shards it sees every parameter in one forward pass."""

from collections.abc import Mapping

import torch
from torch import nn
from transformers.utils import ModelOutput

from ...losses.interface import LOGITS, POOLED, Batch, DistillationLoss
from ...losses.joint_labels import ROTATIONS, rotated
from .episodes import INITIAL_SCALE, SCALE_FIELD, CosineHead, Shape, episode_logits
from .taps import Taps, attach, collecting


class DistillationModel(nn.Module):
    """The student, and the losses that it is trained with.

    Without `distillation` a forward pass is the student's. With it the outputs hold `distillation`, too: each loss by
    its name, and those of several parts by `name/part`.

    Args:
        student: an image classifier.
        losses: by name, built.
        taps: of the student's features.
        episodes: where batches are made of some, in training: logits and losses are those of their pictures to tell.
        teacher_scale: of the teacher's cosines.
    """

    #: The Trainer is not to divide the loss by itself.
    accepts_loss_kwargs = False
    main_input_name = "pixel_values"

    def __init__(
        self,
        student: nn.Module,
        losses: Mapping[str, DistillationLoss],
        taps: Taps,
        episodes: Shape | None = None,
        teacher_scale: float = INITIAL_SCALE,
    ):
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(losses)
        self.episodes, self.teacher_scale = None, teacher_scale
        if episodes is not None:
            self.episodes = CosineHead(episodes, getattr(student.config, SCALE_FIELD, INITIAL_SCALE))
        attach(student, taps)
        # Memories are the same in each process, and large: they are not sent around before each pass.
        self._ddp_params_and_buffers_to_ignore = [
            f"losses.{name}.{buffer}" for name, loss in losses.items() for buffer in loss.shared_buffers
        ]

    @property
    def config(self):
        return self.student.config

    @property
    def teacher_rotates(self) -> bool:
        """Whether the teacher is to be shown four rotations, too."""
        return any(loss.rotates and loss.needs_teacher for loss in self.losses.values())

    @property
    def _no_split_modules(self):
        return getattr(self.student, "_no_split_modules", None)

    @property
    def learning_layers(self):
        """`learning_layers()` of a student that numbers its layers: the losses learn as the classifier does."""
        layers = self.student.learning_layers

        def numbered() -> dict[str, int]:
            own = layers()
            names = (name for name, _ in self.losses.named_parameters())
            top = max(own.values())
            return {f"student.{name}": at for name, at in own.items()} | {f"losses.{name}": top for name in names}

        return numbered

    def gradient_checkpointing_enable(self, *args, **kwargs) -> None:
        self.student.gradient_checkpointing_enable(*args, **kwargs)

    def forward(self, pixel_values: torch.Tensor, distillation: Mapping | None = None, **inputs) -> ModelOutput:
        """
        Args:
            pixel_values: (batch, channels, height, width).
            distillation: `teacher`, its features by name (of `joint_labels.rotated` pictures with
                `teacher_rotates`), and the fields of `Batch`.
            inputs: further ones of the student.
        """
        if distillation is None:
            return self.student(pixel_values=pixel_values, **inputs)
        rotates = any(loss.rotates for loss in self.losses.values())
        with collecting() as features:
            outputs = self.student(pixel_values=rotated(pixel_values) if rotates else pixel_values, **inputs)
        features[LOGITS] = outputs["logits"]
        known = dict(distillation)
        teacher = known.pop("teacher")
        every = features, teacher
        if rotates:
            features = {name: feature[::ROTATIONS] for name, feature in features.items()}
            outputs = {"logits": features[LOGITS]}
        if self.teacher_rotates:
            teacher = {name: feature[::ROTATIONS] for name, feature in teacher.items()}
        if self.episodes is not None:
            features[LOGITS] = self.episodes(features[POOLED])
            outputs = {"logits": features[LOGITS]}
            if teacher:
                logits = episode_logits(teacher[POOLED], self.episodes.shape, self.teacher_scale)
                teacher = {**teacher, LOGITS: logits}
        batch = Batch(**known)
        found = {}
        for name, loss in self.losses.items():
            value = loss(*(every if loss.rotates else (features, teacher)), batch)
            found |= {f"{name}/{part}": v for part, v in value.items()} if isinstance(value, dict) else {name: value}
        return ModelOutput(**outputs, distillation=found)
