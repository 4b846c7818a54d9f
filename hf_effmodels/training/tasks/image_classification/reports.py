"""What lies beside a trained image classifier, and what is written of an evaluated one."""

import logging
import sys
from pathlib import Path

import numpy as np
from transformers.trainer_utils import PredictionOutput

from ...._files import write_text
from ....images import read_image
from ...run.reports import (
    has_matplotlib,
    plot_curves,
    save_figure,
    save_results,
    training_summary,
    write_card,
)
from ...run.results import write_results_file
from .models import class_names
from .quality import Predictions, as_csv, calibration, per_class, worst_mistakes

logger = logging.getLogger(__name__)

#: Metrics that say how good the model is; the others say how long things took.
QUALITY = ("accuracy", "top_5_accuracy")
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("sorted_submodels", "submodels_per_step"),
    *("teacher", "stored_labels", "teacher_license", "dataset_license", "losses"),  # of a distillation
    *("num_train_epochs", "max_steps", "optim", "optim_args", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("lr_scheduler_kwargs", "min_lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *(
        "label_smoothing_factor",
        "training_branches",
        "ema_decay",
        "mixup",
        "cutmix",
        "train_crop",
        "crop_scale",
        "crop_padding",
    ),
    *(
        "horizontal_flip",
        "color_jitter",
        "randaugment",
        "autoaugment",
        "random_erasing",
        "image_size",
        "bf16",
        "fp16",
        "seed",
    ),
)
_MANY_CLASSES = 30
#: Mistakes that are shown, and pictures in a row.
_MISTAKES, _COLUMNS = 25, 5


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
    names = class_names(config_of_model)
    if has_matplotlib():
        panels = {
            "cross entropy": {"loss": "training (smoothed, augmented)", "eval_loss": "evaluation"},
            "accuracy": {"eval_accuracy": "top-1", "eval_top_5_accuracy": "top-5"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels)
    write_quality(measured, trainer.eval_dataset, names, output)
    write_card(
        trainer,
        {name: metrics[f"eval_{name}"] for name in QUALITY if f"eval_{name}" in metrics},
        split=trainer.eval_dataset.source.split.rpartition("/")[2],
        dataset=data_args.dataset,
        model=model_args.model,
        pipeline_tag="image-classification",
        sample=trainer.eval_dataset[0]["pixel_values"],
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
    )
    logger.info("results: %s", output)
    return results


def write_quality(measured: PredictionOutput, dataset, names: list[str], folder: Path, prefix: str = "") -> float:
    """`per_class.csv`, `confusion_matrix.png`, `calibration.png` and `mistakes.png`, the pictures where they can be
    drawn; returns the expected calibration error."""
    ranked, _, confidence = measured.predictions
    found = Predictions(ranked[:, 0], measured.label_ids, confidence)
    write_text(folder / f"{prefix}per_class.csv", as_csv(per_class(found, names)))
    error, bins = calibration(found)
    if has_matplotlib():
        plot_confusion(found.predicted, found.labels, names, folder / f"{prefix}confusion_matrix.png")
        plot_calibration(error, bins, folder / f"{prefix}calibration.png")
        plot_mistakes(found, dataset, names, folder / f"{prefix}mistakes.png")
    return error


def write_evaluation(trainer, measured: PredictionOutput, args, call: dict) -> dict:
    """Print accuracy, top-5 accuracy and the number of images, and write them into the JSON file that is named, with
    `args.reports` what `write_quality` writes beside it."""
    output, dataset = args.output, trainer.eval_dataset
    results = {"model": call["model"], "dataset": call["dataset"], "split": dataset.source.split}
    results |= {name: measured.metrics[f"eval_{name}"] for name in QUALITY if f"eval_{name}" in measured.metrics}
    results |= {"loss": measured.metrics["eval_loss"], "samples": measured.metrics["eval_samples"]}
    if trainer.is_world_process_zero():
        if args.reports:
            file, names = Path(output), class_names(trainer.network.config)
            error = write_quality(measured, dataset, names, file.parent, prefix=f"{file.stem}_")
            results["expected_calibration_error"] = error
        results = write_results_file(output, results, call)
        top5 = f"  top-5 {100 * results['top_5_accuracy']:.3f} %" if "top_5_accuracy" in results else ""
        sys.stdout.write(f"top-1 {100 * results['accuracy']:.3f} %{top5}  n {results['samples']}\n")
    return results


def plot_calibration(error: float, bins: list[tuple[float, float, int]], file: Path) -> None:
    """Accuracy over confidence, bin by bin, as a PNG file: on the diagonal probabilities can be believed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="gray", linestyle="--")
    confidences, accuracies, counts = zip(*bins, strict=True)
    sizes = [10 + 150 * count / max(counts) for count in counts]
    axes.scatter(confidences, accuracies, s=sizes, alpha=0.8)
    axes.plot(confidences, accuracies, linewidth=1)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"expected calibration error {100 * error:.1f} %")
    axes.grid(alpha=0.3)
    save_figure(figure, file)


def plot_mistakes(found: Predictions, dataset, names: list[str], file: Path) -> None:
    """The wrong pictures that the model was surest of, with true and predicted class, as a PNG file; none, no file."""
    from matplotlib.figure import Figure

    chosen = worst_mistakes(found, _MISTAKES)
    if not len(chosen):
        file.unlink(missing_ok=True)
        return
    columns = min(_COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    grid = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axes in grid:
        axes.axis("off")
    for axes, number in zip(grid, chosen, strict=False):
        axes.imshow(read_image(dataset.source.read(int(number), dataset.num_channels)))
        true, said = (names[values[number]] for values in (found.labels, found.predicted))
        axes.set_title(f"{_short(true)}\ntaken for {_short(said)}, {100 * found.confidence[number]:.0f} %", fontsize=7)
    save_figure(figure, file)


def _short(name: str) -> str:
    # matplotlib would take dollars for mathematics.
    return name.partition(",")[0][:24].replace("$", r"\$")


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
