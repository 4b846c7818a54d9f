"""One-bit weights and activations: the one place for them, whatever the system.

A binary layer is a choice of three things:

- a *weight rule* (`WEIGHT_RULES`): latent real weights -> two values per filter;
- an *activation rule* (`ACTIVATION_RULES`): a module, inputs -> two values (three in BiMLP's code);
- a *straight-through estimator* in each of them: what stands for the derivative of the sign (the functions that end in
  `_derivative`).

| | weights | activations |
|---|---|---|
| AdaBin (https://arxiv.org/abs/2208.08084) | "equalized", tanh'(t·z) | "adaptive", Bi-Real's polynomial |
| BiMLP (https://arxiv.org/abs/2212.14158) | "scaled", identity | "ternary" (released) or "sign" (paper) |
| BiViT (https://arxiv.org/abs/2211.07091) | "centered" with scales per channel, clip | "clipped_sign", clip |

Zero padding comes after the activations have been binarised: the border holds a third value, 0.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .finite import check_finite
from .gradient_strides import latent
from .left_alone import is_within, names_of_modules
from .reparameterization import norm_scale_and_shift

# ------------------------------------------------------------------------------- straight-through estimators


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs: torch.Tensor, values: torch.Tensor, derivative: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(derivative)
        return values

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (derivative,) = ctx.saved_tensors
        return gradient * derivative, None, None


def straight_through(
    inputs: torch.Tensor, values: torch.Tensor, derivative: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`values` in the forward pass; in the backward pass as if they had the `derivative` with respect to `inputs`."""
    if not (torch.is_grad_enabled() and inputs.requires_grad):
        return values
    with torch.no_grad():
        slope = derivative(inputs)
    return _StraightThrough.apply(inputs, values.detach(), slope)


def identity_derivative(inputs: torch.Tensor) -> torch.Tensor:
    """1 everywhere."""
    return torch.ones_like(inputs)


def clip_derivative(inputs: torch.Tensor) -> torch.Tensor:
    """1 where |u| < 1, else 0; both ends excluded (BiViT's code)."""
    return (inputs.abs() < 1).to(inputs.dtype)


def closed_clip_derivative(inputs: torch.Tensor) -> torch.Tensor:
    """1 where |u| ≤ 1, else 0."""
    return (inputs.abs() <= 1).to(inputs.dtype)


def polynomial_derivative(inputs: torch.Tensor) -> torch.Tensor:
    """2 + 2u on [-1, 0), 2 - 2u on [0, 1), 0 elsewhere (Bi-Real Net, https://arxiv.org/abs/1808.00278, equation 7)."""
    slope = torch.where(inputs < 0, 2 + 2 * inputs, 2 - 2 * inputs)
    return torch.where((inputs >= -1) & (inputs < 1), slope, torch.zeros_like(slope))


def tanh_derivative(inputs: torch.Tensor, gain: float, sharpness: float) -> torch.Tensor:
    """k·t·(1 - tanh²(t·u)), that of k·tanh(t·u), for gain k and sharpness t (IR-Net, used by AdaBin)."""
    return gain * sharpness * (1 - torch.tanh(sharpness * inputs).square())


def sign(inputs: torch.Tensor, derivative: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The sign (0 for 0), with `derivative` for its derivative."""
    return straight_through(inputs, inputs.sign(), derivative)


# ------------------------------------------------------------------------------------------------ weight rules


def equalized_weights(weight: torch.Tensor, gain: float = 10.0, sharpness: float = 0.1) -> torch.Tensor:
    """σ·sign((W - μ)/σ) + μ with mean μ and standard deviation σ (divided by n) of each filter, AdaBin's equations 8
    to 10. Gradients flow through μ and σ, too. A filter without deviation becomes its mean.

    Args:
        weight: (out, ...).
        gain, sharpness: k and t of the surrogate `tanh_derivative`.
    """
    mean, deviation = filter_moments(weight)
    standardized = (weight - mean) / torch.where(deviation > 0, deviation, 1)
    return deviation * sign(standardized, lambda u: tanh_derivative(u, gain, sharpness)) + mean


def filter_moments(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation of each filter (first dimension), with kept dimensions of size 1."""
    others = tuple(range(1, weight.ndim))
    mean = weight.mean(others, keepdim=True)
    variance = (weight - mean).square().mean(others, keepdim=True)
    positive = variance > 0
    # The square root has no derivative at 0, and no filter there needs one.
    return mean, torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)


