"""The task image-text-to-text: ADEM-VL learns to answer questions about pictures.

The way from arguments to results, in the order in which it is gone: `arguments.py`, the data (`sources.py`, a file for
each format, `samples.py`, `prompts.py`), `models.py`, `encoding.py`, `trainer.py`, `generation.py`, `scores.py`,
`reports.py`.
"""

import logging
from collections.abc import Callable

import torch
from accelerate import Accelerator
from transformers import set_seed

from ....modeling.adem_vl.configuration_adem_vl import PRESETS
from ...data.fingerprints import weights_fingerprint
from ...data.images import usable
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...run.arguments import ArgumentReader, blaming_model_config
from ...run.contents import check_contents
from ...run.output_folder import open_run
from ...run.results import open_results
from ...run.run import Run
from .arguments import (
    EVALUATION_ARGUMENTS,
    TRAINING_ARGUMENTS,
    ImageTextToTextArguments,
    VisionLanguageModelArguments,
)
from .augmentation import CaptionAugmentation
from .encoding import Collator, Encoder, ImageTextToTextDataset, Pixels
from .generation import generate_answers
from .models import has_base_elsewhere, load_model, set_trained_weights
from .reports import write_evaluation, write_results
from .samples import Samples
from .scores import score
from .sources import NEW_TOKENS, load_data, load_evaluation_data, resolve_format
from .trainer import ImageTextToTextTrainer

logger = logging.getLogger(__name__)

__all__ = ["EVALUATION_ARGUMENTS", "TRAINING_ARGUMENTS", "prepare_evaluation", "prepare_training"]


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned trains, answers the evaluation's questions and writes the
    results."""
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, args = arguments
    config, checkpoint = open_run(reader, arguments)

    train, evaluation = (usable(s, s.read_image, data_args) for s in load_data(data_args, model_args.token))
    set_seed(args.seed)
    with blaming_model_config(model_args.model_config):
        model, processor = load_model(model_args, train)
    set_trained_weights(model, args.train, model_args.base_precision)
    if args.ema_decay is not None and model_args.base_precision != "float32":
        raise ValueError(f"--ema_decay needs --base_precision float32, not {model_args.base_precision}.")
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if model_args.model not in PRESETS or model_args.text_model is not None:
        frozen = weights_fingerprint(model, lambda name, weight: not weight.requires_grad)
        contents["frozen parts"] = frozen
    check_contents(config, checkpoint, args.output_dir, contents)
    adapter_only = _saves_adapters_only(model_args, args)
    side = model.config.vision_config.image_size
    augment = CaptionAugmentation(side) if args.augmentation == "captions" else None
    encoder, pixels = Encoder(processor, data_args.max_length), Pixels(processor.image_processor, augment)
    _check_room(encoder, data_args)
    trainer = ImageTextToTextTrainer(
        model=model,
        args=args,
        adapter_only=adapter_only,
        train_dataset=ImageTextToTextDataset(train, encoder, pixels, data_seed(args)),
        eval_dataset=ImageTextToTextDataset(evaluation, encoder, pixels),
        processing_class=processor,
        data_collator=Collator(processor.tokenizer.pad_token_id, with_mask=not processor.use_cls_token),
    )
    with blaming_model_config(model_args.model_config):
        _try_out(trainer)

    def report(train_metrics: dict) -> dict:
        metrics = trainer.evaluate()
        answers = _answers(model, evaluation, encoder, pixels, data_args, args)
        if answers is not None:
            results = score(resolve_format(data_args), evaluation.without_images(), answers)
            metrics |= {f"eval_{name}": value for name, value in results.items()}
        return write_results(trainer, train_metrics, metrics, config, model_args, data_args)

    return Run(trainer, checkpoint, config, report, evaluation=held_out_unasked(data_args, evaluation.split))


def _saves_adapters_only(model_args: VisionLanguageModelArguments, args: ImageTextToTextArguments) -> bool:
    """Whether the frozen parts can be found again where they came from."""
    if model_args.base_precision == "4bit" and args.save_base:
        raise ValueError("--save_base: with 4bit the frozen parts are not the ones that would be saved.")
    if args.train == "adapters" and model_args.tokenizer is not None and model_args.text_model is None:
        logger.warning("the frozen parts have random weights and stay like that; --train all trains them, too.")
    return args.train == "adapters" and not args.save_base and has_base_elsewhere(model_args)


def _try_out(trainer: ImageTextToTextTrainer) -> None:
    """What fails for the first rows (a broken file, an image of another size) fails before anything is written."""
    for dataset in (trainer.train_dataset, trainer.eval_dataset):
        batch = trainer.data_collator([dataset[0], dataset[len(dataset) - 1]])
        if (batch["labels"] == -100).all():
            logger.warning(
                "the first and the last row of %s have no answer within --max_length %d.",
                *(dataset.samples.split, dataset.encoder.max_length),
            )
        with torch.no_grad():
            inputs = {name: value.to(trainer.model.device) for name, value in batch.items()}
            trainer.model.eval()(**inputs)


def _check_room(encoder: Encoder, data_args) -> None:
    if (kind := resolve_format(data_args)) != "instructions":
        encoder.check_room(data_args.max_new_tokens or NEW_TOKENS[kind])


def _answers(model, samples: Samples, encoder: Encoder, pixels: Pixels, data_args, args) -> list[str] | None:
    kind = resolve_format(data_args)
    if kind == "instructions":
        return None
    return generate_answers(
        model,
        samples,
        encoder,
        pixels,
        batch_size=args.per_device_eval_batch_size,
        max_new_tokens=data_args.max_new_tokens or NEW_TOKENS[kind],
        bf16=args.bf16,
        log=logger.info,
    )


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """Read and check everything; the function returned answers the questions and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    if resolve_format(data_args) == "instructions":
        raise ValueError("--data_format: answers to instructions have no score; evaluate on another data set.")
    samples = load_evaluation_data(data_args, model_args.token)
    samples = usable(samples, samples.read_image, data_args)
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    with blaming_model_config(model_args.model_config):
        model, processor = load_model(model_args)
    model.to(accelerator.device)
    encoder, pixels = Encoder(processor, data_args.max_length), Pixels(processor.image_processor)
    _check_room(encoder, data_args)

    def evaluate() -> dict[str, float]:
        answers = _answers(model, samples, encoder, pixels, data_args, args)
        asked = samples.without_images()
        metrics = {**score(resolve_format(data_args), asked, answers), "samples": len(samples)}
        if accelerator.is_main_process:
            write_evaluation(metrics, asked, answers, samples.split, args, call)
        accelerator.end_training()
        return metrics

    return evaluate
