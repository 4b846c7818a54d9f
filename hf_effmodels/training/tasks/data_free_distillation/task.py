"""The task data-free-distillation: several trained classifiers become one small one, without their images."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, default_data_collator, set_seed

import hf_effmodels

from ...data.classes import model_classes
from ...data.fingerprints import weights_fingerprint
from ...data.images import usable
from ...data_free import DataFreeGenerator, fit_aggregation, save_generator
from ...run.arguments import ArgumentReader, ModelArguments, blaming_model_config
from ...run.contents import check_contents
from ...run.header import multiply_adds
from ...run.output_folder import open_run
from ...run.reports import has_matplotlib, plot_curves, save_results, training_summary, write_card
from ...run.run import Run
from ...task import load_task
from .arguments import DataFreeArguments, DataFreeTrainingArguments, EvaluationDataArguments
from .data import EvaluationImages
from .teachers import Input, Loaded, Teacher, input_of, load_teachers, student_processor, teachers_for
from .trainer import DataFreeTrainer

logger = logging.getLogger(__name__)

#: The student's task, asked by its name: its evaluation data and its metrics.
_TASK = load_task("image-classification")

TRAINING_ARGUMENTS = (DataFreeArguments, ModelArguments, EvaluationDataArguments, DataFreeTrainingArguments)
EVALUATION_ARGUMENTS = _TASK.EVALUATION_ARGUMENTS

#: What the card says about the training.
HYPER_PARAMETERS = (
    *("teachers", "generator", "latent_size", "num_train_epochs", "max_steps", "steps_per_epoch", "student_steps"),
    *("head_weight", "feature_weight", "ensemble_weight", "disagreement_weight", "statistics_weight"),
    *("first_norm_weight", "optim", "optim_args"),
    *("learning_rate", "generator_learning_rate", "generator_schedule", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("weight_decay", "max_grad_norm", "ema_decay", "image_size", "bf16", "seed"),
)
_OF_REAL_SAMPLES = ("real_samples", "aggregation_steps", "aggregation_learning_rate")
#: Metrics that say how good the student is.
_QUALITY = ("accuracy", "top_5_accuracy")
_LARGE = 64


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned distils, evaluates where there is something to evaluate on,
    and writes the results."""
    distillation, model_args, data_args, args = arguments = reader.read(*TRAINING_ARGUMENTS)
    _check(distillation, data_args, args)
    config, checkpoint = open_run(reader, arguments)
    loaded = load_teachers(
        distillation.teachers, model_args.token, model_args.trust_remote_code, distillation.statistics_weight > 0
    )
    processor = student_processor(loaded, model_args.image_size)
    given = input_of(processor, getattr(loaded[0].model.config, "num_channels", 3))
    set_seed(args.seed)
    model = _student(model_args, distillation, loaded, given)
    teachers = teachers_for(loaded, given)
    generator = _generator(distillation, given)
    _try_out(model, teachers, given, distillation, args)
    evaluation, few = _real_images(data_args, model_args, distillation, model, processor)
    contents = {f"teacher {one.name}": weights_fingerprint(one.model) for one in loaded}
    contents |= {"evaluation data": evaluation.source.facts()} if evaluation else {}
    contents |= {"real samples": few.source.facts()} if few else {}
    if model_args.model not in hf_effmodels.list_models():
        contents["model"] = weights_fingerprint(model)
    check_contents(config, checkpoint, args.output_dir, contents)
    if args.device.type == "cpu":
        for network in (model, generator, *(teacher.model for teacher in teachers)):
            network.to(memory_format=torch.channels_last)
    trainer = DataFreeTrainer(
        model=model,
        args=args,
        teachers=teachers,
        generator=generator,
        distillation=distillation,
        given=given,
        eval_dataset=evaluation,
        processing_class=processor,
        data_collator=default_data_collator,
        compute_metrics=_TASK.compute_metrics,
        preprocess_logits_for_metrics=_TASK.ranked_classes,
    )
    pixels = torch.zeros(given.num_channels, given.size, given.size)
    return Run(
        trainer,
        checkpoint,
        config,
        partial(_report, trainer, few, config, model_args, data_args, distillation, pixels),
        facts=[
            f"taught by {', '.join(f'{one.name} ({type(one.model).__name__})' for one in loaded)}; no data set",
            *([f"evaluating on {len(evaluation)} images of {evaluation.source.split}"] if evaluation else []),
            *filter(None, [multiply_adds(model, pixels)]),
        ],
        example=partial(_example, evaluation, given) if evaluation else None,
        evaluation={} if evaluation else {"dataset": "DATASET"},
    )


