"""Prompts from masks: points by drawn numbers, hard ones where a mask was missed, boxes.

Hard prompt sampling is TinySAM's (https://arxiv.org/abs/2312.13789, section 3.2): the first point lies anywhere in the
mask, the next one in what the student has missed.
"""

import torch


def points_in(regions: torch.Tensor, draws: torch.Tensor, otherwise: torch.Tensor | None = None) -> torch.Tensor:
    """A point of each region, uniformly: the one whose number among its pixels is the drawn share of them.

    Args:
        regions: booleans (..., height, width). draws: (...), from 0 to below 1.
        otherwise: regions for where those are empty.

    Returns:
        (..., 2): x and y of the pixel; (0, 0) where there is none at all.
    """
    if otherwise is not None:
        regions = torch.where(regions.flatten(-2).any(-1)[..., None, None], regions, otherwise)
    width = regions.shape[-1]
    counted = regions.flatten(-2).long().cumsum(-1)
    number = (draws * counted[..., -1]).long() + 1
    position = (counted < number[..., None]).sum(-1).clamp(max=counted.shape[-1] - 1)
    position = torch.where(counted[..., -1] > 0, position, torch.zeros_like(position))
    return torch.stack([position % width, position // width], dim=-1)


def boxes_around(masks: torch.Tensor) -> torch.Tensor:
    """left, top, right, bottom of each mask (..., height, width), the last pixels included."""
    edges = []
    for dim in (-2, -1):
        occupied = masks.any(dim)
        edges += [occupied.int().argmax(-1), occupied.shape[-1] - 1 - occupied.flip(-1).int().argmax(-1)]
    left, right, top, bottom = edges
    return torch.stack([left, top, right, bottom], dim=-1)


def best_masks(logits: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Of each prompt the mask with the best predicted score: (..., masks, height, width) -> (..., height, width)."""
    return logits.take_along_dim(scores.argmax(-1)[..., None, None, None], dim=-3).squeeze(-3)
