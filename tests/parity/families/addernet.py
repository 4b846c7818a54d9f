"""AdderNet: the layer with its gradients, whole networks in evaluation and training, and the quantisation."""

import torch
from torch.nn import functional as F

from hf_effmodels.modeling.layers.adder import AdderConv2d, adder_conv2d
from hf_effmodels.quantization.adder.algorithm import activation_range, quantize_activations, quantize_weights
from hf_effmodels.quantization.adder.layer import quantized_adder_conv2d

from .. import golden
from ..classification import ClassifierCase

SYSTEMS = ("addernet",)
#: official constructor -> our configuration
ARCHITECTURES_OF_CASES = {
    "resnet20": {
        "stem": "cifar",
        "block": "basic",
        "hidden_sizes": [16, 16, 32, 64],
        "depths": [3, 3, 3],
        "classifier_bias": False,
    },
    "resnet18": {"block": "basic", "hidden_sizes": [64, 64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "resnet50": {},
}


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    if dtype == "float64":
        return None
    if name.startswith("grad."):
        return 5e-2  # as for all gradients of networks in float32, by these cases' names
    # Long sums of distances, and outputs far from zero beside their deviation.
    return 1e-3 if "arch" in case["config"] else None


class AdderNetCase(ClassifierCase):
    def configuration(self) -> dict:
        published = self.case["config"]
        return {**ARCHITECTURES_OF_CASES[published["arch"]], "num_labels": published["num_classes"]}

    def outputs(self) -> dict[str, torch.Tensor]:
        for name in self.wanted - {"logits", "loss"}:
            if not name.startswith(("grad.", "after.")):
                self.our_module(name).register_forward_hook(self._keep(name))
        training = "labels" in self.values
        self.model.train(training)
        logits = self.model(self.values["pixel_values"]).logits
        results = {"logits": logits}
        if training:
            results["loss"] = F.cross_entropy(logits, self.values["labels"])
            results["loss"].backward()
        for name in self.wanted:
            kind, _, official = name.partition(".")
            if kind in ("grad", "after"):
                value = self.weight(f"{kind}/{official}")
                results[name] = value.grad if kind == "grad" else value
        return self.shaped(results | self.features)


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "arch" in case["config"]:
        return AdderNetCase(case, dtype).outputs()
    if case["variant"].startswith("quant"):
        # Levels are steps: the case's note asks for float64.
        return _quantised(case)
    return _layer(case, dtype)


def _layer(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values, weights = case["config"], golden.inputs(case, dtype), golden.state_dict(case, dtype)
    x = values["x"].requires_grad_()
    filters, channels, size, _ = weights["adder"].shape
    layer = AdderConv2d(channels, filters, size, config["stride"], config["padding"], bias=config["bias"]).to(dtype)
    layer.load_state_dict({{"adder": "weight", "b": "bias"}[name]: value for name, value in weights.items()})
    y = layer(x)
    y.backward(values["grad_out"])
    results = {"y": y, "grad_x": x.grad, "grad_weight": layer.weight.grad}
    return results | ({"grad_bias": layer.bias.grad} if config["bias"] else {})


def _quantised(case: dict) -> dict[str, torch.Tensor]:
    config, values = case["config"], golden.inputs(case, torch.float64)
    weight = values["weight"] * torch.tensor(config["filter_multiplier"], dtype=torch.float64)[:, None, None, None]
    batches = {name: value.clamp(min=0) for name, value in values.items() if name != "weight"}
    stride, padding = config["stride"], config["padding"]
    limit = activation_range([batches[name] for name in config["calibration_inputs"]], config["keep_ratio"])
    adder = quantize_weights(weight, limit, config["bits_weight"], config["n_groups"])
    x, bits = batches["x0"], config["bits_activation"]
    limited = x.clamp(max=limit)
    bias = adder.bias[:, None, None]
    return {
        "full_precision_out": adder_conv2d(x, weight, stride, padding),
        "filter_max": weight.abs().amax((1, 2, 3)),
        "filter_group": adder.group,
        "act_range": torch.tensor(limit, dtype=torch.float64),
        "group_scale": adder.scale,
        "filter_bias": adder.bias,
        "clamped_weight": adder.clamped,
        "weight_levels": adder.levels,
        "activation_levels": torch.stack([quantize_activations(x, scale, bits) for scale in adder.scale]),
        "out": quantized_adder_conv2d(
            x, adder.levels, adder.group, adder.scale, adder.bias, bits, stride, padding, config["bits_weight"]
        ),
        "lossless_check_clamped": adder_conv2d(limited, adder.clamped, stride, padding) + bias,
        "lossless_check_original": adder_conv2d(limited, weight, stride, padding),
    }
