"""The task distillation: an image classification whose loss has a teacher's words added."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ....hub.ids import check_place
from ...data.fingerprints import weights_fingerprint
from ...losses.registry import make_losses
from ...run.arguments import ArgumentReader, FilledReader
from ...run.contents import check_contents
from ...run.run import Run
from ...task import load_task
from .arguments import DistillationArguments
from .teacher import UNTRAINED, Teachers, load_teacher
from .trainer import DistillationTrainer

logger = logging.getLogger(__name__)

#: The student's task, asked by its name: its data, model and reports are what they are without a teacher.
_STUDENT = load_task("image-classification")

TRAINING_ARGUMENTS = (DistillationArguments, *_STUDENT.TRAINING_ARGUMENTS)
EVALUATION_ARGUMENTS = _STUDENT.EVALUATION_ARGUMENTS


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned distils, evaluates and writes the results."""
    distillation, *arguments = reader.read(*TRAINING_ARGUMENTS)
    losses = make_losses(distillation.losses)
    if not distillation.teachers and any(loss.needs_teacher for loss in losses.values()):
        raise ValueError("--teacher is missing: name an image classifier on the Hub or in a local folder.")
    for name in distillation.teachers:
        check_place("--teacher", name, revision=("--teacher_revision", distillation.teacher_revision), hint=UNTRAINED)
    make_trainer = partial(_make_trainer, distillation=distillation, losses=losses, model_args=arguments[0])
    run = _STUDENT.prepare_training(FilledReader(reader.task, (distillation,), arguments), make_trainer)
    if run.trainer.teachers is not None:
        pairs = zip(distillation.teachers, run.trainer.teachers.teachers, strict=True)
        taught = {f"teacher {name}": weights_fingerprint(teacher.model) for name, teacher in pairs}
        check_contents(run.config, run.checkpoint, run.trainer.args.output_dir, taught)
    return Run(run.trainer, run.checkpoint, run.config, partial(_report, run))


def _make_trainer(
    *, distillation: DistillationArguments, losses: dict, model_args, model, processing_class, data_collator, **kwargs
) -> DistillationTrainer:
    options = {
        "revision": distillation.teacher_revision,
        "dtype": distillation.teacher_dtype,
        "compiled": distillation.teacher_compile,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    teachers = [load_teacher(name, model, processing_class, **options) for name in distillation.teachers]
    if any(loss.needs_index for loss in losses.values()):
        data_collator = replace(data_collator, keep=("index", "sample_seed"))
    return DistillationTrainer(
        model=model,
        teacher=Teachers(teachers, [*distillation.teachers.values()]) if teachers else None,
        losses=losses,
        student_taps=distillation.student_taps,
        teacher_taps=distillation.teacher_taps,
        processing_class=processing_class,
        data_collator=data_collator,
        **kwargs,
    )


def _report(run: Run, train_metrics: dict) -> dict:
    results, teachers = dict(run.report(train_metrics)), run.trainer.teachers
    if teachers is None:
        return results
    accuracy = teacher_accuracy(teachers, run.trainer)
    logger.info("top-1: the student %.2f %%, the teacher %.2f %%", 100 * results["eval_accuracy"], 100 * accuracy)
    results["eval_teacher_accuracy"] = accuracy
    if run.trainer.args.should_save:
        run.trainer.save_metrics("eval", {k: v for k, v in results.items() if k.startswith("eval_")})
    return results


@torch.no_grad()
def teacher_accuracy(teacher: Teachers, trainer) -> float:
    """The teacher's top-1 accuracy on the evaluation set, as a fraction; every process counts all of it."""
    right, dataset, size = 0, trainer.eval_dataset, trainer.args.per_device_eval_batch_size
    for start in range(0, len(dataset), size):
        samples = [dataset[index] for index in range(start, min(start + size, len(dataset)))]
        pixels = torch.stack([sample["pixel_values"] for sample in samples]).to(trainer.args.device)
        labels = torch.tensor([int(sample["labels"]) for sample in samples], device=pixels.device)
        with trainer.accelerator.autocast():
            right += int((teacher.logits(pixels).argmax(1) == labels).sum())
    return right / len(dataset)


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """The student is evaluated as any model of its task."""
    return _STUDENT.prepare_evaluation(reader)