def scaled_weights(weight: torch.Tensor) -> torch.Tensor:
    """sign(W) · mean|W| over the input channels: a scale for each filter and position in the kernel (BiMLP's code).

    With one input channel per group this is the identity: depthwise kernels stay real. The gradient passes unchanged.
    """
    return straight_through(weight, weight.sign() * weight.abs().mean(1, keepdim=True), identity_derivative)


def centered_signs(weight: torch.Tensor) -> torch.Tensor:
    """sign(W - mean of the row) ∈ {-1, 0, 1}, clipped estimator on the centred weights (BiViT's code).

    Args:
        weight: (out, in) or (out, in, ...).
    """
    return sign(weight - weight.mean(tuple(range(1, weight.ndim)), keepdim=True), clip_derivative)


def centered_weights(weight: torch.Tensor) -> torch.Tensor:
    """`centered_signs` times mean|W| of each filter, of the weights not centred; the scale is a constant."""
    return centered_signs(weight) * weight.detach().abs().mean(tuple(range(1, weight.ndim)), keepdim=True)


#: Weight rules by name. "real": latent weights as they are; "fixed": weights that are two values already.
WEIGHT_RULES = ("equalized", "scaled", "centered", "real", "fixed")


def binarized_weights(weight: torch.Tensor, rule: str, gain: float = 10.0, sharpness: float = 0.1) -> torch.Tensor:
    """Weights by the `rule` of this name; `gain` and `sharpness` are those of "equalized"."""
    if rule == "equalized":
        return equalized_weights(weight, gain, sharpness)
    if rule == "scaled":
        return scaled_weights(weight)
    if rule == "centered":
        return centered_weights(weight)
    return weight


# -------------------------------------------------------------------------------------------- activation rules


class AdaptiveSign(nn.Module):
    """AdaBin's activations: α·(sign((x - β)/α) + β) with learnt scalars α (1 at first) and β (0).

    The two levels are α(β - 1) and α(β + 1). The paper writes α·sign + β; the code, and with it the published
    checkpoint, multiply β by α. A negative α exchanges the levels.
    """

    precision = "1 bit"

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.alpha * (sign((inputs - self.beta) / self.alpha, polynomial_derivative) + self.beta)

    def levels(self) -> tuple[float, float, float, float]:
        """(lower, upper, factor, offset): x becomes factor · (s + offset), with s = -1 below `lower`, 1 above `upper`
        and 0 between."""
        alpha, beta = self.alpha.item(), self.beta.item()
        # sign((x - β)/α) is sign(α)·sign(x - β): a negative α is a negative factor with the opposite offset.
        return beta, beta, abs(alpha), beta if alpha > 0 else -beta


class Sign(nn.Module):
    """sign(x) with Bi-Real's polynomial for its derivative: BiMLP's activations as its paper has them."""

    precision = "1 bit"
    derivative = staticmethod(polynomial_derivative)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return sign(inputs, self.derivative)

    def levels(self) -> tuple[float, float, float, float]:
        return 0.0, 0.0, 1.0, 0.0


class ClippedSign(Sign):
    """sign(x) with the gradient passed where |x| < 1: BiViT's activations."""

    derivative = staticmethod(clip_derivative)


class Ternary(nn.Module):
    """round(clip(x, -1, 1)) ∈ {-1, 0, 1}, half to even: BiMLP's activations as released. Gradient where |x| ≤ 1."""

    precision = "three levels"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return straight_through(inputs, inputs.clamp(-1, 1).round(), closed_clip_derivative)

    def levels(self) -> tuple[float, float, float, float]:
        return -0.5, 0.5, 1.0, 0.0


class Real(nn.Module):
    """Activations as they are."""

    precision = "real"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


