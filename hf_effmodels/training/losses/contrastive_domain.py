"""Contrastive domain discrepancy: the same class of two domains together, different classes apart (Kang et al.,
https://arxiv.org/abs/1901.00976, equations 3 to 5), as SFDA-DE uses it."""

from collections.abc import Sequence

import torch

from .checks import exact

#: Bounds of the distance over the bandwidth, and the smallest bandwidth, as published.
_SMALLEST, _LARGEST = 1e-5, 1e5


def contrastive_domain_discrepancy(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]],
    counts: Sequence[int],
    num_classes: int,
    *,
    kernels: int | Sequence[int] = 5,
    factor: float | Sequence[float] = 2.0,
    intra_only: bool = False,
) -> dict[str, torch.Tensor]:
    r"""Maximum mean discrepancies of class pairs under a mixture of Gaussian kernels.

    With D(c, d) of source class c and target class d, summed over the layers:
    intra = Σ_c D(c, c) / K, inter = Σ_{c≠d} D(c, d) / (K (K - 1)), and the loss is intra - inter. K is the number of
    all classes, as published, so a batch of few classes counts little.

    Args:
        layers: pairs of source and target features (samples, width) of a layer, grouped by class in the same order.
        counts: samples of each class, the same in both domains.
        num_classes: K.
        kernels: Gaussians of the mixture, whose bandwidths are `factor` apart, around the mean distance of the pair's
            samples (which has no gradient). Of both one for all layers, or one for each.
        intra_only: leave out inter.

    Returns:
        `loss`, `intra` and, unless left out, `inter`; `bandwidths` (layers, classes, classes).

    Raises:
        ValueError: counts that do not add up, too few classes for inter, or not as many kernels or factors as layers.
    """
    total = sum(counts)
    for source, target in layers:
        if source.shape != target.shape or len(source) != total or min(counts, default=0) < 1:
            raise ValueError(
                f"counts: got {list(counts)} for features of shapes {tuple(source.shape)} and {tuple(target.shape)}; "
                f"accepted are positive numbers that add up to the samples of both."
            )
    if not intra_only and num_classes < 2:
        raise ValueError(f"num_classes: got {num_classes}, accepted are numbers from 2 (1 with intra_only).")
    layers = [(exact(source), exact(target)) for source, target in layers]
    kernels, factor = _of_each("kernels", kernels, len(layers)), _of_each("factor", factor, len(layers))
    sizes = torch.tensor(counts, dtype=layers[0][0].dtype, device=layers[0][0].device)
    member = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(sizes.device)
    member = torch.nn.functional.one_hot(member, len(counts)).to(sizes.dtype)  # (samples, classes)
    discrepancy, bandwidths = 0.0, []
    for (source, target), count, apart in zip(layers, kernels, factor, strict=True):
        ss, tt, st = _squared(source, source), _squared(target, target), _squared(source, target)
        with torch.no_grad():
            own_source, own_target = _within(ss, member), _within(tt, member)
            across = member.T @ st @ member
            pairs = sizes[:, None] ** 2 + sizes**2 + 2 * sizes[:, None] * sizes - sizes[:, None] - sizes
            bandwidth = (own_source[:, None] + own_target + 2 * across) / pairs
        bandwidths.append(bandwidth)
        discrepancy = discrepancy + _pairwise(ss, tt, st, bandwidth, counts, count, apart)
    same = torch.eye(len(counts), dtype=torch.bool, device=sizes.device)
    intra = discrepancy[same].sum() / num_classes
    found = {"intra": intra, "loss": intra, "bandwidths": torch.stack(bandwidths)}
    if not intra_only:
        found["inter"] = discrepancy[~same].sum() / (num_classes * (num_classes - 1))
        found["loss"] = intra - found["inter"]
    return found


def _of_each(name: str, value: float | Sequence[float], layers: int) -> list[float]:
    """One value for each layer."""
    values = list(value) if isinstance(value, Sequence) else [value] * layers
    if len(values) != layers or not all(number > 0 for number in values):
        raise ValueError(f"{name}: got {value}, accepted are a number above 0, or one for each of {layers} layers.")
    return values


def _squared(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first[:, None] - second[None]).square().sum(-1)


def _within(distances: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    """(classes,): the sum of all distances inside each class."""
    return torch.einsum("ic,ij,jc->c", member, distances, member)


def _pairwise(ss, tt, st, bandwidth: torch.Tensor, counts: Sequence[int], kernels: int, factor: float) -> torch.Tensor:
    """(source classes, target classes): mean kernel within the source class + within the target class - 2 · across."""
    ends = torch.tensor(counts).cumsum(0).tolist()
    spans = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    rows = []
    for c, of_source in enumerate(spans):
        row = []
        for d, of_target in enumerate(spans):
            blocks = (ss[of_source, of_source], tt[of_target, of_target], st[of_source, of_target])
            means = [_kernel(block, bandwidth[c, d], kernels, factor).mean() for block in blocks]
            row.append(means[0] + means[1] - 2 * means[2])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _kernel(distances: torch.Tensor, bandwidth: torch.Tensor, kernels: int, factor: float) -> torch.Tensor:
    values = 0.0
    for number in range(kernels):
        width = (bandwidth * factor ** (number - kernels // 2)).clamp_min(_SMALLEST)
        values = values + (-(distances / width).clamp(_SMALLEST, _LARGEST)).exp()
    return values
