"""Official SparK checkpoints, with the decoder, of ResNets and ConvNeXts -> ours, over transformers' encoders."""

import re

import torch

from .configuration_spark import SparkConfig

#: Buffers that the release says are of no use.
IGNORED = re.compile(r"^(imn_m|imn_s|norm_black)$|\.num_batches_tracked$|(^|\.)total_(ops|params)$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

_RESNET = tuple(
    (rf"^layer{number}\.(\d+)\.", rf"encoder.stages.{number - 1}.layers.\1.") for number in (1, 2, 3, 4)
) + tuple(
    (rf"(^encoder\.stages\.\d+\.layers\.\d+\.){theirs}{number}\b", rf"\1layer.{number - 1}.{ours}")
    for number in (1, 2, 3)
    for theirs, ours in (("conv", "convolution"), ("bn", "normalization"))
)

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^mask_tokens\.(\d+)$", r"densify.\1.mask_token"),
    (r"^densify_norms\.(\d+)\b", r"densify.\1.norm"),
    (r"^densify_projs\.(\d+)\b", r"densify.\1.projection"),
    (r"^dense_decoder\.proj\b", "decoder.prediction"),
    (r"^dense_decoder\.dec\.(\d+)\.up_sample\b", r"decoder.blocks.\1.enlarge"),
    (r"^dense_decoder\.dec\.(\d+)\.conv\.0\b", r"decoder.blocks.\1.conv1"),
    (r"^dense_decoder\.dec\.(\d+)\.conv\.1\b", r"decoder.blocks.\1.norm1"),
    (r"^dense_decoder\.dec\.(\d+)\.conv\.3\b", r"decoder.blocks.\1.conv2"),
    (r"^dense_decoder\.dec\.(\d+)\.conv\.4\b", r"decoder.blocks.\1.norm2"),
    (r"^sparse_encoder\.sp_cnn\.", ""),
    # ResNets by their names in timm
    (r"^conv1\b", "embedder.embedder.convolution"),
    (r"^bn1\b", "embedder.embedder.normalization"),
    *_RESNET,
    (r"\.downsample\.0\b", ".shortcut.convolution"),
    (r"\.downsample\.1\b", ".shortcut.normalization"),
    # ConvNeXts by their official names
    (r"^downsample_layers\.0\.0\b", "embeddings.patch_embeddings"),
    (r"^downsample_layers\.0\.1\b", "embeddings.layernorm"),
    (r"^downsample_layers\.(\d+)\b", r"encoder.stages.\1.downsampling_layer"),
    (r"^stages\.(\d+)\.(\d+)\.norm\b", r"encoder.stages.\1.layers.\2.layernorm"),
    (r"^stages\.(\d+)\.(\d+)\.gamma$", r"encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (r"^stages\.(\d+)\.(\d+)\b", r"encoder.stages.\1.layers.\2"),
)


def adapt(weights: dict[str, torch.Tensor], config: SparkConfig) -> SparkConfig:
    """A ConvNeXt's last norm, which is for the class, is in no pre-training's file: as it begins."""
    if config.backbone_config.model_type == "convnext" and "layernorm.weight" not in weights:
        like, width = weights["embeddings.layernorm.weight"], config.backbone_config.hidden_sizes[-1]
        weights["layernorm.weight"], weights["layernorm.bias"] = like.new_ones(width), like.new_zeros(width)
    return config