def _check(distillation: DataFreeArguments, data_args, args) -> None:
    if args.eval_strategy != "no" and data_args.dataset is None:
        raise ValueError(f"--eval_strategy: got {args.eval_strategy.value!r}, which needs --dataset to evaluate on.")
    if args.load_best_model_at_end and data_args.dataset is None:
        raise ValueError("--load_best_model_at_end: what is best is measured on --dataset, which is missing.")
    if data_args.max_train_samples is not None:
        raise ValueError("--max_train_samples: nothing is trained on; --real_samples says how many may be seen.")
    if args.fp16:
        raise ValueError("--fp16: the generator's gradients would need a scaler of their own; accepted is --bf16.")
    if args.fsdp or args.deepspeed:
        raise ValueError("--fsdp, --deepspeed: the generator's step takes whole weights in each process.")
    if not (distillation.head_weight or distillation.feature_weight or distillation.ensemble_weight):
        raise ValueError("--head_weight, --feature_weight, --ensemble_weight: all are 0, nothing would be learnt.")
    if not (distillation.disagreement_weight or distillation.statistics_weight):
        raise ValueError("--disagreement_weight, --statistics_weight: both are 0, the generator would learn nothing.")


def _student(
    args: ModelArguments, distillation: DataFreeArguments, loaded: list[Loaded], given: Input
) -> PreTrainedModel:
    """The student: a preset with a head for each teacher and random weights, or one that is trained already."""
    heads, is_preset = len(loaded), args.model in hf_effmodels.list_models()
    if is_preset:
        fields = {"image_size": given.size, "num_channels": given.num_channels, **args.model_config}
        if hf_effmodels.get_config(args.model).model_type == "cdfkd_mfs":
            fields.setdefault("num_heads", heads)
            if distillation.real_samples:
                fields.setdefault("aggregation", "attention")
        for name in ("image_size", "num_channels"):
            if getattr(args, name) is not None:
                fields.pop(name)
        args.model_config = fields
    # Whatever is wrong with the fields is said of what the user has given.
    sizes = {"num_channels": args.num_channels, "image_size": args.image_size}
    with blaming_model_config(args.model_config, None if is_preset else args.model, **sizes):
        model, _ = _TASK.load_classifier(args, loaded[0].classes)
    config = model.config
    if not hasattr(config, "num_heads") or config.model_type != "cdfkd_mfs":
        raise ValueError(
            f"--model: {args.model}, a {type(model).__name__}, has no head for each teacher; accepted are students "
            "of CDFKD-MFS (mhresnet8x18, mhwrn4x161, ...), over any backbone by --model_config {trunk: backbone, "
            "backbone_config: {model_type: ..., out_features: [...]}}."
        )
    if config.num_channels != given.num_channels:
        raise ValueError(
            f"--num_channels: the student takes {config.num_channels} channels, {loaded[0].name} "
            f"{given.num_channels}: accepted are as many as the teachers'."
        )
    if config.num_heads != heads:
        raise ValueError(f"--model_config: num_heads: got {config.num_heads}, there are {heads} --teachers.")
    if config.reparameterized:
        raise ValueError(f"--model: {args.model} is folded for deployment and cannot be trained any more.")
    if (config.aggregation == "attention") != bool(distillation.real_samples):
        raise ValueError(
            f"--real_samples: got {distillation.real_samples}, aggregation is {config.aggregation!r}; accepted are "
            "'attention' with images to learn it from, and 'mean' without."
        )
    if model.aggregation is not None:  # it is no part of what the student learns without data
        model.aggregation.requires_grad_(False)
    return model


def _generator(distillation: DataFreeArguments, given: Input) -> DataFreeGenerator:
    kind = distillation.generator or ("small" if given.size <= _LARGE else "large_normalized")
    try:
        return DataFreeGenerator(kind, given.size, distillation.latent_size, given.num_channels)
    except ValueError as error:
        raise ValueError(f"--{error}") from None


@torch.no_grad()
def _try_out(model, teachers: list[Teacher], given: Input, distillation: DataFreeArguments, args) -> None:
    """A pass of all networks: what does not fit is said before anything is written."""
    pixels = torch.zeros(2, given.num_channels, given.size, given.size)
    features = model.to("cpu").eval()(pixel_values=pixels).head_features
    for number, teacher in enumerate(teachers):
        teacher(pixels)
        if distillation.feature_weight and teacher.width != features.shape[-1]:
            raise ValueError(
                f"--feature_weight: got {distillation.feature_weight}, but the features of teacher {number + 1}, "
                f"{teacher.name}, are {teacher.width} wide, the student's {features.shape[-1]}; accepted is 0, or a "
                "student as wide."
            )


