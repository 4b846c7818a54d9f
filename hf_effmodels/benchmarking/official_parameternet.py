"""ParameterNet's dynamic convolution in the two plain ways: what ours, which chooses by batch, is timed against."""

import copy
from collections.abc import Callable
from types import MethodType

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.parameternet.dynamic_conv import DynamicConv


def grouped(maps: torch.Tensor, kernels: torch.Tensor, bias, stride: int, padding: int, groups: int) -> torch.Tensor:
    """The images of the batch laid side by side as groups of one convolution, as in the official code."""
    batch, out_channels = kernels.shape[:2]
    side_by_side = maps.reshape(1, -1, *maps.shape[2:])
    output = F.conv2d(side_by_side, kernels.flatten(0, 1), None, stride, padding, 1, batch * groups)
    output = output.view(batch, out_channels, *output.shape[2:])
    return output if bias is None else output + bias[:, None, None]


def per_image(maps: torch.Tensor, kernels: torch.Tensor, bias, stride: int, padding: int, groups: int) -> torch.Tensor:
    """An ordinary convolution for each image."""
    images = zip(maps.split(1), kernels, strict=True)
    return torch.cat([F.conv2d(image, kernel, bias, stride, padding, 1, groups) for image, kernel in images])


def plain_parameternet(model: nn.Module, convolve: Callable) -> nn.Module:
    """A copy of a ParameterNet in the contiguous layout, whose dynamic convolutions are `grouped` or `per_image`."""
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)

    def forward(self: DynamicConv, hidden_states: torch.Tensor) -> torch.Tensor:
        kernels = (self.router(hidden_states) @ self.weight).view(-1, *self.kernel_shape)
        return convolve(hidden_states, kernels, self.bias, self.stride, self.padding, self.groups)

    for module in plain.modules():
        if isinstance(module, DynamicConv):
            module.forward = MethodType(forward, module)
        if hasattr(module, "prepare_pixels"):
            module.prepare_pixels = lambda pixel_values: pixel_values.contiguous()
    return plain
