"""Keeps training on a CPU away from a kernel of oneDNN that writes beside its memory.

torch 2.13 (oneDNN 3.12) on a CPU with AVX2 and without AVX-512: the weight gradient of a 1×1 convolution with a stride
and fewer than 8 input channels, of a picture that lies channels last, corrupts the heap; the process ends later,
anywhere, in "free(): invalid pointer". The kernel for pictures that lie channel by channel does not; it is taken where
neither picture nor weight lies channels last.
"""

from torch import nn

_CHANNELS_OF_A_BLOCK = 8


def keep_narrow_convolutions_sound(model: nn.Module) -> None:
    """Let the convolutions of `model` that may meet that kernel read pictures channel by channel."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _may_meet_it(module):
            # A 1×1 weight is contiguous in either order: only its strides say which.
            module.weight.data = module.weight.data.flatten(1)[:, :, None, None]
            module.register_forward_pre_hook(_contiguous)


def _may_meet_it(convolution: nn.Conv2d) -> bool:
    is_pointwise = convolution.kernel_size == (1, 1) and max(convolution.stride) > 1
    return is_pointwise and convolution.in_channels // convolution.groups < _CHANNELS_OF_A_BLOCK


def _contiguous(module: nn.Module, inputs: tuple) -> tuple:
    return tuple(value.contiguous() for value in inputs)
