"""What lies beside a trained model: numbers, pictures, the model card."""

import json
import logging
import os
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCard, ModelCardData
from transformers.trainer_utils import PredictionOutput

logger = logging.getLogger(__name__)

#: Metrics that say how good the model is; the others say how long things took.
QUALITY = ("accuracy", "top_5_accuracy")
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("num_train_epochs", "max_steps", "optim", "optim_args", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("lr_scheduler_kwargs", "min_lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "ema_decay", "mixup", "cutmix", "train_crop", "crop_scale", "crop_padding"),
    *("horizontal_flip", "color_jitter", "randaugment", "random_erasing", "image_size", "bf16", "fp16", "seed"),
)
_MANY_CLASSES = 30
#: Folder beside the results with the model as `hf-effmodels publish` takes it.
HUB_FOLDER = "hub"


def write_results(
    trainer, train_metrics: dict, measured: PredictionOutput, config: dict, model_args, data_args
) -> dict:
    """Write the model with its processor, `train_results.json`, `eval_results.json`, `all_results.json`,
    `trainer_state.json`, `training_curve.png`, `confusion_matrix.png`, the model card `README.md` and, of a model of
    this package, the folder `hub` for `hf-effmodels publish`.

    Returns:
        All metrics.
    """
    args = trainer.args
    output = Path(args.output_dir)
    if train_metrics.get("train_runtime") and trainer.state.global_step > trainer._initial_global_step:
        trainer.log_metrics("train", train_metrics)
        trainer.save_metrics("train", train_metrics)
    trainer.log_metrics("eval", measured.metrics)
    trainer.save_metrics("eval", measured.metrics)
    trainer.save_state()
    _save_model(trainer, output)
    if not args.should_save:
        return {**train_metrics, **measured.metrics}
    if args.ema_decay is not None:
        logger.info("the saved model holds the moving average of the weights (ema_decay %g)", args.ema_decay)
    names = [trainer.model.config.id2label[number] for number in range(trainer.model.config.num_labels)]
    if _has_matplotlib():
        plot_training(trainer.state.log_history, output / "training_curve.png")
        plot_confusion(measured.predictions[0][:, 0], measured.label_ids, names, output / "confusion_matrix.png")
    _write_card(trainer, measured.metrics, config, model_args, data_args, output)
    logger.info("results: %s", output)
    return {**train_metrics, **measured.metrics}


def _save_model(trainer, output: Path) -> None:
    """First into a folder of its own, so that a kill leaves no half-written model under its final name."""
    with tempfile.TemporaryDirectory(dir=output if trainer.args.should_save else None, prefix=".saving-") as folder:
        trainer.save_model(folder, _internal_call=True)
        if trainer.args.should_save:
            for file in Path(folder).iterdir():
                if file.name != "training_args.bin":  # a pickle; training_config.yaml says the same
                    os.replace(file, output / file.name)


def write_evaluation(trainer, measured: PredictionOutput, output: Path, model_args, data_args, split: str) -> dict:
    """Print accuracy, top-5 accuracy and the number of images, and write them into a JSON file."""
    results = {"model": model_args.model, "dataset": data_args.dataset, "split": split}
    results |= {name: measured.metrics[f"eval_{name}"] for name in QUALITY if f"eval_{name}" in measured.metrics}
    results |= {"loss": measured.metrics["eval_loss"], "samples": measured.metrics["eval_samples"]}
    if trainer.is_world_process_zero():
        _write_text(output, json.dumps(results, indent=2) + "\n")
        top5 = f"  top-5 {100 * results['top_5_accuracy']:.3f} %" if "top_5_accuracy" in results else ""
        sys.stdout.write(f"top-1 {100 * results['accuracy']:.3f} %{top5}  n {results['samples']}\n")
    return results


def _write_card(trainer, metrics: dict, config: dict, model_args, data_args, output: Path) -> None:
    from ..hub import export

    model = trainer.accelerator.unwrap_model(trainer.model)
    split = trainer.eval_dataset.source.split.rpartition("/")[2]
    source = f"scripts/train.py, {date.today().isoformat()}, {trainer.args.device.type}"
    results = [
        {
            "metric": name,
            "value": metrics[f"eval_{name}"],
            "split": split,
            "source": source,
        }
        for name in QUALITY
        if f"eval_{name}" in metrics
    ]
    is_on_hub = "/" in model_args.model and not Path(model_args.model).exists()
    facts = {
        "license": trainer.args.license,
        "dataset": data_args.dataset,
        "results": results,
        "training": training_summary(config, trainer.get_total_train_batch_size(trainer.args)),
        "base_model": model_args.model if is_on_hub else None,
    }
    if type(model).__module__.startswith("hf_effmodels."):
        # The output folder has checkpoints with pickles in them; what goes to the Hub is a folder of its own.
        export(model, trainer.processing_class, output / HUB_FOLDER, overwrite=True, **facts)
        card = (output / HUB_FOLDER / "README.md").read_text(encoding="utf-8")
    else:
        card = str(_plain_card(model, **facts))
    _write_text(output / "README.md", card)


def _plain_card(model, *, license, dataset, results, training, base_model) -> ModelCard:
    """The card of a model of another library's."""
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="image-classification",
        datasets=[dataset] if "/" in dataset and not Path(dataset).exists() else None,
        base_model=base_model,
    )
    lines = [f"# {type(model).__name__}", "", f"An image classifier trained on {dataset}.", "", "## Measured", ""]
    lines += ["| metric | split | value | source |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['metric']} | {r['split']} | {100 * r['value']:.2f} % | {r['source']} |" for r in results]
    lines += ["", "## Training", "", "| hyper-parameter | value |", "| --- | --- |"]
    lines += [f"| {key} | `{value}` |" for key, value in training.items()]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n")


def training_summary(config: dict, total_batch_size: int) -> dict:
    """The hyper-parameters that were in use, for the card."""
    summary = {"total_train_batch_size": total_batch_size}
    return summary | {
        key: config[key] for key in HYPER_PARAMETERS if config.get(key) not in (None, False, 0, [], {}, -1)
    }


def _has_matplotlib() -> bool:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        logger.info("matplotlib is not installed: no training curve, no confusion matrix")
        return False
    return True


def plot_training(history: list[dict], file: Path) -> None:
    """Loss and accuracy over the epochs, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for axes, key, label in (
        (losses, "loss", "training (smoothed, augmented)"),
        (losses, "eval_loss", "evaluation"),
        (accuracies, "eval_accuracy", "top-1"),
        (accuracies, "eval_top_5_accuracy", "top-5"),
    ):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry and "epoch" in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else None)
    losses.set(xlabel="epoch", ylabel="cross entropy")
    accuracies.set(xlabel="epoch", ylabel="accuracy")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    _save_figure(figure, file)


def plot_confusion(predictions: np.ndarray, labels: np.ndarray, names: list[str], file: Path) -> None:
    """Share of each true class (rows) that was taken for each class (columns), as a PNG file."""
    from matplotlib.figure import Figure

    counts = confusion_matrix(predictions, labels, len(names))
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
    _save_figure(figure, file)


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """How often class i (row) was taken for class j (column)."""
    pairs = np.asarray(labels) * num_labels + np.asarray(predictions)
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def _save_figure(figure, file: Path) -> None:
    temporary = file.with_name(f".{file.name}.part")
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(file)


def _write_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
