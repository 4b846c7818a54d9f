"""CutMix of images that have probabilities for labels already (ReLabel, https://arxiv.org/abs/2101.05022)."""

import numpy as np
import torch

from .augment import cut_box


def cutmix(
    pixels: torch.Tensor,
    targets: torch.Tensor,
    rng: np.random.Generator,
    *,
    alpha: float = 1.0,
    smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`cutmix_of` with a random order of the batch and a box of a random share (Beta(alpha, alpha)) anywhere."""
    height, width = pixels.shape[-2:]
    order = torch.from_numpy(rng.permutation(len(pixels)))
    share = float(rng.beta(alpha, alpha))
    box = cut_box(height, width, share, int(rng.integers(height)), int(rng.integers(width)))
    mixed, targets, _ = cutmix_of(pixels, targets, order, box, smoothing=smoothing)
    return mixed, targets


def cutmix_of(
    pixels: torch.Tensor,
    targets: torch.Tensor,
    order: torch.Tensor,
    box: tuple[int, int, int, int],
    *,
    smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Images (batch, channels, height, width) with the `box` (top, bottom, left, right) of those that `order` puts in
    their place, the probabilities (batch, classes) mixed by area, and the share of the image's own.

    Args:
        smoothing: share of the probabilities that is spread over all classes, before they are mixed.
    """
    top, bottom, left, right = box
    targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
    share = 1 - (bottom - top) * (right - left) / (pixels.shape[-2] * pixels.shape[-1])
    mixed = pixels.clone()
    mixed[..., top:bottom, left:right] = pixels[order][..., top:bottom, left:right]
    return mixed, share * targets + (1 - share) * targets[order], share
