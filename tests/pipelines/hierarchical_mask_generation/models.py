"""Tiny promptable models of transformers, none of them written here, and what prepares their images."""

import functools

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    BatchFeature,
    Sam2Config,
    Sam2Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamImageProcessorPil,
    SamModel,
)

from hf_effmodels.pipelines.hierarchical_mask_generation.embedding import embed
from hf_effmodels.pipelines.hierarchical_mask_generation.points import grid

SIDE = 64


class StretchingProcessor:
    """What SAM 2's image processor does to an image, which itself needs torchvision: the square, and nothing else."""

    size = {"height": SIDE, "width": SIDE}

    def __call__(self, images, return_tensors="pt"):
        pixels = torch.from_numpy(np.array(images)).permute(2, 0, 1)[None].float() / 255
        sizes = torch.tensor([pixels.shape[-2:]])
        pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return BatchFeature({"pixel_values": pixels * 2 - 1, "original_sizes": sizes})

    def post_process_masks(self, masks, original_sizes, mask_threshold=0.0, binarize=True, **kwargs):
        assert not binarize
        return [
            F.interpolate(m, s, mode="bilinear", align_corners=False)
            for m, s in zip(masks, original_sizes, strict=True)
        ]


_PROMPTS = {"hidden_size": 16, "image_size": SIDE, "mask_input_channels": 8}
_DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


def _sam(config_class, model_class, **decoder):
    vision = {
        "hidden_size": 16,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
        "initializer_range": 0.2,
    }
    config = config_class(
        vision_config=vision,
        prompt_encoder_config={**_PROMPTS, "patch_size": 16},
        mask_decoder_config={**_DECODER, **decoder},
    )
    processor = SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    return model_class(config), processor


def _sam2():
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 2, 1, 1],
        "embed_dim_per_stage": [8, 16, 24, 32],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [8, 4, 2, 2],
        "global_attention_blocks": [2],
        "window_positional_embedding_background_size": [4, 4],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [32, 24, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config={**_PROMPTS, "patch_size": 16},
        mask_decoder_config=_DECODER,
    )
    return Sam2Model(config), StretchingProcessor()


def _sam3_tracker():
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "pretrain_image_size": SIDE,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    vision = {
        "backbone_config": backbone,
        "fpn_hidden_size": 16,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "scale_factors": [4.0, 2.0, 1.0],
    }
    config = Sam3TrackerConfig(
        vision_config=vision,
        prompt_encoder_config={**_PROMPTS, "patch_size": 16},
        mask_decoder_config=_DECODER,
    )
    return Sam3TrackerModel(config), StretchingProcessor()


BUILDERS = {
    "sam": lambda: _sam(SamConfig, SamModel),
    "sam_hq": lambda: _sam(SamHQConfig, SamHQModel, vit_dim=16),
    "sam2": _sam2,
    "sam3_tracker": _sam3_tracker,
}


@functools.cache
def build(name: str):
    """A model whose masks and scores lie on both sides of the thresholds, and its image processor."""
    torch.manual_seed(3)
    model, processor = BUILDERS[name]()
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5, generator=generator)
    embedded = embed(model, processor, picture())
    logits, scores = embedded.ask_points(grid(6) * SIDE)
    decoder = model.mask_decoder
    for network in decoder.output_hypernetworks_mlps:
        for parameter in network.proj_out.parameters():
            parameter.mul_(20 / logits.std())
    head = decoder.iou_prediction_head
    values, width, middle = (scores.logit(), 0.5, 0.8) if head.sigmoid_output else (scores, 0.1, 0.7)
    factor = width / values.std()
    head.proj_out.weight.mul_(factor)
    head.proj_out.bias.mul_(factor).add_(middle - values.median() * factor)
    return model, processor


def picture(width: int = 90, height: int = 70) -> Image.Image:
    """A few shapes on a gradient."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([(x * 2) % 256, (y * 3) % 256, (x + y) % 256], -1).astype(np.uint8)
    pixels[height // 5 : height // 2, width // 6 : width // 2] = (250, 20, 30)
    pixels[(x - width * 0.7) ** 2 + (y - height * 0.6) ** 2 < (height / 5) ** 2] = (20, 240, 60)
    return Image.fromarray(pixels)
