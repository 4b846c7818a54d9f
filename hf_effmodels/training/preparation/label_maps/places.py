"""What a classifier says of each place of a picture, instead of the picture as a whole."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

#: Tokens that stand for no place, before those that do: none, a class token, a distillation token, registers.
_PREFIXES = (0, 1, 2, 5)


@dataclass(frozen=True)
class _Features:
    """The features that a network pools: the module that gives them, and how they lie."""

    module: nn.Module
    shape: tuple[int, ...]  # without the batch

    @property
    def layout(self) -> str | None:
        """`maps`, `maps_last` or `tokens`, as in `losses.interface.FeatureSpec`; None for none of them."""
        if len(self.shape) == 2:
            return "tokens" if self.prefix is not None else None
        if len(self.shape) != 3:
            return None
        first, middle, last = self.shape
        return "maps_last" if first == middle != last else "maps"

    @property
    def prefix(self) -> int | None:
        """Tokens that stand for no place; None where the others fill no square."""
        length = self.shape[0]
        fitting = (n for n in _PREFIXES if n < length and math.isqrt(length - n) ** 2 == length - n)
        return next(fitting, None)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width."""
        if self.layout == "tokens":
            side = math.isqrt(self.shape[0] - self.prefix)
            return side, side
        return self.shape[1:] if self.layout == "maps" else self.shape[:2]

    def apart(self, features: torch.Tensor) -> torch.Tensor:
        """Each place as a picture of its own, row by row: (batch · places, ...)."""
        if self.layout == "maps":
            return features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
        if self.layout == "maps_last":
            return features.flatten(0, 2)[:, None, None]
        # A class token stands for the place, too: whichever the classifier is given, the place's own speaks.
        places = features[:, self.prefix :].flatten(0, 1)[:, None]
        return places.expand(-1, self.prefix + 1, -1)


class PlaceClassifier:
    """A classifier whose head is given each place of its last features alone, where it else pools them: with an
    average and a linear layer that is the layer as a 1×1 convolution (ReLabel, section 3.1). Whatever the network does
    after its last features (norms, further layers) is done to each place.

    Args:
        model: returns `logits`; in evaluation mode.
        pixel_values: two pictures to find the features with, (2, channels, height, width).

    Raises:
        ValueError: it has no features of more than one place that its head is made of.
    """

    def __init__(self, model: nn.Module, pixel_values: torch.Tensor):
        if len(pixel_values) != 2:
            raise ValueError(f"pixel_values: got {len(pixel_values)} pictures, accepted are two.")
        self.model = model
        for features in reversed(_features_of(model, pixel_values)):
            if features.layout is None or math.prod(features.grid) < 2:
                continue
            self.features = features
            try:
                logits = self(pixel_values)
            except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
                continue  # these are added to others, or taken apart
            if logits is not None:
                return
        raise ValueError(
            f"{type(model).__name__}: its head is not made of features with places (or in a way that is not known "
            "here); take another classifier."
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return self.features.grid

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor | None:
        """Logits (batch, classes, height, width); None where the head has not seen the places."""
        handle = self.features.module.register_forward_hook(self._take_apart)
        try:
            logits = self.model(pixel_values=pixel_values)["logits"]
        finally:
            handle.remove()
        height, width = self.grid
        if logits.ndim != 2 or len(logits) != len(pixel_values) * height * width:
            return None
        return logits.unflatten(0, (len(pixel_values), height, width)).permute(0, 3, 1, 2)

    def _take_apart(self, module, args, output):
        return _with_first(output, self.features.apart(_first(output)))


@torch.no_grad()
def _features_of(model: nn.Module, pixel_values: torch.Tensor) -> list[_Features]:
    """What each module gives for each picture, in the order in which they end."""
    found, handles = [], []

    def note(module, args, output):
        tensor = _first(output)
        if tensor is not None and tensor.ndim in (3, 4) and len(tensor) == len(pixel_values):
            found.append(_Features(module, tuple(tensor.shape[1:])))

    try:
        handles += [module.register_forward_hook(note) for name, module in model.named_modules() if name]
        model(pixel_values=pixel_values)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _first(output) -> torch.Tensor | None:
    """The tensor of what a module returns: itself, or the first of a tuple or of a `ModelOutput`."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, list | tuple):
        output = output[0] if output else None
    return output if isinstance(output, torch.Tensor) else None


def _with_first(output, tensor: torch.Tensor):
    """The same with another first tensor."""
    if isinstance(output, Mapping):
        key = next(iter(output))
        return type(output)(**{**output, key: tensor})
    if isinstance(output, list | tuple):
        return type(output)([tensor, *output[1:]])
    return tensor
