"""Where the features of the unseen source images must have been (SFDA-DE, https://arxiv.org/abs/2204.11257,
section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .spherical_clusters import SphericalClusters

#: Classes whose mean is shorter have no direction that could be trusted; a deviation of zero becomes this one.
_SHORTEST, _NARROWEST = 1e-3, 1e-4


@dataclass(frozen=True)
class SourceEstimate:
    """A normal distribution of independent dimensions for each class.

    Attributes:
        classes: (kept classes,), in order: those that have one.
        mean, std: (kept classes, width).
        target_mean, target_std: (kept classes, width), of the target features they were made from.
    """

    classes: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    target_mean: torch.Tensor
    target_std: torch.Tensor

    def sample(self, classes: Sequence[int], count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(classes · count, width) features of a source that was never seen, class after class.

        Raises:
            ValueError: a class that has no distribution.
        """
        places = {int(number): place for place, number in enumerate(self.classes)}
        if unknown := [int(number) for number in classes if int(number) not in places]:
            raise ValueError(f"classes: {unknown[0]} has no distribution, those are {sorted(places)}.")
        chosen = torch.tensor([places[int(number)] for number in classes]).repeat_interleave(count)
        noise = torch.randn(len(chosen), self.mean.shape[1], generator=generator, dtype=self.mean.dtype)
        return self.mean[chosen] + self.std[chosen] * noise.to(self.mean.device)


def keep_confident(
    clusters: SphericalClusters, *, threshold: float = 1.0, min_samples: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which samples are near enough to a centre, and which classes have enough of them.

    Args:
        threshold: largest distance to the nearest centre, exclusive; 1 keeps all.
        min_samples: kept samples that a class needs.

    Returns:
        (samples,), true where one is kept, and the numbers of the classes, in order.
    """
    kept = clusters.distances.min(dim=1).values < threshold
    counts = torch.bincount(clusters.labels[kept], minlength=clusters.distances.shape[1])
    return kept, (counts >= min_samples).nonzero().flatten()


def estimate_source(
    features: torch.Tensor,
    labels: torch.Tensor,
    kept: torch.Tensor,
    classes: torch.Tensor,
    rows: torch.Tensor,
    *,
    std_factor: float = 1.0,
) -> SourceEstimate:
    """For each class the direction of the classifier's row, the length of the target's mean, the target's deviation.

    Args:
        features: (samples, width), of the target.
        labels: (samples,), pseudo-labels.
        kept, classes: see `keep_confident`.
        rows: (all classes, width), of the classifier.
        std_factor: of the deviation (not of the variance); 2 for VisDA.

    Raises:
        ValueError: no class is left, or one has fewer than two samples.
    """
    means, deviations = [], []
    for number in classes.tolist():
        members = features[kept & (labels == number)]
        if len(members) < 2:
            raise ValueError(f"classes: {number} has {len(members)} samples, a deviation takes two.")
        means.append(members.mean(0))
        deviations.append(members.std(0))
    if not means:
        raise ValueError("classes: none has enough samples near a centre; raise threshold or lower min_samples.")
    mean, std = torch.stack(means), torch.stack(deviations)
    length = mean.norm(dim=1, keepdim=True)
    usable = length[:, 0] >= _SHORTEST
    anchors = F.normalize(rows[classes], dim=1)
    wide = torch.where(std == 0, torch.full_like(std, _NARROWEST), std) * std_factor
    return SourceEstimate(
        classes=classes[usable],
        mean=(anchors * length)[usable],
        std=wide[usable],
        target_mean=mean[usable],
        target_std=std[usable],
    )
