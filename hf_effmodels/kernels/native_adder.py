"""The adder layer in float32 on CPUs, by the native kernels: sums of distances, and their gradient for the inputs."""

import ctypes

import torch

from .native_geometry import Geometry, check_channels
from .native_library import available, check, level, library


def applies_to(*tensors: torch.Tensor) -> bool:
    """Whether the native kernels can be asked: they are there, and all tensors are float32 on the CPU."""
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors) and available()


@torch.library.custom_op("hf_effmodels::adder_forward", mutates_args=(), device_types="cpu")
def forward(
    inputs: torch.Tensor, weight: torch.Tensor, stride: list[int], padding: list[int], isa: int = -1
) -> torch.Tensor:
    """-Σ|x - w| of (batch, in, height, width) and (out, in, kernel, kernel): (batch, out, height', width').

    `isa` asks for an instruction set (`level()` says which there are); -1 is the best one.
    """
    check_channels(inputs, weight.shape[1])
    geometry = Geometry.of(inputs.shape, weight.shape[0], weight.shape[2:], stride, padding)
    inputs, weight = inputs.contiguous(), weight.contiguous()
    output = inputs.new_empty(_output_shape(geometry))
    status = library().effmodels_adder_forward(
        level() if isa < 0 else isa,
        torch.get_num_threads(),
        geometry.pointer(),
        *(ctypes.c_void_p(t.data_ptr()) for t in (inputs, weight, output)),
    )
    check(status)
    return output


@forward.register_fake
def _(inputs, weight, stride, padding, isa=-1):
    geometry = Geometry.of(inputs.shape, weight.shape[0], weight.shape[2:], stride, padding)
    return inputs.new_empty(_output_shape(geometry))


@torch.library.custom_op("hf_effmodels::adder_input_gradient", mutates_args=(), device_types="cpu")
def input_gradient(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    gradient: torch.Tensor,
    stride: list[int],
    padding: list[int],
    isa: int = -1,
) -> torch.Tensor:
    """Σ_f clamp(w - x, -1, 1)·g in the shape of the inputs."""
    geometry = Geometry.of(inputs.shape, weight.shape[0], weight.shape[2:], stride, padding)
    inputs, weight, gradient = inputs.contiguous(), weight.contiguous(), gradient.contiguous()
    result = torch.zeros_like(inputs)
    status = library().effmodels_adder_input_gradient(
        level() if isa < 0 else isa,
        torch.get_num_threads(),
        geometry.pointer(),
        *(ctypes.c_void_p(t.data_ptr()) for t in (inputs, weight, gradient, result)),
    )
    check(status)
    return result


@input_gradient.register_fake
def _(inputs, weight, gradient, stride, padding, isa=-1):
    return inputs.new_empty(inputs.shape)


def _output_shape(geometry: Geometry) -> tuple[int, int, int, int]:
    return geometry.batch, geometry.filters, geometry.out_height, geometry.out_width