ACTIVATION_RULES: dict[str, type[nn.Module]] = {
    "adaptive": AdaptiveSign,
    "sign": Sign,
    "clipped_sign": ClippedSign,
    "ternary": Ternary,
    "real": Real,
}
_RULES = frozenset(ACTIVATION_RULES.values())

# ------------------------------------------------------------------------------------------------------ layers


class BinaryRules:
    """What binary layers have beside `weight`: their rules, and the estimator's gain and sharpness."""

    def set_rules(self, weights: str, activations: str) -> None:
        check_rules(weights, activations)
        self.weight_rule = weights
        self.gain, self.sharpness = 10.0, 0.1
        self.binarizer = ACTIVATION_RULES[activations]()

    def binary_weight(self) -> torch.Tensor:
        """The weights that the layer computes with."""
        return binarized_weights(latent(self.weight), self.weight_rule, self.gain, self.sharpness)

    @torch.no_grad()
    def precision(self) -> str:
        """What weights and inputs have of values in the computation, for model cards."""
        if self.weight.is_meta:  # by the rule alone: of one position and all channels there is one scale
            whole = self.weight_rule != "scaled" or self.weight[0, 0].numel() == 1 < self.weight.shape[1]
            binary = whole and self.weight_rule not in ("real", "fixed")
        else:
            binary = two_values(self.binary_weight()) is not None
        return f"weights {'1 bit' if binary else 'real'}, inputs {self.binarizer.precision}"

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weights={self.weight_rule}"

    def fold(self) -> None:
        """Keep the binarised weights in the place of the latent ones."""
        self.weight.data = binarized_weights(self.weight.detach().double(), self.weight_rule).to(self.weight.dtype)
        self.weight_rule = "fixed"


def two_values(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Bits (out, n) and levels (out, 2) of a weight (out, ...) with at most two values in each filter, else None."""
    flat = weight.detach().flatten(1)
    low, high = flat.aminmax(dim=1, keepdim=True)
    positive = flat == high
    return (positive, torch.cat([low, high], 1)) if (positive | (flat == low)).all() else None


def check_rules(weights: str, activations: str) -> None:
    """ValueError unless both are names of rules."""
    for name, value, accepted in (
        ("weights", weights, WEIGHT_RULES),
        ("activations", activations, tuple(ACTIVATION_RULES)),
    ):
        if value not in accepted:
            raise ValueError(f"{name}: got {value!r}, accepted are {', '.join(map(repr, accepted))}.")


class BinaryConv2d(BinaryRules, nn.Conv2d):
    """A convolution of binarised inputs with binarised weights; `weight` are the latent real ones.

    Args:
        weights, activations: names of rules, see `WEIGHT_RULES` and `ACTIVATION_RULES`.
        The others: as of `torch.nn.Conv2d`.
    """

    def __init__(self, *args, weights: str = "equalized", activations: str = "adaptive", **kwargs):
        super().__init__(*args, **kwargs)
        self.set_rules(weights, activations)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        check_finite(self, hidden_states)
        return self._conv_forward(self.binarizer(hidden_states), self.binary_weight(), self.bias)


class BinaryLinear(BinaryRules, nn.Linear):
    """A linear layer of binarised inputs and weights; arguments as `BinaryConv2d`'s."""

    def __init__(self, *args, weights: str = "equalized", activations: str = "adaptive", **kwargs):
        super().__init__(*args, **kwargs)
        self.set_rules(weights, activations)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        check_finite(self, hidden_states)
        return F.linear(self.binarizer(hidden_states), self.binary_weight(), self.bias)


class BinaryConvNorm(nn.Module):
    """A binary convolution without bias, then batch norm; once folded, one with fixed two-valued weights and a bias.

    Shapes: as of `ConvNorm`; odd kernels have the padding (kernel_size - 1) // 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        weights: str = "equalized",
        activations: str = "adaptive",
        eps: float = 1e-5,
        momentum: float = 0.1,
        folded: bool = False,
    ):
        super().__init__()
        sizes = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        self.conv = BinaryConv2d(
            in_channels,
            out_channels,
            sizes,
            stride=stride,
            padding=tuple((size - 1) // 2 for size in sizes),
            groups=groups,
            bias=folded,
            weights="fixed" if folded else weights,
            activations=activations,
        )
        self.norm = None if folded else nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv(hidden_states)
        return hidden_states if self.norm is None else self.norm(hidden_states)

    def fold(self) -> None:
        if self.norm is None:
            return
        scale, shift = norm_scale_and_shift(self.norm)
        conv = self.conv
        values = binarized_weights(conv.weight.double(), conv.weight_rule) * scale[:, None, None, None]
        conv.weight.data = values.to(conv.weight.dtype)
        conv.bias = nn.Parameter(shift.to(conv.weight.dtype))
        conv.weight_rule = "fixed"
        self.norm = None


class ChannelAffine(nn.Module):
    """scale · x + shift per channel of (batch, channels, height, width): a batch norm in evaluation, folded."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.scale[:, None, None] + self.shift[:, None, None]


class FoldableNorm(nn.Module):
    """A batch norm that stands by itself; once folded, a `ChannelAffine`."""

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, folded: bool = False):
        super().__init__()
        self.norm = ChannelAffine(channels) if folded else nn.BatchNorm2d(channels, eps=eps, momentum=momentum)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(hidden_states)

    def fold(self) -> None:
        if not isinstance(self.norm, _BatchNorm):
            return
        like = self.norm.running_mean
        affine = ChannelAffine(len(like)).to(device=like.device, dtype=like.dtype)
        for parameter, value in zip((affine.scale, affine.shift), norm_scale_and_shift(self.norm), strict=True):
            parameter.data.copy_(value)
        self.norm = affine


