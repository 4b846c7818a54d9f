"""Enlarge images that were reduced, and measure how close they come to the originals, with bicubic beside it."""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image

from ...._files import whole_file
from ....metrics.psnr.psnr import prepare_pair, psnr
from ....metrics.ssim.ssim import image_ssim
from ....pipelines.sam_diffsr.matlab_resize import imresize
from ....pipelines.sam_diffsr.modeling_sam_diffsr import RRDBModel
from ....pipelines.sam_diffsr.pipeline_sam_diffsr import SamDiffSRPipeline
from .data import HighResolutionImages, reduce_image
from .models import sampler

#: What is measured of each image, beside the same for bicubic enlargement (`bicubic_...`).
MEASURES = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb")
_SSIM_WINDOW = 11

#: (low-resolution image, (3, h, w) uint8; seed) -> the enlarged image
Enlarge = Callable[[torch.Tensor, int], Image.Image]


@dataclass
class Enlarged:
    """One image in all its versions, 8-bit RGB, and what was measured; `seconds` of enlarging."""

    name: str
    low: Image.Image
    bicubic: Image.Image
    enlarged: Image.Image
    reference: Image.Image
    measured: dict[str, float]
    seconds: float


def by_pipeline(
    pipe: SamDiffSRPipeline,
    scheduler: str = "own",
    steps: int | None = None,
    tile_size: int | None = None,
    timesteps: list[int] | None = None,
) -> Enlarge:
    """Enlarging by diffusion; the pipeline itself keeps its scheduler."""
    options = {"num_inference_steps": steps, "timesteps": timesteps or None, "tile_size": tile_size}
    if tile_size is not None:
        options["tile_overlap"] = tile_overlap(pipe, tile_size)

    def enlarge(low: torch.Tensor, seed: int) -> Image.Image:
        changed = {"scheduler": sampler(scheduler, pipe.scheduler)}
        own = SamDiffSRPipeline(
            **{**pipe.components, **changed},
            residual_scale=pipe.config.residual_scale,
            legacy_256=pipe.config.legacy_256,
        )
        own.set_progress_bar_config(disable=True)
        return own(low, generator=torch.Generator().manual_seed(seed), **options).images[0]

    return enlarge


