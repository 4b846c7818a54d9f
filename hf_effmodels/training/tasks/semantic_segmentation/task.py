"""The task semantic-segmentation: from arguments to a trained or measured segmenter."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from transformers import set_seed

from ...._files import whole_file
from ...data.classes import numbered_as, same_classes
from ...data.fingerprints import weights_fingerprint
from ...data.images import check_processor, usable
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.dense_models import class_names, is_loaded
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from .arguments import (
    SegmentationArguments,
    SegmentationAugmentationArguments,
    SegmentationEvaluationArguments,
    SegmenterArguments,
)
from .data import SegmentationDataArguments, load_data, load_evaluation_data
from .evaluation import measure
from .models import load_segmenter, side_of, takes_labels
from .reports import write_evaluation, write_results
from .trainer import SegmentationTrainer
from .transforms import SegmentationCollator, SegmentationDataset

TRAINING_ARGUMENTS = (
    SegmenterArguments,
    SegmentationDataArguments,
    SegmentationAugmentationArguments,
    SegmentationArguments,
)
EVALUATION_ARGUMENTS = (SegmenterArguments, SegmentationDataArguments, SegmentationEvaluationArguments)


#: How the classes of a data set get other names.
_NAMES = "--class_names says what they are called."


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, augmentation, args = arguments
    config, checkpoint = open_run(reader, arguments)
    train, evaluation = load_data(data_args, model_args.token)
    set_seed(args.seed)
    given = {"model_config": model_args.model_config, "backbone_config": model_args.backbone_config or None}
    with blaming_model_config(**given):
        model, processor = load_segmenter(model_args, train.names)
    own = class_names(model.config)
    if same_classes(train.names, own):
        # The head's numbers stay, and with them what a trained one knows.
        train, evaluation = (numbered_as(source, own, _NAMES) for source in (train, evaluation))
    check_processor("--model", processor)
    if not takes_labels(model):
        raise ValueError(f"--model: {type(model).__name__} computes no loss and cannot be trained here.")
    side = side_of(processor)
    args.check_stride(side)
    train, evaluation = (usable(source, source.read, data_args) for source in (train, evaluation))
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if is_loaded(model_args):
        contents["model"] = weights_fingerprint(model)
    check_contents(config, checkpoint, args.output_dir, contents)
    datasets = (SegmentationDataset(train, augmentation, side, data_seed(args)), SegmentationDataset(evaluation))
    collator = SegmentationCollator(processor)
    trainer = SegmentationTrainer(
        model=model,
        args=args,
        evaluation=partial(_measured, processor=processor, dataset=datasets[1], args=args),
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
        processing_class=processor,
        data_collator=collator,
    )
    # What fails for the first image fails before anything is written.
    datasets[1][0]
    batch = collator([datasets[0][0]])
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


def _measured(model, *, processor, dataset: SegmentationDataset, args: SegmentationArguments):
    return measure(
        model,
        processor,
        dataset,
        batch_size=args.per_device_eval_batch_size,
        workers=args.dataloader_num_workers,
        mode=args.eval_mode,
        stride=args.eval_stride,
        pictures=args.eval_pictures,
    )


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    source = load_evaluation_data(data_args, model_args.token)
    with blaming_model_config(model_args.model_config):
        model, processor = load_segmenter(model_args, None)
    args.check_stride(side_of(processor))
    if len(source.names) != model.config.num_labels:
        raise ValueError(
            f"--model: {model_args.model} has {model.config.num_labels} classes, the data set has "
            f"{len(source.names)}: it cannot be measured on it."
        )
    source = numbered_as(source, class_names(model.config), _NAMES)
    dataset = SegmentationDataset(usable(source, source.read, data_args))
    dataset[0]
    return partial(_evaluate, model.eval(), processor, dataset, args, call)


def _evaluate(model, processor, dataset, args: SegmentationEvaluationArguments, call: dict) -> dict:
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    measured = measure(
        model,
        processor,
        dataset,
        batch_size=args.per_device_eval_batch_size,
        workers=args.dataloader_num_workers,
        mode=args.eval_mode,
        stride=args.eval_stride,
        pictures=args.eval_pictures,
        dtype=torch.bfloat16 if args.precision == "bfloat16" else None,
    )
    if not PartialState().is_main_process:
        return measured.metrics
    return write_evaluation(measured, dataset, args, call)
