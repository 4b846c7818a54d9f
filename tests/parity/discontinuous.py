"""Networks with steps in them: in float32 a value beside a step may fall to the other side.

So a float32 run must find nearly all of them itself, and is then compared with those of the float64 run, as closely
as anything else.
"""

from functools import partial

import torch
from torch import nn

from hf_effmodels.modeling.layers.binary import ACTIVATION_RULES


@torch.no_grad()
def use_exact_steps(model: nn.Module, exact: nn.Module, pixels: torch.Tensor) -> None:
    """Let the binarised activations of `model` be those of `exact`, provided nearly all are so without it.

    Args:
        model, exact: the same network in float32 and float64, both in the mode they are to run in.
        pixels: the images in float64.
    """
    expected: dict[str, torch.Tensor] = {}
    kinds = tuple(ACTIVATION_RULES.values())
    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: expected.__setitem__(name, output))
        for name, module in exact.named_modules()
        if isinstance(module, kinds)
    ]
    exact(pixels)
    for handle in handles:
        handle.remove()

    def replace(module, args, output, value):
        value = value.to(output.dtype)
        found = ((output - value).abs() <= 1e-3 * value.abs().max()).double().mean()
        assert found > 0.99, f"only {found:.2%} of the binarised values are right in float32"
        return output + (value - output).detach()

    for name, value in expected.items():
        model.get_submodule(name).register_forward_hook(partial(replace, value=value), prepend=True)
