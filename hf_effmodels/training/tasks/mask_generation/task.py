"""The task mask-generation: from arguments to a trained or evaluated SAM."""

import logging
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, set_seed

from ....hub.ids import reading
from ...data.fingerprints import weights_fingerprint
from ...data.seeded import data_seed
from ...run.arguments import ArgumentReader, ModelArguments, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results, write_results_file
from ...run.run import Run
from .arguments import (
    MaskGenerationArguments,
    MaskGenerationEvaluationArguments,
    ShapesArguments,
    TeacherArguments,
)
from .data import Shapes, collate, load_photographs, photograph_facts
from .models import is_loaded, load_sam
from .reports import write_results
from .teacher import Teacher, load_teacher, open_cache
from .trainer import MaskGenerationTrainer, measure

logger = logging.getLogger(__name__)

TRAINING_ARGUMENTS = (ModelArguments, ShapesArguments, TeacherArguments, MaskGenerationArguments)
EVALUATION_ARGUMENTS = (ModelArguments, MaskGenerationEvaluationArguments)


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, teacher_args, args = arguments
    config, checkpoint = open_run(reader, arguments)
    set_seed(args.seed)
    with blaming_model_config(model_args.model_config):
        model, processor = load_sam(model_args)
    options = {
        "size": model.config.vision_config.image_size,
        "prompts": data_args.prompts_per_picture,
        "shapes": data_args.shapes_per_picture,
        "rounds": data_args.hard_prompt_rounds,
        "mean": processor.image_mean,
        "deviation": processor.image_std,
    }
    photographs = load_photographs(data_args.photographs, "train", "photographs")
    others = load_photographs(data_args.eval_photographs, "evaluation", "eval_photographs")
    train = Shapes(
        photographs,
        data_args.train_pictures,
        seed=data_seed(args),
        fixed=teacher_args.teacher_cache is not None,
        **options,
    )
    teacher = _teacher(teacher_args, model_args, data_args, processor, model, photographs, data_seed(args))
    contents = {"photographs": photograph_facts(photographs), "evaluation photographs": photograph_facts(others)}
    if is_loaded(model_args):
        contents["model"] = weights_fingerprint(model)
    if teacher is not None:
        contents[f"teacher {teacher_args.teacher}"] = weights_fingerprint(teacher.model)
    check_contents(config, checkpoint, args.output_dir, contents)
    args.label_names = ["masks"]
    args.remove_unused_columns = False
    trainer = MaskGenerationTrainer(
        model=model,
        args=args,
        weights=teacher_args,
        teacher=teacher,
        train_dataset=train,
        eval_dataset=Shapes(others, data_args.eval_pictures, **options),
        data_collator=collate,
        compute_metrics=means,
        processing_class=processor,
    )

    def report(train_metrics: dict) -> dict:
        return write_results(trainer, train_metrics, trainer.evaluate(), config, model_args, data_args)

    return Run(trainer, checkpoint, config, report)


def _teacher(teacher_args, model_args, data_args, processor, student, photographs, seed: int) -> Teacher | None:
    if teacher_args.teacher is None:
        return None
    model = load_teacher(teacher_args.teacher, teacher_args.teacher_revision, model_args.token)
    ours, theirs = (m.config.vision_config.output_channels for m in (student, model))
    if ours != theirs and (teacher_args.embedding_weight or teacher_args.token_weight):
        raise ValueError(
            f"--teacher: its embeddings have {theirs} channels, the student's {ours}; give --embedding_weight 0 and "
            "--token_weight 0, or a student with as many."
        )
    with reading("--teacher", teacher_args.teacher, revision=("--teacher_revision", teacher_args.teacher_revision)):
        own = AutoImageProcessor.from_pretrained(
            teacher_args.teacher, revision=teacher_args.teacher_revision, token=model_args.token
        )
    cache = None
    if teacher_args.teacher_cache is not None:
        facts = {
            "teacher": str(teacher_args.teacher),
            "teacher_revision": teacher_args.teacher_revision,
            **weights_fingerprint(model),
            "photographs": data_args.photographs,
            "pictures": photograph_facts(photographs)["pictures"],
            "shapes_per_picture": data_args.shapes_per_picture,
            "image_size": student.config.vision_config.image_size,
            "seed": seed,
        }
        cache = open_cache(teacher_args.teacher_cache, facts)
    columns = (own.image_mean, own.image_std, processor.image_mean, processor.image_std)
    return Teacher(model, *(torch.tensor(values)[:, None, None] for values in columns), cache)


def means(prediction) -> dict[str, float]:
    """Mean IoU by points and by boxes, and the loss, over pictures."""
    values = np.asarray(prediction.predictions, dtype=np.float64)
    return dict(zip(("miou_point", "miou_box", "loss"), values.mean(0).tolist(), strict=True))


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, args = arguments
    call = open_results(reader.task, arguments)
    model, processor = load_sam(model_args)
    data = Shapes(
        load_photographs(args.eval_photographs, "evaluation", "eval_photographs"),
        args.eval_pictures,
        model.config.vision_config.image_size,
        prompts=args.prompts_per_picture,
        shapes=args.shapes_per_picture,
        rounds=0,
        mean=processor.image_mean,
        deviation=processor.image_std,
    )
    return partial(_evaluate, model.eval(), data, model_args.model, args, call)


def _evaluate(model, data: Shapes, name: str, args, call: dict) -> dict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    rows = []
    for batch in DataLoader(data, batch_size=args.per_device_eval_batch_size, collate_fn=collate):
        measured = measure(model, {name: value.to(device) for name, value in batch.items()})
        rows.append(torch.stack([measured["miou_point"], measured["miou_box"]], dim=-1).cpu().double())
    points, boxes = torch.cat(rows).mean(0).tolist()
    facts = {"model": name, "dataset": "shapes over photographs", "split": f"{len(data)} pictures"}
    results = write_results_file(args.output, {**facts, "miou_point": points, "miou_box": boxes}, call)
    sys.stdout.write(f"mIoU of a point {100 * points:.2f}  of a box {100 * boxes:.2f}  n {len(data)}\n")
    return results
