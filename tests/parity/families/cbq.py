"""CBQ: grids, coarse-to-fine pre-processing, LoRA-Rounding, packing, windows and the cross-block objective.

A symmetric grid puts the largest magnitude of each row half-way between two integers, (2^b - 1) / 2 steps from 0: the
last bit of the division decides which one it is rounded to. Those cases are run in float64 only. Where it is the last
bit of a matrix product, processors differ: the value is the same, whether a gradient passes is not (`ties_as`).
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
        return cross_block(config, values, case["outputs"])
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


def cross_block(config: dict, values: dict, expected: dict) -> dict:
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

    def quantized(h, passing=None):
        for i in blocks:
            grid = Grid(scales[i], first[i].zero_point)
            delta = rectified_sigmoid(a1[i] @ values[f"A2_{i}"])
            weight = dequantize(round_by(weights[i], grid, delta, bits), grid)
            x = h
            if activation_bits < 16:
                got = quantize_activations(h, activation_bits)
                x = got.dequantized
                if passing is not None and i == blocks[-1]:
                    ties = (h / got.scale - (2**activation_bits - 1) / 2).abs() < 1e-9
                    x = torch.where(ties, x.detach() + passing * (h - h.detach()), x)
            h = h + F.gelu(x @ weight.T)
        return h

    x, noisy = values["x"], values["x"] + values["x_noise"]
    targets = {"accumulated": full(x), "homologous": full(noisy)}
    names = [f"grad_{kind}{i}" for kind in ("scale", "A1_") for i in blocks]

    def gradients(output):
        for name, target in targets.items():
            loss = reconstruction_loss(output, target).total
            found = torch.autograd.grad(loss, [*scales, *a1], retain_graph=True)
            yield from zip((f"{name}_{of}" for of in names), found, strict=True)

    output = quantized(noisy)
    outputs = {
        "fp_output": targets["accumulated"],
        "homologous_output": targets["homologous"],
        "quantized_output": output,
    }
    for name, target in targets.items():
        outputs[f"loss_{name}"] = reconstruction_loss(output, target).total.reshape(1)
    if activation_bits < 16:
        # The first block's inputs are given, to the bit; gradients that come to it pass the inputs of the last one.
        passing = ties_as(expected, lambda passing: dict(gradients(quantized(noisy, passing))), len(x))
        output = quantized(noisy, passing)
    return outputs | dict(gradients(output))


def ties_as(expected: dict, gradients, tokens: int) -> torch.Tensor:
    """(tokens, 1): how much of a gradient passed each token's largest input where `expected` was computed, ½ or none.

    That input is half-way between the last integer of the grid, on whose border half passes, and the one after it,
    which is cut off; the last bit of a product of matrices decides. Gradients are linear in what passes of each token.
    """

    def stored(found: dict) -> torch.Tensor:
        return torch.cat([found[name].flatten()[torch.tensor(expected[name]["index"])] for name in sorted(found)])

    none = gradients(torch.zeros(tokens, 1, dtype=torch.float64))
    wanted = torch.cat([torch.tensor(expected[name]["values"], dtype=torch.float64) for name in sorted(none)])
    shares = [stored(gradients(one[:, None])) - stored(none) for one in torch.eye(tokens, dtype=torch.float64)]
    found = torch.linalg.lstsq(torch.stack(shares, 1), (wanted - stored(none))[:, None], driver="gelsd").solution
    return (2 * found).round().clamp(0, 1) / 2
