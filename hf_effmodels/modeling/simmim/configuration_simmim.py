"""Configuration of SimMIM (https://arxiv.org/abs/2111.09886) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset, imagenet_top1

#: Kinds of encoders that have a mask token -> what they are built with, so that they have one and no pooler.
ENCODERS = {
    "beit": {"add_pooling_layer": False},
    "vit": {"add_pooling_layer": False, "use_mask_token": True},
    "deit": {"add_pooling_layer": False, "use_mask_token": True},
    "swin": {"add_pooling_layer": False, "use_mask_token": True},
    "swinv2": {"add_pooling_layer": False, "use_mask_token": True},
}

_SHARED_BIAS = {
    "use_mask_token": True,
    "use_mean_pooling": False,
    "use_shared_relative_position_bias": True,
    "layer_scale_init_value": 0.1,
    "layer_norm_eps": 1e-6,
    "drop_path_rate": 0.1,
}


@strict
class SimMimConfig(PreTrainedConfig):
    r"""
    Configuration of SimMIM over a transformer of transformers. The defaults are the paper's with ViT-B.

    Args:
        backbone_config: of the encoder: BEiT (the paper's ViT, with one bias of relative positions for all blocks),
            ViT, DeiT, Swin or Swin v2.
        mask_block_size: side in pixels of the blocks that are masked as a whole; a multiple of the patch size.
        mask_ratio: share of the blocks that is masked, rounded up.
    """

    model_type = "simmim"
    sub_configs = {"backbone_config": AutoConfig}
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="beit", init_kwargs=_SHARED_BIAS)
    }

    backbone_config: dict | PreTrainedConfig | None = None
    mask_block_size: int = 32
    mask_ratio: float = 0.6
    initializer_range: float = 0.02

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        kind = self.backbone_config.model_type
        if kind not in ENCODERS:
            raise ValueError(
                f"backbone_config: got model_type {kind!r}, accepted are {', '.join(ENCODERS)}; FastMIM trains any."
            )
        if kind == "beit" and not self.backbone_config.use_mask_token:
            raise ValueError("backbone_config: got use_mask_token False, accepted is True.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio: got {self.mask_ratio}, accepted are values between 0 and 1.")
        patch = self.backbone_config.patch_size
        if self.mask_block_size < 1 or self.mask_block_size % patch:
            raise ValueError(f"mask_block_size: got {self.mask_block_size}, accepted are multiples of {patch}.")

    @property
    def image_size(self) -> int:
        """Side of the images that the encoder is for."""
        return self.backbone_config.image_size

    @property
    def num_channels(self) -> int:
        return self.backbone_config.num_channels

    @property
    def encoder_stride(self) -> int:
        """Pixels along a side of what one output token of the encoder covers."""
        stages = getattr(self.backbone_config, "depths", None)
        return self.backbone_config.patch_size * (2 ** (len(stages) - 1) if stages else 1)


def _processor(size: int) -> dict:
    return {
        "size": {"height": size, "width": size},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def _swin(embed_dim: int, num_heads: list[int], window_size: int) -> dict:
    return {
        "backbone_config": {
            "model_type": "swin",
            "image_size": 192,
            "embed_dim": embed_dim,
            "depths": [2, 2, 18, 2],
            "num_heads": num_heads,
            "window_size": window_size,
            "drop_path_rate": 0.0,
            "layer_norm_eps": 1e-5,
        }
    }


_WEIGHTS = {"weights": "https://github.com/microsoft/SimMIM", "weights_license": "mit"}

PRESETS: dict[str, Preset] = {
    "simmim-vit-base": Preset(
        model_type="simmim",
        config={},
        image_processor=_processor(224),
        parameters=86.257,
        published=imagenet_top1(83.8, "official repository, 800 epochs, fine-tuned at 224 pixels"),
        **_WEIGHTS,
    ),
    "simmim-swin-base": Preset(
        model_type="simmim",
        config=_swin(128, [4, 8, 16, 32], 6),
        image_processor=_processor(192),
        parameters=89.874,
        published=imagenet_top1(84.0, "official repository, 800 epochs, fine-tuned at 224 pixels"),
        **_WEIGHTS,
    ),
    "simmim-swin-large": Preset(
        model_type="simmim",
        config=_swin(192, [6, 12, 24, 48], 12),
        image_processor=_processor(192),
        parameters=199.920,
        published=imagenet_top1(85.4, "official repository, 800 epochs, fine-tuned at 224 pixels"),
        **_WEIGHTS,
    ),
}
