"""The task distillation: an image classification whose loss has a teacher's words added."""

import logging
from collections.abc import Callable
from functools import partial

import torch

from ...run.arguments import ArgumentReader, FilledReader
from ...run.run import Run
from ...task import load_task
from .arguments import DistillationArguments
from .losses import IN_PARTS, call, read_losses
from .teacher import Teacher, load_teacher

logger = logging.getLogger(__name__)

#: The student's task, asked by its name: its data, model, trainer and reports are what they are without a teacher.
_STUDENT = load_task("image-classification")

TRAINING_ARGUMENTS = (DistillationArguments, *_STUDENT.TRAINING_ARGUMENTS)
EVALUATION_ARGUMENTS = _STUDENT.EVALUATION_ARGUMENTS


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned distils, evaluates and writes the results."""
    distillation, *arguments = reader.read(*TRAINING_ARGUMENTS)
    if not distillation.teacher:
        raise ValueError("--teacher is missing: name an image classifier on the Hub or in a local folder.")
    losses = read_losses(distillation.losses)
    run = _STUDENT.prepare_training(FilledReader(reader.task, (distillation,), arguments))
    model_args, trainer = arguments[0], run.trainer
    source = {"token": model_args.token, "trust_remote_code": model_args.trust_remote_code}
    teacher = load_teacher(
        distillation.teacher,
        trainer.model,
        trainer.processing_class,
        revision=distillation.teacher_revision,
        **source,
    )
    with torch.no_grad():  # what fails for the first picture fails before anything is written
        teacher.logits(trainer.train_dataset[0]["pixel_values"][None].to(trainer.args.device))
    for name, (loss, weight) in losses.items():
        for part in ("teacher", "own") if name in IN_PARTS else (None,):
            function = partial(_distilled, trainer=trainer, teacher=teacher, loss=loss, part=part)
            trainer.add_loss(f"{name}/{part}" if part else name, function, weight)
    return Run(trainer, run.checkpoint, run.config, partial(_report, run, teacher))


def _distilled(model, inputs, outputs, *, trainer, teacher: Teacher, loss: Callable, part: str | None) -> torch.Tensor:
    if "teacher_logits" not in inputs:  # one look at each batch is enough for all losses
        with trainer.compute_loss_context_manager():
            inputs["teacher_logits"] = teacher.logits(inputs["pixel_values"])
    epochs = trainer.args.num_train_epochs
    logits, labels = outputs["logits"], inputs["labels"]
    found = call(loss, logits, inputs["teacher_logits"], labels, trainer.state.epoch or 0.0, epochs)
    return found[part] if part else found


def _report(run: Run, teacher: Teacher, train_metrics: dict) -> dict:
    results = dict(run.report(train_metrics))
    accuracy = teacher_accuracy(teacher, run.trainer)
    logger.info("top-1: the student %.2f %%, the teacher %.2f %%", 100 * results["eval_accuracy"], 100 * accuracy)
    results["eval_teacher_accuracy"] = accuracy
    if run.trainer.args.should_save:
        run.trainer.save_metrics("eval", {k: v for k, v in results.items() if k.startswith("eval_")})
    return results


@torch.no_grad()
def teacher_accuracy(teacher: Teacher, trainer) -> float:
    """The teacher's top-1 accuracy on the evaluation set, as a fraction; every process counts all of it."""
    right, dataset, size = 0, trainer.eval_dataset, trainer.args.per_device_eval_batch_size
    for start in range(0, len(dataset), size):
        samples = [dataset[index] for index in range(start, min(start + size, len(dataset)))]
        pixels = torch.stack([sample["pixel_values"] for sample in samples]).to(trainer.args.device)
        labels = torch.tensor([int(sample["labels"]) for sample in samples], device=pixels.device)
        right += int((teacher.logits(pixels).argmax(1) == labels).sum())
    return right / len(dataset)


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """The student is evaluated as any model of its task."""
    return _STUDENT.prepare_evaluation(reader)
