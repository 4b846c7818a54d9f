"""Structural re-parameterisation: what is trained as several branches with batch norms runs as one convolution.

The protocol is the same for every architecture: layers that fold offer `fold()`, models inherit
`ReparameterizationMixin` and offer `reparameterize()`. The formulas are those of RepVGG
(https://arxiv.org/abs/2101.03697, section 3.3) and GhostNetV3 (https://arxiv.org/abs/2404.11202, section 3.1).
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .in_place import add
from .untrainable import refusal


def norm_scale_and_shift(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch norm in evaluation is y = scale · x + shift per channel; both in float64, shape (channels,)."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


def fold_conv_norm(conv: nn.Conv2d, norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel and bias (float64) of the one convolution that equals `norm(conv(x))` in evaluation."""
    scale, shift = norm_scale_and_shift(norm)
    kernel = conv.weight.double() * scale[:, None, None, None]
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    return kernel, shift


def conv_with_values(like: nn.Conv2d, kernel: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A convolution with a bias, with the geometry, dtype and device of `like` and the given values."""
    conv = torch.nn.utils.skip_init(
        nn.Conv2d,
        like.in_channels,
        kernel.shape[0],
        tuple(kernel.shape[-2:]),
        stride=like.stride,
        padding=like.padding,
        dilation=like.dilation,
        groups=like.groups,
        padding_mode=like.padding_mode,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)
    return conv


class ConvNorm(nn.Module):
    """Convolution (without bias by default), then batch norm; once folded, a convolution with bias.

    Shapes: (batch, in_channels, height, width) -> (batch, out_channels, ⌈height/stride⌉, ⌈width/stride⌉) for odd
    kernels with the default padding (kernel_size - 1) // 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        bias: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
        folded: bool = False,
    ):
        super().__init__()
        if padding is None:
            sizes = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
            padding = tuple((size - 1) // 2 for size in sizes)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias or folded
        )
        self.norm = None if folded else nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv(hidden_states)
        return hidden_states if self.norm is None else self.norm(hidden_states)

    def fold(self) -> None:
        if self.norm is not None:
            self.conv = conv_with_values(self.conv, *fold_conv_norm(self.conv, self.norm))
            self.norm = None


class RepConvNorm(nn.Module):
    """Parallel convolution-norm branches of one input, summed; once folded, a single convolution with bias.

    Branches: `num_branches` k×k convolutions, a 1×1 convolution ("scale", only where k > 1) and the input itself
    ("skip", only where it has the shape of the output), each followed by its own batch norm. Without the extra
    branches and with `num_branches=1` this is `ConvNorm`.

    Args:
        in_channels, out_channels, kernel_size (odd), stride, groups, eps, momentum: as of the k×k convolutions.
        num_branches: number of k×k branches.
        folded: build the folded form.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        num_branches: int = 3,
        eps: float = 1e-5,
        momentum: float = 0.1,
        folded: bool = False,
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: got {kernel_size}, accepted are odd sizes: an even kernel has no centre.")
        shape = {"stride": stride, "groups": groups}
        norm = {"eps": eps, "momentum": momentum}
        self.branches = self.scale = self.skip = self.conv = None
        if folded:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, **shape)
            return
        self.branches = nn.ModuleList(
            ConvNorm(in_channels, out_channels, kernel_size, **shape, **norm) for _ in range(num_branches)
        )
        if kernel_size > 1:
            self.scale = ConvNorm(in_channels, out_channels, 1, **shape, **norm)
        if in_channels == out_channels and stride == 1:
            self.skip = nn.BatchNorm2d(in_channels, **norm)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.conv is not None:
            return self.conv(hidden_states)
        # The order of the official code: scale, skip, then the branches; another one rounds differently.
        terms = [branch for branch in (self.scale, self.skip, *self.branches) if branch is not None]
        output = terms[0](hidden_states)
        for term in terms[1:]:
            output = add(output, term(hidden_states))
        return output

    def fold(self) -> None:
        if self.conv is not None:
            return
        like = self.branches[0].conv
        kernel, bias = 0, 0
        for branch in self.branches:
            branch_kernel, branch_bias = fold_conv_norm(branch.conv, branch.norm)
            kernel, bias = kernel + branch_kernel, bias + branch_bias
        centre = like.kernel_size[0] // 2
        if self.scale is not None:
            # Also right for a stride: the unpadded 1×1 convolution samples the centre of the padded k×k window.
            point, shift = fold_conv_norm(self.scale.conv, self.scale.norm)
            kernel[:, :, centre, centre] += point[:, :, 0, 0]
            bias = bias + shift
        if self.skip is not None:
            scale, shift = norm_scale_and_shift(self.skip)
            outputs = torch.arange(like.out_channels, device=kernel.device)
            kernel[outputs, outputs % (like.in_channels // like.groups), centre, centre] += scale
            bias = bias + shift
        self.conv = conv_with_values(like, kernel, bias)
        self.branches = self.scale = self.skip = None


class ReparameterizationMixin:
    """Gives a PreTrainedModel whose configuration has the field `reparameterized` the method `reparameterize()`."""

    def reparameterize(self):
        """Fold all train-time branches and batch norms in place, for deployment; returns the model itself.

        The outputs stay the same (to rounding; the sums are taken in float64). `config.reparameterized` becomes True,
        so that `save_pretrained`/`from_pretrained` keep the folded form. Folding a folded model does nothing. The
        folded model computes in the channels-last memory format, which convolutions run fastest in.

        Raises:
            RuntimeError: the model is in training mode, where batch norms have no fixed scale to fold.
        """
        if self.config.reparameterized:
            return self
        if self.training:
            raise RuntimeError(
                f"reparameterize: {type(self).__name__} is in training mode, where its outputs depend on the batch "
                "and would differ from the folded ones; call model.eval() first."
            )
        self.check_reparameterizable()
        with torch.no_grad():
            for module in list(self.modules()):
                if hasattr(module, "fold"):
                    module.fold()
        self.config.reparameterized = True
        return self.to(memory_format=torch.channels_last)

    def check_reparameterizable(self) -> None:
        """Raise, before anything is changed, if the model cannot be folded now. Nothing to check here."""

    def train(self, mode: bool = True):
        if mode and self.config.reparameterized:
            raise refusal(
                f"{type(self).__name__} is folded for deployment and cannot be trained: it has lost its train-time "
                "branches and batch norms. Train the unfolded checkpoint, or build one with reparameterized=False."
            )
        return super().train(mode)

    def post_init(self):
        super().post_init()
        if self.config.reparameterized:
            self.eval()