def binarize(
    model: nn.Module,
    *,
    skip: Iterable[str] = ("first", "last"),
    weights: str = "equalized",
    activations: str = "adaptive",
    linear: bool = False,
) -> nn.Module:
    """Replace the convolutions of any model by binary ones, in place; they keep their weights. Returns the model.

    Args:
        model: any module, of this package or not.
        skip: "first" and "last" are the first and the last convolution or linear layer, in the order of the modules;
            everything else is the name of a layer, or of a module all of whose layers are left alone.
        weights, activations: names of rules, see `WEIGHT_RULES` and `ACTIVATION_RULES`.
        linear: replace linear layers, too.

    Raises:
        ValueError: an unknown rule, a name in `skip` that the model does not have, or nothing left to replace.
    """
    check_rules(weights, activations)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    # Packed layers have a rule for their inputs, too.
    if already := [n for n, m in model.named_modules() if type(getattr(m, "binarizer", None)) in _RULES]:
        raise ValueError(f"model: {already[0]} and {len(already) - 1} other layers are binary already.")
    names = list(layers)
    edges = {"first": names[:1], "last": names[-1:]}
    skip = names_of_modules(model, skip, tuple(edges))
    left_alone = {name for entry in skip for name in edges.get(entry, ())}
    parts = [entry for entry in skip if entry not in edges]
    kinds = (nn.Conv2d, nn.Linear) if linear else (nn.Conv2d,)
    chosen = {
        name: layer
        for name, layer in layers.items()
        if type(layer) in kinds and name not in left_alone and not is_within(name, parts)
    }
    if not chosen:
        raise ValueError(f"model: {type(model).__name__} has no convolution left to make binary (skip is {skip}).")
    for name, layer in chosen.items():
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, binary_like(layer, weights, activations))
    return model


def binary_like(layer: nn.Conv2d | nn.Linear, weights: str, activations: str) -> BinaryConv2d | BinaryLinear:
    """A binary layer with the geometry and the very weights of `layer`."""
    rules = {"weights": weights, "activations": activations, "bias": False, "device": "meta"}
    if isinstance(layer, nn.Linear):
        binary = BinaryLinear(layer.in_features, layer.out_features, **rules)
    else:
        binary = BinaryConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            padding_mode=layer.padding_mode,
            **rules,
        )
    binary.weight, binary.bias = layer.weight, layer.bias
    binary.binarizer.to(device=layer.weight.device, dtype=layer.weight.dtype)
    return binary.train(layer.training)
