"""The adder layer of AdderNet (https://arxiv.org/abs/1912.13200): l1 distances in the place of products.

    y[n, f, p] = -Σ_k |x[n, k, p] - w[f, k]|

over input channels and kernel positions k; padding takes part as the value 0. Memory stays in the order of the output:
no tensor of (batch, filters, kernel, positions) is made, forward or backward. float32 on CPUs is computed by native
kernels where a C compiler is found, everything else by loops over the values of the kernel.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from ...kernels.native_adder import applies_to as native_applies_to
from ...kernels.native_adder import forward as native_forward
from ...kernels.native_adder import input_gradient as native_input_gradient
from ...kernels.native_geometry import check_channels
from .finite import check_finite
from .gradient_strides import in_strides_of


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Side of the output: ⌊(size + 2·padding - kernel) / stride⌋ + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def _padded(inputs: torch.Tensor, weight: torch.Tensor, stride, padding) -> tuple[torch.Tensor, int, int]:
    """The inputs with their zeros, and height and width of the output."""
    height, width = (
        output_size(size, kernel, step, pad)
        for size, kernel, step, pad in zip(inputs.shape[2:], weight.shape[2:], stride, padding, strict=True)
    )
    if height < 1 or width < 1:
        raise ValueError(f"inputs: {tuple(inputs.shape)} is smaller than the kernel {tuple(weight.shape[2:])}.")
    return F.pad(inputs, (padding[1], padding[1], padding[0], padding[0])), height, width


def _taps(weight: torch.Tensor, stride, height: int, width: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Kernel positions and the rows and columns of the padded inputs that each of them sees."""
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            rows = slice(i, i + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(j, j + stride[1] * (width - 1) + 1, stride[1])
            yield i, j, rows, columns


def adder_forward(inputs: torch.Tensor, weight: torch.Tensor, stride, padding) -> torch.Tensor:
    """-Σ|x - w| of (batch, in, height, width) and (out, in, kernel, kernel): (batch, out, height', width').

    Raises:
        ValueError: inputs of other channels, or smaller than the kernel.
    """
    check_channels(inputs, weight.shape[1])
    if native_applies_to(inputs, weight):
        return native_forward(inputs, weight, list(stride), list(padding))
    return looped_forward(inputs, weight, stride, padding)


def looped_forward(inputs: torch.Tensor, weight: torch.Tensor, stride, padding) -> torch.Tensor:
    """`adder_forward` by torch's operators: any dtype, any device."""
    padded, height, width = _padded(inputs, weight, stride, padding)
    output = inputs.new_zeros(inputs.shape[0], weight.shape[0], height, width)
    if output.is_meta:
        return output  # shapes are all there is
    difference = torch.empty_like(output)
    for i, j, rows, columns in _taps(weight, stride, height, width):
        for channel in range(weight.shape[1]):
            seen = padded[:, channel, None, rows, columns]
            torch.sub(seen, weight[:, channel, i, j, None, None], out=difference)
            output.sub_(difference.abs_())
    return output


def adder_input_gradient(
    inputs: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, stride, padding
) -> torch.Tensor:
    """Σ_f clamp(w - x, -1, 1)·g: the paper's HardTanh in the place of the sign (equation 6)."""
    if native_applies_to(inputs, weight, gradient):
        return native_input_gradient(inputs, weight, gradient, list(stride), list(padding))
    return looped_input_gradient(inputs, weight, gradient, stride, padding)


def looped_input_gradient(
    inputs: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, stride, padding
) -> torch.Tensor:
    """`adder_input_gradient` by torch's operators: any dtype, any device."""
    padded, height, width = _padded(inputs, weight, stride, padding)
    result = torch.zeros_like(padded)
    difference = torch.empty_like(gradient)
    for i, j, rows, columns in _taps(weight, stride, height, width):
        for channel in range(weight.shape[1]):
            seen = padded[:, channel, None, rows, columns]
            torch.sub(weight[:, channel, i, j, None, None], seen, out=difference)
            result[:, channel, rows, columns] += difference.clamp_(-1, 1).mul_(gradient).sum(1)
    top, left = padding
    return result[:, :, top : top + inputs.shape[2], left : left + inputs.shape[3]]


def adder_weight_gradient(
    inputs: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, stride, padding
) -> torch.Tensor:
    """Σ_p (x - w)·g, the full-precision difference (equation 5), as two products of matrices: G·Xᵀ - W·ΣG."""
    products = weight.new_zeros(len(weight), weight[0].numel())
    for patches, of_patches in _patches(inputs, weight.shape[2:], gradient, stride, padding):
        products.addmm_(of_patches, patches.t())
    products = products.view_as(weight)
    return products.addcmul_(weight, gradient.sum((0, 2, 3))[:, None, None, None], value=-1)


#: How many times the output's memory patches take that are gathered for the weights' gradient.
_MOST_PATCHES = 1.5


def _patches(
    inputs: torch.Tensor, kernel, gradient: torch.Tensor, stride, padding
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Patches (values, positions) of rows of an image, valid until the next, and the gradients (filters, positions)
    there. They take no more memory than `_MOST_PATCHES` allows, or one row."""
    if (*kernel, *stride, *padding) == (1, 1, 1, 1, 0, 0):  # the image itself
        for image, of_image in zip(inputs, gradient, strict=True):
            yield image.flatten(1), of_image.flatten(1)
        return
    channels, (height, width) = inputs.shape[1], gradient.shape[2:]
    values = channels * math.prod(kernel)
    most = max(1, int(_MOST_PATCHES * gradient.numel()) // (values * width))
    rows = -(-height // -(-height // most))  # parts of about one size
    room = inputs.new_empty(values * rows * width)
    (top, left), sides = padding, inputs.shape[2:]
    padded = inputs.new_zeros(channels, sides[0] + 2 * top, sides[1] + 2 * left)
    inside = padded[:, top : top + sides[0], left : left + sides[1]]
    of_channel, of_row, of_column = padded.stride()
    strides = (of_channel, of_row, of_column, stride[0] * of_row, stride[1] * of_column)
    for image, of_image in zip(inputs, gradient, strict=True):
        inside.copy_(image)
        for first in range(0, height, rows):
            some = of_image[:, first : first + rows]
            shape = (channels, *kernel, some.shape[1], width)
            patches = room[: math.prod(shape)].view(shape)
            patches.copy_(padded.as_strided(shape, strides, first * stride[0] * of_row))
            yield patches.view(values, -1), some.flatten(1)


def scale_gradient(gradient: torch.Tensor, eta: float = 0.2) -> torch.Tensor:
    """The adaptive local rate (equation 13), in place: η·√k·g / ‖g‖₂ with the layer's number k of weights."""
    norm = torch.linalg.vector_norm(gradient).clamp(min=1e-12)
    return gradient.mul_(math.sqrt(gradient.numel()) * eta / norm)


class _Adder(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, stride, padding, eta):
        ctx.save_for_backward(inputs, weight)
        ctx.geometry, ctx.eta = (stride, padding), eta
        return adder_forward(inputs, weight, stride, padding)

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_inputs = of_weight = None
        if ctx.needs_input_grad[1]:  # first, before the other gradient takes its memory
            of_weight = adder_weight_gradient(inputs, weight, gradient, *ctx.geometry)
            if ctx.eta is not None:
                scale_gradient(of_weight, ctx.eta)
            of_weight = in_strides_of(of_weight, weight)
        if ctx.needs_input_grad[0]:
            of_inputs = adder_input_gradient(inputs, weight, gradient, *ctx.geometry)
        return of_inputs, of_weight, None, None, None


def adder_conv2d(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    eta: float | None = 0.2,
) -> torch.Tensor:
    """The adder layer with the paper's gradients.

    Args:
        inputs: (batch, in, height, width).
        weight: (out, in, kernel height, kernel width).
        eta: η of the adaptive local rate; None leaves the weights' gradient as it is, see `scale_gradients`.

    Returns:
        (batch, out, ⌊(height + 2·padding - kernel) / stride⌋ + 1, likewise), in the dtype of the inputs. Half
        precision is summed up in float32.
    """
    stride, padding = _pair(stride), _pair(padding)
    dtype = inputs.dtype
    if dtype in (torch.float16, torch.bfloat16):
        inputs, weight = inputs.float(), weight.float()
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return _exportable(inputs, weight, stride, padding).to(dtype)
    return _Adder.apply(inputs, weight, stride, padding, eta).to(dtype)


def _exportable(inputs: torch.Tensor, weight: torch.Tensor, stride, padding) -> torch.Tensor:
    """The same in few operators of any runtime: one kernel position after the other, all channels at once."""
    check_channels(inputs, weight.shape[1])
    padded, height, width = _padded(inputs, weight, stride, padding)
    output = None
    for i, j, rows, columns in _taps(weight, stride, height, width):
        seen = padded[:, None, :, rows, columns]
        distances = (seen - weight[None, :, :, i, j, None, None]).abs().sum(2)
        output = -distances if output is None else output - distances
    return output


class AdderConv2d(nn.Module):
    """The layer in the place of a convolution: square kernels, no dilation, no groups.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as of a convolution.
        bias: a learnt bias per output channel.
        scale: a factor per output channel before the bias (a folded batch norm).
        eta: η of the adaptive local rate, with which the gradient of the layer has the norm η·√(number of weights)
            whatever the loss. That holds per backward pass: where batches are accumulated, `scale_gradients` does it
            once per step.

    Shapes: (batch, in_channels, height, width) -> (batch, out_channels, height', width') of `output_size`.
    The outputs are large negative numbers: a batch norm follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        scale: bool = False,
        eta: float = 0.2,
    ):
        super().__init__()
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("out_channels", out_channels, 1),
            ("kernel_size", kernel_size, 1),
            ("stride", stride, 1),
            ("padding", padding, 0),
        ):
            if type(value) is not int or value < least:
                raise ValueError(f"{name}: got {value!r}, accepted are whole numbers from {least}.")
        if not eta > 0:
            raise ValueError(f"eta: got {eta}, accepted are positive numbers.")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding, self.eta = kernel_size, stride, padding, eta
        self.scales_gradient = True
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.scale = nn.Parameter(torch.ones(out_channels)) if scale else None
        self.bias = nn.Parameter(torch.rand(out_channels)) if bias else None

    def precision(self) -> str:
        """What weights and inputs have of values, for model cards."""
        return "sums of |x - w| for products, weights and inputs real"

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        check_finite(self, hidden_states)
        eta = self.eta if self.scales_gradient else None
        hidden_states = adder_conv2d(hidden_states, self.weight, self.stride, self.padding, eta)
        if self.scale is not None:
            hidden_states = hidden_states * self.scale[:, None, None]
        if self.bias is not None:
            hidden_states = hidden_states + self.bias[:, None, None]
        return hidden_states

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}"
        )


def scale_gradients(model: nn.Module) -> None:
    """Give every adder layer's gradient its norm η·√(number of weights), once, after batches were accumulated into it.

    For layers whose `scales_gradient` is False, so that the backward passes add up the plain gradients.
    """
    for module in model.modules():
        if isinstance(module, AdderConv2d) and not module.scales_gradient and module.weight.grad is not None:
            scale_gradient(module.weight.grad, module.eta)
