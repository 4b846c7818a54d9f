"""Training branches for any convolutional network: what GhostNetV3's strategy does to its own layers
(https://arxiv.org/abs/2404.11202, section 3.1), done to the convolution-norm pairs of a network that has none.

    model = with_training_branches(AutoModelForImageClassification.from_pretrained("google/mobilenet_v2_1.0_224"))
    ...                                # train
    fold_training_branches(model)      # the plain network again: its own class, names and speed
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from .reparameterization import fold_conv_norm, norm_scale_and_shift


class BranchedConvNorm(nn.Module):
    """In the place of a convolution that a batch norm follows: several of both, a 1×1 convolution with its norm where
    the kernel is larger, and the norm of the input itself where input and output have one shape; all summed.

    Args:
        conv, norm: the pair; both become the first branch.
        num_branches: branches of the pair's own shape.
        scale: with the 1×1 branch.
        keeps_function: the norms of what is new begin with the weight 0, so that the network computes what it did.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, num_branches: int, scale: bool, keeps_function: bool):
        super().__init__()
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
            setattr(self, name, getattr(conv, name))  # networks that pad by themselves ask for them
        deviation = conv.weight.detach().std().item() if conv.weight.numel() > 1 else 1.0
        self.branches = nn.ModuleList([nn.ModuleDict({"conv": conv, "norm": norm})])
        for _ in range(num_branches - 1):
            self.branches.append(_pair(conv, norm, conv.kernel_size, conv.padding, conv.dilation, deviation))
        margins = _margins(conv)
        self.margins = margins or (0, 0)
        self.scale = self.skip = None
        if margins is not None and scale and max(conv.kernel_size) > 1:
            self.scale = _pair(conv, norm, 1, 0, 1, deviation)
        if margins is not None and conv.in_channels == conv.out_channels and max(conv.stride) == 1:
            self.skip = _norm_like(norm)
        if keeps_function:
            new = [branch["norm"] for branch in self.branches[1:]]
            new += [part for part in (self.scale and self.scale["norm"], self.skip) if part is not None]
            for part in new:
                nn.init.zeros_(part.weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows, columns = self.margins
        inner = hidden_states
        if rows or columns:
            height, width = hidden_states.shape[-2:]
            inner = hidden_states[..., rows : height - rows, columns : width - columns]
        output = sum(branch["norm"](branch["conv"](hidden_states)) for branch in self.branches)
        if self.scale is not None:
            output = output + self.scale["norm"](self.scale["conv"](inner))
        return output if self.skip is None else output + self.skip(inner)

    @torch.no_grad()
    def folded(self) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
        """The first branch's convolution and norm, with the values with which they equal the sum (in evaluation)."""
        conv, norm = self.branches[0]["conv"], self.branches[0]["norm"]
        pairs = [fold_conv_norm(branch["conv"], branch["norm"]) for branch in self.branches]
        kernel, shift = sum(kernel for kernel, _ in pairs), sum(shift for _, shift in pairs)
        centre = tuple(size // 2 for size in conv.kernel_size)
        if self.scale is not None:
            point, more = fold_conv_norm(self.scale["conv"], self.scale["norm"])
            kernel[:, :, centre[0], centre[1]] += point[:, :, 0, 0]
            shift = shift + more
        if self.skip is not None:
            scale, more = norm_scale_and_shift(self.skip)
            outputs = torch.arange(conv.out_channels, device=kernel.device)
            kernel[outputs, outputs % (conv.in_channels // conv.groups), centre[0], centre[1]] += scale
            shift = shift + more
        conv.weight.copy_(kernel)
        if conv.bias is not None:
            conv.bias.zero_()
        # The norm of the plain network stays, as the identity but for its shift.
        norm.running_var.fill_(1 - norm.eps)
        norm.running_mean.zero_() if norm.affine else norm.running_mean.copy_(-shift)
        if norm.affine:
            norm.weight.fill_(1)
            norm.bias.copy_(shift)
        return conv, norm


def with_training_branches(
    model: nn.Module,
    num_branches: int = 3,
    *,
    scale: bool = True,
    keeps_function: bool = True,
    pixel_values: torch.Tensor | None = None,
) -> nn.Module:
    """Give each convolution that a batch norm follows further branches for the training, in place.

    A convolution whose output something else reads, too (the shortcut of a pre-activation block), or that is written
    over before the norm, stays as it is.

    Args:
        model: a network of transformers or of this package for images, whatever its head; which norm follows which
            convolution is seen in one forward pass.
        num_branches: of a pair's own shape (the paper's N; 3 is its best).
        scale: a 1×1 branch beside larger kernels (the paper finds it essential in depthwise layers).
        keeps_function: the new branches begin at nothing, for pretrained weights. Otherwise each begins as if it were
            alone, for random ones.
        pixel_values: an example of its input; by default zeros of the size in its configuration, or 64 pixels.

    Returns:
        The model.

    Raises:
        ValueError: it has no such pair, has branches already or is folded, or `num_branches` is less than 1.
    """
    if num_branches < 1:
        raise ValueError(f"num_branches: got {num_branches}, accepted are whole numbers from 1.")
    name = type(model).__name__
    if any(getattr(module, "branches", None) is not None for module in model.modules()):
        raise ValueError(f"model: the layers of {name} have branches already.")
    pairs = _pairs(model, _example(model) if pixel_values is None else pixel_values)
    if not pairs:
        raise ValueError(f"model: {name} has no convolution that a batch norm follows (or is folded already).")
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        branched = BranchedConvNorm(conv, norm, num_branches, scale, keeps_function).train(model.training)
        place = nn.Identity()
        branched.place_of_norm = [place]  # in a list: no part of this module
        model.set_submodule(conv_name, branched)
        model.set_submodule(norm_name, place)
    return model


def fold_training_branches(model: nn.Module) -> nn.Module:
    """Undo `with_training_branches`, in place: a convolution and a norm for each sum of branches, which compute the
    same in evaluation (to rounding; sums are taken in float64). A model without branches stays as it is."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BranchedConvNorm):
            conv, norm = module.folded()
            place = next(other for other, part in model.named_modules() if part is module.place_of_norm[0])
            model.set_submodule(name, conv)
            model.set_submodule(place, norm)
    return model


def _pairs(model: nn.Module, pixel_values: torch.Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the norms that alone take what they give; each runs once in a forward pass."""
    names = {module: name for name, module in model.named_modules()}
    made = []  # keeps the outputs: none takes the place of another
    found, runs = [], []

    def after(module, inputs, output):
        runs.append(module)
        if isinstance(module, nn.Conv2d):
            made.append((module, output, output.grad_fn))
        else:
            # One that was written over has another function.
            found.extend((conv, module, of) for conv, value, of in made if value is inputs[0] and value.grad_fn is of)

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    handles = [module.register_forward_hook(after) for module in names if isinstance(module, kinds)]
    training = model.training
    try:
        with (
            torch.enable_grad()
        ):  # the graph of the gradient tells who reads what; frozen weights have one by the input
            outputs = model.eval()(pixel_values=pixel_values.detach().requires_grad_().clone())
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    readers = _readers(outputs)
    return [
        (names[conv], names[norm])
        for conv, norm, of in found
        if runs.count(conv) == runs.count(norm) == 1 and readers[of] == 1
    ]


def _readers(outputs) -> Counter:
    """How often each function of the gradient's graph is read, by others or as one of the `outputs`."""
    waiting = [tensor.grad_fn for tensor in _tensors(outputs)]
    readers = Counter(waiting)
    seen = set(waiting)
    while waiting:
        if (function := waiting.pop()) is None:
            continue
        for before, _ in function.next_functions:
            readers[before] += 1
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    return readers


def _tensors(outputs) -> Iterator[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        yield outputs
    elif isinstance(outputs, (Mapping, tuple, list)):
        for value in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(value)


def _example(model: nn.Module) -> torch.Tensor:
    size = getattr(model.config, "image_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else size
    parameter = next(model.parameters())
    shape = (1, getattr(model.config, "num_channels", 3), height, width)
    return torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)


def _margins(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Rows and columns of the input before the centre of the kernel's first window; None where there is no centre, or
    it lies in the padding."""
    if any(size % 2 == 0 for size in conv.kernel_size):
        return None
    reach = tuple(size // 2 * step for size, step in zip(conv.kernel_size, conv.dilation, strict=True))
    padding = {"same": reach, "valid": (0, 0)}[conv.padding] if isinstance(conv.padding, str) else conv.padding
    margins = tuple(far - pad for far, pad in zip(reach, padding, strict=True))
    return margins if min(margins) >= 0 else None


def _pair(conv: nn.Conv2d, norm: nn.BatchNorm2d, kernel_size, padding, dilation, deviation: float) -> nn.ModuleDict:
    where = {"device": conv.weight.device, "dtype": conv.weight.dtype}
    new = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size,
        stride=conv.stride,
        padding=padding,
        dilation=dilation,
        groups=conv.groups,
        bias=False,
        padding_mode=conv.padding_mode,
        **where,
    )
    nn.init.normal_(new.weight, std=deviation)
    return nn.ModuleDict({"conv": new, "norm": _norm_like(norm)})


def _norm_like(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    of = norm.running_mean
    return nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, device=of.device, dtype=of.dtype)
