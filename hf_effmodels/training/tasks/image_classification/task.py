"""The task image-classification: its arguments, loss and metrics, and the way from arguments to results."""

import logging
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from transformers import EvalPrediction, set_seed

import hf_effmodels

from .... import metrics
from ...._files import whole_file
from ...._image_size import blaming_image_size
from ...._shapes import size_of_all
from ....modeling.layers.bivit import BiVitLinear
from ....modeling.layers.training_branches import fold_training_branches, with_training_branches
from ...data.classes import model_classes
from ...data.fingerprints import weights_fingerprint
from ...data.images import check_processor, usable
from ...data.seeded import data_seed
from ...data.splits import held_out_unasked
from ...elastic.arguments import SortedArguments
from ...elastic.sorted_runs import SortedRun, making_sorted
from ...run.arguments import ArgumentReader, ModelArguments, blaming_model_config
from ...run.binary_blocks import BinaryBlockArguments, make_blocks_binary
from ...run.contents import check_contents
from ...run.header import class_facts, class_warnings, multiply_adds
from ...run.output_folder import open_run
from ...run.recipe_arguments import RecipeArguments
from ...run.results import ResultsArguments, open_results
from ...run.run import Run
from ...run.ternary import TernaryArguments, add_warm_start, make_ternary
from ...run.trainer import RecipeTrainer
from ...run.values import SET
from .data import (
    DataArguments,
    ImageClassificationDataset,
    LabelledImages,
    check_chosen,
    check_classes,
    check_labels,
    load_data,
    load_evaluation_data,
)
from .label_maps import LabelMapArguments, load_label_maps
from .mixing import Collator, smooth_one_hot
from .models import class_names, load_classifier
from .reports import plot_confusion as plot_confusion  # for tasks that build on this one
from .reports import write_evaluation, write_results
from .transforms import AugmentationArguments, EvaluationTransform, Normalization, TrainingTransform

logger = logging.getLogger(__name__)


@dataclass
class ImageClassificationArguments(
    SortedArguments, LabelMapArguments, TernaryArguments, BinaryBlockArguments, RecipeArguments
):
    """`RecipeArguments`, and how batches are mixed. Evaluates and saves after each epoch and keeps the best."""

    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Checkpoints to keep: the newest, and the best in any case."}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint's model."})
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "What the best is best at."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between log lines; below 1 a share of all."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Turn this on for a model that does not use all of its parameters."}
    )
    mixup: float = field(default=0.0, metadata={"accepts": "[0, inf)", "help": "Mixup's alpha; 0 for none."})
    cutmix: float = field(default=0.0, metadata={"accepts": "[0, inf)", "help": "CutMix's alpha; 0 for none."})
    mix_probability: float = field(
        default=1.0,
        metadata={
            "goes_with": {"mixup": SET, "cutmix": SET},
            "accepts": "[0, 1]",
            "help": "Probability of mixing a batch.",
        },
    )
    mix_switch_probability: float = field(
        default=0.5,
        metadata={
            "goes_with": ({"mixup": SET}, {"cutmix": SET}),
            "accepts": "[0, 1]",
            "help": "Probability of CutMix, where both Mixup and CutMix are on.",
        },
    )
    mix_off_epochs: int = field(
        default=0,
        metadata={
            "goes_with": {"mixup": SET, "cutmix": SET},
            "accepts": "[0, inf)",
            "help": "Epochs at the end of the training whose batches are not mixed.",
        },
    )
    random_weights: bool = field(
        default=False,
        metadata={"help": "Of a model on the Hub or in a folder take the configuration only, and train from scratch."},
    )
    repeated_augmentation: int = field(
        default=1,
        metadata={
            "accepts": "[1, 1000]",
            "help": "Copies of each sample in a row, each augmented by itself; epochs stay as long, with fewer images",
        },
    )
    training_branches: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, 100]",
            "help": "Train each convolution that a batch norm follows as so many branches, beside them a 1×1 branch "
            "and the input itself (GhostNetV3's strategy, whose N is 3, for any such network). The result is the "
            "plain network: they are folded in it.",
        },
    )
    loss: Literal["cross_entropy", "binary_cross_entropy"] = field(
        default="cross_entropy",
        metadata={"help": "Training loss. binary_cross_entropy: each class by itself, the mean over all classes."},
    )


