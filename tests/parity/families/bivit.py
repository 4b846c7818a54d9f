"""BiViT: quantisers, binary linear layers, attention and MLP, all with gradients."""

import torch

from hf_effmodels.modeling.layers import bivit

from .. import golden

SYSTEMS = ("bivit",)
RULES = {
    "sign": bivit.clipped_sign,
    "zero_one": bivit.zero_one,
    "zero_one_scaled": lambda x: bivit.zero_one(x, scaled=True),
    "one_hot": bivit.one_hot,
}
LINEARS = {
    "STE": {"scale": "mean", "binary_inputs": True},
    "STE_32a": {"scale": "mean", "binary_inputs": False},
    "adapscaling": {"scale": "learned", "binary_inputs": True},
    "adapscaling_1w32a": {"scale": "learned", "binary_inputs": False},
    "32w1a": {"scale": None},
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = golden.inputs(case, dtype)
    run = {"quantisers": _quantisers, "elastic": _elastic, "minmax": _min_max}.get(case["variant"])
    return _module(case, values) if run is None else run(case["config"], values)


def _with_gradient(function, values: dict) -> tuple[torch.Tensor, torch.Tensor]:
    x = values["x"].clone().requires_grad_()
    y = function(x)
    y.backward(values["g"])
    return y, x.grad


def _quantisers(config: dict, values: dict) -> dict[str, torch.Tensor]:
    threshold = config["softmax_threshold"]
    rules = RULES | {"softmax_aware": lambda x: bivit.softmax_aware_quantizer(x, threshold)}
    results = {}
    for name in config["functions"]:
        y, gradient = _with_gradient(rules[name], values)
        ones = (y == y.max()).sum().reshape(1)
        results |= {name: y, f"{name}_ones": ones, f"{name}_grad": gradient}
    return results


def _elastic(config: dict, values: dict) -> dict[str, torch.Tensor]:
    assert config["layerwise"]
    quantizer = bivit.ElasticQuantizer(config["bits"], config["signed"]).to(values["x"].dtype)
    if config["alpha"] is not None:
        quantizer.alpha.data.fill_(config["alpha"])
        quantizer.is_initialized.fill_(True)
    y, gradient = _with_gradient(quantizer, values)
    return {"y": y, "grad_x": gradient, "alpha": quantizer.alpha, "grad_alpha": quantizer.alpha.grad}


def _min_max(config: dict, values: dict) -> dict[str, torch.Tensor]:
    results = {}
    for kind in ("symmetric", "asymmetric"):
        results[kind], results[f"{kind}_grad"] = _with_gradient(
            lambda x, kind=kind: bivit.min_max(
                x, config["bits"], config["clip"], symmetric=kind == "symmetric", layerwise=config["layerwise"]
            ),
            values,
        )
    return results


def _module(case: dict, values: dict) -> dict[str, torch.Tensor]:
    config, weights = case["config"], golden.state_dict(case, values["x"].dtype)
    name, _, kind = config["module"].partition("_")
    if name == "BinaryLinear":
        module = bivit.BiVitLinear(config["in_features"], config["out_features"], **LINEARS[kind])
    elif name == "BiAttention":
        module = bivit.BiVitAttention(
            config["dim"], config["num_heads"], softmax_aware={"SAB": True, "baseline": False}[kind]
        )
    else:
        options = LINEARS[{"": "STE", "1w32a": "STE_32a"}.get(kind, kind)]
        module = bivit.BiVitMlp(config["in_features"], config["hidden_features"], **options)
    module.to(values["x"].dtype)
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected and all(n.endswith("is_initialized") for n in missing)
    y, gradient = _with_gradient(module, values)
    results = {"y": y, "grad_x": gradient}
    for name, parameter in module.named_parameters():
        results |= {f"grad.{name}": parameter.grad, f"value.{name}": parameter}
    return results
