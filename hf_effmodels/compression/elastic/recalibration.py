"""Statistics of batch norms for one sub-network: those gathered in training are a mixture of all."""

from collections.abc import Iterable, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def recalibrate_batch_norms(model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]]) -> None:
    """Replace the running statistics of each batch norm, in place, by what it sees on a few batches.

    They become the averages, weighted by the size of the batch, of the batches' means and of their variances over all
    elements (not the unbiased ones); while they are gathered each batch is normalised by its own, dropout is off.

    Args:
        batches: what the model takes. A few thousand images are enough.

    Raises:
        ValueError: there are no batches, no batch norms, or values that are not finite.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        raise ValueError(f"model: {type(model).__name__} has no batch norms, nothing to calibrate.")
    sums = {name: [0.0, 0.0] for name in norms}
    total = 0

    def gather(name):
        def hook(module, args):
            features = args[0].double() if args[0].dtype == torch.float64 else args[0].float()
            variance, mean = torch.var_mean(features, [d for d in range(features.ndim) if d != 1], correction=0)
            size = len(features)
            sums[name][0], sums[name][1] = sums[name][0] + size * mean, sums[name][1] + size * variance

        return hook

    handles = [norm.register_forward_pre_hook(gather(name)) for name, norm in norms.items()]
    try:
        with _normalizing_by_batch(model, norms.values()):
            for batch in batches:
                model(**batch)
                total += len(next(iter(batch.values())))
    finally:
        for handle in handles:
            handle.remove()
    if not total:
        raise ValueError("batches: there are none, accepted is one or more.")
    for name, norm in norms.items():
        mean, variance = sums[name]
        if isinstance(mean, float):
            continue  # this one was not run
        if not (mean.isfinite().all() and variance.isfinite().all()):
            raise ValueError(f"batches: what enters {name} is not finite.")
        norm.running_mean.copy_(mean / total)
        norm.running_var.copy_(variance / total)


@contextmanager
def _normalizing_by_batch(model: nn.Module, norms: Iterable[_BatchNorm]):
    """The model in evaluation, but its batch norms normalise by the batch; their statistics do not move."""
    training = {module: module.training for module in model.modules()}
    tracking = {norm: norm.track_running_stats for norm in norms}
    model.eval()
    for norm in tracking:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, tracks in tracking.items():
            norm.track_running_stats = tracks
        for module, mode in training.items():
            module.training = mode
