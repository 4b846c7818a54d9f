"""Single layers on the sizes that they have in networks: they stand in `--presets` like networks."""

from dataclasses import dataclass

from torch import nn

from ..modeling.layers.adder import AdderConv2d
from ..modeling.layers.binary import BinaryConv2d


@dataclass(frozen=True)
class Layer:
    """A layer with as many outputs as it has positions.

    Attributes:
        kind: what peers are of, as the model type of a network.
        images, side: of its inputs, (images, in_channels, side, side).
        modes: in which it can be timed.
    """

    kind: str
    in_channels: int
    out_channels: int
    kernel_size: int
    images: int
    side: int
    modes: tuple[str, ...]


def _adder(*sizes: int) -> Layer:
    return Layer("adder_layer", *sizes, modes=("infer", "train"))


def _binary(channels: int, side: int) -> Layer:
    return Layer("binary_layer", channels, channels, 3, 1, side, modes=("infer",))


#: Adder layers by filters, values of a filter and positions; binary 3×3 layers by channels and side.
LAYERS = {
    "adder-16x144x8192": _adder(16, 16, 3, 8, 32),
    "adder-64x576x512": _adder(64, 64, 3, 8, 8),
    "adder-64x256x3136": _adder(256, 64, 1, 1, 56),
    "binary-64x56": _binary(64, 56),
    "binary-128x28": _binary(128, 28),
    "binary-256x14": _binary(256, 14),
    "binary-512x7": _binary(512, 7),
}


def build(name: str) -> nn.Module:
    """The layer with random weights, in evaluation mode: (batch, in, side, side) -> (batch, out, side, side)."""
    layer = LAYERS[name]
    kind = AdderConv2d if layer.kind == "adder_layer" else BinaryConv2d
    sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
    return nn.Sequential(kind(*sizes, padding=layer.kernel_size // 2, bias=False)).eval()
