"""Official TinySAM and MobileSAM checkpoints -> ours.

The official encoder gathers its tables of biases when it is switched to evaluation, and a checkpoint loaded afterwards
does not reach what was gathered: until the next switch it runs without biases. Here they are gathered in every pass.
"""

import re
from collections.abc import Mapping

from .configuration_tinysam import TinySamConfig

#: The classifier of the encoder's pre-training, which is never used; index tables and gathered biases of older files;
#: SAM's pixel statistics.
IGNORED = re.compile(
    r"^image_encoder\.(norm_head|head)\.|\.(attention_bias_idxs|ab)$|^pixel_(mean|std)$|(^|\.)total_(ops|params)$"
)

#: Classes in the authors' quantised file, a whole pickled model.
PICKLED_MODULES = re.compile(
    r"(tinysam|quantization_layer|timm\.(models\.)?layers|torch\.nn)\.[\w.]+|torch\._C\._nn\.gelu"
)

#: The quantisation whose `published` module knows the layers in it.
PICKLED_QUANTIZATION = "twin_uniform"

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    (r"^image_encoder\.patch_embed\.seq\.0\b", "vision_encoder.stem.conv1"),
    (r"^image_encoder\.patch_embed\.seq\.1$", "vision_encoder.stem.activation"),
    (r"^image_encoder\.patch_embed\.seq\.2\b", "vision_encoder.stem.conv2"),
    (r"^image_encoder\.patch_embed$", "vision_encoder.stem"),
    # The official downsampling is at the end of a stage, ours at the beginning of the next.
    (r"^image_encoder\.layers\.(\d+)\.downsample\b", lambda m: f"vision_encoder.stages.{int(m[1]) + 1}.downsample"),
    (r"^image_encoder\.layers\.(\d+)\b", r"vision_encoder.stages.\1"),
    (r"^image_encoder\.neck\.0\b", "vision_encoder.neck.conv1"),
    (r"^image_encoder\.neck\.1\b", "vision_encoder.neck.layer_norm1"),
    (r"^image_encoder\.neck\.2\b", "vision_encoder.neck.conv2"),
    (r"^image_encoder\.neck\.3\b", "vision_encoder.neck.layer_norm2"),
    (r"^image_encoder$", "vision_encoder"),
    (r"^(vision_encoder\..*)\.attn\b", r"\1.attention"),
    (r"^(vision_encoder\..*)\.c(\.|$)", r"\1.conv\2"),
    (r"^(vision_encoder\..*)\.bn\b", r"\1.norm"),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.pe_layer$", "shared_image_embedding"),
    (r"^prompt_encoder\.point_embeddings\b", "prompt_encoder.point_embed"),
    (r"^prompt_encoder\.mask_downscaling\.0\b", "prompt_encoder.mask_embed.conv1"),
    (r"^prompt_encoder\.mask_downscaling\.1\b", "prompt_encoder.mask_embed.layer_norm1"),
    (r"^prompt_encoder\.mask_downscaling\.3\b", "prompt_encoder.mask_embed.conv2"),
    (r"^prompt_encoder\.mask_downscaling\.4\b", "prompt_encoder.mask_embed.layer_norm2"),
    (r"^prompt_encoder\.mask_downscaling\.6\b", "prompt_encoder.mask_embed.conv3"),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\b", r"\1.layer_norm\2"),
    (r"^mask_decoder\.transformer\.norm_final_attn\b", "mask_decoder.transformer.layer_norm_final_attn"),
    (r"^mask_decoder\.output_upscaling\.0\b", "mask_decoder.upscale_conv1"),
    (r"^mask_decoder\.output_upscaling\.1\b", "mask_decoder.upscale_layer_norm"),
    (r"^mask_decoder\.output_upscaling\.3\b", "mask_decoder.upscale_conv2"),
    (
        r"^mask_decoder\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.(\d+)\b",
        lambda m: f"mask_decoder.{m[1]}.{('proj_in', 'layers.0', 'proj_out')[int(m[2])] if int(m[2]) < 3 else m[2]}",
    ),
)


def adapt(state_dict: dict, config: TinySamConfig) -> TinySamConfig:
    """The configuration of the checkpoint's layout: there is only one.

    Files of older SAM code may leave out that the position matrix is there twice; transformers ties the two.
    """
    return config


def settings_of_modules(attributes: Mapping[str, Mapping]) -> dict:
    """Nothing of the configuration is in the pickled modules."""
    return {}
