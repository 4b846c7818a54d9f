"""What lies beside a trained masked image model: results, a picture of what it predicts, the encoder, the card."""

import logging
from pathlib import Path

import numpy as np
import torch

from ...._written import rewritten
from ....models import sized_processor
from ...run.reports import (
    has_matplotlib,
    plot_curves,
    save_figure,
    save_results,
    training_summary,
    write_card,
)
from .data import MaskedImages
from .models import encoder_processor

logger = logging.getLogger(__name__)

#: The folder of the encoder, as a model of its own class.
ENCODER = "encoder"
#: What the card says about the training, as far as it was in use.
HYPER_PARAMETERS = (
    *("method", "num_train_epochs", "max_steps", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps"),
    *("min_lr", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "ema_decay", "crop_scale"),
    *("interpolation", "horizontal_flip", "progressive_sizes", "progressive_epochs", "progressive_batch_sizes"),
    *("image_size", "bf16", "fp16", "seed"),
)
# Pixels along a side of a cell of histograms, drawn.
_CELL = 16


def write_results(trainer, train_metrics: dict, eval_metrics: dict, config: dict, model_args, data_args) -> dict:
    """The model, its results, `training_curve.png`, `masked.png`, the folder `encoder`, the card and `hub`."""
    results = save_results(trainer, train_metrics, eval_metrics)
    args = trainer.args
    if not args.should_save:
        return results
    output, network = Path(args.output_dir), trainer.network
    with rewritten(output / ENCODER, "a pre-training") as folder:
        network.save_encoder(folder, args.encoder_image_size, args.encoder_window_size)
        processor, side = encoder_processor(network, trainer.processing_class), args.encoder_image_size
        (processor if side is None else sized_processor(processor, side)).save_pretrained(folder)
    if has_matplotlib():
        losses = {"loss": "training", "eval_loss": "evaluation"}
        scales = {name: name[5:].replace("_", " ") for name in _scales(trainer.state.log_history)}
        plot_curves(trainer.state.log_history, output / "training_curve.png", {"loss": losses | scales})
        if args.shown_images:
            draw_predictions(network, trainer.eval_dataset, args.shown_images, output / "masked.png")
    write_card(
        trainer,
        {name.removeprefix("eval_"): value for name, value in eval_metrics.items() if name.startswith("eval_loss")},
        split=trainer.eval_dataset.source.split.rpartition("/")[2],
        dataset=data_args.dataset,
        model=model_args.model,
        pipeline_tag="image-feature-extraction",
        training=training_summary(config, HYPER_PARAMETERS, trainer.get_total_train_batch_size(args)),
    )
    logger.info("results: %s; what goes on from here is the encoder: %s", output, output / ENCODER)
    return results


def _scales(history) -> list[str]:
    return sorted({name for entry in history for name in entry if name.startswith("loss_scale_")})


@torch.no_grad()
def draw_predictions(model, data: MaskedImages, count: int, file: Path) -> None:
    """A row for each image: as it is, what was seen of it, its target and the prediction."""
    from matplotlib.figure import Figure

    model.eval()
    count = min(count, len(data))
    rows = []
    for number in range(count):
        sample = {name: value[None].to(model.device) for name, value in data[number].items()}
        if getattr(model, "one_mask_per_batch", False):
            sample["noise"] = sample["noise"][0]
        rows.append(views(model, sample, data))
    figure = Figure(figsize=(8.8, 2.2 * count), layout="constrained")
    for row, axes in enumerate(figure.subplots(count, 4, squeeze=False)):
        for axis, (title, picture) in zip(axes, rows[row].items(), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
            if row == 0:
                axis.set_title(title, fontsize=9)
    save_figure(figure, file)


def views(model, sample: dict[str, torch.Tensor], data: MaskedImages) -> dict[str, np.ndarray]:
    """Title -> picture of an image, what was seen of it, its target and the prediction; values from 0 to 1."""
    outputs, pixels = model(**sample), sample["pixel_values"]
    kind = model.config.model_type
    if kind == "simmim":
        patch = model.config.backbone_config.patch_size
        hidden = outputs.mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
        target, predicted, is_hog = pixels, outputs.reconstruction, False
    elif kind == "spark":
        hidden = outputs.mask[:, None].repeat_interleave(model.config.block_size, 2)
        hidden = hidden.repeat_interleave(model.config.block_size, 3)
        target, predicted, is_hog = model.target_of(pixels), outputs.reconstruction, False
    elif kind == "fastmim":
        hidden, is_hog = outputs.pixel_mask, model.config.target == "hog"
        target = model.target_of(pixels)
        predicted = model.prediction_of(outputs.logits, target)
        if not is_hog:  # patches as they are compared; drawn as an image
            target, predicted = (_unfolded(maps, model.config.num_channels) for maps in (target, predicted))
    else:
        side = int(outputs.mask.shape[-1] ** 0.5)
        blocks = outputs.mask[:1].reshape(1, 1, side, side)
        hidden = blocks.repeat_interleave(pixels.shape[-1] // side, 2).repeat_interleave(pixels.shape[-1] // side, 3)
        is_hog = model.config.target == "hog"
        target, predicted = (_as_map(values[0]) for values in (outputs.targets, outputs.logits))
        if not is_hog:
            target, predicted = (_unfolded(maps, model.config.num_channels) for maps in (target, predicted))
    shown = {"image": _image(pixels, data), "seen": _image(pixels, data, hidden)}
    if is_hog:
        bins = model.config.hog_bins
        return shown | {"target": draw_histograms(target[0], bins), "prediction": draw_histograms(predicted[0], bins)}
    scale = _image if not getattr(model.config, "normalize_target", False) else _stretched
    return shown | {"target": scale(target, data), "prediction": scale(predicted, data)}


def _as_map(cells: torch.Tensor) -> torch.Tensor:
    """(batch, cells, channels) -> (batch, channels, rows, columns) of a square."""
    side = int(cells.shape[1] ** 0.5)
    return cells.transpose(1, 2).unflatten(2, (side, side))


def _unfolded(patches: torch.Tensor, channels: int) -> torch.Tensor:
    """Patches (batch, rows of a patch · columns · colours, rows, columns) as images."""
    side = int((patches.shape[1] // channels) ** 0.5)
    batch, _, rows, columns = patches.shape
    pixels = patches.reshape(batch, side, side, channels, rows, columns).permute(0, 3, 4, 1, 5, 2)
    return pixels.reshape(batch, channels, rows * side, columns * side)


def _image(pixels: torch.Tensor, data: MaskedImages, hidden: torch.Tensor | None = None) -> np.ndarray:
    """The image of normalised pixels; what is hidden is gray."""
    scale, shift = (
        torch.tensor(values)[:, None, None] for values in (data.normalization.scale, data.normalization.shift)
    )
    values = ((pixels[0].float().cpu() - shift) / scale / 255).clamp(0, 1)
    if hidden is not None:
        values = torch.where(hidden[0].cpu() > 0, torch.full_like(values, 0.5), values)
    picture = values.permute(1, 2, 0).numpy()
    return picture if picture.shape[2] == 3 else picture[..., 0]


def _stretched(pixels: torch.Tensor, data: MaskedImages) -> np.ndarray:
    """Pixels of patches that were normalised by their own mean and deviation: two deviations each way."""
    picture = (pixels[0].float().cpu() / 4 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    return picture if picture.shape[2] == 3 else picture[..., 0]


def draw_histograms(histograms: torch.Tensor, bins: int) -> np.ndarray:
    """Histograms of gradients as edges: in each cell a line across every gradient, as bright as there is of it.

    Args:
        histograms: (channels · bins, rows, columns), see `histograms_of_gradients`; a mean over the channels is drawn.
        bins: orientations.

    Returns:
        (rows · 16, columns · 16), from 0 to 1.
    """
    amounts = histograms.float().cpu().unflatten(0, (-1, bins)).mean(0).clamp(min=0)
    place = np.arange(_CELL) - (_CELL - 1) / 2
    lines = []
    for number in range(bins):
        # The phase is the arc tangent of horizontal over vertical gradient: an edge lies across it.
        phase = (number + 0.5) * np.pi / bins
        across = place[None, :] * np.sin(phase) + place[:, None] * np.cos(phase)
        inside = np.hypot(place[None, :], place[:, None]) < _CELL / 2
        lines.append(np.clip(1 - np.abs(across), 0, 1) * inside)
    drawn = np.einsum("brc,bhw->rhcw", amounts.numpy(), np.stack(lines))
    drawn = drawn.reshape(amounts.shape[1] * _CELL, amounts.shape[2] * _CELL)
    return drawn / max(float(drawn.max()), 1e-12)
