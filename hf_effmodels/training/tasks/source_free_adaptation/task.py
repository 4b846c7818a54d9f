"""The task source-free-adaptation: a trained classifier, and unlabelled pictures of another kind to fit it to."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.trainer_utils import IntervalStrategy

import hf_effmodels

from ....hub.ids import reading
from ...data.classes import model_classes
from ...run.arguments import ArgumentReader, FilledReader
from ...run.reports import has_matplotlib, save_results, training_summary, write_card, write_text
from ...run.run import Run
from ...task import load_task
from .arguments import AdaptationArguments, AdaptationTrainingArguments
from .trainer import AdaptationTrainer

logger = logging.getLogger(__name__)

#: The classifier's task, asked by its name: its data, model and reports are what they are without an adaptation.
_TASK = load_task("image-classification")

TRAINING_ARGUMENTS = (AdaptationArguments, *_TASK.TRAINING_ARGUMENTS[:-1], AdaptationTrainingArguments)
EVALUATION_ARGUMENTS = _TASK.EVALUATION_ARGUMENTS

#: What the card of a model that could not be measured says about its training.
HYPER_PARAMETERS = (
    *("num_train_epochs", "max_steps", "steps_per_round", "samples_per_class", "distance_threshold", "std_factor"),
    *("estimate_source", "discrepancy_weight", "optim", "optim_args", "learning_rate", "norm_learning_rate_factor"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "weight_decay", "max_grad_norm", "ema_decay", "bf16", "seed"),
)


def prepare_training(reader: ArgumentReader) -> Run:
    """Read and check everything; the run that is returned adapts, evaluates before and after, and writes both."""
    adaptation, *arguments = reader.read(*TRAINING_ARGUMENTS)
    model_args, data_args, _, args = arguments
    if args.random_weights or model_args.model in hf_effmodels.list_models():
        raise ValueError("--model: random weights know no source to adapt from; name a trained classifier.")
    if model_args.ignore_mismatched_sizes:
        raise ValueError(
            "--ignore_mismatched_sizes: an adaptation keeps the head that it has; name a classifier of these classes."
        )
    for name in ("mixup", "cutmix", "label_smoothing_factor", "label_maps", "bitnet", "bivit"):
        if getattr(args, name) not in (0, None, "none"):
            raise ValueError(f"--{name}: it needs labels, or another training, and does not go with an adaptation.")
    if args.repeated_augmentation != 1 or args.loss != "cross_entropy":
        raise ValueError("--repeated_augmentation, --loss: they do not go with an adaptation, which has its own.")
    train, evaluation = _TASK.load_data(data_args, model_args.token, labelled=False)
    own = _own_classes(model_args)
    if train.names is not None and len(train.names) != len(own):
        raise ValueError(
            f"--model: {model_args.model} tells {len(own)} classes, {train.split} has {len(train.names)}; accepted "
            "are pictures of its own. --label_mapping gives classes the names of others."
        )
    if evaluation is None:
        if args.load_best_model_at_end:
            raise ValueError("--load_best_model_at_end: what is best takes labels, and the pictures have none.")
        args.eval_strategy = IntervalStrategy.NO
    run = _TASK.prepare_training(
        FilledReader(reader.task, (adaptation,), arguments),
        partial(AdaptationTrainer, adaptation=adaptation),
        # Where nothing can be evaluated, the pictures trained on say how such are prepared.
        load=lambda *_: (train, train if evaluation is None else evaluation),
        new_head=False,
    )
    names = _TASK.class_names(run.trainer.network.config)
    model_classes(names, own)  # a head that stays is not another's, of as many classes
    facts = [f"adapting to {len(train)} pictures of {train.split}, whose labels are not looked at"]
    if evaluation is None:
        facts.append("there are no labels to evaluate by")
        report = partial(_report_unlabelled, run, model_args, data_args)
        return replace(run, report=report, facts=facts, warnings=[], evaluation={"eval_dataset": "DATASET"})
    labels = run.trainer.eval_dataset.source.labels
    facts.append(f"evaluating on {len(labels)} pictures of {evaluation.split}, {len(names)} classes")
    return replace(run, report=partial(_report, run, model_args), facts=facts, warnings=[])


def _own_classes(model_args) -> list[str]:
    """The names of a trained classifier's classes, as it brings them."""
    source = {"revision": model_args.revision, "token": model_args.token}
    with reading("--model", model_args.model, revision=("--revision", model_args.revision)):
        config = AutoConfig.from_pretrained(model_args.model, trust_remote_code=model_args.trust_remote_code, **source)
    return _TASK.class_names(config)


