"""Adder layers as the official code has them, and by torch's own distances."""

import torch
from torch import nn
from torch.nn import functional as F

from ..modeling.layers.adder import AdderConv2d, output_size, scale_gradient


class _Broadcast(torch.autograd.Function):
    """All differences at once: (filters, values, positions), forward and backward."""

    @staticmethod
    def forward(ctx, weight, columns):
        ctx.save_for_backward(weight, columns)
        return -(weight[:, :, None] - columns[None]).abs().sum(1)

    @staticmethod
    def backward(ctx, gradient):
        weight, columns = ctx.saved_tensors
        of_weight = ((columns[None] - weight[:, :, None]) * gradient[:, None]).sum(2)
        of_columns = ((weight[:, :, None] - columns[None]).clamp(-1, 1) * gradient[:, None]).sum(0)
        return scale_gradient(of_weight), of_columns


class _Distances(torch.autograd.Function):
    """torch.cdist, whose own gradient is the sign; the paper's comes from the broadcast form."""

    @staticmethod
    def forward(ctx, weight, columns):
        ctx.save_for_backward(weight, columns)
        return -torch.cdist(weight, columns.t().contiguous(), p=1)

    backward = _Broadcast.backward


class ColumnAdder(nn.Module):
    """An adder layer on the columns of unfolded inputs, in the place of `layer`."""

    def __init__(self, layer: AdderConv2d, function: type[torch.autograd.Function]):
        super().__init__()
        self.weight, self.scale, self.bias = layer.weight, layer.scale, layer.bias
        self.stride, self.padding, self.function = layer.stride, layer.padding, function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        kernel = self.weight.shape[2]
        height, width = (output_size(size, kernel, self.stride, self.padding) for size in inputs.shape[2:])
        columns = F.unfold(inputs, kernel, padding=self.padding, stride=self.stride).transpose(0, 1).flatten(1)
        output = self.function.apply(self.weight.flatten(1), columns)
        output = output.view(len(self.weight), len(inputs), height, width).transpose(0, 1)
        if self.scale is not None:
            output = output * self.scale[:, None, None]
        return output if self.bias is None else output + self.bias[:, None, None]


def broadcast_adders(model: nn.Module) -> nn.Module:
    """The network with the official broadcast form in the place of its adder layers."""
    return _replace(model, _Broadcast)


def cdist_adders(model: nn.Module) -> nn.Module:
    """The network with `torch.cdist` in the place of its adder layers."""
    return _replace(model, _Distances)


def _replace(model: nn.Module, function: type[torch.autograd.Function]) -> nn.Module:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, AdderConv2d):
            model.set_submodule(name, ColumnAdder(layer, function))
    return model
