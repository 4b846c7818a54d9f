"""The task object-detection: from arguments to a trained or measured detector."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from transformers import set_seed

from ...._files import whole_file
from ....hub.whole import load_whole
from ...data.classes import model_classes, numbered_as, same_classes, shown
from ...data.fingerprints import weights_fingerprint
from ...data.images import usable
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.dense_models import class_names, is_loaded
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from .arguments import (
    DetectionArguments,
    DetectionAugmentationArguments,
    DetectionEvaluationArguments,
    DetectorArguments,
)
from .data import DetectionDataArguments, load_data, load_evaluation_data
from .evaluation import measure
from .models import input_names, load_detector, side_of
from .reports import write_evaluation, write_results
from .trainer import DetectionTrainer
from .transforms import DetectionCollator, DetectionDataset

TRAINING_ARGUMENTS = (DetectorArguments, DetectionDataArguments, DetectionAugmentationArguments, DetectionArguments)
EVALUATION_ARGUMENTS = (DetectorArguments, DetectionDataArguments, DetectionEvaluationArguments)


#: How the classes of a data set get other names.
_NAMES = "The annotations say what they are called."


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, augmentation, args = arguments
    config, checkpoint = open_run(reader, arguments)
    train, evaluation = load_data(data_args, model_args.token)
    if evaluation.names != train.names:
        raise ValueError(
            f"--eval_dataset: its classes ({shown(evaluation.names)}) are not those of --dataset "
            f"({shown(train.names)})."
        )
    set_seed(args.seed)
    given = {"model_config": model_args.model_config, "backbone_config": model_args.backbone_config or None}
    with blaming_model_config(**given):
        model, processor = load_detector(model_args, train.names)
    own = class_names(model.config)
    if same_classes(train.names, own):
        # The head's numbers stay, and with them what a trained one knows.
        train, evaluation = (numbered_as(source, own, _NAMES) for source in (train, evaluation))
    if getattr(model.config, "reparameterized", False):
        raise ValueError(f"--model: {model_args.model} is folded for deployment and cannot be trained any more.")
    if args.atss_epochs and model.config.model_type != "gold_yolo":
        raise ValueError(f"--atss_epochs goes with Gold-YOLO, not with {type(model).__name__}.")
    train, evaluation = (usable(source, source.read, data_args) for source in (train, evaluation))
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if is_loaded(model_args):
        contents["model"] = weights_fingerprint(model)
    teacher = _teacher(args, model, model_args.token)
    if teacher is not None:
        contents[f"teacher {args.teacher}"] = weights_fingerprint(teacher)
    check_contents(config, checkpoint, args.output_dir, contents)
    datasets = (
        DetectionDataset(train, augmentation, side_of(processor), args.num_train_epochs, data_seed(args)),
        DetectionDataset(evaluation),
    )
    collator = DetectionCollator(processor, input_names(model))
    trainer = DetectionTrainer(
        model=model,
        args=args,
        teacher=teacher,
        evaluation=partial(_measured, processor=processor, dataset=datasets[1], args=args),
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
        processing_class=processor,
        data_collator=collator,
    )
    # What fails for the first image fails before anything is written.
    for dataset in datasets:
        batch = collator([dataset[0]])
        batch.pop("labels")
        with torch.no_grad(), blaming_model_config(**given):
            model.eval()(**{name: value.to(args.device) for name, value in batch.items()})

    def report(train_metrics: dict) -> dict:
        return write_results(trainer, train_metrics, trainer.evaluate(), config, model_args, data_args)

    def example(output: Path) -> list[str]:
        file = output / "example.png"
        with whole_file(file) as new:
            Image.fromarray(datasets[1][0]["image"]).save(new, format="PNG")
        return [str(file), "--save", str(output / "drawn")]

    later = held_out_unasked(data_args, evaluation.split)
    return Run(trainer, checkpoint, config, report, example=example, evaluation=later)


def _measured(model, *, processor, dataset: DetectionDataset, args: DetectionArguments):
    return measure(
        model,
        processor,
        dataset,
        batch_size=args.per_device_eval_batch_size,
        workers=args.dataloader_num_workers,
        threshold=args.eval_threshold,
        nms_threshold=args.eval_nms_threshold,
    )


def _teacher(args: DetectionArguments, model, token: str | None):
    """The detector to distil from, in evaluation mode; ValueError where it cannot teach this one."""
    if args.teacher is None:
        return None
    from transformers import AutoModelForObjectDetection

    teacher = load_whole(AutoModelForObjectDetection, "--teacher", args.teacher, token=token)
    teacher.eval().requires_grad_(False)
    for what, config in (("--model", model.config), ("--teacher", teacher.config)):
        if config.model_type != "gold_yolo" or not config.reg_max:
            raise ValueError(f"{what}: distillation is between Gold-YOLOs with distributions (reg_max from 1).")
    same = ("num_labels", "reg_max", "level_sizes") if args.feature_distillation else ("num_labels", "reg_max")
    for name in same:
        if getattr(teacher.config, name) != getattr(model.config, name):
            raise ValueError(
                f"--teacher: its {name} is {getattr(teacher.config, name)}, accepted is the student's, "
                f"{getattr(model.config, name)}."
            )
    names, theirs = class_names(model.config), class_names(teacher.config)
    if model_classes(names, theirs) != list(range(len(names))):
        raise ValueError(
            f"--teacher: its classes ({shown(theirs)}) are not the student's ({shown(names)}), in this order."
        )
    return teacher


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    source = load_evaluation_data(data_args, model_args.token)
    with blaming_model_config(model_args.model_config):
        model, processor = load_detector(model_args, None)
    model.eval()
    names = class_names(model.config)
    if len(source.names) != len(names):
        raise ValueError(
            f"--model: {model_args.model} has {len(names)} classes, the data set has {len(source.names)}: it cannot "
            "be measured on it."
        )
    source = numbered_as(source, names, _NAMES)
    if args.reparameterize:
        if not hasattr(model, "reparameterize"):
            raise ValueError(f"--reparameterize: {type(model).__name__} has nothing to fold.")
        model.reparameterize()
    dataset = DetectionDataset(usable(source, source.read, data_args))
    dataset[0]
    return partial(_evaluate, model, processor, dataset, names, args, call)


def _evaluate(model, processor, dataset, names, args: DetectionEvaluationArguments, call: dict) -> dict:
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    measured = measure(
        model,
        processor,
        dataset,
        batch_size=args.per_device_eval_batch_size,
        workers=args.dataloader_num_workers,
        threshold=args.eval_threshold,
        nms_threshold=args.eval_nms_threshold,
        dtype=torch.bfloat16 if args.precision == "bfloat16" else None,
    )
    if not PartialState().is_main_process:
        return measured.metrics
    return write_evaluation(measured, dataset, names, args, call)
