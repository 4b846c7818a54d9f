"""Dynamic convolution: expert kernels mixed for each image (ParameterNet, https://arxiv.org/abs/2306.14525, section 3.2).

Shapes are (batch, channels, height, width) for maps and (batch, out_channels, in_channels / groups, k, k) for kernels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..layers.reparameterization import norm_scale_and_shift


def dynamic_conv2d(
    hidden_states: torch.Tensor,
    kernels: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    """Convolve every image of a batch with its own kernel; otherwise as `torch.nn.functional.conv2d`.

    There are four ways to the same sums, and the fastest is taken (measured; docs/systems/parameternet.md):

    - a single image is an ordinary convolution, or a linear layer where its pixels lie next to each other;
    - a pointwise kernel is a batched matrix product, in the memory format of the map;
    - a channels-last batch on a CPU is an ordinary convolution per image: making it contiguous would cost more;
    - any other batch is one grouped convolution, with the images laid side by side as groups.

    While the model is being compiled or exported, where neither the number of groups nor of calls may depend on the
    batch, kernels larger than 1×1 are summed tap by tap.

    Args:
        hidden_states: (batch, in_channels, height, width).
        kernels: (batch, out_channels, in_channels / groups, k, k).
        bias: (out_channels,), the same for all images.

    Returns:
        (batch, out_channels, ⌊(height + 2 padding - k)/stride⌋ + 1, likewise for the width).
    """
    batch, out_channels = kernels.shape[:2]
    pointwise = kernels.shape[-1] == 1 and groups == 1 and stride == 1 and padding == 0
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or batch == 0:
        if pointwise:
            return _pointwise(hidden_states, kernels, bias)
        return _tap_by_tap(hidden_states, kernels, bias, stride, padding, groups)
    contiguous = hidden_states.is_contiguous()
    if batch == 1:
        if pointwise and not contiguous:
            pixels = hidden_states.permute(0, 2, 3, 1)
            return F.linear(pixels, kernels[0, :, :, 0, 0], bias).permute(0, 3, 1, 2)
        return F.conv2d(hidden_states, kernels[0], bias, stride, padding, 1, groups)
    if pointwise:
        return _pointwise(hidden_states, kernels, bias)
    if hidden_states.device.type == "cpu" and not contiguous:
        images = zip(hidden_states.split(1), kernels.unbind(), strict=True)
        return torch.cat([F.conv2d(image, kernel, bias, stride, padding, 1, groups) for image, kernel in images])
    side_by_side = hidden_states.reshape(1, -1, *hidden_states.shape[2:])
    output = F.conv2d(side_by_side, kernels.flatten(0, 1), None, stride, padding, 1, batch * groups)
    output = output.view(batch, out_channels, *output.shape[2:])
    return output if bias is None else output + bias[:, None, None]


def _pointwise(hidden_states: torch.Tensor, kernels: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    height, width = hidden_states.shape[2:]
    kernels = kernels.flatten(2)  # (batch, out_channels, in_channels)
    if hidden_states.is_contiguous():
        maps = hidden_states.flatten(2)
        output = torch.bmm(kernels, maps) if bias is None else torch.baddbmm(bias[:, None], kernels, maps)
        return output.unflatten(2, (height, width))
    pixels = hidden_states.permute(0, 2, 3, 1).flatten(1, 2)  # (batch, height · width, in_channels), a view
    kernels = kernels.transpose(1, 2)
    output = torch.bmm(pixels, kernels) if bias is None else torch.baddbmm(bias, pixels, kernels)
    return output.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _tap_by_tap(
    hidden_states: torch.Tensor,
    kernels: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    groups: int,
) -> torch.Tensor:
    """Sum over the k² shifted maps: plain products, whatever the batch."""
    out_channels, _, *size = kernels.shape[1:]
    padded = F.pad(hidden_states, (padding,) * 4)
    height, width = ((padded.shape[2 + axis] - size[axis]) // stride + 1 for axis in (0, 1))
    depthwise = groups == out_channels == hidden_states.shape[1]
    output = 0
    for row in range(size[0]):
        for column in range(size[1]):
            rows = slice(row, row + (height - 1) * stride + 1, stride)
            columns = slice(column, column + (width - 1) * stride + 1, stride)
            shifted, tap = padded[:, :, rows, columns], kernels[..., row, column]
            if depthwise:
                output = output + shifted * tap[..., None]
            else:
                shifted = shifted.flatten(2).unflatten(1, (groups, -1))
                product = tap.unflatten(1, (groups, -1)) @ shifted  # (batch, groups, out / groups, positions)
                output = output + product.flatten(1, 2).unflatten(2, (height, width))
    return output if bias is None else output + bias[:, None, None]


class ExpertRouter(nn.Linear):
    """How much of each expert's kernel an image gets: sigmoid(W mean(x) + b), neither normalised nor sharpened.

    The paper's formula has a softmax and a hidden layer; the published network, which this follows, has neither.

    Shapes: (batch, channels, height, width) -> (batch, num_experts), in (0, 1).
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.mean((2, 3))).sigmoid()


class DynamicConv(nn.Module):
    """Convolution whose kernel is Σₘ rₘ(x) Wₘ, a mixture of experts' kernels by each image's own weights (eq. 4).

    Shapes: (batch, in_channels, height, width) -> (batch, out_channels, ⌈height/stride⌉, ⌈width/stride⌉) for odd
    kernels, which are padded by (kernel_size - 1) // 2. `weight` has an expert per row: (num_experts, out_channels ·
    in_channels / groups · kernel_size²).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        num_experts: int = 4,
        bias: bool = False,
    ):
        super().__init__()
        self.kernel_shape = (out_channels, in_channels // groups, kernel_size, kernel_size)
        self.stride, self.padding, self.groups = stride, (kernel_size - 1) // 2, groups
        self.router = ExpertRouter(in_channels, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, out_channels * in_channels // groups * kernel_size**2))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        kernels = (self.router(hidden_states) @ self.weight).view(-1, *self.kernel_shape)
        return dynamic_conv2d(
            hidden_states, kernels, self.bias, stride=self.stride, padding=self.padding, groups=self.groups
        )

    def extra_repr(self) -> str:
        return f"kernel_shape={self.kernel_shape}, stride={self.stride}, groups={self.groups}"


class DynamicConvNorm(nn.Module):
    """Dynamic convolution, then batch norm; once folded, a dynamic convolution with a bias.

    The norm's scale goes into every expert's kernel and its shift into one bias: a mixture of scaled kernels is the
    scaled mixture. The router stays, as the kernels are still mixed for each image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        num_experts: int = 4,
        eps: float = 1e-5,
        momentum: float = 0.1,
        folded: bool = False,
    ):
        super().__init__()
        self.conv = DynamicConv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            groups=groups,
            num_experts=num_experts,
            bias=folded,
        )
        self.norm = None if folded else nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv(hidden_states)
        return hidden_states if self.norm is None else self.norm(hidden_states)

    @torch.no_grad()
    def fold(self) -> None:
        if self.norm is None:
            return
        scale, shift = norm_scale_and_shift(self.norm)
        weight = self.conv.weight
        experts = weight.double().unflatten(1, (len(scale), -1)) * scale[:, None]
        self.conv.weight = nn.Parameter(experts.flatten(1).to(weight.dtype), requires_grad=weight.requires_grad)
        self.conv.bias = nn.Parameter(shift.to(weight.dtype))
        self.norm = None