def _report_unlabelled(run: Run, model_args, data_args, train_metrics: dict) -> dict:
    """`adaptation.json` tells the rounds; the model and its card are saved without a number."""
    trainer = run.trainer
    results = save_results(trainer, train_metrics, {})
    if trainer.args.should_save:
        _write_rounds(trainer, {})
        write_card(
            trainer,
            {},
            split="",
            dataset=data_args.dataset,
            model=model_args.model,
            pipeline_tag="image-classification",
            training=training_summary(run.config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
        )
    return results


def _write_rounds(trainer: AdaptationTrainer, measured: dict) -> None:
    report = {**measured, "rounds": trainer.rounds}
    write_text(Path(trainer.args.output_dir) / "adaptation.json", json.dumps(report, indent=2) + "\n")


def _report(run: Run, model_args, train_metrics: dict) -> dict:
    """Accuracy of each class before and after; `adaptation.json`, `confusion_matrix_before.png` where pictures can be
    drawn, and the classifier's own reports."""
    results, trainer = dict(run.report(train_metrics)), run.trainer
    names = _TASK.class_names(trainer.network.config)
    before, _ = _TASK.load_classifier(model_args, names, named=False, new_head=False)
    dataset, labels = trainer.eval_dataset, np.asarray(trainer.eval_dataset.source.labels)
    measured = {}
    for name, model in (("before", before.to(trainer.args.device).eval()), ("after", trainer.network)):
        predicted = _predictions(model, dataset, trainer)
        right = predicted == labels
        measured[name] = {
            "accuracy": float(right.mean()),
            "of_class": {names[c]: float(right[labels == c].mean()) for c in np.unique(labels)},
        }
        if name == "before" and trainer.args.should_save and has_matplotlib():
            file = Path(trainer.args.output_dir) / "confusion_matrix_before.png"
            _TASK.plot_confusion(predicted, labels, names, file)
    results["eval_accuracy_before"] = measured["before"]["accuracy"]
    for name, key in (("before", "eval_class_accuracy_before"), ("after", "eval_class_accuracy")):
        results[key] = float(np.mean(list(measured[name]["of_class"].values())))
    logger.info(
        "accuracy: before %.2f %%, after %.2f %%; mean over the classes: before %.2f %%, after %.2f %%",
        *(100 * measured[name]["accuracy"] for name in ("before", "after")),
        *(100 * results[key] for key in ("eval_class_accuracy_before", "eval_class_accuracy")),
    )
    if trainer.args.should_save:
        trainer.save_metrics("eval", {name: v for name, v in results.items() if name.startswith("eval_")})
        _write_rounds(trainer, measured)
    return results


@torch.no_grad()
def _predictions(model: PreTrainedModel, dataset, trainer) -> np.ndarray:
    found, size = [], trainer.args.per_device_eval_batch_size
    model.eval()
    for start in range(0, len(dataset), size):
        pixels = [dataset[index]["pixel_values"] for index in range(start, min(start + size, len(dataset)))]
        with trainer.accelerator.autocast():
            found.append(model(pixel_values=torch.stack(pixels).to(trainer.args.device)).logits.argmax(1).cpu())
    return torch.cat(found).numpy()


def prepare_evaluation(reader: ArgumentReader) -> Callable[[], dict[str, float]]:
    """The adapted model is evaluated as any model of its task."""
    return _TASK.prepare_evaluation(reader)
