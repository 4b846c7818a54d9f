"""What lies beside a trained segmenter, and what is written of an evaluated one."""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...._files import whole_file
from ...data.digit_canvases import named_in_cards
from ...run.reports import has_matplotlib, plot_curves, save_figure, save_results, training_summary, write_card
from ...run.results import write_results_file
from .data import IGNORED
from .evaluation import Measured
from .transforms import SegmentationDataset

logger = logging.getLogger(__name__)

#: Metrics that say how good the model is.
QUALITY = ("miou", "pixel_accuracy", "mean_accuracy")
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("segmenter", "backbone", "num_train_epochs", "max_steps", "optim", "optim_args", "learning_rate"),
    *("head_learning_rate_factor", "layer_decay", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    *("max_grad_norm", "ema_decay", "scale_range", "max_class_share", "brightness", "contrast", "saturation"),
    *("horizontal_flip", "image_size", "eval_mode", "bf16", "fp16", "seed"),
)
#: Classes that a bar chart names.
_NAMED = 40


def write_results(trainer, train_metrics: dict, metrics: dict, config: dict, model_args, data_args) -> dict:
    """`reports.save_results`, curves, IoU of the classes, pictures, and `reports.write_card`; returns all metrics."""
    output, measured = Path(trainer.args.output_dir), trainer.last_measured
    results = save_results(trainer, train_metrics, metrics)
    if not trainer.args.should_save:
        return results
    if has_matplotlib():
        panels = {
            "loss": {"loss": "training"},
            "share": {"eval_miou": "mean IoU", "eval_pixel_accuracy": "pixel accuracy"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels)
    write_figures(measured, output)
    write_card(
        trainer,
        {name: metrics[f"eval_{name}"] for name in QUALITY},
        split=trainer.eval_dataset.source.split.rpartition("/")[2],
        dataset=named_in_cards(data_args.dataset),
        model=model_args.model or model_args.segmenter,
        pipeline_tag="image-segmentation",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
    )
    logger.info("results: %s", output)
    return results


def write_evaluation(measured: Measured, dataset: SegmentationDataset, args, call: dict) -> dict:
    """Print the mean IoU, and write it with that of each class into the JSON file that is named, figures beside it."""
    results = {"model": call["model"], "dataset": call["dataset"], "split": dataset.source.split} | measured.metrics
    results["per_class"] = {name: None if math.isnan(value) else value for name, value in measured.per_class.items()}
    results = write_results_file(args.output, results, call)
    if args.output is not None:
        file = Path(args.output)
        write_figures(measured, file.parent, prefix=f"{file.stem}_")
    sys.stdout.write(
        f"mIoU {100 * results['miou']:.2f}  pixels {100 * results['pixel_accuracy']:.2f}  n {results['samples']}\n"
    )
    return results


def write_figures(measured: Measured, folder: Path, prefix: str = "") -> None:
    """`iou_per_class.png` and `predictions.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    if has_matplotlib():
        plot_iou(measured.per_class, folder / f"{prefix}iou_per_class.png")
    if measured.shown:
        draw_predictions(measured.shown, folder / f"{prefix}predictions.png")


def plot_iou(per_class: dict[str, float], file: Path) -> None:
    """A bar for each class that is anywhere, the best first."""
    from matplotlib.figure import Figure

    known = sorted(((value, name) for name, value in per_class.items() if not math.isnan(value)), reverse=True)
    figure = Figure(figsize=(max(4.0, min(0.35 * len(known), 16)) + 1, 4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(known)), [value for value, _ in known])
    axes.axhline(float(np.mean([value for value, _ in known])), color="black", linewidth=1)
    axes.set(ylabel="IoU", ylim=(0, 1))
    if len(known) <= _NAMED:
        axes.set_xticks(range(len(known)), [name for _, name in known], rotation=90)
    save_figure(figure, file)


def palette() -> np.ndarray:
    """Colours of classes (256, 3), bytes: well apart for the first ones; the ignored label is white."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for number in range(256):
        # The bits of the number, three at a time, from the highest of each channel on (Pascal VOC's colours).
        rest = number
        for bit in range(7, -1, -1):
            for channel in range(3):
                colours[number, channel] |= (rest >> channel & 1) << bit
            rest >>= 3
    colours[IGNORED] = 255
    return colours


def draw_predictions(shown: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], file: Path) -> None:
    """A row for each picture: the picture, its true map, and the one that was found."""
    colours, tiles = palette(), []
    for image, truth, found in shown:
        factor = max(1, round(192 / max(truth.shape)))
        size = (truth.shape[1] * factor, truth.shape[0] * factor)
        tiles.append(Image.fromarray(image).resize(size))
        for labels in (truth, found):
            blended = (0.35 * image + 0.65 * colours[labels]).astype(np.uint8)
            tiles.append(Image.fromarray(blended).resize(size, Image.Resampling.NEAREST))
    width, height = (max(getattr(tile, side) for tile in tiles) + 4 for side in ("width", "height"))
    across = 6 if len(shown) > 4 else 3
    sheet = Image.new("RGB", (across * width, -(-len(tiles) // across) * height), "white")
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % across * width, index // across * height))
    with whole_file(file) as part:
        sheet.save(part, format="PNG")
