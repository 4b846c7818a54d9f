"""What lies beside a trained pipeline, and what is written of an evaluated one."""

import logging
import sys
from pathlib import Path

from ...._files import write_text
from ....pipelines.delvm.export import export
from ...run.reports import (
    HUB_FOLDER,
    card_results,
    has_matplotlib,
    plot_curves,
    save_figure,
    save_results,
    training_summary,
    what_was_saved,
)
from ...run.results import write_results_file

logger = logging.getLogger(__name__)

#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("num_train_epochs", "max_steps", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "min_lr"),
    *("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "ema_decay", "pairs_per_sentence", "packing"),
    *("packed_length", "expand", "task_samples", "factorized_embedding", "teacher", "gt_weight", "kd_weight"),
    *("kd_temperature", "kd_inverse", "kd_predicted_only", "tokenizer_steps", "bf16", "fp16", "seed"),
)


def write_results(trainer, train_metrics: dict, eval_metrics: dict, rows: list, config: dict, data_args) -> dict:
    """The pipeline, its results, `training_curve.png`, `answers.png`, the card and the folder `hub`."""
    results = save_results(trainer, train_metrics, eval_metrics)
    if not trainer.args.should_save:
        return results
    output = Path(trainer.args.output_dir)
    if has_matplotlib():
        curves = {"loss": {"loss": "training", "eval_loss": "evaluation"}}
        plot_curves(trainer.state.log_history, output / "training_curve.png", curves)
        if rows and trainer.args.shown_images:
            tasks = [task.task for task in trainer.eval_dataset.tasks]
            draw(rows[: trainer.args.shown_images], tasks, output / "answers.png")
    measured = {name.removeprefix("eval_"): value for name, value in eval_metrics.items() if _is_measure(name)}
    settings = training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args))
    hub = output / HUB_FOLDER
    export(
        trainer.pipeline(),
        hub,
        overwrite=True,
        license=trainer.args.license,
        dataset=data_args.dataset if data_args.dataset == "digits" else Path(data_args.dataset).name,
        results=card_results(trainer, measured, "test"),
        training={**what_was_saved(trainer), **settings},
    )
    write_text(output / "README.md", (hub / "README.md").read_text(encoding="utf-8"))
    logger.info("results: %s", output)
    return results


def _is_measure(name: str) -> bool:
    return name.startswith("eval_") and not name.endswith(("runtime", "per_second"))


def draw(rows: list[list], tasks: list[str], file: Path) -> None:
    """A row for each picture: itself, and for each task the answer to its prompt beside the right one."""
    from matplotlib.figure import Figure

    titles = ["picture", *(f"{task}{which}" for task in tasks for which in ("", ", right"))]
    figure = Figure(figsize=(1.4 * len(titles), 1.5 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, images in zip(grid, rows, strict=True):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image)
            axes.set_axis_off()
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    save_figure(figure, file)


def write_evaluation(measured: dict, facts: dict, output: str | None, call: dict) -> dict:
    """Print what was measured, and write it into the JSON file that is named."""
    results = write_results_file(output, {**facts, **measured}, call)
    sys.stdout.write("  ".join(f"{name} {value:.4f}" for name, value in measured.items()) + "\n")
    return results
