"""GhostNet, V2 and V3 as their papers write them down: what the official code computes, layer by layer.

For timing only. The layout is contiguous, squeeze-and-excitation uses convolutions, and of V3 only the parallel
branches are fused, as in the official release: the batch norms of single convolutions stay.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.ghostnet.configuration_ghostnet import GhostNetConfig
from ..modeling.layers.widths import round_width


def _conv_norm(inputs: int, outputs: int, kernel=1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = tuple((size - 1) // 2 for size in (kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Branches(nn.Module):
    """The sum of parallel convolutions with batch norms (GhostNetV3, section 3.1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, number: int):
        super().__init__()
        self.branches = nn.ModuleList(_conv_norm(inputs, outputs, kernel, stride, groups) for _ in range(number))
        self.scale = _conv_norm(inputs, outputs, 1, stride, groups) if kernel > 1 else None
        self.skip = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        terms = [branch for branch in (self.scale, self.skip, *self.branches) if branch is not None]
        return sum(term(x) for term in terms)


def _ghost_conv(config: GhostNetConfig, fused: bool, inputs: int, outputs: int, kernel: int, stride=1, groups=1):
    if config.num_conv_branches == 0:
        return _conv_norm(inputs, outputs, kernel, stride, groups)
    if fused:
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    return Branches(inputs, outputs, kernel, stride, groups, config.num_conv_branches)


class Ghost(nn.Module):
    def __init__(self, config: GhostNetConfig, inputs: int, outputs: int, relu: bool, gated: bool, fused: bool):
        super().__init__()
        half = (outputs + 1) // 2
        self.outputs = outputs
        self.primary = _ghost_conv(config, fused, inputs, half, 1)
        self.cheap = _ghost_conv(config, fused, half, half, 3, groups=half)
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()
        self.gate = None
        if gated:
            self.gate = nn.Sequential(
                _conv_norm(inputs, outputs),
                _conv_norm(outputs, outputs, (1, 5), groups=outputs),
                _conv_norm(outputs, outputs, (5, 1), groups=outputs),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.activation(self.primary(x))
        second = self.activation(self.cheap(first))
        output = torch.cat((first, second), dim=1)[:, : self.outputs]
        if self.gate is None:
            return output
        gate = self.gate(F.avg_pool2d(x, 2)).sigmoid()
        return output * F.interpolate(gate, size=output.shape[-2:], mode="nearest")


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class Bottleneck(nn.Module):
    def __init__(self, config: GhostNetConfig, inputs: int, row: list, gated: bool, fused: bool):
        super().__init__()
        kernel, expansion, size, ratio, stride = row
        hidden, outputs = config.width(expansion), config.width(size)
        layers = [Ghost(config, inputs, hidden, True, gated, fused)]
        if stride > 1:
            layers.append(_ghost_conv(config, fused, hidden, hidden, kernel, stride, hidden))
        if ratio > 0:
            layers.append(SqueezeExcite(hidden, round_width(hidden * ratio, 4)))
        self.main = nn.Sequential(*layers, Ghost(config, hidden, outputs, False, False, fused))
        self.shortcut = nn.Identity()
        if inputs != outputs or stride > 1:
            self.shortcut = nn.Sequential(
                _conv_norm(inputs, inputs, kernel, stride, inputs), _conv_norm(inputs, outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.shortcut(x)
        return self.main(x) + residual


class OfficialGhostNet(nn.Module):
    """The classifier. Pixels (batch, channels, height, width) in, logits (batch, classes) out.

    Args:
        config: of any of the three generations.
        fused: V3 with its branches fused, as the official release does it.
    """

    def __init__(self, config: GhostNetConfig, fused: bool = False):
        super().__init__()
        sizes = config.hidden_sizes
        final = config.width(config.final_size)
        self.stem = _conv_norm(config.num_channels, sizes[0], 3, 2)
        blocks, inputs = [], sizes[0]
        for row in (row for stage in config.stages for row in stage):
            gated = config.dfc_attention and len(blocks) >= 2
            blocks.append(Bottleneck(config, inputs, row, gated, fused))
            inputs = config.width(row[2])
        self.blocks = nn.Sequential(*blocks)
        self.final = _conv_norm(inputs, final)
        self.head = nn.Conv2d(final, config.head_size, 1)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.head_size, config.num_labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.final(self.blocks(F.relu(self.stem(x)))))
        x = F.relu(self.head(F.adaptive_avg_pool2d(x, 1))).flatten(1)
        return self.classifier(self.dropout(x))
