"""What lies beside a trained detector, and what is written of an evaluated one."""

import logging
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ...._files import whole_file
from ...data.digit_canvases import named_in_cards
from ...run.reports import has_matplotlib, plot_curves, save_figure, save_results, training_summary, write_card
from ...run.results import write_results_file
from .evaluation import Measured, best_found
from .transforms import DetectionDataset

logger = logging.getLogger(__name__)

#: Metrics that say how good the model is.
QUALITY = ("map", "map_50", "map_75")
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("detector", "backbone", "teacher", "num_train_epochs", "max_steps", "optim", "optim_args", "learning_rate"),
    *("lr_scheduler_type", "warmup_steps", "detection_schedule", "momentum", "weight_decay", "max_grad_norm"),
    *("ema_decay", "ema_ramp", "mosaic", "mixup", "scale", "translate", "hue", "saturation", "brightness"),
    *("horizontal_flip", "close_mosaic_epochs", "atss_epochs", "image_size", "bf16", "fp16", "seed"),
)
#: Boxes that pictures show have scores above this.
SHOWN_ABOVE = 0.4


def write_results(trainer, train_metrics: dict, metrics: dict, config: dict, model_args, data_args) -> dict:
    """`reports.save_results`, curves, confusion matrix, pictures, and `reports.write_card`; returns all metrics."""
    output, measured = Path(trainer.args.output_dir), trainer.last_measured
    results = save_results(trainer, train_metrics, metrics)
    if not trainer.args.should_save:
        return results
    names = [trainer.network.config.id2label[number] for number in range(trainer.network.config.num_labels)]
    if has_matplotlib():
        panels = {
            "loss": {"loss": "training"},
            "average precision": {"eval_map": "AP", "eval_map_50": "AP, IoU 0.5"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels)
    write_figures(measured, trainer.eval_dataset, names, output, trainer.args.eval_pictures)
    write_card(
        trainer,
        {name: metrics[f"eval_{name}"] for name in QUALITY},
        split=trainer.eval_dataset.source.split.rpartition("/")[2],
        dataset=named_in_cards(data_args.dataset),
        model=model_args.model or model_args.detector,
        pipeline_tag="object-detection",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
    )
    logger.info("results: %s", output)
    return results


def write_evaluation(measured: Measured, dataset: DetectionDataset, names, args, call: dict) -> dict:
    """Print the average precision, and write it with that of each class into the JSON file that is named, figures
    beside it."""
    results = {"model": call["model"], "dataset": call["dataset"], "split": dataset.source.split}
    results |= measured.metrics | measured.precision.metrics
    results["per_class"] = {
        name: None if math.isnan(value) else value for name, value in measured.precision.per_class.items()
    }
    results = write_results_file(args.output, results, call)
    if args.output is not None:
        file = Path(args.output)
        write_figures(measured, dataset, names, file.parent, args.eval_pictures, prefix=f"{file.stem}_")
    sys.stdout.write(f"AP {100 * results['map']:.2f}  AP50 {100 * results['map_50']:.2f}  n {results['samples']}\n")
    return results


def write_figures(
    measured: Measured, dataset: DetectionDataset, names, folder: Path, pictures: int, prefix: str = ""
) -> None:
    """`precision_recall.png`, `confusion_matrix.png` and `predictions.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    if has_matplotlib():
        plot_precision_recall(measured, folder / f"{prefix}precision_recall.png")
        plot_confusion(measured.confusion, names, folder / f"{prefix}confusion_matrix.png")
    if pictures:
        draw_predictions(measured, dataset, names, folder / f"{prefix}predictions.png", pictures)


def plot_precision_recall(measured: Measured, file: Path) -> None:
    """Precision over recall at IoU 0.5, the mean over classes bold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes, recall = figure.subplots(), np.linspace(0, 1, 101)
    curves = {name: curve for name, curve in measured.precision.curves.items() if (curve > -1).any()}
    for name, curve in curves.items():
        axes.plot(recall, curve, linewidth=0.8, label=name if len(curves) <= 12 else None)
    if curves:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(recall, mean, linewidth=2.5, color="black", label=f"mean, AP50 {mean.mean():.3f}")
        axes.legend(fontsize=8)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    save_figure(figure, file)


def plot_confusion(counts: np.ndarray, names, file: Path) -> None:
    """True classes (rows) found as classes (columns); the last ones are "nothing"."""
    from matplotlib.figure import Figure

    names = [*names, "nothing"]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(names) <= 30
    side = max(5.0, 0.5 * len(names)) if few else 12.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axes, fraction=0.046)
    axes.set(xlabel="found", ylabel="true")
    if few:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=8)
    save_figure(figure, file)


def draw_predictions(measured: Measured, dataset: DetectionDataset, names, file: Path, count: int) -> None:
    """Pairs of pictures: true boxes (green) left, found ones (red, with their scores) right."""
    found = best_found(measured.found, SHOWN_ABOVE)
    tiles = []
    for number in range(min(count, len(dataset))):
        image = Image.fromarray(dataset[number]["image"])
        factor = max(1, round(256 / max(image.size)))
        for boxes, colour in ((measured.truth[number], (0, 190, 0)), (found[number], (230, 30, 30))):
            tile = image.resize((image.width * factor, image.height * factor))
            draw = ImageDraw.Draw(tile)
            for index, box in enumerate(boxes.boxes * factor):
                draw.rectangle([float(v) for v in box], outline=colour, width=2)
                score = "" if boxes.scores is None else f" {boxes.scores[index]:.2f}"
                draw.text((float(box[0]) + 2, float(box[1]) + 1), f"{names[boxes.labels[index]]}{score}", fill=colour)
            tiles.append(tile)
    width, height = (max(getattr(tile, side) for tile in tiles) + 4 for side in ("width", "height"))
    columns = min(4, len(tiles))
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % columns * width, index // columns * height))
    with whole_file(file) as part:
        sheet.save(part, format="PNG")
