"""Configuration of LocalMIM (https://arxiv.org/abs/2303.05251) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset, imagenet_top1

TARGETS = ("hog", "pixels")


@strict
class LocalMimConfig(PreTrainedConfig):
    r"""
    Configuration of LocalMIM over ViT or Swin. The defaults are the paper's with ViT-B.

    Four places of the encoder reconstruct the image, low ones finely and high ones coarsely, each with its decoder.

    Args:
        backbone_config: of the encoder, a ViT or a Swin of transformers with four stages.
        taps: of a ViT, the blocks (from 0) after which a decoder looks; None for 1, 3, the last but two and the last.
            A Swin's are its stages.
        mask_ratio: share that is masked. Of a ViT's patches `int(patches · (1 - mask_ratio))` stay. A Swin is masked
            in blocks of 32 pixels, `int(blocks · mask_ratio) + 1` of them (the release is off by one).
        target: "hog", or "pixels" (Swin only).
        hog_bins: orientations of the histograms; `hog_bias`: the gradients of each scale have a fixed random shift,
            which belongs to the checkpoint.
        normalize_target: pixels of a patch by their mean and deviation; histograms always are.
        decoder_hidden_size: width of the decoders; that of a Swin's first one is half of it.
        decoder_num_hidden_layers, decoder_num_attention_heads: of each decoder.
        scale_weights: of the four losses.
        true_coordinates: of a Swin. The release takes the places of the second and the third stage's tokens from a
            list that goes row by row over the whole map, though the tokens lie block by block: windows and relative
            positions are those of other places. False computes as published, True puts it right.
    """

    model_type = "localmim"
    sub_configs = {"backbone_config": AutoConfig}
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig, model_type="vit", init_kwargs={"layer_norm_eps": 1e-6}
        )
    }

    backbone_config: dict | PreTrainedConfig | None = None
    taps: list[int] | None = None
    mask_ratio: float = 0.75
    target: str = "hog"
    hog_bins: int = 9
    hog_bias: bool = False
    normalize_target: bool = True
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 1
    decoder_num_attention_heads: int = 8
    scale_weights: list[float] | tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    true_coordinates: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.scale_weights = list(self.scale_weights)
        if self.taps is None and self.backbone_config.model_type == "vit":
            depth = self.backbone_config.num_hidden_layers
            self.taps = [1, 3, depth - 3, depth - 1]

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.backbone_config.image_size

    @property
    def num_channels(self) -> int:
        return self.backbone_config.num_channels

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        backbone = self.backbone_config
        if backbone.model_type not in ("vit", "swin"):
            raise ValueError(f"backbone_config: got model_type {backbone.model_type!r}, accepted are vit and swin.")
        is_vit = backbone.model_type == "vit"
        if is_vit and (len(set(self.taps)) != 4 or not set(self.taps) <= set(range(backbone.num_hidden_layers))):
            raise ValueError(
                f"taps: got {self.taps} of {backbone.num_hidden_layers} blocks, accepted are four different blocks; "
                "the published rule takes seven blocks at least."
            )
        if not is_vit and (len(backbone.depths) != 4 or self.taps is not None):
            raise ValueError("backbone_config: a Swin needs four stages, which are the taps; give no taps.")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio: got {self.mask_ratio}, accepted are values between 0 and 1.")
        if self.target not in TARGETS or (is_vit and self.target != "hog"):
            raise ValueError(f"target: got {self.target!r}, accepted is hog" + (" or pixels." if not is_vit else "."))
        if is_vit and backbone.patch_size != 16:
            raise ValueError(
                f"backbone_config: got patch_size {backbone.patch_size}; the cells of the target fit 16 only."
            )
        if self.image_size % 32:
            raise ValueError(f"backbone_config: got image_size {self.image_size}, accepted are multiples of 32.")
        if len(self.scale_weights) != 4:
            raise ValueError(f"scale_weights: got {self.scale_weights}, accepted are four numbers.")
        narrowest = self.decoder_hidden_size // (1 if is_vit else 2)
        if narrowest % self.decoder_num_attention_heads or narrowest % 4:
            raise ValueError(
                f"decoder_hidden_size: got {self.decoder_hidden_size}, whose narrowest decoder {narrowest} is no "
                f"multiple of 4 and of its {self.decoder_num_attention_heads} heads."
            )


def _processor() -> dict:
    return {
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


def _vit(width: int, depth: int, heads: int) -> dict:
    return {
        "model_type": "vit",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "layer_norm_eps": 1e-6,
    }


def _swin(embed_dim: int, num_heads: list[int], window_size: int) -> dict:
    return {
        "backbone_config": {
            "model_type": "swin",
            "image_size": 224,
            "embed_dim": embed_dim,
            "depths": [2, 2, 18, 2],
            "num_heads": num_heads,
            "window_size": window_size,
            "drop_path_rate": 0.0,
            "layer_norm_eps": 1e-6,
        },
        "decoder_hidden_size": 128,
        "decoder_num_attention_heads": 4,
    }


_HOG_18 = {"hog_bins": 18, "hog_bias": True}
_WEIGHTS = {
    "weights": "https://github.com/Haoqing-Wang/LocalMIM",
    "weights_license_note": "Headers of the models' code say CC-BY-NC; the folder's licence is BSD-3-like. Take the "
    "weights as non-commercial.",
    "image_processor": _processor(),
}


def _fine_tuned(value: float) -> tuple:
    return imagenet_top1(value, "official repository, fine-tuned at 224 pixels")


PRESETS: dict[str, Preset] = {
    "localmim-vit-base": Preset(
        model_type="localmim", config={}, parameters=90.269, published=_fine_tuned(84.0), **_WEIGHTS
    ),
    "localmim-vit-large": Preset(
        model_type="localmim",
        config={"backbone_config": _vit(1024, 24, 16), **_HOG_18},
        parameters=308.055,
        published=_fine_tuned(85.8),
        **_WEIGHTS,
    ),
    "localmim-swin-base": Preset(
        model_type="localmim",
        config={**_swin(128, [4, 8, 16, 32], 7), **_HOG_18},
        parameters=87.850,
        published=_fine_tuned(84.1),
        **_WEIGHTS,
    ),
    "localmim-swin-base-pixels": Preset(
        model_type="localmim",
        config={**_swin(128, [4, 8, 16, 32], 7), "target": "pixels"},
        parameters=88.729,
        published=_fine_tuned(84.0),
        **_WEIGHTS,
    ),
    "localmim-swin-large": Preset(
        model_type="localmim",
        config={**_swin(192, [6, 12, 24, 48], 14), **_HOG_18},
        parameters=196.592,
        published=_fine_tuned(85.6),
        **_WEIGHTS,
    ),
}