@dataclass
class EvaluationArguments(ResultsArguments):
    """How to evaluate."""

    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images at a time, per process."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that read images."})
    reparameterize: bool = field(default=False, metadata={"help": "Fold the model first, as it would be deployed."})
    deploy: bool = field(default=False, metadata={"help": "Fold a binary network and pack its weights to bits first."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})
    reports: bool = field(
        default=False,
        metadata={
            "goes_with": {"output": SET},
            "help": "Write, beside the results, precision, recall and F1 of each class (CSV), the confusion matrix, "
            "the calibration and the worst mistakes.",
        },
    )


class ImageClassificationTrainer(RecipeTrainer):
    """Cross entropy with whole or mixed labels: in training with label smoothing, in evaluation without.

    The loss is computed here, and not by the model, which would take the label probabilities of mixed batches for
    several labels per image. It is the mean over all images of an optimizer step, over accumulated batches and
    processes: 8 accumulated batches of 1 give the gradient of 1 batch of 8, also where batches differ in size.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False
        self.compute_loss_func = self.classification_loss

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        sampler.repeats = self.args.repeated_augmentation
        return sampler

    def metric_names(self) -> tuple[str, ...]:
        more_than_five = ("top_5_accuracy",) if self.model.config.num_labels > 5 else ()
        return ("loss", "accuracy", *more_than_five, "samples")

    def classification_loss(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """Sum over the batch, divided by the number of images in the optimizer step (of the batch by default).

        Args:
            outputs: the model's, with logits (batch, classes).
            labels: (batch,) classes, or (batch, classes) probabilities which hold the label smoothing already.
            num_items_in_batch: as the Trainer counts, the elements of all `labels` of the step.
        """
        logits = outputs["logits"].float()
        if num_items_in_batch is None:
            num_items_in_batch = labels.numel()
        if self.args.loss == "binary_cross_entropy" and self.model.training:
            num_labels = logits.shape[1]
            if labels.ndim == 1:
                labels = smooth_one_hot(labels, num_labels, self.args.label_smoothing_factor)
                num_items_in_batch = num_items_in_batch * num_labels
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / num_items_in_batch
        if labels.ndim == 2:
            return -(labels * F.log_softmax(logits, dim=-1)).sum() / (num_items_in_batch / labels.shape[1])
        smoothing = self.args.label_smoothing_factor if self.model.training else 0.0
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum") / num_items_in_batch


class SortedImageClassificationTrainer(SortedRun, ImageClassificationTrainer):
    """Trains a classifier and its sub-models, see `SortedRun`."""


def ranked_classes(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the metrics need: the five likeliest classes of each image, the likeliest first (of five classes and fewer,
    among which each would be, the likeliest alone), its loss, and the probability of the likeliest."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    ranked = logits.topk(5 if logits.shape[-1] > 5 else 1, dim=-1).indices
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return ranked, losses, logits.float().softmax(dim=-1).amax(dim=-1)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, top-5 accuracy (of more than five classes), mean loss and number of the images.

    The loss replaces the Trainer's own, in which an incomplete last batch weighs as much as the others.
    """
    (ranked, losses, _), labels = prediction.predictions, prediction.label_ids
    results = metrics.load("accuracy").compute(predictions=ranked[:, 0], references=labels)
    if ranked.shape[1] == 5:
        results |= metrics.load("top_5_accuracy").compute(predictions=ranked, references=labels)
    return {**results, "loss": float(losses.mean(dtype=np.float64)), "samples": len(labels)}


TRAINING_ARGUMENTS = (ModelArguments, DataArguments, AugmentationArguments, ImageClassificationArguments)
EVALUATION_ARGUMENTS = (ModelArguments, DataArguments, EvaluationArguments)


