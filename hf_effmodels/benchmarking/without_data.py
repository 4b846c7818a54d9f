"""Trainings without the data: a turn of student and generator beside its parts, an estimate of the source beside a
pass of the network. Each is a module whose call on a batch does it once."""

import tempfile

import torch
from torch import nn
from transformers import default_data_collator

from ..models import create_image_processor, create_model
from ..training.adaptation import estimate_source, keep_confident, spherical_clusters
from ..training.data_free import DataFreeGenerator
from ..training.linear_head import linear_head, seen_by
from ..training.tasks.data_free_distillation.arguments import DataFreeArguments, DataFreeTrainingArguments
from ..training.tasks.data_free_distillation.teachers import Teacher, input_of
from ..training.tasks.data_free_distillation.trainer import DataFreeTrainer

#: Of whom each student learns, one for each head, as published; the others of ResNet-18.
_TEACHERS = {
    "mhresnet8x18": "resnet8x34",
    "mhresnet18": "resnet34-224",
    "mhwrn4x161": "wrn4x402",
    "mhwrn4x162": "wrn4x402",
}
_STUDENT_STEPS = 5


class Turn(nn.Module):
    """Five steps of a student of CDFKD-MFS and one of its generator.

    Args:
        preset: the student.
        whole: as the task does it; or its parts alone, each network forward and backward as often as it is in a turn,
            on images that are there, and the optimizers' steps.
    """

    def __init__(self, preset: str, overrides: dict, *, whole: bool):
        super().__init__()
        self.student = create_model(preset, **overrides).to(memory_format=torch.channels_last)
        config = self.student.config
        teacher = _TEACHERS.get(preset, "resnet8x18")
        processor = create_image_processor(teacher, image_size=config.image_size)
        given = input_of(processor, config.num_channels)
        classes = range(config.num_labels)
        fields = {"num_labels": config.num_labels, "num_channels": config.num_channels}
        self._teachers = []  # in a list: no sub-modules
        for number in range(config.num_heads):
            model = create_model(teacher, **fields).to(memory_format=torch.channels_last)
            self._teachers.append(Teacher(f"{teacher} {number}", model, given, given, classes))
        same = self._teachers[0].width == self.student.cdfkd_mfs.num_features
        kind = "small" if given.size <= 64 else "large_normalized"
        generator = DataFreeGenerator(kind, given.size, num_channels=config.num_channels)
        self._generator = [generator.to(memory_format=torch.channels_last)]
        self._arguments = DataFreeArguments(
            teachers=[one.name for one in self._teachers], feature_weight=0.2 if same else 0.0
        )
        self._given, self._whole, self._trainer = given, whole, None

    def _make(self, batch: int) -> DataFreeTrainer:
        with tempfile.TemporaryDirectory() as folder:
            trainer = DataFreeTrainer(
                model=self.student,
                args=DataFreeTrainingArguments(output_dir=folder, per_device_train_batch_size=batch, use_cpu=True),
                teachers=self._teachers,
                generator=self._generator[0],
                distillation=self._arguments,
                given=self._given,
                data_collator=default_data_collator,
            )
        trainer.create_optimizer_and_scheduler(1000)
        trainer.is_in_train = True
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    def forward(self, pixels: torch.Tensor) -> None:
        if self._trainer is None:
            self._trainer = self._make(len(pixels))
        with torch.inference_mode(False), torch.enable_grad():
            if self._whole:
                self._turn(len(pixels))
            else:
                self._parts(pixels.contiguous(memory_format=torch.channels_last))

    def _turn(self, batch: int) -> None:
        trainer, places = self._trainer, {"place": torch.arange(batch)}
        for _ in range(_STUDENT_STEPS):
            batches, _ = trainer.get_batch_samples(iter([places]), 1, trainer.args.device)
            trainer.training_step(self.student, batches[0])
            trainer.optimizer.step()
            self.student.zero_grad()
        trainer.train_generator()

    def _parts(self, pixels: torch.Tensor) -> None:
        trainer, generator = self._trainer, self._generator[0].train()
        noise = torch.randn(len(pixels), generator.latent_size)
        self.student.train()
        for _ in range(_STUDENT_STEPS):
            with torch.no_grad():
                generator(noise)
                for teacher in self._teachers:
                    teacher.model(pixel_values=pixels)
            self.student(pixel_values=pixels).head_logits.sum().backward()
            trainer.optimizer.step()
            self.student.zero_grad()
        for network in (self.student, *(teacher.model for teacher in self._teachers)):
            seen = pixels.clone().requires_grad_()
            outputs = network(pixel_values=seen)
            torch.autograd.grad(outputs.head_logits.sum(), seen)
        generator(noise).sum().backward()
        trainer.generator_optimizer.step()
        trainer.generator_optimizer.zero_grad()


class Estimate(nn.Module):
    """What a round of SFDA-DE begins with: features of the pictures, clusters from the head's rows, and the estimate
    of the source. Beside `ours`, which is a pass of the network over the same pictures."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        config = model.config
        side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        self._head = [linear_head(model, torch.zeros(1, getattr(config, "num_channels", 3), side, side))]

    def forward(self, pixels: torch.Tensor) -> None:
        head = self._head[0]
        with seen_by(head) as seen:
            self.model(pixels)
        rows, features = head.weight.detach().float(), seen[0].float()
        clusters = spherical_clusters(features, rows)
        kept, classes = keep_confident(clusters, threshold=1.0, min_samples=2)
        estimate_source(features, clusters.labels, kept, classes, rows)


def turn(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """`Turn` as the task does it."""
    return Turn(preset, overrides, whole=True)


def turn_in_parts(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """`Turn` in parts."""
    return Turn(preset, overrides, whole=False)


def estimate(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """`Estimate` of a preset with random weights."""
    from .peers import ours

    return Estimate(ours(preset, folded, overrides))
