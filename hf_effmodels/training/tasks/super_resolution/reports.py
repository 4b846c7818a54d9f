"""What lies beside a trained super-resolution model, and what is written of an evaluated one."""

import logging
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from ...._files import whole_file, write_text
from ....hub.card_text import About, write_card
from ....pipelines.sam_diffsr import ENTRIES
from ....pipelines.sam_diffsr.export import export
from ...run.reports import (
    HUB_FOLDER,
    card_results,
    has_matplotlib,
    plot_curves,
    save_results,
    training_summary,
    what_was_saved,
)
from ...run.results import write_results_file
from .evaluation import MEASURES, Enlarged, averages

logger = logging.getLogger(__name__)

#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("stage", "num_train_epochs", "max_steps", "optim", "optim_args", "learning_rate", "lr_scheduler_type"),
    *("lr_decay_steps", "lr_decay_rate", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm"),
    *("ema_decay", "loss", "patch_size", "augment", "structure_maps", "structure_normalization"),
    *("structure_constant_to_zero", "legacy_mask_crop", "legacy_256", "residual_scale", "bf16", "fp16", "seed"),
)
_TITLES = ("low resolution", "bicubic", "enlarged", "original")
_GAP, _HEADER, _CELL = 4, 16, 256


def write_grid(results: list[Enlarged], file: Path) -> None:
    """A PNG with a row for each image: low resolution (pixels enlarged), bicubic, enlarged, original, and PSNR-Y.

    Of larger images the central 256×256 pixels are shown.
    """
    rows = []
    for result in results:
        versions = (result.low.resize(result.reference.size, Image.NEAREST), result.bicubic, result.enlarged)
        rows.append([_middle(image) for image in (*versions, result.reference)])
    width = max(row[0].width for row in rows)
    picture = Image.new(
        "RGB", (4 * width + 5 * _GAP, _GAP + sum(row[0].height + _HEADER + _GAP for row in rows)), "white"
    )
    draw, top = ImageDraw.Draw(picture), _GAP
    for row, result in zip(rows, results, strict=True):
        values = ("", f" {result.measured['bicubic_psnr_y']:.2f} dB", f" {result.measured['psnr_y']:.2f} dB", "")
        for column, (image, title, value) in enumerate(zip(row, _TITLES, values, strict=True)):
            left = _GAP + column * (width + _GAP)
            draw.text((left, top), title + value, fill="black")
            picture.paste(image, (left, top + _HEADER))
        top += row[0].height + _HEADER + _GAP
    with whole_file(file) as part:
        picture.save(part, format="png")


def _middle(image: Image.Image) -> Image.Image:
    left, top = (max(0, (side - _CELL) // 2) for side in image.size)
    return image.crop((left, top, left + min(_CELL, image.width), top + min(_CELL, image.height)))


def write_results(trainer, train_metrics: dict, eval_metrics: dict, config: dict, model_args, data_args) -> dict:
    """`reports.save_results`, `training_curve.png`, the card, and of a pipeline the folder `hub` for publishing.

    Returns:
        All metrics.
    """
    output = Path(trainer.args.output_dir)
    results = save_results(trainer, train_metrics, eval_metrics)
    if not trainer.args.should_save:
        return results
    if has_matplotlib():
        panels = {
            "loss": {"loss": "training"},
            "PSNR-Y (dB)": {"eval_psnr_y": "enlarged", "eval_bicubic_psnr_y": "bicubic"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels, x="step")
    settings = training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(trainer.args))
    training = {**what_was_saved(trainer), **settings}
    measured = {name: eval_metrics[f"eval_{name}"] for name in (*MEASURES, *(f"bicubic_{m}" for m in MEASURES))}
    facts = {
        "license": trainer.args.license,
        "dataset": data_args.dataset,
        "results": card_results(
            trainer, measured, f"{len(trainer.eval_dataset)} images of {trainer.eval_dataset.split}"
        ),
        "training": training,
    }
    if model_args.stage == "rrdb":
        card = str(write_card(_about_encoder(), **facts))
    else:
        hub = output / HUB_FOLDER
        export(trainer.complete, hub, overwrite=True, **facts)
        card = (hub / "README.md").read_text(encoding="utf-8")
    write_text(output / "README.md", card)
    logger.info("results: %s", output)
    return results


def _about_encoder() -> About:
    (entry,) = ENTRIES
    return About(
        title="RRDB condition encoder",
        introduction=f"Trained by L1 for the denoiser of [{entry.paper}](https://arxiv.org/abs/{entry.arxiv}). It is "
        "loaded by `hf_effmodels.pipelines.RRDBModel.from_pretrained`, and named as `--encoder` by the recipes of the "
        "denoiser.",
        library="diffusers",
        task=entry.tasks[0].pipeline_tag,
        tags=("hf_effmodels", "super-resolution", f"arxiv:{entry.arxiv}"),
        entry=entry,
    )


def write_evaluation(results: list[Enlarged], facts: dict, output: str | None, call: dict) -> dict:
    """Print PSNR and SSIM beside those of bicubic, and write everything into the JSON file that is named."""
    means = averages(results)
    images = [{"name": result.name, "seconds": result.seconds, **result.measured} for result in results]
    written = {**facts, **means, "samples": len(results), "seconds": sum(r.seconds for r in results), "images": images}
    written = write_results_file(output, written, call)
    for name in MEASURES:
        digits = 2 if name.startswith("psnr") else 4
        unit = " dB" if name.startswith("psnr") else ""
        value, bicubic = means[name], means[f"bicubic_{name}"]
        sys.stdout.write(f"{name:9}{value:9.{digits}f}{unit}   bicubic {bicubic:.{digits}f}{unit}\n")
    for name in facts.get("perceptual", {}):
        sys.stdout.write(f"{name:9}{facts['perceptual'][name]:9.4f}\n")
    return written