def prepare_training(
    reader: ArgumentReader,
    make_trainer: Callable[..., ImageClassificationTrainer] = ImageClassificationTrainer,
    load: Callable[[DataArguments, str | None], tuple[LabelledImages, LabelledImages]] = load_data,
    new_head: bool = True,
) -> Run:
    """Read and check everything; the run that is returned trains, evaluates and writes the results.

    Args:
        make_trainer: what makes the trainer of all that is its; a task that builds on this one gives its own.
        load: what reads the pictures, as `load_data`.
        new_head: as for `load_classifier`.
    """
    arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, augmentation, args = arguments
    if args.sorted_submodels and make_trainer is not ImageClassificationTrainer:
        raise ValueError(
            f"--sorted_submodels: --task {reader.task} trains one network; accepted is --task image-classification."
        )
    if args.sorted_submodels:
        make_trainer = making_sorted(SortedImageClassificationTrainer, args)
    config, checkpoint = open_run(reader, arguments)

    train, evaluation = load(data_args, model_args.token)
    names = train.names or _names_from_numbers(train, evaluation)
    set_seed(args.seed)
    with _blaming(model_args):
        model, processor = load_classifier(
            model_args, names, train.names is not None, from_scratch=args.random_weights, new_head=new_head
        )
    if train.names is not None:
        own = class_names(model.config)
        train, evaluation = (s.renumbered(model_classes(s.names, own), own) for s in (train, evaluation))
    check_classes(train, makes_them=train.names is None and model.config.num_labels == len(names))
    if getattr(model.config, "reparameterized", False):
        raise ValueError(f"--model: {model_args.model} is folded for deployment and cannot be trained any more.")
    add_branches(model, model_args, args)
    make_ternary(model, args)
    make_blocks_binary(model, args)
    if args.device.type == "cpu":
        # A training step takes about half the time in this layout; docs/benchmarks.md says what it costs in exactness.
        model.to(memory_format=torch.channels_last)
    num_labels, num_channels = model.config.num_labels, getattr(model.config, "num_channels", 3)
    for source in (train, evaluation):
        check_labels(source, num_labels)
    train, evaluation = (
        usable(source, partial(source.read, num_channels=num_channels), data_args) for source in (train, evaluation)
    )
    check_processor("--model", processor)
    contents = {"training data": train.facts(), "evaluation data": evaluation.facts()}
    if model_args.model not in hf_effmodels.list_models():
        contents["model"] = weights_fingerprint(model)
    maps = load_label_maps(
        args, train, class_names(model.config), augmentation.train_crop, data_args.cache_dir, model_args.token
    )
    if maps is not None:
        contents["label maps"] = maps.facts()
    check_contents(config, checkpoint, args.output_dir, contents)
    if size_of_all(processor, num_channels) is None:
        args.per_device_eval_batch_size = _one_by_one()
    eval_transform = EvaluationTransform(processor)
    train_transform = TrainingTransform(eval_transform, Normalization.of(processor, num_channels), augmentation)
    trainer = make_trainer(
        model=model,
        args=args,
        train_dataset=ImageClassificationDataset(
            train,
            train_transform,
            num_channels,
            data_seed(args),
            label_maps=maps,
            label_map_weight=args.label_map_weight,
            mixed_epochs=_mixed_epochs(args),
        ),
        eval_dataset=ImageClassificationDataset(evaluation, eval_transform, num_channels),
        processing_class=processor,
        data_collator=Collator(
            num_labels=num_labels,
            mixup=args.mixup,
            cutmix=args.cutmix,
            probability=args.mix_probability,
            switch_probability=args.mix_switch_probability,
            smoothing=args.label_smoothing_factor,
        ),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=ranked_classes,
    )
    add_warm_start(trainer, args)
    # What fails for the first image (a broken file, an input too small for the network) fails before anything is
    # written.
    for dataset in (trainer.train_dataset, trainer.eval_dataset):
        with torch.no_grad(), _blaming(model_args), _blaming_image_size(model_args):
            model.eval()(pixel_values=dataset[0]["pixel_values"][None].to(args.device))

    def report(train_metrics: dict) -> dict:
        fold_training_branches(trainer.network)
        measured = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
        results = write_results(trainer, train_metrics, measured, config, model_args, data_args)
        if args.sorted_submodels:
            trainer.save_submodels()
        return results

    def example(output: Path) -> list[str]:
        file = output / "example.png"
        with whole_file(file) as new:
            evaluation.read(0, num_channels).save(new, format="PNG")
        return [str(file)]

    own = class_names(model.config)
    macs = multiply_adds(model, trainer.eval_dataset[0]["pixel_values"])
    return Run(
        trainer,
        checkpoint,
        config,
        report,
        facts=[
            class_facts(f"training on {train.split}", train.labels, own),
            class_facts(f"evaluating on {evaluation.split}", evaluation.labels, own),
            *filter(None, [macs]),
        ],
        warnings=class_warnings(train.labels, evaluation.labels, own),
        example=example,
        evaluation=held_out_unasked(data_args, evaluation.split),
    )


