"""What lies beside a trained image classifier, and what is written of an evaluated one."""

import logging
import sys
from pathlib import Path

import numpy as np
from transformers.trainer_utils import PredictionOutput

from ...run.reports import (
    has_matplotlib,
    plot_curves,
    save_figure,
    save_results,
    training_summary,
    write_card,
)
from ...run.results import write_results_file

logger = logging.getLogger(__name__)

#: Metrics that say how good the model is; the others say how long things took.
QUALITY = ("accuracy", "top_5_accuracy")
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("teacher", "stored_labels", "teacher_license", "dataset_license", "losses"),  # of a distillation
    *("num_train_epochs", "max_steps", "optim", "optim_args", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("lr_scheduler_kwargs", "min_lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "ema_decay", "mixup", "cutmix", "train_crop", "crop_scale", "crop_padding"),
    *(
        "horizontal_flip",
        "color_jitter",
        "randaugment",
        "autoaugment",
        "repeated_augmentation",
        "random_erasing",
        "image_size",
        "bf16",
        "fp16",
        "seed",
    ),
)
_MANY_CLASSES = 30


def write_results(
    trainer, train_metrics: dict, measured: PredictionOutput, config: dict, model_args, data_args
) -> dict:
    """`reports.save_results`, `training_curve.png`, `confusion_matrix.png`, and `reports.write_card`.

    Returns:
        All metrics.
    """
    metrics, output = measured.metrics, Path(trainer.args.output_dir)
    results = save_results(trainer, train_metrics, metrics)
    if not trainer.args.should_save:
        return results
    config_of_model = trainer.network.config
    names = [config_of_model.id2label[number] for number in range(config_of_model.num_labels)]
    if has_matplotlib():
        panels = {
            "cross entropy": {"loss": "training (smoothed, augmented)", "eval_loss": "evaluation"},
            "accuracy": {"eval_accuracy": "top-1", "eval_top_5_accuracy": "top-5"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels)
        plot_confusion(measured.predictions[0][:, 0], measured.label_ids, names, output / "confusion_matrix.png")
    write_card(
        trainer,
        {name: metrics[f"eval_{name}"] for name in QUALITY if f"eval_{name}" in metrics},
        split=trainer.eval_dataset.source.split.rpartition("/")[2],
        dataset=data_args.dataset,
        model=model_args.model,
        pipeline_tag="image-classification",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
    )
    logger.info("results: %s", output)
    return results


def write_evaluation(trainer, measured: PredictionOutput, output: str, call: dict, split: str) -> dict:
    """Print accuracy, top-5 accuracy and the number of images, and write them into a JSON file."""
    results = {"model": call["model"], "dataset": call["dataset"], "split": split}
    results |= {name: measured.metrics[f"eval_{name}"] for name in QUALITY if f"eval_{name}" in measured.metrics}
    results |= {"loss": measured.metrics["eval_loss"], "samples": measured.metrics["eval_samples"]}
    if trainer.is_world_process_zero():
        results = write_results_file(output, results, call)
        top5 = f"  top-5 {100 * results['top_5_accuracy']:.3f} %" if "top_5_accuracy" in results else ""
        sys.stdout.write(f"top-1 {100 * results['accuracy']:.3f} %{top5}  n {results['samples']}\n")
    return results


def plot_confusion(predictions: np.ndarray, labels: np.ndarray, names: list[str], file: Path) -> None:
    """Share of each true class (rows) that was taken for each class (columns), as a PNG file."""
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(labels, predictions, labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(names) <= _MANY_CLASSES
    side = max(5.0, 0.5 * len(names)) if few else 12.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, fraction=0.046)
    axes.set(xlabel="predicted", ylabel="true")
    if few:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=8)
    save_figure(figure, file)
