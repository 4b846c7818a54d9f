"""Spherical k-means from the rows of a classifier: pseudo-labels for unlabelled images (SFDA-DE,
https://arxiv.org/abs/2204.11257, section 3.1)."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class SphericalClusters:
    """What was found.

    Attributes:
        labels: (samples,), the class of each.
        distances: (samples, clusters), (1 - cosine) / 2 to each centre, in the order of the clusters.
        centres: (clusters, width), of any length.
        change: mean distance of the centres from where they began.
        rounds: how often the stop was tested.
    """

    labels: torch.Tensor
    distances: torch.Tensor
    centres: torch.Tensor
    change: torch.Tensor
    rounds: int


def spherical_clusters(
    features: torch.Tensor, rows: torch.Tensor, *, tolerance: float = 1e-3, max_rounds: int = 1000
) -> SphericalClusters:
    """Cluster features by direction, beginning at the rows of a classifier.

    A new centre is the sum of its members as they are, so long features weigh more; a cluster without members goes
    back to its row. It ends when the centres have moved by less than `tolerance` in the mean. The clusters are then
    matched with the rows (the cheapest one-to-one assignment), which gives them their class.

    Args:
        features: (samples, width).
        rows: (classes, width), such as `classifier.weight`.
        tolerance: in units of the distance, (1 - cosine) / 2.
        max_rounds: after which it ends in any case.

    Raises:
        ValueError: shapes that do not fit, fewer samples than classes, or features without a direction.
    """
    if features.ndim != 2 or rows.ndim != 2 or features.shape[1] != rows.shape[1]:
        raise ValueError(
            f"features: got shape {tuple(features.shape)}, expected (samples, {rows.shape[-1]}) as the classifier has."
        )
    if len(features) < len(rows):
        raise ValueError(
            f"features: got {len(features)} samples, accepted are as many as classes, {len(rows)}, or more."
        )
    if not features.norm(dim=1).min() > 0 or not features.isfinite().all():
        raise ValueError("features: one of them is zero or not finite and has no direction.")
    centres, previous, rounds = rows, None, 0
    while True:
        rounds += 1
        moved = previous is not None and _distance(centres, previous).diagonal().mean() < tolerance
        if moved or rounds > max_rounds:
            break
        nearest = _distance(features, centres).argmin(dim=1)
        sums = torch.zeros_like(rows).index_add_(0, nearest, features)
        empty = torch.bincount(nearest, minlength=len(rows)) == 0
        previous, centres = centres, torch.where(empty[:, None], rows, sums)
    distances = _distance(features, centres)
    to_rows = _distance(centres, rows)
    classes = _assign(to_rows)
    return SphericalClusters(
        labels=classes.to(features.device)[distances.argmin(dim=1)],
        distances=distances,
        centres=centres,
        change=to_rows.diagonal().mean(),
        rounds=rounds,
    )


def _distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(first, second): (1 - cosine) / 2."""
    return (1 - F.normalize(first, dim=1) @ F.normalize(second, dim=1).T) / 2


def _assign(costs: torch.Tensor) -> torch.Tensor:
    """(rows,): the column of each row in the cheapest assignment of one to one."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(costs.detach().cpu().double().numpy())
    return torch.from_numpy(columns)
