"""BitLinear: scales, integers, output and straight-through gradients."""

import torch

from hf_effmodels.quantization.bitnet158.bitlinear import bit_linear
from hf_effmodels.quantization.bitnet158.quantizers import quantize_activations, quantize_weight

from ..golden import inputs

SYSTEMS = ("bitnet158",)


def run(case: dict, dtype: torch.dtype) -> dict:
    config, values = case["config"], inputs(case, dtype)
    x, weight = values["x"].requires_grad_(), values["weight"].requires_grad_()
    bias = values["bias"] if config["bias"] else None
    weight_int, gamma = quantize_weight(weight, config["scale"], config["eps"])
    x_int, x_scale = quantize_activations(x, eps=config["eps"])
    y = bit_linear(x, weight, bias, scale=config["scale"])
    grad_x, grad_weight = torch.autograd.grad((y * values["grad_output"]).sum(), [x, weight])
    return {
        "gamma": gamma.reshape(1),
        "weight_int": weight_int,
        "x_int": x_int,
        "x_scale": x_scale,
        "y": y,
        "grad_x": grad_x,
        "grad_weight": grad_weight,
    }
