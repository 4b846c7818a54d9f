"""Convolutional networks that compute the visible places of an image only, as SparK does it with dense operations:
what is hidden is zero before and after everything that looks beyond its own place, and batch norms count what is
visible (https://arxiv.org/abs/2301.03580, section 3.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

#: (batch, 1, rows, columns), 1 for visible blocks of the images that this thread's pass is over.
_VISIBLE: ContextVar[torch.Tensor | None] = ContextVar("visible", default=None)

_SPATIAL = (
    *(nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.ZeroPad2d),
    *(nn.ReflectionPad2d, nn.ReplicationPad2d),
)


@contextmanager
def only_visible(mask: torch.Tensor) -> Iterator[None]:
    """Within, networks that went through `see_visible_only` compute the visible places of their images only.

    Args:
        mask: (batch, 1, rows, columns), 1 for visible blocks.
    """
    token = _VISIBLE.set(mask)
    try:
        yield
    finally:
        _VISIBLE.reset(token)


def spread(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor | None:
    """A mask of blocks over maps of a size; None for maps that blocks do not divide, as those of global pools."""
    rows, columns = mask.shape[-2:]
    if size[0] % rows or size[1] % columns:
        return None
    return mask.repeat_interleave(size[0] // rows, 2).repeat_interleave(size[1] // columns, 3)


class VisibleBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose statistics are those of the visible places; hidden places are zero afterwards."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mask = _mask_for(hidden)
        if mask is None:
            return super().forward(hidden)
        places = mask[:, 0] > 0
        if self.training and not torch.compiler.is_compiling() and int(places.sum()) < 2:
            raise ValueError(
                "pixel_values: one place of the batch is visible, of which a batch norm has no statistics; accepted "
                "are more images, or a smaller mask_ratio."
            )
        last = hidden.permute(0, 2, 3, 1)
        # (visible places, channels, 1, 1): to a batch norm as many images of one pixel.
        normed = super().forward(last[places][:, :, None, None])[:, :, 0, 0]
        return torch.zeros_like(last, dtype=normed.dtype).masked_scatter(places[..., None], normed).permute(0, 3, 1, 2)


def see_visible_only(network: nn.Module) -> None:
    """Let a network compute visible places only, wherever it is called within `only_visible`; elsewhere it computes as
    before. Parameters, buffers and their names stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = VisibleBatchNorm2d
        elif isinstance(module, _SPATIAL):
            module.register_forward_pre_hook(_hide_input)
            module.register_forward_hook(_hide_output)


def _mask_for(hidden: torch.Tensor) -> torch.Tensor | None:
    mask = _VISIBLE.get()
    return None if mask is None or hidden.ndim != 4 else spread(mask, tuple(hidden.shape[-2:]))


def _hide(hidden: torch.Tensor) -> torch.Tensor:
    mask = _mask_for(hidden)
    return hidden if mask is None else hidden * mask.to(hidden.dtype)


def _hide_input(module: nn.Module, inputs: tuple) -> tuple:
    return (_hide(inputs[0]), *inputs[1:])


def _hide_output(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    return _hide(output)
