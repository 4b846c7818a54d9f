"""Coarse-to-fine pre-processing: find the few values that stretch the grid, and take them out of its way."""

from typing import NamedTuple

import torch

#: Magnitudes are sorted, and only a fraction of them are candidates; more would be no outliers.
COARSE, FINE = 1.5, 1.0


class Outliers(NamedTuple):
    threshold: torch.Tensor  #: T of the coarse step
    candidates: int  #: how many values are above T
    measure: torch.Tensor  #: (candidates,): M of each split of the candidates
    count: int  #: how many of the largest values are outliers
    largest_kept: torch.Tensor  #: the largest value that is none


def find_outliers(magnitudes: torch.Tensor, lambda1: float = COARSE, lambda2: float = FINE) -> Outliers:
    """Split the largest magnitudes into those that belong to the others and those that do not.

    Coarse: candidates are above T = Q3 + lambda1 (Q3 - Q1). Fine: give the i smallest candidates back so that
    M = (smallest outlier - largest kept)² - lambda2 variance(given back) is largest, the smallest i of equals.

    Args:
        magnitudes: any shape: |w| of a weight, or the largest |x| of each channel.
    """
    values = magnitudes.reshape(-1).sort().values
    n = len(values)
    q1, q3 = values[n // 4], values[3 * n // 4]
    threshold = q3 + lambda1 * (q3 - q1)
    candidates = values[torch.searchsorted(values, threshold, right=True) :]
    if not len(candidates):
        return Outliers(threshold, 0, candidates, 0, values[-1])
    # Of the candidates the first 0, 1, 2, ... are kept: what is largest among them, and their variance.
    kept = torch.cat([threshold[None], candidates[:-1]])
    counts = torch.arange(len(candidates), device=values.device).clamp(min=1)
    # From T on: the variance of numbers that are close to each other must not be a difference of large squares.
    above = torch.cat([torch.zeros_like(threshold)[None], (candidates - threshold)[:-1]])
    mean = above.cumsum(0) / counts
    variance = (above.square().cumsum(0) / counts - mean.square()).clamp(min=0)
    measure = (candidates - kept).square() - lambda2 * variance
    best = int((measure == measure.max()).nonzero()[0])
    # Without a candidate given back the largest kept one is below T.
    first = n - len(candidates) + best
    return Outliers(threshold, len(candidates), measure, len(candidates) - best, values[max(first - 1, 0)])


def truncate(weight: torch.Tensor, lambda1: float = COARSE, lambda2: float = FINE, rounds: int = 1) -> torch.Tensor:
    """The weight with its outliers cut to the largest magnitude that is none, `rounds` times."""
    for _ in range(rounds):
        found = find_outliers(weight.abs(), lambda1, lambda2)
        if not found.count:
            break
        weight = weight.clamp(-found.largest_kept, found.largest_kept)
    return weight


def channel_scales(
    channel_max: torch.Tensor, lambda1: float = COARSE, lambda2: float = FINE, rounds: int = 1
) -> torch.Tensor:
    """(channels,): by how much to divide each channel: sqrt(max / largest kept max) for outliers, else 1.

    The rule follows the single largest gap: channels of several heights may need several `rounds`, each of which
    looks at the channels as the last one left them.

    Args:
        channel_max: (channels,): the largest |x| of each channel.
    """
    scales = torch.ones_like(channel_max)
    for _ in range(rounds):
        now = channel_max / scales
        found = find_outliers(now, lambda1, lambda2)
        if not found.count or found.largest_kept <= 0:
            break
        scales = scales * torch.where(now > found.largest_kept, (now / found.largest_kept).sqrt(), 1.0)
    return scales
