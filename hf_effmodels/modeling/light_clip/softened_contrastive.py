"""Images and texts that belong together, with targets that are softened step by step (in the style of LightCLIP,
https://arxiv.org/abs/2312.00674).

The paper's equations were not at hand: what its abstract says is written out here in a way of our own.
"""

import math
from typing import Literal

import torch
from torch.nn import functional as F


def progressive_softening(
    progress: float, largest: float = 0.2, schedule: Literal["linear", "cosine"] = "linear"
) -> float:
    """How much of the target goes to the other pairs at `progress`, from 0 to 1, of the training: 0 at its beginning,
    `largest` at its end.

    Raises:
        ValueError: progress outside of [0, 1], `largest` outside of [0, 1), or another schedule.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: got {progress}, accepted are numbers from 0 to 1.")
    if not 0 <= largest < 1:
        raise ValueError(f"largest: got {largest}, accepted are numbers from 0 to below 1.")
    if schedule not in ("linear", "cosine"):
        raise ValueError(f"schedule: got {schedule!r}, accepted are 'linear' and 'cosine'.")
    return largest * (progress if schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2)


def softened_targets(logits: torch.Tensor, softening: float, uniform: bool = False) -> torch.Tensor:
    """(batch, batch): 1 - α for each row's own pair, α among the others by the softmax of their logits.

    Args:
        logits: (batch, batch) of one direction; the targets have no gradient.
        softening: α.
        uniform: the others share α evenly.

    Raises:
        ValueError: logits that are not square, a batch of one, which has no others, or α outside of [0, 1).
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (batch, batch).")
    if len(logits) < 2:
        raise ValueError(
            "logits: got a batch of one, accepted are two pairs or more: the others are what is compared."
        )
    if not 0 <= softening < 1:
        raise ValueError(f"softening: got {softening}, accepted are numbers from 0 to below 1.")
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    others = torch.zeros_like(logits) if uniform else logits.detach()
    shares = others.masked_fill(own, -torch.inf).softmax(1)
    return torch.where(own, torch.full_like(shares, 1 - softening), softening * shares)


def softened_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor | float,
    softening: float = 0.0,
    uniform: bool = False,
) -> torch.Tensor:
    """The mean of the cross entropies of both directions; with `softening` 0 CLIP's loss.

    Args:
        image_embeds, text_embeds: (batch, width), of any length; pair i is row i of both.
        logit_scale: factor of the cosines.
        softening, uniform: see `softened_targets`.
    """
    if image_embeds.shape != text_embeds.shape:
        shapes = f"{tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}"
        raise ValueError(f"image_embeds, text_embeds: got the shapes {shapes}, expected the same.")
    logits = logit_scale * F.normalize(image_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).T
    losses = [
        F.cross_entropy(direction, softened_targets(direction, softening, uniform)) for direction in (logits, logits.T)
    ]
    return (losses[0] + losses[1]) / 2
