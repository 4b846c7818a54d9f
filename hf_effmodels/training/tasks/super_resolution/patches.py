"""Training patches: cut, reduced and enlarged so that they are exactly crops of the whole images' versions."""

from dataclasses import dataclass

import numpy as np
import torch

from ....pipelines.sam_diffsr.masks import normalize_structure
from ....pipelines.sam_diffsr.matlab_resize import imresize
from ...data.seeded import SeededDataset
from .data import HighResolutionImages

# Low-resolution pixels that the resizing kernels (4 wide, stretched when reducing) reach beyond a patch.
_REACH_UP, _REACH_DOWN = 2, 3


@dataclass(frozen=True)
class PatchOptions:
    """What a training sample is.

    Attributes:
        scale: magnification. patch_size: high-resolution side, a multiple of it. patches_per_image: in an epoch.
        augment: flips and quarter turns.
        num_timesteps: T of the diffusion; None where no noise is needed (RRDB).
        legacy_256: see `SamDiffSRPipeline`.
        structure: with structure maps; structure_normalization, structure_constant_to_zero: `normalize_structure`'s.
        legacy_mask_crop: cut maps at low-resolution coordinates.
    """

    scale: int
    patch_size: int
    patches_per_image: int = 1
    augment: bool = False
    num_timesteps: int | None = None
    legacy_256: bool = False
    structure: bool = False
    structure_normalization: str = "none"
    structure_constant_to_zero: bool = False
    legacy_mask_crop: bool = False


class PatchDataset(SeededDataset):
    """Random patches with all the random numbers of a training step.

    A sample has `low` (3, h, w), `high` and `upsampled` (3, H, W), in [-1, 1]; for diffusion also `timestep`, `noise`
    (3, H, W) and, with structure maps, `structure` (1, H, W), or (1, h, w) with `legacy_mask_crop`.

    A run that goes on after a kill, or with another number of worker processes, sees the same patches and the same
    noise. Whether there are structure maps changes none of the other random numbers.
    """

    def __init__(self, source: HighResolutionImages, options: PatchOptions, seed: int):
        super().__init__(seed)
        self.source = source
        self.options = options

    def __len__(self) -> int:
        return len(self.source) * self.options.patches_per_image

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        options, row = self.options, index % len(self.source)
        image = self.source.image(row)
        scale, side = options.scale, options.patch_size // options.scale
        check_patch_fits(image, options.patch_size, self.source, row)
        top, left = (int(rng.integers(length // scale - side + 1)) for length in image.shape[-2:])
        turn = int(rng.integers(8)) if options.augment else 0

        prepared = self.source.low_image(row, scale)
        low, upsampled = low_and_upsampled(image, prepared, top, left, side, scale, 256 if options.legacy_256 else 255)
        window = (..., slice(top * scale, (top + side) * scale), slice(left * scale, (left + side) * scale))
        sample = {"low": low.float() / 127.5 - 1, "high": image[window].float() / 127.5 - 1, "upsampled": upsampled}
        if options.structure:
            if options.legacy_mask_crop:
                window = (..., slice(top, top + side), slice(left, left + side))
            structure = self.source.structure(row)[window]
            normal = normalize_structure(
                structure.numpy(), options.structure_normalization, options.structure_constant_to_zero
            )
            sample["structure"] = torch.from_numpy(np.ascontiguousarray(normal))
        sample = {name: turned(tensor, turn) for name, tensor in sample.items()}
        if options.num_timesteps is not None:
            sample["timestep"] = torch.tensor(int(rng.integers(options.num_timesteps)))
            sample["noise"] = torch.from_numpy(rng.standard_normal(sample["high"].shape, dtype=np.float32))
        return sample


def check_patch_fits(image: torch.Tensor, patch_size: int, source: HighResolutionImages, row: int) -> None:
    """ValueError, naming the image, if it is smaller than a patch."""
    height, width = image.shape[-2:]
    if min(height, width) < patch_size:
        raise ValueError(
            f"row {source.rows[row]} ({source.name(row)}) of {source.split} is {width}×{height}: --patch_size "
            f"{patch_size} needs images of that many pixels along both sides."
        )


def low_and_upsampled(
    image: torch.Tensor, prepared: torch.Tensor | None, top: int, left: int, side: int, scale: int, divisor: int = 255
) -> tuple[torch.Tensor, torch.Tensor]:
    """A square of the low-resolution image, and of its bicubic enlargement.

    Only what the square depends on is resized; the result is that of resizing the whole image and cutting.

    Args:
        image: (3, height, width) uint8.
        prepared: the low-resolution image, (3, height // scale, width // scale) uint8; made from `image` if None.
        top, left, side: of the square, in low-resolution pixels.
        scale: magnification.
        divisor: 255, or 256 as in the official code.

    Returns:
        (3, side, side) uint8, and (3, scale·side, scale·side) float32 in [-1, 1] but for overshoot.
    """
    height, width = (length // scale for length in image.shape[-2:])
    rows, inner_rows = _with_margin(top, side, height, _REACH_UP)
    columns, inner_columns = _with_margin(left, side, width, _REACH_UP)
    if prepared is None:
        outer_rows, kept_rows = _with_margin(rows.start, rows.stop - rows.start, height, _REACH_DOWN)
        outer_columns, kept_columns = _with_margin(columns.start, columns.stop - columns.start, width, _REACH_DOWN)
        high = image[:, _times(outer_rows, scale), _times(outer_columns, scale)]
        low = imresize(high, 1 / scale)[:, kept_rows, kept_columns]
    else:
        low = prepared[:, rows, columns]
    upsampled = imresize(low.float() / divisor, scale)[:, _times(inner_rows, scale), _times(inner_columns, scale)]
    return low[:, inner_rows, inner_columns], upsampled * 2 - 1


def _with_margin(start: int, length: int, limit: int, margin: int) -> tuple[slice, slice]:
    """The span with a margin, within [0, limit); and where in it the span itself lies."""
    first, last = max(0, start - margin), min(limit, start + length + margin)
    return slice(first, last), slice(start - first, start - first + length)


def _times(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)


def turned(tensor: torch.Tensor, turn: int) -> torch.Tensor:
    """One of the eight turns and reflections of a square, (..., side, side)."""
    tensor = tensor.rot90(turn % 4, (-2, -1)) if turn % 4 else tensor
    return (tensor.flip(-1) if turn >= 4 else tensor).contiguous()
