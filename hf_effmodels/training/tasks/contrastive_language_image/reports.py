"""What lies beside two trained towers, and what is written of evaluated ones."""

import logging
import sys
from pathlib import Path

from ...run.reports import has_matplotlib, plot_curves, save_results, training_summary, write_card
from ...run.results import write_results_file

logger = logging.getLogger(__name__)

#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("teacher", "affinity_weight", "feature_weight", "image_tower", "tokenizer", "caption_templates"),
    *("num_train_epochs", "max_steps", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "min_lr"),
    *("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "ema_decay", "softening", "softening_schedule"),
    *("mask_ratio", "crop_scale", "crop_ratio", "horizontal_flip", "image_size", "bf16", "fp16", "seed"),
)
#: Metrics that say how good the model is; the others say how long things took.
QUALITY = ("accuracy", "top_5_accuracy", "recall")


def is_quality(name: str) -> bool:
    """Whether a metric says how good the model is."""
    return any(part in name for part in QUALITY)


def write_results(trainer, train_metrics: dict, eval_metrics: dict, config: dict, model_args, data_args) -> dict:
    """The model, its results, `training_curve.png`, the card and `hub`."""
    weights = trainer._weights
    trainer.leave_training_parts()
    results = save_results(trainer, train_metrics, eval_metrics)
    if not trainer.args.should_save:
        return results
    output = Path(trainer.args.output_dir)
    measured = {name.removeprefix("eval_"): value for name, value in eval_metrics.items() if is_quality(name)}
    if has_matplotlib():
        losses = {"loss": "training", "eval_loss": "evaluation (pairs)"}
        losses |= {name: name.replace("_", " ") for name in weights}
        shown = {f"eval_{name}": name.replace("_", " ") for name in measured if not name.endswith("at_10")}
        plot_curves(trainer.state.log_history, output / "training_curve.png", {"loss": losses, "share": shown})
    write_card(
        trainer,
        measured or {"loss": eval_metrics["eval_loss"]},
        split=trainer.eval_dataset.source.split.rpartition("/")[2],
        dataset=data_args.dataset,
        model=model_args.model,
        pipeline_tag="zero-shot-image-classification",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
    )
    logger.info("results: %s", output)
    return results


def write_evaluation(measured: dict, facts: dict, output: str | None, call: dict) -> dict:
    """Print what was measured, and write it into the JSON file that is named."""
    results = write_results_file(output, {**facts, **measured}, call)
    said = "  ".join(
        f"{name} {100 * value:.2f} %" if is_quality(name) else f"{name} {value:.4f}"
        for name, value in measured.items()
    )
    sys.stdout.write(f"{said}  n {facts['samples']}\n")
    return results
