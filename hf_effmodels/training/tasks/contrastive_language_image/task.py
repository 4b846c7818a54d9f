"""The task contrastive-language-image: from images and what is said of them to two towers that compare them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import set_seed

import hf_effmodels

from ...._files import whole_file
from ....modeling.light_clip.modeling_light_clip import LightClipForPreTraining
from ...data.fingerprints import weights_fingerprint
from ...data.images import usable
from ...data.seeded import data_seed
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from .arguments import (
    SLOT,
    ContrastiveArguments,
    EvaluationArguments,
    ImagePartArguments,
    ImageTextArguments,
    TwoTowerArguments,
)
from .data import (
    Collator,
    ImageTextDataset,
    ImageTexts,
    Masking,
    encoder,
    load_evaluation_image_texts,
    load_image_texts,
    load_zero_shot,
)
from .evaluation import class_vectors, measure, unit_vectors, zero_shot_accuracy, zero_shot_vectors
from .models import load_trained, load_two_towers, source_of
from .reports import write_evaluation, write_results
from .teacher import Teacher
from .trainer import ContrastiveTrainer

#: Names that the example of a prediction chooses from.
_SHOWN = 10

TRAINING_ARGUMENTS = (TwoTowerArguments, ImageTextArguments, ImagePartArguments, ContrastiveArguments)
EVALUATION_ARGUMENTS = (TwoTowerArguments, ImageTextArguments, EvaluationArguments)


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, part_args, args = arguments
    config, checkpoint = open_run(reader, arguments)
    train, evaluation = load_image_texts(data_args, model_args.token)
    zero_shot = load_zero_shot(data_args, model_args.token)
    _check_sizes(train, evaluation, args)
    set_seed(args.seed)
    with blaming_model_config(model_args.model_config, model_args.model, image_size=model_args.image_size):
        model, processor = load_two_towers(model_args, train.all_texts())
    teacher, encode_for_teacher, teacher_pad = _teacher(args, model, processor, model_args.token)
    train, evaluation = (
        usable(source, partial(source.read, num_channels=3), data_args) for source in (train, evaluation)
    )
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if zero_shot is not None:
        contents["zero-shot data"] = zero_shot.facts()
    if model_args.model not in hf_effmodels.list_models():
        contents["model"] = weights_fingerprint(model)
    if teacher is not None:
        contents[f"teacher {args.teacher}"] = weights_fingerprint(teacher.model)
    check_contents(config, checkpoint, args.output_dir, contents)
    tokenizer, images = processor.tokenizer, processor.image_processor
    encode = encoder(tokenizer, _length(data_args, model))
    trainer = ContrastiveTrainer(
        model=model,
        args=args,
        teacher=teacher,
        zero_shot=zero_shot and ImageTextDataset(zero_shot, images, encode),
        train_dataset=ImageTextDataset(
            train, images, encode, part_args, _masking(args, model, tokenizer), encode_for_teacher, data_seed(args)
        ),
        eval_dataset=ImageTextDataset(evaluation, images, encode),
        data_collator=Collator(tokenizer.pad_token_id, teacher_pad),
        processing_class=processor,
    )
    _try_out(trainer, model_args, _length(data_args, model))

    def report(train_metrics: dict) -> dict:
        metrics = trainer.evaluate()
        return write_results(trainer, train_metrics, metrics, config, model_args, data_args)

    return Run(trainer, checkpoint, config, report, example=partial(_example, trainer.eval_dataset.source))


def _example(source: ImageTexts, output: Path) -> list[str]:
    """An image of the evaluation, and what it may be called."""
    file = output / "example.png"
    with whole_file(file) as new:
        source.read(0, 3).save(new, format="PNG")
    if source.labels is not None:
        return [str(file), "--template", source.templates[0], "--labels", *source.names[:_SHOWN]]
    return [
        str(file),
        "--template",
        SLOT,
        "--labels",
        *(source.texts(index)[0] for index in range(min(3, len(source)))),
    ]


def _check_sizes(train: ImageTexts, evaluation: ImageTexts, args: ContrastiveArguments) -> None:
    batch = args.per_device_train_batch_size * args.world_size
    if len(train) < batch:
        raise ValueError(
            f"--per_device_train_batch_size: got {args.per_device_train_batch_size}, but {train.split} has "
            f"{len(train)} pairs: no batch is full."
        )
    if len(evaluation) < 2:
        raise ValueError(f"{evaluation.split} has {len(evaluation)} pair, accepted are 2 or more.")


def _length(args: ImageTextArguments, model) -> int:
    most = model.config.text_config.max_position_embeddings
    if args.max_length is not None and args.max_length > most:
        raise ValueError(f"--max_length: got {args.max_length}, but the text tower takes {most} tokens.")
    return args.max_length or most


def _masking(args: ContrastiveArguments, model, tokenizer) -> Masking | None:
    if not isinstance(model, LightClipForPreTraining) or not model.config.mlm_loss_weight:
        return None
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    marks = np.unique([number for number in ids if number is not None])
    return Masking(args.mask_ratio, model.config.mask_token_id, np.setdiff1d(np.arange(len(tokenizer)), marks), marks)


def _teacher(args: ContrastiveArguments, model, processor, token: str | None):
    """The teacher, its encoder of texts and the id that fills its texts up."""
    if args.teacher is None:
        return None, None, 0
    teacher, its_processor = load_trained("--teacher", args.teacher, {"token": token})
    theirs, ours = teacher.config.projection_dim, model.config.projection_dim
    if args.feature_weight and theirs != ours:
        raise ValueError(
            f"--feature_weight: the teacher's embeddings have {theirs} numbers, the model's {ours}; accepted are as "
            f"many (--model_config '{{projection_dim: {theirs}}}'), or --affinity_weight alone."
        )
    if not args.feature_weight and not args.affinity_weight:
        raise ValueError("--teacher: nothing is learnt from it with --affinity_weight 0 and --feature_weight 0.")
    tokenizer = its_processor.tokenizer
    encode = encoder(tokenizer, teacher.config.text_config.max_position_embeddings)
    return Teacher(teacher, its_processor.image_processor, processor.image_processor), encode, tokenizer.pad_token_id


def _try_out(trainer: ContrastiveTrainer, model_args: TwoTowerArguments, longest: int) -> None:
    """What fails for the first pairs fails before anything is written."""
    batch = trainer.data_collator([trainer.train_dataset[0]] * 2)
    trainer.eval_dataset[0]
    batch = {name: value.to(trainer.args.device) for name, value in batch.items()}
    with torch.no_grad(), blaming_model_config(model_args.model_config, model_args.model):
        images, texts = unit_vectors(trainer.network.eval(), batch)
        if isinstance(trainer.network, LightClipForPreTraining) and trainer.network.config.token_loss_weight:
            given = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
            _check_matching(trainer.network(**given, return_loss=False).patch_embeds.shape[1], trainer, longest)
        if trainer.teacher is not None:
            trainer.teacher(*(batch[name] for name in ("pixel_values", "teacher_input_ids", "teacher_attention_mask")))
    if not torch.isfinite(images).all() or not torch.isfinite(texts).all():
        raise ValueError(f"--model: {model_args.model} gives what is no number for the first pair.")


def _check_matching(places: int, trainer: ContrastiveTrainer, longest: int) -> None:
    """ValueError unless words of captions of `longest` tokens find their places of an image."""
    config = trainer.network.config
    if config.token_top_k > places:
        raise ValueError(
            f"--model_config: token_top_k: got {config.token_top_k}, accepted are 1 to the number of places that the "
            f"image tower tells apart in images of this size, {places}."
        )
    words = longest - 2  # without the marks of beginning and end
    if config.token_matching == "one_to_one" and words > places:
        raise ValueError(
            f"--max_length: captions may have {words} words, but images {places} places, of which with token_matching "
            f"one_to_one each word has its own; accepted are up to {places + 2} tokens."
        )


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    if model_args.model in hf_effmodels.list_models():
        raise ValueError(f"--model: {model_args.model} has random weights; name a trained one.")
    for name in ("tokenizer", "image_tower", "image_size"):
        if getattr(model_args, name) is not None:
            raise ValueError(f"--{name} goes with training; a trained model has what it needs.")
    source = load_evaluation_image_texts(data_args, model_args.token)
    zero_shot = load_zero_shot(data_args, model_args.token)
    model, processor = load_trained("--model", model_args.model, source_of(model_args))
    source = usable(source, partial(source.read, num_channels=3), data_args)
    if len(source) < 2:
        raise ValueError(f"{source.split} has {len(source)} pair, accepted are 2 or more.")
    encode = encoder(processor.tokenizer, _length(data_args, model))
    sets = [None if s is None else ImageTextDataset(s, processor.image_processor, encode) for s in (source, zero_shot)]
    sets[0][0]
    collate = Collator(processor.tokenizer.pad_token_id)
    return partial(_evaluate, model.eval(), sets, collate, model_args.model, data_args.dataset, args, call)


@torch.no_grad()
def _evaluate(model, sets, collate: Collator, name: str, of: str, args: EvaluationArguments, call: dict) -> dict:
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    dataset, zero_shot = sets

    def classes_of(data: ImageTextDataset) -> np.ndarray:
        return (
            class_vectors(model, data.encode, collate.pad_id, data.source.names, data.source.templates).cpu().numpy()
        )

    loader = DataLoader(
        dataset, args.per_device_eval_batch_size, collate_fn=collate, num_workers=args.dataloader_num_workers
    )
    pairs = [unit_vectors(model, {key: value.to(model.device) for key, value in batch.items()}) for batch in loader]
    images, texts = (torch.cat(part).cpu().numpy() for part in zip(*pairs, strict=True))
    classes = None if dataset.source.labels is None else classes_of(dataset)
    measured = measure(images, texts, dataset.source, model.logit_scale.exp().item(), args.eval_group, classes)
    if zero_shot is not None:
        workers = args.dataloader_num_workers
        found = zero_shot_vectors(model, zero_shot, collate, args.per_device_eval_batch_size, workers=workers)
        numbers = np.asarray([zero_shot.source.class_number(number) for number in range(len(zero_shot))])
        measured |= zero_shot_accuracy(found, classes_of(zero_shot), numbers)
    facts = {"model": name, "dataset": of, "split": dataset.source.split, "samples": len(dataset)}
    return write_evaluation(measured, facts, args.output, call)
