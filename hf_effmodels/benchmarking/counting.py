"""Parameters and multiply-adds of a network, counted on the meta device: no weights, no computing."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.initialization import no_init_weights

from ..models import create_model, find_preset

#: Operators whose multiply-adds are counted: convolutions, linear layers and products of matrices (ViG's distances).
COUNTED = ("convolution", "_convolution", "addmm", "mm", "baddbmm", "bmm")


@dataclass(frozen=True)
class Cost:
    """Number of parameters, and multiply-adds of one image."""

    parameters: int
    macs: int


def count(model: nn.Module, pixel_values: torch.Tensor) -> Cost:
    """Parameters of `model`, and multiply-adds of its convolutions and matrix products on `pixel_values`.

    Additions, batch norms, activations and pooling are left out, as papers do; so is what a network's `idle_modules`
    name, which it follows by shapes alone.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(pixel_values)
    counts, root = counter.get_flop_counts(), type(model).__name__

    def flops_of(place: str) -> int:
        operators = counts.get(place, {}).items()
        return sum(number for operator, number in operators if str(operator).rpartition(".")[2] in COUNTED)

    flops = flops_of("Global") - sum(flops_of(f"{root}.{name}") for name in getattr(model, "idle_modules", ()))
    return Cost(parameters=sum(p.numel() for p in model.parameters()), macs=flops // 2)


def count_preset(
    name: str, *, folded: bool = False, image_size: int | None = None, overrides: dict | None = None
) -> Cost:
    """The cost of an image preset at its own image size (or `image_size`), as trained or `folded`, its configuration
    changed by `overrides`.

    Raises:
        ValueError: unknown preset, one without images, or `folded` of one that does not fold.
    """
    architecture, _ = find_preset(name)
    if architecture.takes != "image":
        raise ValueError(f"{name} ({architecture.title}) takes {architecture.takes}: models for images are counted.")
    overrides = dict(overrides or {})
    if folded:
        if "reparameterized" not in architecture.config_class.__dataclass_fields__:
            raise ValueError(f"{name} ({architecture.title}) has no folded form.")
        overrides["reparameterized"] = True
    with torch.device("meta"), no_init_weights():
        model = create_model(name, **overrides).requires_grad_(False)  # the counter trips over embeddings that learn
    size = image_size or model.config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return count(model, torch.empty(1, model.config.num_channels, height, width, device="meta"))
