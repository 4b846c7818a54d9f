"""Which heads and neurons of a vision transformer matter, by the Hilbert-Schmidt independence criterion (HSIC): DeViT
(https://arxiv.org/abs/2309.05015), with the official code's weights and its standardisation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...training.losses.checks import exact

#: Widths of the Gaussian kernels whose mean is taken.
BANDWIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)


def gaussian_kernel(features: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """exp(-‖x_i - x_j‖² / (2 s²)) of features (..., samples, width): (..., samples, samples)."""
    squares = features.square().sum(-1)
    products = features @ features.transpose(-1, -2)
    distances = squares[..., :, None] + squares[..., None, :] - 2 * products
    return (-distances.clamp(min=0) / (2 * bandwidth**2)).exp()


def mean_gaussian_kernel(features: torch.Tensor) -> torch.Tensor:
    """The mean of `gaussian_kernel` over `BANDWIDTHS`."""
    return sum(gaussian_kernel(features, bandwidth) for bandwidth in BANDWIDTHS) / len(BANDWIDTHS)


def centre(kernel: torch.Tensor) -> torch.Tensor:
    """A kernel (..., samples, samples) without the means of its rows and columns."""
    rows, columns = kernel.mean(-1, keepdim=True), kernel.mean(-2, keepdim=True)
    return kernel - rows - columns + kernel.mean((-1, -2), keepdim=True)


def hsic(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """trace(C(K) C(L)) of two kernels (..., samples, samples), which are symmetric; no factor is applied."""
    return (centre(first) * centre(second)).sum((-1, -2))


def relevance(features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """HSIC of a Gaussian kernel of the features and a linear one of the targets, with means taken off.

    The official code divides the mean by the standard deviation, x - mean / std, where (x - mean) / std is meant; its
    numbers are kept.

    Args:
        features: (..., samples, width), at least two samples.
        targets: (samples, classes), such as class probabilities.
    """
    if features.shape[-2] != len(targets) or len(targets) < 2:
        raise ValueError(
            f"features: got {features.shape[-2]} samples for the targets' {len(targets)}, accepted are as many, 2 and "
            "more."
        )
    mean, deviation = features.mean(-2, keepdim=True), features.std(-2, keepdim=True)
    targets = targets - targets.mean(0)
    return hsic(mean_gaussian_kernel(features - mean / (deviation + 1e-12)), targets @ targets.T)


def redundancy(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """HSIC of Gaussian kernels of two features (..., samples, width)."""
    return hsic(mean_gaussian_kernel(first), mean_gaussian_kernel(second))


def neuron_scores(activations: torch.Tensor, probabilities: torch.Tensor, relevance_weight: float = 0.1):
    """Scores of an MLP's neurons: 0.1 · relevance + 0.9 · Σ|activation|, each from 0 to 1 over the layer.

    Args:
        activations: (samples, tokens, neurons), after the activation function.
        probabilities: (samples, classes) of the whole network.

    Returns:
        (neurons,)
    """
    # Centred kernels are small differences: float64 throughout.
    activations, probabilities = activations.double(), probabilities.double()
    relevant = torch.cat([relevance(chunk, probabilities) for chunk in activations.permute(2, 0, 1).split(64)])
    magnitude = activations.abs().sum((0, 1))
    return relevance_weight * _from_0_to_1(relevant) + (1 - relevance_weight) * _from_0_to_1(magnitude)


def head_scores(outputs: torch.Tensor, probabilities: torch.Tensor, redundancy_weight: float = 0.1) -> torch.Tensor:
    """Scores of a layer's heads: relevance - 0.1 · mean redundancy with each of the other heads.

    Args:
        outputs: (samples, tokens, heads, head width), before the projection.
        probabilities: (samples, classes) of the whole network.

    Returns:
        (heads,)
    """
    heads = outputs.double().mean(-1).permute(2, 0, 1)
    scores = relevance(heads, probabilities.double())
    if len(heads) == 1:
        return scores
    kernels = mean_gaussian_kernel(heads)
    pairs = hsic(kernels[:, None], kernels[None])
    return scores - redundancy_weight * (pairs.sum(1) - pairs.diagonal()) / (len(heads) - 1)


def _from_0_to_1(scores: torch.Tensor) -> torch.Tensor:
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else torch.zeros_like(scores)


def kept_of(scores: torch.Tensor, ratio: float) -> list[int]:
    """Numbers of the ⌊n (1 - ratio)⌋ highest scores, ascending.

    Raises:
        ValueError: a ratio outside 0 to 1, or nothing is left.
    """
    if not 0 <= ratio < 1 or (count := int(len(scores) * (1 - ratio))) < 1:
        raise ValueError(f"ratio: got {ratio} of {len(scores)}, accepted are ratios from 0 that leave 1 and more.")
    return highest(scores, count)


def highest(scores: torch.Tensor, count: int) -> list[int]:
    """Numbers of the `count` highest scores, ascending."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values.tolist()


@contextmanager
def _watched(modules: dict[nn.Module, Callable[[torch.Tensor], None]]) -> Iterator[None]:
    """Within the block each function is called with what its module is given."""
    handles = [
        module.register_forward_pre_hook(lambda module, args, take=take: take(args[0]))
        for module, take in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def score_part(model, pixel_values: torch.Tensor, part: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Scores of all heads and neurons of one part of a `DeViTForImageClassification`, by one batch.

    Args:
        model: runs in evaluation mode; it is left as it was.
        pixel_values: (batch, channels, height, width), of the classes that the part is for.
        part: its number.

    Returns:
        For each block the scores of its heads, and those of its neurons.

    Raises:
        ValueError: fewer than two images, or outputs that are not finite.
    """
    if len(pixel_values) < 2:
        raise ValueError(f"pixel_values: got {len(pixel_values)} images, accepted are 2 and more.")
    layers, training = model.devit.parts[part].layers, model.training
    heads: list[torch.Tensor] = []
    neurons: list[torch.Tensor] = []
    try:
        probabilities = exact(model.eval()(pixel_values).logits).softmax(-1)
        if not probabilities.isfinite().all():
            raise ValueError("pixel_values: with them the model's outputs are not finite, and nothing can be scored.")
        # Once more: block by block, what a block gives is scored at once and not kept.
        modules: dict[nn.Module, Callable[[torch.Tensor], None]] = {}
        for layer in layers:
            shape = layer.attention.num_heads, layer.attention.head_dim
            modules[layer.attention.proj] = lambda outputs, shape=shape: heads.append(
                head_scores(outputs.unflatten(-1, shape), probabilities)
            )
            modules[layer.mlp.fc2] = lambda outputs: neurons.append(neuron_scores(outputs, probabilities))
        with _watched(modules):
            model.devit.parts[part](pixel_values)
    finally:
        model.train(training)
    return heads, neurons
