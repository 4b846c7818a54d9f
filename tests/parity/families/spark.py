"""SparK: a step of pre-training over ResNets and a ConvNeXt that see what is visible only."""

import torch

from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.modeling.layers.visible import spread
from hf_effmodels.registry import ARCHITECTURES

from .. import golden

SYSTEMS = ("spark",)


def _backbone(published: dict) -> dict:
    if published["model"] == "convnext":
        return {"model_type": "convnext", "depths": published["depths"], "hidden_sizes": published["dims"]}
    if published.get("bottleneck"):
        return {"model_type": "resnet", "depths": published["depths"]}
    basic = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
    return {"model_type": "resnet", "depths": published["depths"], **basic}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    published, values, architecture = case["config"], golden.inputs(case, dtype), ARCHITECTURES["spark"]
    config = architecture.config_class(
        backbone_config=_backbone(published),
        decoder_hidden_size=published["width"],
        image_size=published["input_size"],
        mask_ratio=published["mask_ratio"],
        densify_norm={"bn": "batch", "ln": "layer"}[published["densify_norm"]],
    )
    model, _ = convert_state_dict(architecture, config, golden.state_dict(case, dtype))
    model.train(published["train"])
    output = model(values["pixel_values"], noise=values["noise"])
    output.loss.backward()
    found = {"mask": output.mask, "reconstruction": output.reconstruction, "loss": output.loss}
    for number, hidden in enumerate(output.feature_maps):
        found[f"feature_maps.{number}"] = hidden * spread(1 - output.mask[:, None], tuple(hidden.shape[-2:]))
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for name in case["outputs"]:
        kind, _, theirs = name.partition(".")
        if kind in ("grad", "buffer"):
            ours = official_name(architecture, theirs)
            ours = ours if ours.startswith(("decoder", "densify")) else f"encoder.{ours}"
            found[name] = parameters[ours].grad if kind == "grad" else buffers[ours]
    return found


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    """Single precision through batch norms in training mode, whose statistics are of a few places only."""
    return 1e-2 if dtype == "float32" and name.startswith("grad.") and case["config"]["train"] else None
