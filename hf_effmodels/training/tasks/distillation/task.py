"""The task distillation: an image classification whose loss has a teacher's words added."""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import torch

from ....hub.ids import check_place
from ...data.fingerprints import weights_fingerprint
from ...data.pictures import picture_ids
from ...data.stored_labels import StoredLabels, settings_of
from ...data.stored_tables import table_folder
from ...data.text_embeddings import TEXT_EMBEDS, TextEmbeddings
from ...losses.registry import make_losses
from ...run.arguments import ArgumentReader, FilledReader
from ...run.contents import check_contents
from ...run.run import Run
from ...task import load_task
from .arguments import DistillationArguments
from .coded import CODED, CodedForImageClassification, CodedTrainer, coded_metrics, with_code
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
    texts = _text_embeddings(distillation, losses, arguments)
    _check_labels(losses, arguments[-1])
    taught = distillation.teachers or distillation.stored_labels
    if not taught and any(loss.needs_teacher for loss in losses.values()):
        raise ValueError("--teacher is missing: name an image classifier on the Hub or in a local folder.")
    for name in distillation.teachers:
        check_place("--teacher", name, revision=("--teacher_revision", distillation.teacher_revision), hint=UNTRAINED)
    stored = None
    if distillation.stored_labels:
        _check_for_stored(losses, arguments)
        folder = table_folder(
            distillation.stored_labels,
            argument="--stored_labels",
            made_by="soft-labels",
            cache_dir=arguments[1].cache_dir,
            token=arguments[0].token,
        )
        stored = StoredLabels(folder, arguments[1].cache_dir)
    make_trainer = partial(
        _make_trainer, distillation=distillation, losses=losses, model_args=arguments[0], stored=stored, texts=texts
    )
    run = _STUDENT.prepare_training(FilledReader(reader.task, (distillation,), arguments), make_trainer)
    if stored is not None:
        stored.check(stored_settings(run.trainer, arguments), run.trainer.train_dataset, epochs_of(run.trainer))
    contents = {} if texts is None else {"text embeddings": texts.facts()}
    if isinstance(run.trainer.teachers, Teachers):
        pairs = zip(distillation.teachers, run.trainer.teachers.teachers, strict=True)
        contents |= {f"teacher {name}": weights_fingerprint(teacher.model) for name, teacher in pairs}
    if contents:
        check_contents(run.config, run.checkpoint, run.trainer.args.output_dir, contents)
    return replace(run, report=partial(_report, run))


def _check_labels(losses: dict, args) -> None:
    for name, loss in losses.items():
        for option in ("mixup", "cutmix", "label_maps"):
            if loss.rotates and getattr(args, option):
                raise ValueError(f"--{option}: the loss {name} needs one class for each picture; it goes without.")


def _text_embeddings(distillation: DistillationArguments, losses: dict, arguments) -> TextEmbeddings | None:
    reading = [name for name, loss in losses.items() if TEXT_EMBEDS in loss.columns]
    if not distillation.text_embeddings:
        if reading:
            raise ValueError(
                f"--text_embeddings is missing, which the loss {reading[0]} aligns the pictures with; hf-effmodels "
                "prepare text-embeddings makes them."
            )
        return None
    if not reading:
        raise ValueError("--text_embeddings: none of the --losses reads them; text_alignment does.")
    folder = table_folder(
        distillation.text_embeddings,
        argument="--text_embeddings",
        made_by="text-embeddings",
        cache_dir=arguments[1].cache_dir,
        token=arguments[0].token,
    )
    return TextEmbeddings(folder, arguments[1].cache_dir)


def _check_for_stored(losses: dict, arguments) -> None:
    for name, loss in losses.items():
        if loss.teacher_features():
            raise ValueError(f"--stored_labels: they are logits, and the loss {name} needs a teacher's features.")
    for name in ("mixup", "cutmix"):
        if getattr(arguments[-1], name):
            raise ValueError(f"--stored_labels: they are of pictures that are not mixed; --{name} 0 goes with them.")


def stored_settings(trainer, arguments) -> dict:
    """What stored labels and the training that uses them have to agree on, see `data.stored_labels.settings_of`."""
    config, dataset, augmentation = trainer.network.config, trainer.train_dataset, arguments[2]
    return settings_of(
        seed=dataset.seed,
        samples=len(dataset),
        classes=[config.id2label[number] for number in range(config.num_labels)],
        augmentation=asdict(augmentation),
    )


def epochs_of(trainer) -> int:
    """Epochs that a training begins."""
    args = trainer.args
    if args.max_steps > 0:
        return math.ceil(args.max_steps * trainer.get_total_train_batch_size(args) / len(trainer.train_dataset))
    return math.ceil(args.num_train_epochs)


def _make_trainer(
    *,
    distillation: DistillationArguments,
    losses: dict,
    model_args,
    stored: StoredLabels | None,
    texts: TextEmbeddings | None,
    model,
    processing_class,
    data_collator,
    **kwargs,
) -> DistillationTrainer:
    options = {
        "revision": distillation.teacher_revision,
        "dtype": distillation.teacher_dtype,
        "compiled": distillation.teacher_compile,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
    args = kwargs["args"]
    model, trainer = with_code(model, distillation.codec, args.seed), DistillationTrainer
    if isinstance(model, CodedForImageClassification):
        trainer = CodedTrainer
        if len(model.config.widths) > 1:
            args.ddp_find_unused_parameters = True  # each pass has norms and a prior of its own
    teachers = [load_teacher(name, model, processing_class, **options) for name in distillation.teachers]
    if stored is not None or any(loss.needs_index for loss in losses.values()):
        data_collator = replace(data_collator, keep=("index", "sample_seed"))
    if texts is not None:
        dataset = kwargs["train_dataset"]
        get = texts.of(picture_ids(dataset.source), dataset.source.split)
        kwargs["train_dataset"] = dataset.with_column(TEXT_EMBEDS, get)
        data_collator = replace(data_collator, keep=(*data_collator.keep, TEXT_EMBEDS, "own_share"))
    return trainer(
        model=model,
        teacher=Teachers(teachers, [*distillation.teachers.values()]) if teachers else stored,
        losses=losses,
        student_taps=distillation.student_taps,
        teacher_taps=distillation.teacher_taps,
        labels_weight=distillation.labels_weight,
        processing_class=processing_class,
        data_collator=data_collator,
        **kwargs,
    )


def _report(run: Run, train_metrics: dict) -> dict:
    student, teachers = run.trainer.network, run.trainer.teachers
    is_coded = isinstance(student, CODED)
    if is_coded and not student.code_is_fixed:
        student.fix_code()
    results = dict(run.report(train_metrics))
    if is_coded:
        results |= coded_metrics(run.trainer)
    if isinstance(teachers, Teachers):
        accuracy = teacher_accuracy(teachers, run.trainer)
        logger.info("top-1: the student %.2f %%, the teacher %.2f %%", 100 * results["eval_accuracy"], 100 * accuracy)
        results["eval_teacher_accuracy"] = accuracy
    elif not is_coded:
        return results
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
