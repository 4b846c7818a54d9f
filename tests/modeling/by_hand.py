"""The published formulas in plain functions of weights, for tests that compare a model with them.

`weights` are a model's own (by its names, without the base model's prefix), everything in evaluation and float64.
"""

import torch
from torch.nn import functional as F


def weights_of(model) -> dict[str, torch.Tensor]:
    """A model's weights and statistics, drawn anew so that nothing is at a neutral value."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "skip.weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("bias", "running_mean", "position_embedding", "eps")):
                value.normal_(0, 0.3, generator=generator)
    prefix = f"{model.base_model_prefix}."
    return {name.removeprefix(prefix): value for name, value in model.state_dict().items()}


def norm(weights, name, features, eps):
    """(x - mean) / √(variance + ε) · γ + β, per channel."""
    shape = (1, -1) + (1,) * (features.ndim - 2)
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (features - mean) / (variance + eps).sqrt() * scale + shift


def conv(weights, name, features, stride=1, groups=1):
    """Any odd kernel, padded so that a stride of 1 keeps the size."""
    kernel = weights[f"{name}.weight"]
    padding = kernel.shape[-2] // 2, kernel.shape[-1] // 2
    return F.conv2d(features, kernel, weights.get(f"{name}.bias"), stride, padding, 1, groups)


def conv_norm(weights, name, features, eps, stride=1, groups=1):
    return norm(weights, f"{name}.norm", conv(weights, f"{name}.conv", features, stride, groups), eps)


def linear(weights, name, features):
    return features @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def nearest_multiple(width: float, multiple: int) -> int:
    """The nearest multiple (halves go up), the next one where more than a tenth would be lost."""
    candidates = [multiple * i for i in range(1, int(width) + 2)]
    nearest = min(candidates, key=lambda value: (abs(value - width), -value))
    return nearest if nearest >= 0.9 * width else nearest + multiple