def _mixed_epochs(args: ImageClassificationArguments) -> int | None:
    """Epochs whose batches may be mixed; None for all of them."""
    if not args.mix_off_epochs:
        return None
    if args.max_steps > 0:
        raise ValueError("--mix_off_epochs: it counts from the last of --num_train_epochs; --max_steps has none.")
    return max(0, math.ceil(args.num_train_epochs) - args.mix_off_epochs)


def add_branches(model, model_args: ModelArguments, args: ImageClassificationArguments) -> None:
    """`--training_branches`, in place: beside pretrained weights they begin at nothing."""
    if args.training_branches is None:
        return
    if args.fsdp or args.deepspeed:
        raise ValueError("--training_branches: their sum takes whole weights; it does not go with FSDP or DeepSpeed.")
    pretrained = model_args.model not in hf_effmodels.list_models() and not args.random_weights
    try:
        with_training_branches(model, args.training_branches, keeps_function=pretrained)
    except ValueError as error:
        raise ValueError(f"--training_branches: {error}") from error


def _blaming(args: ModelArguments):
    is_preset = args.model in hf_effmodels.list_models()
    options = {"num_channels": args.num_channels, "image_size": args.image_size}
    return blaming_model_config(args.model_config, None if is_preset else args.model, **options)


def _blaming_image_size(args: ModelArguments):
    return blaming_image_size(args.image_size, argument="--image_size")


def _names_from_numbers(*sources: LabelledImages) -> list[str]:
    return [str(number) for number in range(max(int(source.numbers.max()) for source in sources) + 1)]


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """Read and check everything; the function returned evaluates and writes the results."""
    arguments = reader.read(*EVALUATION_ARGUMENTS)
    model_args, data_args, args = arguments
    call = open_results(reader.task, arguments)
    source = load_evaluation_data(data_args, model_args.token)
    with _blaming(model_args):
        model, processor = load_classifier(model_args, names=None, new_head=False)
    own = class_names(model.config)
    check_chosen(source, data_args, own)
    if source.names is not None:
        source = source.renumbered(model_classes(source.names, own), own)
    check_labels(source, model.config.num_labels)
    if args.reparameterize:
        if not hasattr(model, "reparameterize"):
            raise ValueError(f"--reparameterize: {type(model).__name__} has nothing to fold.")
        model.reparameterize()
    if args.deploy:
        _deploy(model)
    num_channels = getattr(model.config, "num_channels", 3)
    source = usable(source, partial(source.read, num_channels=num_channels), data_args)
    dataset = ImageClassificationDataset(source, EvaluationTransform(processor), num_channels)
    with torch.no_grad(), _blaming(model_args), _blaming_image_size(model_args):
        model.eval()(pixel_values=dataset[0]["pixel_values"][None].to(model.device))
    if size_of_all(processor, num_channels) is None:
        args.per_device_eval_batch_size = _one_by_one()
    return partial(_evaluate, model, dataset, args, call)


def _one_by_one() -> int:
    logger.warning("the image processor keeps the shapes of pictures: they are measured one by one.")
    return 1


def _deploy(model: torch.nn.Module) -> None:
    """Pack the binary layers of this package's networks, and those that `--bivit` put into others, in place."""
    if hasattr(model, "deploy"):
        model.deploy()
        return
    from ....quantization.packed_binary.packing import pack_binary

    if not any(isinstance(module, BiVitLinear) for module in model.modules()):
        raise ValueError(f"--deploy: {type(model).__name__} has no binary layers to pack.")
    pack_binary(model.eval())


def _evaluate(model, dataset: ImageClassificationDataset, args: EvaluationArguments, call: dict):
    if getattr(model, "is_quantized", False):
        # By this mark the Trainer refuses what cannot be trained; nothing is trained here.
        model.is_quantized = False
    with tempfile.TemporaryDirectory() as folder:
        trainer = ImageClassificationTrainer(
            model=model,
            args=ImageClassificationArguments(
                output_dir=folder,
                per_device_eval_batch_size=args.per_device_eval_batch_size,
                dataloader_num_workers=args.dataloader_num_workers,
                bf16=args.bf16,
            ),
            eval_dataset=dataset,
            data_collator=Collator(model.config.num_labels),
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=ranked_classes,
        )
        measured = trainer.predict(dataset, metric_key_prefix="eval")
    results = write_evaluation(trainer, measured, args, call)
    trainer.accelerator.end_training()
    return results
