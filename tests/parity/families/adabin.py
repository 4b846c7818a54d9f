"""AdaBin: the two binarisers, a convolution, Maxout, and whole networks in evaluation and training."""

import torch
from torch.nn import functional as F

from hf_effmodels.hub.convert import official_name
from hf_effmodels.modeling.adabin.modeling_adabin import AdaBinMaxout
from hf_effmodels.modeling.layers.binary import AdaptiveSign, BinaryConv2d, equalized_weights, filter_moments
from hf_effmodels.registry import ARCHITECTURES

from .. import golden
from ..classification import ClassifierCase
from ..discontinuous import use_exact_steps

SYSTEMS = ("adabin",)
#: official constructor -> our configuration
ARCHITECTURES_OF_CASES = {
    "cifar resnet20_1w1a": {
        "stem": "cifar",
        "hidden_sizes": [16, 16, 32, 64],
        "depths": [3, 3, 3],
        "shortcut": "pad",
    },
    "cifar resnet18_1w1a": {"stem": "cifar", "shortcut": "conv"},
    "imagenet resnet18_1w1a": {},
    "imagenet resnet34_1w1a": {"depths": [3, 4, 6, 3]},
}


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    # As for all gradients of networks in float32 (`FLOAT32_GRADIENT`), by these cases' names.
    return 5e-2 if dtype == "float32" and name.startswith("grad.") else None


class AdaBinCase(ClassifierCase):
    def configuration(self) -> dict:
        published = self.case["config"]
        return {
            **ARCHITECTURES_OF_CASES[published["arch"]],
            "num_labels": published["num_classes"],
            "surrogate_gain": published.get("k", 10.0),
            "surrogate_sharpness": published.get("t", 0.1),
        }

    def outputs(self) -> dict[str, torch.Tensor]:
        for name in self.wanted - {"logits", "loss"}:
            if not name.startswith(("grad.", "after.")):
                self.our_module(name).register_forward_hook(self._keep(name))
        training = "labels" in self.values
        self.model.train(training)
        if self.dtype == torch.float32:
            exact = AdaBinCase(self.case, torch.float64)
            use_exact_steps(self.model, exact.model.train(training), exact.values["pixel_values"])
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
        return AdaBinCase(case, dtype).outputs()
    values = golden.inputs(case, dtype)
    if case["variant"].startswith("fn_weight_binarise"):
        return _weights(case, values)
    if case["variant"].startswith("fn_activation_binarise"):
        return _activations(case, values)
    return {"fn_conv": _convolution, "fn_maxout": _maxout}[case["variant"]](case, values)


def _weights(case: dict, values: dict) -> dict[str, torch.Tensor]:
    weight = (values["weight"] + case["config"]["weight_shift"]).requires_grad_()
    mean, deviation = filter_moments(weight.detach())
    results = {"alpha_w": deviation.flatten(), "beta_w": mean.flatten()}
    for gain, sharpness in case["config"]["k_t"]:
        weight.grad = None
        results["binary_weight"] = equalized_weights(weight, gain, sharpness)
        (results["binary_weight"] * values["grad_out"]).sum().backward()
        results[f"k{gain}_t{sharpness}.grad_weight"] = weight.grad.clone()
    return results


def _activations(case: dict, values: dict) -> dict[str, torch.Tensor]:
    binarizer = AdaptiveSign().to(values["x"].dtype)
    binarizer.alpha.data.fill_(case["config"]["alpha_a"])
    binarizer.beta.data.fill_(case["config"]["beta_a"])
    x = values["x"].requires_grad_()
    y = binarizer(x)
    y.backward(values["grad_out"])
    lower, upper, factor, offset = binarizer.levels()
    assert lower == upper
    return {
        "y": y,
        "grad_x": x.grad,
        "grad_alpha": binarizer.alpha.grad,
        "grad_beta": binarizer.beta.grad,
        "levels": torch.tensor([factor * (offset - 1), factor * (offset + 1)], dtype=x.dtype),
    }


def _ours(case: dict, dtype: torch.dtype, layer: str) -> dict[str, torch.Tensor]:
    """The case's weights by our names of a layer such as `conv1`."""
    name = official_name(ARCHITECTURES["adabin"], f"layer1.0.{layer}")
    return {
        official_name(ARCHITECTURES["adabin"], f"layer1.0.{layer}.{key}").removeprefix(f"{name}."): value
        for key, value in golden.state_dict(case, dtype).items()
    }


def _convolution(case: dict, values: dict) -> dict[str, torch.Tensor]:
    config, x = case["config"], values["x"].requires_grad_()
    weights = _ours(case, x.dtype, "conv1")
    out_channels, in_channels = weights["weight"].shape[:2]
    conv = BinaryConv2d(
        in_channels,
        out_channels,
        config["kernel_size"],
        stride=config["stride"],
        padding=config["padding"],
        bias=False,
    ).to(x.dtype)
    conv.gain, conv.sharpness = config["k"], config["t"]
    conv.load_state_dict(weights)
    y = conv(x)
    y.backward(values["grad_out"])
    return {
        "y": y,
        "grad_x": x.grad,
        "grad_weight": conv.weight.grad,
        "grad_alpha_a": conv.binarizer.alpha.grad,
        "grad_beta_a": conv.binarizer.beta.grad,
    }


def _maxout(case: dict, values: dict) -> dict[str, torch.Tensor]:
    x = values["x"].requires_grad_()
    maxout = AdaBinMaxout(x.shape[1]).to(x.dtype)
    maxout.load_state_dict(_ours(case, x.dtype, "nonlinear1"))
    y = maxout(x)
    y.backward(values["grad_out"])
    return {
        "y": y,
        "grad_x": x.grad,
        "grad_neg_scale": maxout.negative_scale.grad,
        "grad_pos_scale": maxout.positive_scale.grad,
    }
