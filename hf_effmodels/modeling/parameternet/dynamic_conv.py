"""Dynamic convolution: experts' kernels mixed for each image (https://arxiv.org/abs/2306.14525, section 3.2).

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

    There are several ways to the same sums, and the fastest is taken (measured; docs/systems/parameternet.md):

    - a single image is an ordinary convolution, or a linear layer where its pixels lie next to each other;
    - a pointwise kernel is a batched matrix product, in the memory format of the map;
    - a channels-last batch on a CPU is an ordinary convolution per image: making it contiguous would cost more;
    - any other batch is one grouped convolution, with the images laid side by side as groups.

    Args:
        hidden_states: (batch, in_channels, height, width).
        kernels: (batch, out_channels, in_channels / groups, k, k).
        bias: (out_channels,), the same for all images.

    Returns:
        (batch, out_channels, ⌊(height + 2 padding - k)/stride⌋ + 1, likewise for the width).
    """
    batch, out_channels = kernels.shape[:2]
    pointwise = kernels.shape[-1] == 1 and groups == 1 and stride == 1 and padding == 0
    contiguous = hidden_states.is_contiguous()
    if batch == 1 and not _is_compiling():
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


def mixed_outputs(
    hidden_states: torch.Tensor,
    experts: torch.Tensor,
    routing: torch.Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> torch.Tensor:
    """All experts' convolutions, then mixed: Σₘ rₘ (Wₘ * x) = (Σₘ rₘ Wₘ) * x.

    More work than mixing the kernels, but static convolutions with any batch: for programs that are compiled or
    exported, where neither the number of groups nor of calls may depend on the batch.

    Args:
        hidden_states: (batch, in_channels, height, width).
        experts: (num_experts, out_channels, in_channels / groups, k, k).
        routing: (batch, num_experts).
    """
    num_experts = experts.shape[0]
    # Output channels before experts: those of a group must lie next to each other.
    kernels = experts.transpose(0, 1).flatten(0, 1)
    outputs = F.conv2d(hidden_states, kernels, None, stride, padding, 1, groups).unflatten(1, (-1, num_experts))
    return (outputs * routing[:, None, :, None, None]).sum(2)


def _is_compiling() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class ExpertRouter(nn.Module):
    """How much of each expert's kernel an image gets: sigmoid(W mean(x) + b), neither normalised nor sharpened.

    The paper's formula has a hidden layer; the published network, which this follows, has not.

    Shapes: (batch, channels, height, width) -> (batch, num_experts), in (0, 1).
    """

    def __init__(self, channels: int, num_experts: int):
        super().__init__()
        self.linear = nn.Linear(channels, num_experts)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden_states.mean((2, 3))).sigmoid()


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
        fan_in = in_channels // groups * kernel_size**2
        #: Each expert starts uniform in ±1/√fan_in, as PyTorch's convolutions do (official code).
        self.init_bound = fan_in**-0.5
        self.weight = nn.Parameter(torch.empty(num_experts, out_channels * fan_in).uniform_(-1, 1) * self.init_bound)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        routing = self.router(hidden_states)
        shape = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        larger = self.kernel_shape[-1] > 1 or self.stride > 1 or self.groups > 1
        if larger if _is_compiling() else hidden_states.shape[0] == 0:
            output = mixed_outputs(hidden_states, self.weight.view(-1, *self.kernel_shape), routing, **shape)
            return output if self.bias is None else output + self.bias[:, None, None]
        kernels = (routing @ self.weight).view(-1, *self.kernel_shape)
        return dynamic_conv2d(hidden_states, kernels, self.bias, **shape)

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
