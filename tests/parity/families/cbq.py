"""CBQ: grids, coarse-to-fine pre-processing, LoRA-Rounding, packing, windows and the cross-block objective.

A symmetric grid puts the largest magnitude of each row half-way between two integers, (2^b - 1) / 2 steps from 0: the
last bit of the division decides which one it is rounded to. Those cases are run in float64 only.
"""

import torch
import torch.nn.functional as F

from hf_effmodels.quantization.cbq.grid import Grid, dequantize, quantize, quantize_activations, weight_grid
from hf_effmodels.quantization.cbq.outliers import channel_scales, find_outliers, truncate
from hf_effmodels.quantization.cbq.packing import pack, unpack
from hf_effmodels.quantization.cbq.reconstruction import reconstruction_loss, windows
from hf_effmodels.quantization.cbq.rounding import fractions, harden, rectified_sigmoid, round_by, undecided

from ..golden import inputs

SYSTEMS = ("cbq",)


def run(case: dict, dtype: torch.dtype) -> dict:
    config = case["config"]
    values = inputs(case, torch.float64 if rounds_ties(config) else dtype)
    if "items" in config:
        return {f"n{n}_w{w}_o{o}": torch.tensor(windows(n, w, o)) for n, w, o in config["items"]}
    if "num_blocks" in config:
        return cross_block(config, values)
    if "rank" in config:
        return lora_rounding(config, values)
    if "lambda1" in config:
        return outliers(config, values)
    if "int" in values:
        packed = pack(values["int"], config["num_bits"])
        assert torch.equal(unpack(packed, config["num_bits"], values["int"].shape[-1]), values["int"].to(torch.int8))
        return {"packed": packed}
    if "target" in values:
        return reconstruction(values)
    if "group_size" in config:
        grid = weight_grid(values["weight"], config["num_bits"], config["group_size"], config["symmetric"])
        integers = quantize(values["weight"], grid, config["num_bits"])
        outputs = {"int": integers, "dequantized": dequantize(integers, grid), **grid._asdict()}
        return outputs
    return activations(config, values)


def rounds_ties(config: dict) -> bool:
    """Whether a case rounds to nearest on symmetric grids. LoRA-Rounding takes the floor, where this is no border."""
    if "num_blocks" in config:
        return config["activation_bits"] < 16
    return config.get("symmetric", False) and "rank" not in config


def activations(config: dict, values: dict) -> dict:
    got = quantize_activations(values["x"], config["num_bits"], config["symmetric"])
    names = {"int": got.integers, "dequantized": got.dequantized, "scale": got.scale, "zero_point": got.zero_point}
    return names


def reconstruction(values: dict) -> dict:
    output = (values["target"] + values["noise"]).requires_grad_()
    loss = reconstruction_loss(output, values["target"])
    (gradient,) = torch.autograd.grad(loss.total, output)
    return {name: value.reshape(1) for name, value in loss._asdict().items()} | {"grad_output": gradient}


def outliers(config: dict, values: dict) -> dict:
    lambdas = config["lambda1"], config["lambda2"]
    x = values["x"]
    if "channel_gain" in config:
        for channel, gain in config["channel_gain"]:
            x[:, channel] *= gain
        channel_max = x.abs().amax(0)
        scales = channel_scales(channel_max, *lambdas)
        scaled_x, scaled_weight = x / scales, values["weight"] * scales
        return {
            "channel_max": channel_max,
            "scales": scales,
            "scaled_x": scaled_x,
            "scaled_weight": scaled_weight,
            "y": scaled_x @ scaled_weight.T,
        }
    for index, value in config["spikes"]:
        x.view(-1)[index] = value
    found = find_outliers(x.abs(), *lambdas)
    return {
        "threshold_T": found.threshold.reshape(1),
        "num_coarse": [found.candidates],
        "num_outliers": [found.count],
        "truncation_value": found.largest_kept.reshape(1),
        "M": found.measure,
        "truncated": truncate(x, *lambdas),
    }


def lora_rounding(config: dict, values: dict) -> dict:
    weight, bits = values["weight"], config["num_bits"]
    first = weight_grid(weight, bits, config["group_size"], config["symmetric"])
    scale = first.scale.clone().requires_grad_()
    grid = Grid(scale, first.zero_point)
    a1, a2 = values["A1"].requires_grad_(), values["A2"].requires_grad_()
    start = fractions(weight, first) if config["init"] == "fraction" else 0.0

    def soft(a1):
        delta = rectified_sigmoid(a1 @ a2 + start)
        return delta, dequantize(round_by(weight, grid, delta, bits), grid)

    delta, w_soft = soft(a1)
    gradients = torch.autograd.grad((w_soft * values["grad_output"]).sum(), [a1, a2, scale], retain_graph=True)
    integers = round_by(weight, first, harden(delta), bits)
    outputs = {
        "scale": scale,
        "zero_point": first.zero_point,
        "delta": delta,
        "w_soft": w_soft,
        **dict(zip(("grad_A1", "grad_A2", "grad_scale"), gradients, strict=True)),
        "int_hard": integers,
        "w_hard": dequantize(integers, first),
        "w_soft_at_A1_zero": soft(torch.zeros_like(a1))[1],
    }
    # The regulariser's exponents are in the names of the outputs that are asked for.
    for beta in range(1, 33):
        loss = undecided(delta, beta)
        outputs[f"reg_beta{beta}"] = loss.reshape(1)
        outputs[f"reg_beta{beta}_grad_A1"] = torch.autograd.grad(loss, a1, retain_graph=True)[0]
    return outputs


def cross_block(config: dict, values: dict) -> dict:
    bits, activation_bits = config["num_bits"], config["activation_bits"]
    blocks = range(config["num_blocks"])
    weights = [values[f"w{i}"] for i in blocks]
    first = [weight_grid(weight, bits) for weight in weights]
    scales = [grid.scale.clone().requires_grad_() for grid in first]
    a1 = [values[f"A1_{i}"].requires_grad_() for i in blocks]

    def full(h):
        for weight in weights:
            h = h + F.gelu(h @ weight.T)
        return h

    def quantized(h):
        for i in blocks:
            grid = Grid(scales[i], first[i].zero_point)
            delta = rectified_sigmoid(a1[i] @ values[f"A2_{i}"])
            weight = dequantize(round_by(weights[i], grid, delta, bits), grid)
            x = quantize_activations(h, activation_bits).dequantized if activation_bits < 16 else h
            h = h + F.gelu(x @ weight.T)
        return h

    x, noisy = values["x"], values["x"] + values["x_noise"]
    targets = {"accumulated": full(x), "homologous": full(noisy)}
    output = quantized(noisy)
    outputs = {
        "fp_output": targets["accumulated"],
        "homologous_output": targets["homologous"],
        "quantized_output": output,
    }
    for name, target in targets.items():
        loss = reconstruction_loss(output, target).total
        gradients = torch.autograd.grad(loss, [*scales, *a1], retain_graph=True)
        outputs[f"loss_{name}"] = loss.reshape(1)
        for i in blocks:
            outputs[f"{name}_grad_scale{i}"] = gradients[i]
            outputs[f"{name}_grad_A1_{i}"] = gradients[len(scales) + i]
    return outputs
