"""What converters do with the weights of a checkpoint, by name, before there is a network."""

from collections.abc import Sequence

import torch


def fold_stored_norm(weights: dict[str, torch.Tensor], conv: str, norm: str, eps: float) -> None:
    """Put the batch norm `norm` into the convolution `conv` before it, in place; both must be there whole.

    The same as `fold_conv_norm` of reparameterization.py does with modules.

    Raises:
        ValueError: the norm is not of as many channels as the convolution has.
    """
    kernel = weights.pop(f"{conv}.weight")
    channels = kernel.shape[:1]
    weight, bias, mean, variance = (
        _vector(weights, f"{norm}.{name}", channels) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight * (variance + eps).rsqrt()
    shift = bias - mean * scale
    if f"{conv}.bias" in weights:
        shift = shift + _vector(weights, f"{conv}.bias", channels) * scale
    weights.pop(f"{norm}.num_batches_tracked", None)
    weights[f"{conv}.weight"] = (kernel.double() * scale.reshape(-1, *[1] * (kernel.ndim - 1))).to(kernel.dtype)
    weights[f"{conv}.bias"] = shift.to(kernel.dtype)


def _vector(weights: dict[str, torch.Tensor], name: str, shape: torch.Size) -> torch.Tensor:
    """Takes a vector out; one of another length would be stretched or stretch the kernel without a word."""
    vector = weights.pop(name)
    if vector.shape != shape or not vector.is_floating_point():
        raise ValueError(f"1 of another shape: {name} is {tuple(vector.shape)}, expected numbers of {tuple(shape)}.")
    return vector.double()


def take_joint(weights: dict[str, torch.Tensor], name: str, parts: Sequence[str]) -> None:
    """Replace `name` by as many entries of equal numbers of rows: a joint projection of queries, keys and values.

    Raises:
        ValueError: the rows cannot be shared out.
    """
    joint = weights.pop(name)
    if not joint.ndim or len(joint) % len(parts):
        raise ValueError(
            f"1 of another shape: {name} is {tuple(joint.shape)}, expected the rows of all {len(parts)} parts."
        )
    for part, rows in zip(parts, joint.chunk(len(parts)), strict=True):
        weights[part] = rows.clone()
