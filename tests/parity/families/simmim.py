"""SimMIM: a step of pre-training over Swin and over the ViT with a shared bias."""

import torch

from hf_effmodels.hub.convert import convert_state_dict
from hf_effmodels.registry import ARCHITECTURES

from .. import golden

SYSTEMS = ("simmim",)


def _backbone(published: dict) -> dict:
    common = {
        "image_size": published["img_size"],
        "patch_size": published["patch_size"],
        "drop_path_rate": published["drop_path_rate"],
    }
    if "depths" in published:
        names = ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias")
        return common | {"model_type": "swin", **{name: published[name] for name in names}}
    width = published["embed_dim"]
    return common | {
        "model_type": "beit",
        "hidden_size": width,
        "intermediate_size": int(width * published["mlp_ratio"]),
        "num_hidden_layers": published["depth"],
        "num_attention_heads": published["num_heads"],
        "layer_scale_init_value": published["init_values"],
        "use_mask_token": True,
        "use_mean_pooling": published["use_mean_pooling"],
        "use_absolute_position_embeddings": published["use_abs_pos_emb"],
        "use_relative_position_bias": published["use_rel_pos_bias"],
        "use_shared_relative_position_bias": published["use_shared_rel_pos_bias"],
        "layer_norm_eps": 1e-6,
    }


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    published, values, architecture = case["config"], golden.inputs(case, dtype), ARCHITECTURES["simmim"]
    config = architecture.config_class(
        backbone_config=_backbone(published),
        mask_block_size=published["mask_patch_size"],
        mask_ratio=published["mask_ratio"],
    )
    model, _ = convert_state_dict(architecture, config, golden.state_dict(case, dtype))
    output = model(values["pixel_values"], noise=values["noise"])
    output.loss.backward()
    rows, columns = case["outputs"]["features"]["shape"][-2:]
    tokens = output.last_hidden_state[:, -rows * columns :]
    return {
        "mask": output.mask,
        "features": tokens.transpose(1, 2).unflatten(2, (rows, columns)),
        "reconstruction": output.reconstruction,
        "loss": output.loss,
        "grad.encoder.mask_token": model.mask_token.grad,
        "grad.encoder.patch_embed.proj.weight": model.encoder.embeddings.patch_embeddings.projection.weight.grad,
    }
