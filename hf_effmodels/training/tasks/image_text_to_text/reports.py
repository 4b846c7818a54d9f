"""What lies beside a trained vision-language model, and what is written of an evaluated one."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ...._files import whole_folder, write_text
from ...run.reports import has_matplotlib, plot_curves, save_results, training_summary, write_card
from ...run.results import write_results_file
from .samples import Sample
from .scores import SCIENCE_QA_GROUPS

logger = logging.getLogger(__name__)

#: Folder beside the results with the decoder's part of the adapters, as peft loads it.
PEFT_FOLDER = "peft"
_PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("train", "num_train_epochs", "max_steps", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "ema_decay", "augmentation", "max_length"),
    *("base_precision", "bf16", "fp16", "prompt_format", "prompt_template", "seed"),
)
_TIMES = ("runtime", "samples_per_second", "steps_per_second", "samples", "loss", "epoch", "unanswered")


def write_results(trainer, train_metrics: dict, metrics: dict, config: dict, model_args, data_args) -> dict:
    """`reports.save_results`, `training_curve.png`, `reports.write_card`, and the folder `peft` where only adapters
    were trained.

    Args:
        metrics: of the evaluation, each with `eval_` in front.

    Returns:
        All metrics.
    """
    output = Path(trainer.args.output_dir)
    results = save_results(trainer, train_metrics, metrics)
    if not trainer.args.should_save:
        return results
    if has_matplotlib():
        panels = {"cross entropy per answer token": {"loss": "training", "eval_loss": "evaluation"}}
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels)
    measured = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    write_card(
        trainer,
        {name: value for name, value in measured.items() if name not in _TIMES} or {"loss": measured["loss"]},
        split=trainer.eval_dataset.samples.split.rpartition("/")[2],
        dataset=data_args.dataset,
        model=model_args.text_model or model_args.model,
        pipeline_tag="image-text-to-text",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args)),
        adapter_only=trainer.adapter_only,
    )
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.args.train == "adapters" and model.config.text_model_name_or_path is not None:
        save_peft_adapter(model, output / PEFT_FOLDER)
    logger.info("results: %s", output)
    return results


def save_peft_adapter(model, folder: Path) -> None:
    """Write the decoder's part of the adapters as a folder that `PeftModel.from_pretrained` loads (it then takes
    `image_embeds`), replacing one that is there. Does nothing but say so where peft is not installed."""
    try:
        from ....adapters import AdemConfig
    except ImportError:
        logger.info("peft is not installed: no folder %s", folder.name)
        return
    from safetensors.torch import save_file

    settings = model.config
    config = AdemConfig(
        alpha=float(settings.alpha),
        drop_ratio=float(settings.drop_ratio),
        num_vision_tokens=settings.num_vision_tokens,
        target_modules=["mlp"],
        inference_mode=True,
        task_type="CAUSAL_LM",
        base_model_name_or_path=settings.text_model_name_or_path,
    )
    offsets = {"emb1": model.model.key_offsets, "emb2": model.model.value_offsets}
    tensors = {f"base_model.adem_{name}": o.detach().cpu().contiguous() for name, o in offsets.items()}
    with whole_folder(folder, replaces=lambda name, path: name in _PEFT_FILES) as new:
        config.save_pretrained(str(new))
        save_file(tensors, new / "adapter_model.safetensors", {"format": "pt"})


def write_evaluation(
    metrics: dict, samples: Sequence[Sample], answers: Sequence[str], split: str, args, call: dict
) -> dict:
    """Print the metrics and write them into the JSON file that is named; on request the answers into another."""
    results = {"model": call["model"], "dataset": call["dataset"], "split": split, **metrics}
    results = write_results_file(args.output, results, call)
    if args.answers is not None:
        lines = (
            {"prompt": sample.question, "answer": answer, "references": list(sample.references)}
            for sample, answer in zip(samples, answers, strict=True)
        )
        write_text(Path(args.answers), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    sys.stdout.write(_shown(metrics))
    return results


def _shown(metrics: dict) -> str:
    if "accuracy_grades_1_6" in metrics or "accuracy_grades_7_12" in metrics:
        columns = {title: metrics[name] for title, (name, _) in SCIENCE_QA_GROUPS.items() if name in metrics}
        cells = [(title, f"{100 * value:.2f}") for title, value in columns.items()]
        lines = [
            "  ".join(cell.rjust(max(map(len, pair))) for cell, pair in zip(row, cells, strict=True))
            for row in zip(*cells, strict=True)
        ]
        return "\n".join(lines) + f"\nn {metrics['samples']}, unanswered {metrics['unanswered']}\n"
    return "".join(
        f"{name} {value:.6g}\n" if isinstance(value, float) else f"{name} {value}\n" for name, value in metrics.items()
    )
