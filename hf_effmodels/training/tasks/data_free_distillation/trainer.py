"""The Trainer of CDFKD-MFS (https://arxiv.org/abs/2205.11845): student and generator take turns."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from ...._files import whole_file
from ...data.seeded import data_seed
from ...data_free import (
    DataFreeGenerator,
    closed_to_data,
    statistics_gap,
    watched_gaps,
    watched_statistics,
    whole_gap,
)
from ...losses.data_free import disagreement, head_losses
from ...run.finite import check_finite
from ...run.sampling import EpochSampler
from ...run.trainer import RecipeTrainer
from ...run.weights import WeightsError
from .arguments import DataFreeArguments
from .data import Places
from .pictures import write_grid
from .teachers import Input, Teacher

logger = logging.getLogger(__name__)

#: In a checkpoint: the generator and its optimizer.
STATE_FILE = "generator.safetensors"
#: In the output folder: images of each epoch.
PICTURES = "generated"
#: Of Adam, for each parameter.
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
#: Which noise: of the student's steps, of the generator's.
_STUDENT, _GENERATOR = 5, 6


class DataFreeTrainer(RecipeTrainer):
    """Trains a student with a head for each teacher on images that a generator makes from noise.

    A step is the student's. After every `student_steps` of them comes one of the generator, whose weights and
    optimizer are this trainer's own. Noise depends on seed and step alone. The images of a step are those of all its
    batches together, in every process: a generator's batch norms see the same, however the step is cut. While steps go
    on, no file is opened and no real image handed out (`closed_to_data`).

    Args:
        model: gives `head_logits` and `head_features`.
        teachers: one for each head.
        generator: of images of the student's size.
        distillation: how.
        given: what the student is given, to show images.
        kwargs: a `RecipeTrainer`'s.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        args,
        teachers: Sequence[Teacher],
        generator: DataFreeGenerator,
        distillation: DataFreeArguments,
        given: Input,
        **kwargs,
    ):
        self.teachers, self.distillation, self.given = list(teachers), distillation, given
        self.batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if self.batch_size < 2:
            raise ValueError("--per_device_train_batch_size: a step of one image has no statistics; two are needed.")
        places = Places(distillation.steps_per_epoch, self.batch_size, data_seed(args))
        super().__init__(model=model, args=args, train_dataset=places, **kwargs)
        self.generator = generator.to(args.device).train()
        for teacher in self.teachers:
            teacher.model.to(args.device)
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), distillation.generator_learning_rate)
        #: Of the step under way, all of its batches: (batch, channels, height, width).
        self.images: torch.Tensor | None = None
        self._factor = 1.0
        self._seen: dict[str, torch.Tensor] = {}
        self._generator_steps = 0
        self.add_callback(_Turns(self))

    def metric_names(self) -> tuple[str, ...]:
        more_than_five = ("top_5_accuracy",) if self.model.config.num_labels > 5 else ()
        return ("loss", "accuracy", *more_than_five, "samples")

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        sampler = super()._get_train_sampler(train_dataset)
        sampler.shuffle = False
        return sampler

    # The student's step

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        with closed_to_data():
            batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
            with torch.no_grad():
                self.images = self._generate(_STUDENT, self.state.global_step)
        return batches, count

    def training_step(self, model, inputs, num_items_in_batch=None):
        rate = self.args.learning_rate
        self._factor = self.optimizer.param_groups[0]["lr"] / rate if rate else 1.0
        with closed_to_data():
            return super().training_step(model, inputs, num_items_in_batch)

    def task_loss(self, model, inputs, num_items_in_batch=None):
        if not (model.training and self.is_in_train):
            return super().task_loss(model, inputs, num_items_in_batch)
        pixels, weights = self.images[inputs["place"]], self.distillation
        with torch.no_grad():
            taught = [teacher(pixels) for teacher in self.teachers]
        logits = torch.stack([values for values, _ in taught], dim=1)
        outputs = model(pixel_values=pixels)
        own = outputs.head_logits.float()
        features = ()
        if weights.feature_weight:
            features = outputs.head_features.float(), torch.stack([values for _, values in taught], dim=1)
        losses = head_losses(own, logits, *features)
        known = {"heads": weights.head_weight, "features": weights.feature_weight, "ensemble": weights.ensemble_weight}
        loss = sum(known[name] * value for name, value in losses.items())
        with torch.no_grad():
            losses["agreement"] = (own.mean(1).argmax(1) == logits.mean(1).argmax(1)).float().mean()
        return loss, {"parts": losses}

    def named_parts(self, outputs) -> dict[str, torch.Tensor]:
        return outputs["parts"]

    # The generator's

    def _generate(self, which: int, step: int) -> torch.Tensor:
        """The images of a whole step, (batch, channels, height, width) float32."""
        seed = np.random.SeedSequence((data_seed(self.args), which, step)).generate_state(1)[0]
        noise = torch.randn(
            self.batch_size, self.generator.latent_size, generator=torch.Generator().manual_seed(int(seed))
        )
        with self.accelerator.autocast():
            return self.generator(noise.to(self.args.device)).float()

    def train_generator(self) -> None:
        """One step of the generator: images on which teachers and student differ, with the statistics of the
        teachers' own."""
        with closed_to_data(), torch.enable_grad():
            images = self._generate(_GENERATOR, self.state.global_step)
            gradient = self._gradient_of(images.detach())
            for group in self.generator_optimizer.param_groups:
                same = self.distillation.generator_schedule == "same"
                group["lr"] = self.distillation.generator_learning_rate * (self._factor if same else 1.0)
            self.generator_optimizer.zero_grad()
            images.backward(gradient)
            norm = nn.utils.get_total_norm([p.grad for p in self.generator.parameters()])
            self._record("generator_grad_norm", norm / self.args.world_size)  # the same in each
            self.generator_optimizer.step()
            self.generator_optimizer.zero_grad()
        self.images = images.detach()
        self._generator_steps += 1

    def _gradient_of(self, images: torch.Tensor) -> torch.Tensor:
        """Of the generator's loss with respect to the images of a whole step. Each process, and in it each batch of
        the usual size, has its share; of a teacher's statistics that share depends on those of all."""
        student, weights = self.accelerator.unwrap_model(self.model), self.distillation
        pieces, several = self._pieces(), len(self._pieces()) > 1 or self.args.world_size > 1
        share = 1 / (len(pieces) * self.args.world_size)
        wholes = [None] * len(self.teachers)
        if several and weights.statistics_weight:
            wholes = [self._whole_gap(teacher, images, pieces, share) for teacher in self.teachers]
        gradient = torch.zeros_like(images)
        student.train()
        for piece in pieces:
            pixels = images[piece].clone().requires_grad_()
            with self.accelerator.autocast():
                logits = student(pixel_values=pixels).head_logits
            # One teacher at a time, so that only one graph is kept beside the student's.
            cut = logits.detach().requires_grad_()
            found, found_of_cut = torch.zeros_like(pixels), torch.zeros_like(cut)
            for number, (teacher, whole) in enumerate(zip(self.teachers, wholes, strict=True)):
                loss = self._loss_of_teacher(number, teacher, pixels, cut, whole, share)
                gradients = torch.autograd.grad(loss, (pixels, cut))
                found, found_of_cut = found + gradients[0], found_of_cut + gradients[1]
            found = found + torch.autograd.grad(logits, pixels, found_of_cut)[0]
            gradient[piece] = found
        if self.args.world_size > 1:
            gradient = self.accelerator.reduce(gradient, "sum")
        return gradient

    def _loss_of_teacher(self, number: int, teacher: Teacher, pixels, logits, whole, share: float) -> torch.Tensor:
        weights, count = self.distillation, len(self.teachers)
        watching = nullcontext()
        if weights.statistics_weight:
            watching = watched_gaps(teacher.model) if whole is None else watched_statistics(teacher.model)
        with watching as seen, self.accelerator.autocast():
            expected, _ = teacher(pixels)
        differ = disagreement(logits[:, number].float(), expected, count)
        self._record("generator_disagreement", -share * differ)
        loss = share * weights.disagreement_weight * differ
        if weights.statistics_weight:
            if whole is None:
                gap = value = statistics_gap(seen, weights.first_norm_weight)
            else:
                gap, value = whole.of_piece(seen, share), share * whole.value
            loss = loss + weights.statistics_weight / count * gap
            self._record("generator_statistics", value / count)
        return loss

    def _pieces(self) -> list[slice]:
        """The parts of a step's images that are this process's."""
        size, processes = self.args.per_device_train_batch_size, self.args.world_size
        starts = range(self.args.process_index * size, self.batch_size, size * processes)
        return [slice(start, start + size) for start in starts]

    def _whole_gap(self, teacher: Teacher, images: torch.Tensor, pieces: list[slice], share: float):
        seen = []
        with torch.no_grad(), self.accelerator.autocast():
            for piece in pieces:
                with watched_statistics(teacher.model) as statistics:
                    teacher(images[piece])
                seen.append((statistics, share))
        several = self.args.world_size > 1
        reduce = (lambda values: self.accelerator.reduce(values, "sum")) if several else (lambda values: values)
        return whole_gap(seen, self.distillation.first_norm_weight, reduce)

    # The log

    def _record(self, name: str, value: torch.Tensor) -> None:
        self._seen[name] = self._seen.get(name, 0.0) + value.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._generator_steps:
            means = {
                n: float(self.accelerator.reduce(v, "sum")) / self._generator_steps for n, v in self._seen.items()
            }
            check_finite(means, self.state.global_step, self.args, logs.get("learning_rate"))
            logs |= means
            self._seen, self._generator_steps = {}, 0
        super().log(logs, start_time)

    def write_pictures(self, epoch: int) -> None:
        """Some of the images that were made last, in the output folder."""
        if self.args.should_save and self.images is not None:
            file = Path(self.args.output_dir) / PICTURES / f"epoch-{epoch:03d}.png"
            with whole_file(file) as part:
                write_grid(self.images, self.given.normalization, part)

    # Checkpoints

    def _generator_state(self) -> dict[str, torch.Tensor]:
        state = {f"generator.{name}": value for name, value in self.generator.state_dict().items()}
        for name, parameter in self.generator.named_parameters():
            kept = self.generator_optimizer.state.get(parameter, {})
            state |= {f"optimizer.{key}.{name}": kept[key] for key in _MOMENTS if key in kept}
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def _save_checkpoint(self, model, trial) -> None:
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file(self._generator_state(), folder / STATE_FILE, metadata={"format": "pt"})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / STATE_FILE
        if not file.is_file():
            raise WeightsError(f"{resume_from_checkpoint}: it lacks {STATE_FILE}, the generator.")
        self._load_generator(load_file(file), str(file))

    def _load_generator(self, state: Mapping[str, torch.Tensor], source: str) -> None:
        weights = {n.removeprefix("generator."): v for n, v in state.items() if n.startswith("generator.")}
        try:
            self.generator.load_state_dict(weights)
        except RuntimeError as error:
            raise WeightsError(f"{source}: {' '.join(str(error).split())}") from None
        for name, parameter in self.generator.named_parameters():
            kept = {key: state[f"optimizer.{key}.{name}"] for key in _MOMENTS if f"optimizer.{key}.{name}" in state}
            if kept:
                moments = {key: value.to(parameter.device) for key, value in kept.items() if key != "step"}
                self.generator_optimizer.state[parameter] = {**moments, "step": kept["step"]}


class _Turns(TrainerCallback):
    def __init__(self, trainer: DataFreeTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.trainer.distillation.student_steps == 0:
            self.trainer.train_generator()

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.write_pictures(max(1, round(state.epoch or 0.0)))
