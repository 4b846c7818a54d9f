"""How much each head counts, learnt from a few real images: the only thing that is (see `CdfkdMfsAttention`)."""

import torch
from torch import nn
from torch.nn import functional as F


def fit_aggregation(
    model: nn.Module, features: torch.Tensor, labels: torch.Tensor, *, steps: int = 200, learning_rate: float = 0.01
) -> tuple[float, float]:
    """Train `model.aggregation` by cross entropy on all of a few samples at once, with Adam.

    Args:
        model: a classifier with `classifier` and `aggregation`; nothing else of it changes.
        features: (samples, heads, width), what its classifiers see of the samples.
        labels: (samples,).

    Returns:
        The cross entropy before and after.
    """
    aggregation = model.aggregation.requires_grad_()
    head_logits = model.classifier(features).detach()
    optimizer = torch.optim.Adam(aggregation.parameters(), learning_rate)

    def loss() -> torch.Tensor:
        return F.cross_entropy((aggregation(features)[:, :, None] * head_logits).sum(1), labels)

    with torch.enable_grad():
        before = loss().item()
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    optimizer.zero_grad()
    return before, loss().item()