def tile_overlap(pipe: SamDiffSRPipeline, tile_size: int) -> int:
    """Low-resolution pixels that tiles share: the pipeline's 16, or half of smaller tiles."""
    return min(16, tile_size // 2 // pipe.size_unit * pipe.size_unit)


def by_encoder(encoder: RRDBModel) -> Enlarge:
    """Enlarging by regression."""

    @torch.no_grad()
    def enlarge(low: torch.Tensor, seed: int) -> Image.Image:
        image = encoder(low[None].to(encoder.device, encoder.dtype) / 127.5 - 1).sample[0].float()
        if not image.isfinite().all():
            raise ValueError(f"--model: what the encoder predicts is not finite, in {encoder.dtype}.")
        return to_pil(((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())

    return enlarge


def enlarge_and_measure(
    enlarge: Enlarge, source: HighResolutionImages, scale: int, *, seed: int, size: int | None, crop_border: int
) -> list[Enlarged]:
    """All images of `source`, the processes taking turns, in order; every process gets the whole list.

    Args:
        scale: the magnification.
        seed: image i is sampled with seed + i, whatever the number of processes.
        size: take the central square of that many pixels (or the whole side where it is shorter).
        crop_border: pixels to leave out along each edge when measuring.
    """
    state = PartialState()
    own = []
    for index in range(state.process_index, len(source), state.num_processes):
        reference, low = reference_and_low(source, index, scale, size)
        start = time.perf_counter()
        enlarged = enlarge(low, seed + index)
        seconds = time.perf_counter() - start
        bicubic = to_pil(imresize(low, scale))
        reference = to_pil(reference)
        measured = compare(enlarged, reference, crop_border)
        measured |= {f"bicubic_{name}": value for name, value in compare(bicubic, reference, crop_border).items()}
        result = Enlarged(source.name(index), to_pil(low), bicubic, enlarged, reference, measured, seconds)
        own.append((index, result))
    return [result for _, result in sorted(gather_object(own), key=lambda pair: pair[0])]


def reference_and_low(
    source: HighResolutionImages, index: int, scale: int, size: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """An image with sides cut to multiples of `scale`, and its low-resolution version; both (3, ., .) uint8."""
    image, low = source.image(index), source.low_image(index, scale)
    height, width = (side // scale * scale for side in image.shape[-2:])
    image = image[:, :height, :width]
    low = reduce_image(image, scale) if low is None else low
    if size is not None:
        (top, rows), (left, columns) = (_centre(side, size // scale) for side in low.shape[-2:])
        low = low[:, top : top + rows, left : left + columns]
        image = image[:, top * scale : (top + rows) * scale, left * scale : (left + columns) * scale]
    return image, low


def _centre(side: int, wanted: int) -> tuple[int, int]:
    kept = min(side, wanted)
    return (side - kept) // 2, kept


def check_measurable(source: HighResolutionImages, index: int, scale: int, size: int | None, crop_border: int) -> None:
    """ValueError, naming the image, if nothing of it is left to measure."""
    shape = reference_and_low(source, index, scale, size)[0].shape[-2:]
    if min(shape) - 2 * crop_border < _SSIM_WINDOW:
        raise ValueError(
            f"row {source.rows[index]} ({source.name(index)}) of {source.split}: {shape[1]}×{shape[0]} pixels without "
            f"a border of {crop_border} are less than the {_SSIM_WINDOW}×{_SSIM_WINDOW} window of SSIM."
        )


def compare(image: Image.Image, reference: Image.Image, crop_border: int) -> dict[str, float]:
    """PSNR in dB and SSIM, on luma and on RGB; see `hf_effmodels.metrics`."""
    measured = {}
    for channel in ("y", "rgb"):
        pair = prepare_pair(image, reference, channel, crop_border)
        measured |= {f"psnr_{channel}": psnr(*pair), f"ssim_{channel}": image_ssim(*pair)}
    return measured


def averages(results: list[Enlarged]) -> dict[str, float]:
    """The mean over the images of what was measured."""
    return {name: float(np.mean([result.measured[name] for result in results])) for name in results[0].measured}


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


# ---- perceptual metrics, by an optional library ----


def check_perceptual(names: list[str]) -> None:
    """ImportError unless what measures these is installed."""
    if names and importlib.util.find_spec("pyiqa") is None:
        raise ImportError(f"--metrics {' '.join(names)} needs the library pyiqa: pip install pyiqa")


def perceptual(names: list[str], folder: Path, device: torch.device | str = "cpu") -> dict[str, float]:
    """LPIPS (AlexNet), FID between the folders, MANIQA, as the paper measures them, by pyiqa.

    pyiqa downloads the networks it measures with on first use.

    Args:
        names: "lpips", "fid", "maniqa".
        folder: of `save_images`, with `sr` and `hr` in it.
    """
    import pyiqa

    pairs = [(path, folder / "hr" / path.name) for path in sorted((folder / "sr").glob("*.png"))]
    measured = {}
    for name in names:
        metric = pyiqa.create_metric(name, device=torch.device(device))
        if name == "fid":
            values = [metric(str(folder / "sr"), str(folder / "hr"))]
        elif name == "maniqa":
            values = [metric(str(path)) for path, _ in pairs]
        else:
            values = [metric(str(path), str(reference)) for path, reference in pairs]
        measured[name] = float(np.mean([float(value) for value in values]))
    return measured


def save_images(results: list[Enlarged], folder: Path) -> None:
    """Enlarged images as `sr`, bicubic ones as `bicubic`, references as `hr`: 8-bit PNG of the same names. Of images
    of one name, as of a.jpg and a.png, those after the first get a number."""
    names: list[str] = []
    for name in (result.name for result in results):
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(name if name not in names else next(new for new in numbered if new not in names))
    for kind, images in (
        ("sr", [result.enlarged for result in results]),
        ("bicubic", [result.bicubic for result in results]),
        ("hr", [result.reference for result in results]),
    ):
        for name, image in zip(names, images, strict=True):
            with whole_file(folder / kind / f"{name}.png") as part:
                image.save(part, format="png")
