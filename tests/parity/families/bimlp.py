"""BiMLP: whole networks, blocks and their parts, and the binary convolution, all in evaluation."""

import torch

from hf_effmodels.hub.convert import official_name
from hf_effmodels.modeling.bimlp.configuration_bimlp import BiMlpConfig
from hf_effmodels.modeling.bimlp.convert_bimlp import adapt
from hf_effmodels.modeling.bimlp.modeling_bimlp import BiMlpBlock, BiMlpDownsample, BiMlpMlp, BiMlpTokenMixing
from hf_effmodels.modeling.layers.binary import BinaryConv2d
from hf_effmodels.registry import ARCHITECTURES

from .. import golden
from ..classification import ClassifierCase
from ..discontinuous import use_exact_steps

SYSTEMS = ("bimlp",)
STAGE_NORMS = {"batch": "batch", "group1": "group", "group": "group"}


class BiMlpCase(ClassifierCase):
    def configuration(self) -> dict:
        published = self.case["config"]
        assert set(published["mlp_ratios"]) == {4}
        widths = published["embed_dims"]
        return {
            "hidden_sizes": [widths[0], *widths],
            "depths": published["layers"],
            "stage_norm": STAGE_NORMS[published["stage_norm"]],
            "num_labels": published["num_classes"],
        }

    def outputs(self) -> dict[str, torch.Tensor]:
        for name in self.wanted - {"logits"}:
            self.our_module(name).register_forward_hook(self._keep(name))
        if self.dtype == torch.float32:
            exact = BiMlpCase(self.case, torch.float64)
            use_exact_steps(self.model, exact.model, exact.values["pixel_values"])
        with torch.no_grad():
            logits = self.model(self.values["pixel_values"]).logits
        return self.shaped({"logits": logits, **self.features})


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "layers" in case["config"]:
        return BiMlpCase(case, dtype).outputs()
    if case["variant"].startswith("fn_quanconv"):
        return _convolution(case, dtype)
    part, x = _part(case, dtype), golden.inputs(case, dtype)["x"]
    if dtype == torch.float32:
        use_exact_steps(part, _part(case, torch.float64), golden.inputs(case, torch.float64)["x"])
    with torch.no_grad():
        return {"out": part(x)}


def _part(case: dict, dtype: torch.dtype) -> torch.nn.Module:
    """A part of a network with the case's weights."""
    published = case["config"]
    config = BiMlpConfig(stage_norm=STAGE_NORMS[published.get("norm", "batch")])
    kind = case["variant"].removeprefix("fn_").split("_")[0]
    part, place = {
        "block": lambda: (BiMlpBlock(config, published["dim"]), "network.0.0"),
        "patm": lambda: (BiMlpTokenMixing(config, published["dim"]), "network.0.0.attn"),
        "mlp": lambda: (
            BiMlpMlp(config, published["in"], published["hidden"], published["out"]),
            "network.0.0.mlp",
        ),
        "downsample": lambda: (BiMlpDownsample(config, published["in"], published["out"]), "network.1"),
    }[kind]()
    architecture = ARCHITECTURES["bimlp"]
    weights = {
        official_name(architecture, f"{place}.{name}"): value for name, value in golden.state_dict(case, dtype).items()
    }
    adapt(weights, config)
    prefix = official_name(architecture, place) + "."
    part = part.to(dtype).eval()
    expected = part.state_dict()
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    weights = {name: value.reshape(expected[name].shape) for name, value in weights.items()}
    missing, unexpected = part.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return part


@torch.no_grad()
def _convolution(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, x = case["config"], golden.inputs(case, dtype)["x"]
    conv = BinaryConv2d(
        config["in"],
        config["out"],
        tuple(config["kernel"]),
        padding=tuple(config["padding"]),
        groups=config["groups"],
        bias=False,
        weights="scaled",
        activations="ternary",
    ).to(dtype)
    conv.load_state_dict(golden.state_dict(case, dtype))
    return {"out": conv(x), "quantised_weight": conv.binary_weight(), "quantised_input": conv.binarizer(x)}
