"""FastMIM: pre-training steps over every encoder, its target, and tables of positions at other sizes."""

import torch

from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.modeling.layers import positions
from hf_effmodels.modeling.layers.hog import histograms_of_gradients
from hf_effmodels.registry import ARCHITECTURES

from .. import golden

SYSTEMS = ("fastmim",)
#: Its cases run these as well.
ALSO = ("cmt",)

_ARCHITECTURE = ARCHITECTURES["fastmim"]


def _backbone(published: dict) -> dict:
    common = {"image_size": published["img_size"], "layer_norm_eps": published["layer_norm_eps"]}
    if "window_size" in published:
        return common | {
            "model_type": "swin",
            **{name: published[name] for name in ("embed_dim", "depths", "num_heads", "window_size")},
        }
    if "stem_channel" in published:
        return common | {
            "model_type": "cmt",
            "stem_channels": published["stem_channel"],
            "final_norm": True,
            **{name: published[name] for name in ("embed_dims", "num_heads", "depths", "sr_ratios", "mlp_ratio")},
        }
    if "sr_ratios" in published:
        return common | {
            "model_type": "pvt_v2",
            "hidden_sizes": published["embed_dims"],
            "num_attention_heads": published["num_heads"],
            **{name: published[name] for name in ("mlp_ratios", "depths", "sr_ratios")},
        }
    width = published["embed_dim"]
    return common | {
        "model_type": "vit",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": published["depth"],
        "num_attention_heads": published["num_heads"],
        "patch_size": published["patch_size"],
    }


def configuration(published: dict) -> dict:
    backbone = _backbone(published)
    decoder_eps = 1e-6 if backbone["model_type"] == "vit" else 1e-5
    return {
        "backbone_config": backbone,
        "image_size": published["img_size"],
        "block_size": published["block_size"],
        "mask_ratio": published["mask_ratio"],
        "target": {"HOG": "hog", "l2": "pixels"}[published["mim_loss"]],
        "normalize_target": published["norm_pix_loss"],
        "decoder_hidden_size": published["decoder_embed_dim"],
        "decoder_num_hidden_layers": published["decoder_depth"],
        "decoder_num_attention_heads": published.get("decoder_num_heads"),
        "decoder_layer_norm_eps": published.get("decoder_layer_norm_eps", decoder_eps),
    }


def _step(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values = golden.inputs(case, dtype)
    config = _ARCHITECTURE.config_class(**configuration(case["config"]))
    model, _ = convert_state_dict(_ARCHITECTURE, config, golden.state_dict(case, dtype))
    features = {}
    for name in case["outputs"]:
        if name.startswith("feature."):
            module = model.get_submodule(_our_name(model, name.removeprefix("feature.")))
            module.register_forward_hook(lambda m, a, output, name=name: features.__setitem__(name, output))
    output = model(values["pixel_values"], noise=values["noise"])
    output.loss.backward()
    results = {
        "loss": output.loss,
        "pred": output.logits,
        "pixel_mask": output.pixel_mask,
        "loss_mask": output.loss_mask,
    }
    for name, expected in case["outputs"].items():
        if name.startswith("feature."):
            value = features[name][0] if isinstance(features[name], tuple) else features[name]
            if value.ndim == 4 and len(expected["shape"]) == 3:  # a map; CMT's last norm has the channels last
                value = value.flatten(1, 2) if name.endswith(".norm") else value.flatten(2).transpose(1, 2)
            results[name] = value
        elif name.startswith("grad."):
            results[name] = _gradient(model, name.removeprefix("grad."))
    return results


def _our_name(model, official: str) -> str:
    """Of an official module or parameter, in the encoder or beside it."""
    ours = official_name(_ARCHITECTURE, official)
    if ours == "layernorm" and model.config.backbone_config.model_type == "cmt":
        ours = "norm"
    return ours if ours.partition(".")[0] in ("decoder", "mask_token") else f"{model.base_model_prefix}.{ours}"


def _gradient(model, official: str) -> torch.Tensor:
    """Of an official parameter; those of joint projections are put together."""
    name, parameters = _our_name(model, official), dict(model.named_parameters())
    if ".qkv." in name:
        return torch.cat([parameters[name.replace("qkv", f"{part}_proj")].grad for part in "qkv"])
    return parameters[name].grad


def _hog(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    c = case["config"]
    options = {"window": c["gaussian_window"], "normalize": c["normalize"]}
    return {
        "hog": histograms_of_gradients(golden.inputs(case, dtype)["pixel_values"], c["nbins"], c["pool"], **options)
    }


def _relative_bias(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    table, window = golden.inputs(case, dtype)["table"], case["config"]["target_window"]
    return {name: positions.resize_relative_bias(table, window, method=name) for name in case["outputs"]}


def _functions(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], golden.inputs(case, dtype)
    if "nbins" in config:
        return _hog(case, dtype)
    if "target_window" in config:
        return _relative_bias(case, dtype)
    if "relative_pos_c" in values:
        return {"relative_pos_c": positions.resize_bias_plane(values["relative_pos_c"], *config["target"][1:])}
    if "target_grid" in config:
        side = config["target_grid"]
        table = positions.resize_positions(values["pos_embed"], side, side, extra_tokens=config["extra_tokens"])
        return {"pos_embed": table}
    side, extra = config["grid"], int(config["cls_token"])
    return {"pos_embed": positions.sine_cosine_positions(config["dim"], side, side, extra_tokens=extra)}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _step(case, dtype) if case["state_dict"] else _functions(case, dtype)
