"""What a step of masked image modelling is set beside: other ways to train the same encoder without labels."""

import copy

import torch
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from ..models import create_model, get_config

#: Pixels along a side of what SimMIM is trained on, as published.
_PUBLISHED_SIDE = 224


class AtPublishedSize(nn.Module):
    """SimMIM over the same encoder on as many images of 224 pixels, whatever the size of the images given: FastMIM's
    claim is about images that are smaller (https://arxiv.org/abs/2212.06593, section 3.1)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor):
        large = torch.randn(len(pixels), pixels.shape[1], _PUBLISHED_SIDE, _PUBLISHED_SIDE)
        return self.model(large)


def simmim(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """SimMIM over the preset's encoder at the preset's size: every token of the image goes through it."""
    from ..modeling.simmim.configuration_simmim import SimMimConfig
    from ..modeling.simmim.modeling_simmim import SimMimForPreTraining

    return SimMimForPreTraining(SimMimConfig(backbone_config=_encoder(preset, overrides)))


def simmim_224(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """SimMIM over the preset's encoder at 224 pixels."""
    from ..modeling.simmim.configuration_simmim import SimMimConfig
    from ..modeling.simmim.modeling_simmim import SimMimForPreTraining

    encoder = _encoder(preset, overrides)
    encoder.image_size = _PUBLISHED_SIDE
    return AtPublishedSize(SimMimForPreTraining(SimMimConfig(backbone_config=encoder)))


def mae(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' masked autoencoder over the preset's ViT, with as many visible patches and its own decoder."""
    config = get_config(preset, **overrides)
    encoder = config.backbone_config
    if encoder.model_type != "vit":
        raise ValueError(f"against: mae is over a ViT, and {preset} is over {encoder.model_type}.")
    names = "hidden_size num_hidden_layers num_attention_heads intermediate_size image_size patch_size num_channels"
    same = {name: getattr(encoder, name) for name in names.split()}
    return ViTMAEForPreTraining(ViTMAEConfig(**same, mask_ratio=config.mask_ratio, norm_pix_loss=True))


def target_at_hand(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset with targets that are computed once: what remains of a step is what they do not cost."""
    model, kept = create_model(preset, **overrides), {}
    own = model.target_of

    def remembered(pixel_values: torch.Tensor, *scale):
        key = (*pixel_values.shape, *scale)
        if key not in kept:
            kept[key] = own(pixel_values, *scale)
        return kept[key]

    model.target_of = remembered
    return model


def _encoder(preset: str, overrides: dict):
    return copy.deepcopy(get_config(preset, **overrides).backbone_config)