def _real_images(data_args, model_args, distillation, model, processor):
    """What is evaluated on, and the few images that the aggregation is learnt from; None each where there are none."""
    if data_args.dataset is None:
        return None, None
    if distillation.real_samples:
        few, evaluation = _TASK.load_data(data_args, model_args.token)
        if distillation.real_samples > len(few):
            raise ValueError(f"--real_samples: got {distillation.real_samples}, {few.split} has {len(few)} images.")
        few = few.evenly(distillation.real_samples)
    else:
        few, evaluation = None, _TASK.load_evaluation_data(data_args, model_args.token)
    own, channels = _TASK.class_names(model.config), model.config.num_channels
    made = []
    for source in (evaluation, few):
        if source is None:
            made.append(None)
            continue
        if source.names is not None:
            source = source.renumbered(model_classes(source.names, own), own)
        _TASK.check_labels(source, len(own))
        source = usable(source, partial(source.read, num_channels=channels), data_args)
        made.append(EvaluationImages(source, _TASK.EvaluationTransform(processor), channels))
        made[-1][0]
    return made


def _report(trainer, few, config, model_args, data_args, distillation, pixels, train_metrics: dict) -> dict:
    """Fit the aggregation, evaluate student and teachers, write the model, the generator and the card."""
    if few is not None:
        _learn_aggregation(trainer, few, distillation)
    measured, metrics = trainer.eval_dataset, {}
    if measured is not None:
        metrics = dict(trainer.evaluate())
        accuracies = _accuracies(trainer)
        metrics |= {f"eval_teacher_{number}_accuracy": value for number, value in enumerate(accuracies, start=1)}
        logger.info(
            "top-1: the student %.2f %%, the teachers %s %%",
            *(100 * metrics["eval_accuracy"], ", ".join(f"{100 * value:.2f}" for value in accuracies)),
        )
    results = save_results(trainer, train_metrics, metrics)
    if not trainer.args.should_save:
        return results
    output = Path(trainer.args.output_dir)
    save_generator(trainer.generator, output / "generator")
    if has_matplotlib():
        panels = {
            "student": {"heads": "heads", "ensemble": "ensemble", "features": "features"},
            "generator": {"generator_disagreement": "disagreement", "generator_statistics": "statistics"},
            "share": {"agreement": "agreement with the teachers, generated", "eval_accuracy": "accuracy, real"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels)
    write_card(
        trainer,
        {name: metrics[f"eval_{name}"] for name in _QUALITY if f"eval_{name}" in metrics},
        split=measured.source.split.rpartition("/")[2] if measured else "",
        dataset=None,
        measured_on=data_args.eval_dataset or data_args.dataset,
        model=model_args.model,
        pipeline_tag="image-classification",
        sample=pixels,
        training=_training_summary(trainer, few, config),
    )
    logger.info("results: %s", output)
    return results


def _training_summary(trainer: DataFreeTrainer, few: EvaluationImages | None, config: dict) -> dict:
    names, data = HYPER_PARAMETERS, "images of a generator"
    if few is not None:
        names, data = names + _OF_REAL_SAMPLES, f"{data}, and {len(few)} real ones for the aggregation"
    summary = training_summary(config, names, trainer.get_total_train_batch_size(trainer.args))
    return {"training_data": data, **summary}


@torch.no_grad()
def _learn_aggregation(trainer: DataFreeTrainer, few: EvaluationImages, distillation: DataFreeArguments) -> None:
    network, features = trainer.network.eval(), []
    for pixels, _ in _batches(few, trainer):
        features.append(network(pixel_values=pixels).head_features.float())
    labels = torch.tensor(few.source.labels, device=trainer.args.device)
    steps, rate = distillation.aggregation_steps, distillation.aggregation_learning_rate
    before, after = fit_aggregation(network, torch.cat(features), labels, steps=steps, learning_rate=rate)
    logger.info("aggregation: cross entropy of %d real images %.4f before, %.4f after", len(few), before, after)


@torch.no_grad()
def _accuracies(trainer: DataFreeTrainer) -> list[float]:
    """The teachers' top-1 accuracy on the evaluation set; every process counts all of it."""
    right = [0] * len(trainer.teachers)
    for pixels, labels in _batches(trainer.eval_dataset, trainer):
        for number, teacher in enumerate(trainer.teachers):
            with trainer.accelerator.autocast():
                right[number] += int((teacher(pixels)[0].argmax(1) == labels).sum())
    return [count / len(trainer.eval_dataset) for count in right]


def _batches(dataset: EvaluationImages, trainer: DataFreeTrainer):
    size, device = trainer.args.per_device_eval_batch_size, trainer.args.device
    for start in range(0, len(dataset), size):
        samples = [dataset[index] for index in range(start, min(start + size, len(dataset)))]
        yield (
            torch.stack([sample["pixel_values"] for sample in samples]).to(device),
            torch.tensor([int(sample["labels"]) for sample in samples], device=device),
        )


def _example(evaluation: EvaluationImages, given: Input, output: Path) -> list[str]:
    file = output / "example.png"
    with _TASK.whole_file(file) as new:
        evaluation.source.read(0, given.num_channels).save(new, format="PNG")
    return [str(file)]


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """The student is evaluated as any image classifier."""
    return _TASK.prepare_evaluation(reader)
