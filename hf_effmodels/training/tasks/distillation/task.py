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
from ...losses.interface import POOLED
from ...losses.registry import make_losses
from ...run.arguments import ArgumentReader, FilledReader
from ...run.contents import check_contents
from ...run.run import Run
from ...task import load_task
from .arguments import DistillationArguments
from .coded import CODED, CodedForImageClassification, CodedTrainer, check_turn, coded_metrics, with_code
from .episodes import SCALE_FIELD, Episodes, few_shot_accuracy, members_of
from .taps import collecting
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
    _check_for_episodes(distillation, arguments[-1])
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
    novel = _novel_classes(distillation, run.trainer, arguments)
    if novel is not None:
        contents["few-shot data"] = novel.source.facts()
    if contents:
        check_contents(run.config, run.checkpoint, run.trainer.args.output_dir, contents)
    return replace(run, report=partial(_report, run, novel, distillation))


def _check_for_episodes(distillation: DistillationArguments, args) -> None:
    if distillation.episodes_per_epoch is None:
        return
    if distillation.codec:
        raise ValueError("--codec: it does not go with --episodes_per_epoch.")
    for name in ("mixup", "cutmix", "label_maps", "label_smoothing_factor"):
        if getattr(args, name):
            raise ValueError(f"--{name}: it does not go with --episodes_per_epoch, which has classes of its own.")
    if args.repeated_augmentation != 1 or args.loss != "cross_entropy":
        raise ValueError("--repeated_augmentation, --loss: they do not go with --episodes_per_epoch.")


def _novel_classes(distillation: DistillationArguments, trainer, arguments):
    """Pictures of classes that are not trained on, as they are evaluated; None where none are asked for.

    Raises:
        ValueError: classes that are trained on, or too few pictures for an episode.
    """
    if distillation.few_shot_dataset is None:
        return None
    chosen, known = distillation.few_shot_classes, _STUDENT.class_names(trainer.network.config)
    data_args = replace(
        arguments[1],
        eval_dataset=distillation.few_shot_dataset,
        eval_split=distillation.few_shot_split,
        classes=chosen,
        **dict.fromkeys(("eval_fraction", "eval_holdout", "max_eval_samples", "label_mapping")),
    )
    try:
        source = _STUDENT.load_evaluation_data(data_args, arguments[0].token)
    except (ValueError, OSError) as error:
        text = str(error)
        for name in ("dataset", "split"):
            text = text.replace(f"--eval_{name}", f"--few_shot_{name}")
        raise type(error)(text.replace("--classes", "--few_shot_classes")) from error
    names = source.names or [str(number) for number in source.numbers]
    if lacking := [name for name in chosen or () if name not in names]:
        raise ValueError(f"--few_shot_classes: {source.split} has no class {lacking[0]!r}.")
    if trained := [name for name in names if name in known]:
        raise ValueError(
            f"--few_shot_dataset: {source.split} has the class {trained[0]!r}, which is trained on; accepted are "
            "others (--few_shot_classes, --classes)."
        )
    members_of(source.labels, distillation.shape, source.split)
    evaluation = trainer.eval_dataset
    return type(evaluation)(source, evaluation.transform, evaluation.num_channels)


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
        check_turn(model, losses)
        trainer = CodedTrainer
        if len(model.config.widths) > 1:
            args.ddp_find_unused_parameters = True  # each pass has norms and a prior of its own
    shape = None
    if distillation.episodes_per_epoch is not None:
        shape = distillation.shape
        kwargs["train_dataset"] = Episodes(kwargs["train_dataset"], shape, distillation.episodes_per_epoch)
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
        episodes=shape,
        processing_class=processing_class,
        data_collator=data_collator,
        **kwargs,
    )


def _report(run: Run, novel, distillation: DistillationArguments, train_metrics: dict) -> dict:
    trainer, measured = run.trainer, {}
    student, teachers = trainer.network, trainer.teachers
    is_coded = isinstance(student, CODED)
    if is_coded and not student.code_is_fixed:
        student.fix_code()
    if trainer.episodes is not None:
        setattr(student.config, SCALE_FIELD, float(trainer.cosine_scale.detach()))
    results = dict(run.report(train_metrics))
    if is_coded:
        measured |= coded_metrics(trainer)
    if isinstance(teachers, Teachers):
        accuracy = teacher_accuracy(teachers, trainer)
        logger.info("top-1: the student %.2f %%, the teacher %.2f %%", 100 * results["eval_accuracy"], 100 * accuracy)
        measured["eval_teacher_accuracy"] = accuracy
    if novel is not None:
        measured |= _few_shot(trainer, novel, distillation)
    results |= measured
    if measured and trainer.args.should_save:
        trainer.save_metrics("eval", {k: v for k, v in results.items() if k.startswith("eval_")})
    return results


def _few_shot(trainer, novel, distillation: DistillationArguments) -> dict[str, float]:
    """How well episodes of classes that were not trained on are told, by student and teacher."""
    networks = {"few_shot": lambda pixels: _pooled(trainer.network.eval(), pixels)}
    if isinstance(trainer.teachers, Teachers):
        networks["teacher_few_shot"] = lambda pixels: trainer.teachers.first(pixels)[POOLED]
    found, size, shape = {}, trainer.args.per_device_eval_batch_size, distillation.shape
    source, episodes = novel.source, distillation.eval_episodes
    for name, features_of in networks.items():
        features = []
        for start in range(0, len(novel), size):
            samples = [novel[index]["pixel_values"] for index in range(start, min(start + size, len(novel)))]
            with torch.no_grad(), trainer.accelerator.autocast():
                features.append(features_of(torch.stack(samples).to(trainer.args.device)).float())
        accuracy, interval = few_shot_accuracy(torch.cat(features), source.labels, shape, episodes, source.split)
        found |= {f"eval_{name}_accuracy": accuracy, f"eval_{name}_interval": interval}
        logger.info(
            "%s, %d classes by %d pictures each: %.2f ± %.2f %% of %d episodes of %s",
            *("the student" if name == "few_shot" else "the teacher", shape.way, shape.shot),
            *(100 * accuracy, 100 * interval, episodes, source.split),
        )
    return found


def _pooled(network, pixels: torch.Tensor) -> torch.Tensor:
    with collecting() as features:
        network(pixel_values=pixels)
    return features[POOLED]


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
