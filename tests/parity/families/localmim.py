"""LocalMIM: steps of pre-training over ViT and sparse Swin, the target, and the packing of windows."""

import torch
from torch.nn import functional as F

from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.modeling.layers.hog import histograms_of_gradients
from hf_effmodels.modeling.localmim.grouping import group_windows
from hf_effmodels.registry import ARCHITECTURES

from .. import golden

SYSTEMS = ("localmim",)

_ARCHITECTURE = ARCHITECTURES["localmim"]


def configuration(published: dict) -> dict:
    common = {"image_size": published["img_size"], "layer_norm_eps": published["layer_norm_eps"]}
    if "window_size" in published:
        names = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "patch_size")
        backbone = common | {"model_type": "swin", "drop_path_rate": 0.0, **{name: published[name] for name in names}}
        own = {"target": {"HOG": "hog", "Pixel": "pixels"}[published["target"]]}
        own["normalize_target"] = published.get("norm_pix_loss", True)
    else:
        width = published["embed_dim"]
        backbone = common | {
            "model_type": "vit",
            "patch_size": published["patch_size"],
            "hidden_size": width,
            "intermediate_size": int(width * published["mlp_ratio"]),
            "num_hidden_layers": published["depth"],
            "num_attention_heads": published["num_heads"],
        }
        own = {"taps": published["decoder_layers_after_block"]}
    return own | {
        "backbone_config": backbone,
        "mask_ratio": published["mask_ratio"],
        "hog_bins": published["hog_nbins"],
        "hog_bias": published["hog_bias"],
        "decoder_hidden_size": published["decoder_embed_dim"],
        "decoder_num_hidden_layers": published["decoder_depth"],
        "decoder_num_attention_heads": published["decoder_num_heads"],
    }


def _our_name(model, official: str) -> str:
    ours = official_name(_ARCHITECTURE, official)
    return ours if ours.startswith(("decoders", "norms")) else f"{model.base_model_prefix}.{ours}"


def _step(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, wanted = golden.inputs(case, dtype), case["outputs"]
    config = _ARCHITECTURE.config_class(**configuration(case["config"]))
    model, _ = convert_state_dict(_ARCHITECTURE, config, golden.state_dict(case, dtype))
    features = {}
    for name in wanted:
        if not name.startswith("feature."):
            continue
        official = name.removeprefix("feature.")
        if official == "encoder.layers.0.blocks.0":
            continue  # its groups are seen below, at the end of its MLP
        module = model.get_submodule(_our_name(model, official))
        module.register_forward_hook(lambda m, a, output, name=name: features.setdefault(name, output))
    if "feature.encoder.layers.0.blocks.0" in wanted:
        _watch_groups(model, features)
    output = model(values["pixel_values"], noise=values["noise"])
    output.loss.backward()
    results = {"loss": output.loss, "mask": output.mask}
    for scale in range(4):
        results |= {
            f"latent.{scale}": output.latents[scale],
            f"pred.{scale}": output.logits[scale],
            f"target.{scale}": output.targets[scale],
            f"scale_mask.{scale}": output.cell_masks[scale],
            f"loss.{scale}": output.losses[scale],
        }
        if isinstance(output.ids_restore, tuple):
            results[f"ids_restore.{scale}"] = output.ids_restore[scale]
    if not isinstance(output.ids_restore, tuple):
        results["ids_restore"] = output.ids_restore
    for name in wanted:
        if name.startswith("feature."):
            results[name] = features[name][0] if isinstance(features[name], tuple) else features[name]
        elif name.startswith("grad."):
            results[name] = _gradient(model, name.removeprefix("grad."))
    return {name: value for name, value in results.items() if name in wanted}


def _watch_groups(model, features: dict) -> None:
    """What the first block gives, group by group: the input of its second norm and the output of its MLP, added."""
    block, seen = model.encoder.encoder.layers[0].blocks[0], {}

    def keep(module, args):
        seen["input"] = args[0]

    block.layernorm_after.register_forward_pre_hook(keep)

    def add(module, args, output):
        features.setdefault("feature.encoder.layers.0.blocks.0", seen["input"] + output)

    block.mlp.register_forward_hook(add)


def _gradient(model, official: str) -> torch.Tensor:
    name, parameters = _our_name(model, official), dict(model.named_parameters())
    if ".qkv." in name:
        return torch.cat([parameters[name.replace("qkv", f"{part}_proj")].grad for part in "qkv"])
    return parameters[name].grad


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if case["state_dict"]:
        return _step(case, dtype)
    config, values = case["config"], golden.inputs(case, dtype)
    if "group_size" in config:
        counts = values["counts"].long().tolist()
        groups = group_windows(counts, config["group_size"])
        longest = case["outputs"]["groups"]["shape"][1]
        padded = [F.pad(torch.tensor(group), (0, longest - len(group)), value=-1) for group in groups]
        sizes = [sum(counts[number] for number in group) for group in groups]
        return {"group_sizes": torch.tensor(sizes).double(), "groups": torch.stack(padded).double()}
    bias = values.get("bias")
    options = {"pooling": "mean", "bias": bias}
    return {"hog": histograms_of_gradients(values["channel"], config["nbins"], config["pool"], **options)}
