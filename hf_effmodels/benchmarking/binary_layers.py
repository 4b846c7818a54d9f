"""The binary convolutions of a network by themselves: on bits, and as float32's and int8's of the same sizes."""

import warnings

import torch
from torch import nn

from ..modeling.layers.binary import BinaryConv2d


class Layers(nn.Module):
    """The binary 3×3 convolutions of a folded network, each on the input it has there; nothing in between.

    Args:
        model: with `BinaryConv2d` layers.
        of: layer -> the module that runs in its place.
    """

    def __init__(self, model: nn.Module, of):
        super().__init__()
        self.model, self.of = model, of
        self.calls: list[tuple[nn.Module, torch.Tensor]] = []

    @torch.no_grad()
    def _record(self, pixel_values: torch.Tensor) -> None:
        seen = []
        layers = [m for m in self.model.modules() if isinstance(m, BinaryConv2d) and m.kernel_size == (3, 3)]
        handles = [m.register_forward_pre_hook(lambda m, args: seen.append((m, args[0].clone()))) for m in layers]
        self.model(pixel_values)
        for handle in handles:
            handle.remove()
        self.calls = [(self.of(layer), inputs) for layer, inputs in seen]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if not self.calls:
            self._record(pixel_values)
        for layer, inputs in self.calls:
            output = layer(inputs)
        return output


def on_bits(layer: BinaryConv2d) -> nn.Module:
    """The packed layer: taking signs, packing and the scales are timed, too."""
    from ..quantization.packed_binary.packing import pack_binary

    return pack_binary(nn.Sequential(layer).eval())[0]


def in_float32(layer: BinaryConv2d) -> nn.Module:
    """An ordinary convolution of the same size, of the inputs as they are."""
    conv = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride, padding=layer.padding
    )
    return conv.to(memory_format=torch.channels_last)


class Int8Conv2d(nn.Module):
    """torch's quantised convolution (oneDNN): inputs become bytes, outputs float32 again."""

    def __init__(self, layer: BinaryConv2d):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch will take them out some day: there is no other int8 convolution
            weight = torch.quantize_per_tensor(layer.weight.detach(), 0.02, 0, torch.qint8)
            bias = torch.zeros(layer.out_channels)
            sizes = [list(layer.stride), list(layer.padding), [1, 1], 1]
            self.packed = torch.ops.quantized.conv2d_prepack(weight, bias, *sizes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        quantized = torch.quantize_per_tensor(inputs, 0.05, 128, torch.quint8)
        return torch.ops.quantized.conv2d(quantized, self.packed, 1.0, 128).dequantize()
