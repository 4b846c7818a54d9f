"""What lies beside a trained SAM: results, curves, masks as pictures, the card."""

import logging
from pathlib import Path

import numpy as np
import torch

from ...run.reports import (
    has_matplotlib,
    plot_curves,
    save_figure,
    save_results,
    training_summary,
    write_card,
)
from .data import Shapes, collate
from .outputs import segment
from .prompts import best_masks, points_in

logger = logging.getLogger(__name__)

#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    "teacher",
    *("num_train_epochs", "max_steps", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    *("ema_decay", "train_pictures", "prompts_per_picture", "shapes_per_picture", "hard_prompt_rounds"),
    *("embedding_weight", "token_weight", "mask_weight", "hard_mask_weighting", "focal_weight", "dice_weight"),
    *("iou_weight", "seed"),
)


def write_results(trainer, train_metrics: dict, eval_metrics: dict, config: dict, model_args, data_args) -> dict:
    """The model, its results, `training_curve.png`, `masks.png`, the card and the folder for the Hub."""
    results = save_results(trainer, train_metrics, eval_metrics)
    args = trainer.args
    if not args.should_save:
        return results
    output = Path(args.output_dir)
    if has_matplotlib():
        panels = {
            "loss": {"loss": "training", "eval_loss": "evaluation"},
            "mean IoU": {"eval_miou_point": "by a point", "eval_miou_box": "by a box"},
        }
        plot_curves(trainer.state.log_history, output / "training_curve.png", panels, x="step")
        if args.shown_pictures:
            draw_masks(trainer.network, trainer.eval_dataset, args.shown_pictures, output / "masks.png")
    write_card(
        trainer,
        {name: eval_metrics[f"eval_{name}"] for name in ("miou_point", "miou_box", "loss")},
        split=f"{len(trainer.eval_dataset)} pictures of photographs that were not trained on",
        dataset="shapes over photographs",
        model=model_args.model,
        pipeline_tag="mask-generation",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(args)),
    )
    logger.info("results: %s", output)
    return results


@torch.no_grad()
def draw_masks(model, data: Shapes, count: int, file: Path) -> None:
    """A row for each picture: as it is, the true masks with their points, the model's answers to those points."""
    from matplotlib.figure import Figure

    model.eval()
    count = min(count, len(data))
    figure = Figure(figsize=(6.6, 2.2 * count), layout="constrained")
    for row, axes in enumerate(figure.subplots(count, 3, squeeze=False)):
        batch = {name: value.to(model.device) for name, value in collate([data[row]]).items()}
        points = points_in(batch["masks"], batch["draws"][..., 0])
        said = segment(model, points, pixel_values=batch["pixel_values"])
        side = batch["masks"].shape[-1]
        answers = torch.nn.functional.interpolate(best_masks(said.logits, said.scores), (side, side), mode="bilinear")
        pixels = (batch["pixel_values"][0].cpu().numpy() * data.deviation + data.mean).transpose(1, 2, 0).clip(0, 1)
        shown = (None, batch["masks"][0].cpu().numpy(), (answers[0] > 0).cpu().numpy())
        for axis, masks, title in zip(axes, shown, ("picture", "true masks", "answers to the points"), strict=True):
            axis.imshow(pixels if masks is None else _coloured(pixels, masks))
            if masks is not None:
                axis.plot(*points[0].cpu().numpy().T, "o", color="white", markeredgecolor="black", markersize=4)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    save_figure(figure, file)


def _coloured(pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    colours = np.array([[1, 0.2, 0.2], [0.2, 1, 0.2], [0.3, 0.5, 1], [1, 0.9, 0.1], [1, 0.2, 1], [0.1, 1, 1]])
    result = pixels * 0.5
    for number, mask in enumerate(masks):
        result[mask] = 0.4 * pixels[mask] + 0.6 * colours[number % len(colours)]
    return result
