"""Configuration of FastMIM (https://arxiv.org/abs/2212.06593) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset, imagenet_top1

TARGETS = ("hog", "pixels")


@strict
class FastMimConfig(PreTrainedConfig):
    r"""
    Configuration of masked image modelling over any backbone. The defaults are the paper's with ViT-B.

    Args:
        backbone_config: of the encoder, any vision model of transformers or of this package.
        encoder_stride: pixels along a side of what one output token of the encoder covers; None asks the backbone:
            its patch size where it has no stages, else 32.
        encoder_width: channels of the encoder's output; None finds out.
        image_size, num_channels: of the images that are trained on.
        block_size: side in pixels of the blocks that are masked as a whole.
        mask_ratio: share of the blocks that is masked.
        target: "hog", histograms of gradients, or "pixels".
        hog_bins, hog_cell, hog_window: see `histograms_of_gradients`.
        normalize_target: histograms by their length; pixels by the mean and deviation of their patch.
        decoder_hidden_size, decoder_num_hidden_layers: width and depth of the decoder; with depth 0 there is none but
            a norm, and the width has to be the encoder's.
        decoder_num_attention_heads: None for one per 32 channels.
        decoder_layer_norm_eps: published as 1e-6 over ViT and 1e-5 over the others.
        fixed_positions: the position table of a ViT is the sine-cosine one and is not trained.
    """

    model_type = "fastmim"
    sub_configs = {"backbone_config": AutoConfig}
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="vit",
            init_kwargs={"image_size": 128, "layer_norm_eps": 1e-6, "num_attention_heads": 6},
        )
    }

    backbone_config: dict | PreTrainedConfig | None = None
    encoder_stride: int | None = None
    encoder_width: int | None = None
    image_size: int | list[int] | tuple[int, int] = 128
    num_channels: int = 3
    block_size: int = 16
    mask_ratio: float = 0.75
    target: str = "hog"
    hog_bins: int = 9
    hog_cell: int = 8
    hog_window: int = 0
    normalize_target: bool = True
    decoder_hidden_size: int = 256
    decoder_num_hidden_layers: int = 1
    decoder_num_attention_heads: int | None = None
    decoder_layer_norm_eps: float = 1e-6
    fixed_positions: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.decoder_num_attention_heads is None:
            self.decoder_num_attention_heads = max(1, self.decoder_hidden_size // 32)
        if self.encoder_stride is None:
            backbone = self.backbone_config
            plain = not hasattr(backbone, "depths") and not hasattr(backbone, "embed_dims")
            patch = getattr(backbone, "patch_size", None)
            self.encoder_stride = patch if plain and isinstance(patch, int) else 32

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio: got {self.mask_ratio}, accepted are values between 0 and 1.")
        if self.target not in TARGETS:
            raise ValueError(f"target: got {self.target!r}, accepted are {' and '.join(TARGETS)}.")
        stride, block, cell = self.encoder_stride, self.block_size, self.hog_cell
        if block < 1 or block % stride and stride % block:
            raise ValueError(
                f"block_size: got {block}, accepted are multiples and divisors of the encoder's stride, {stride}."
            )
        if self.target == "hog" and (stride % cell or block % cell):
            raise ValueError(
                f"hog_cell: got {cell}, which does not divide the encoder's stride {stride} and block_size."
            )
        for side in [self.image_size] if isinstance(self.image_size, int) else self.image_size:
            if side % stride or side % block:
                raise ValueError(f"image_size: got {side}, accepted are multiples of {max(stride, block)}.")
        if self.decoder_hidden_size % self.decoder_num_attention_heads:
            raise ValueError(
                f"decoder_num_attention_heads: got {self.decoder_num_attention_heads}, which does not divide "
                f"decoder_hidden_size {self.decoder_hidden_size}."
            )

    @property
    def target_size(self) -> int:
        """Numbers that are predicted for a token."""
        if self.target == "hog":
            return (self.encoder_stride // self.hog_cell) ** 2 * self.num_channels * self.hog_bins
        return self.encoder_stride**2 * self.num_channels


_PROCESSOR = {
    "size": {"height": 128, "width": 128},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


_LICENSE_NOTE = "No licence is stated; parts of the code are derived from MAE's, which is CC-BY-NC 4.0."


def _swin(embed_dim: int, heads: list[int]) -> dict:
    return {
        "model_type": "swin",
        "image_size": 128,
        "embed_dim": embed_dim,
        "depths": [2, 2, 18, 2],
        "num_heads": heads,
        "window_size": 4,
        "layer_norm_eps": 1e-5,
    }


def _hierarchical(backbone: dict, **fields) -> dict:
    return {"backbone_config": backbone, "block_size": 32, "decoder_layer_norm_eps": 1e-5, **fields}


def _pvt_v2(depths: list[int], mlp_ratios: list[int]) -> dict:
    return {
        "model_type": "pvt_v2",
        "image_size": 128,
        "hidden_sizes": [64, 128, 320, 512],
        "num_attention_heads": [1, 2, 5, 8],
        "depths": depths,
        "mlp_ratios": mlp_ratios,
        "layer_norm_eps": 1e-6,
    }


PRESETS: dict[str, Preset] = {
    "fastmim-vit-base": Preset(
        model_type="fastmim",
        config={},
        image_processor=_PROCESSOR,
        parameters=86.712,
        published=imagenet_top1(83.8, "official repository, fine-tuned at 224 pixels"),
        weights="https://github.com/ggjy/FastMIM.pytorch",
        weights_license_note=_LICENSE_NOTE,
    ),
    "fastmim-swin-base": Preset(
        model_type="fastmim",
        config=_hierarchical(_swin(128, [4, 8, 16, 32]), decoder_num_hidden_layers=4),
        image_processor=_PROCESSOR,
        parameters=90.231,
        published=imagenet_top1(84.1, "official repository, fine-tuned at 224 pixels"),
        weights="https://github.com/ggjy/FastMIM.pytorch",
        weights_license_note=_LICENSE_NOTE,
    ),
    # How wide and deep their decoders were is not published: width 256 and one block here.
    "fastmim-pvt-v2-b2": Preset(
        model_type="fastmim",
        config=_hierarchical(_pvt_v2([3, 4, 6, 3], [8, 8, 4, 4]), target="pixels"),
        image_processor=_PROCESSOR,
        parameters=26.561,
        published=imagenet_top1(82.5, "official repository, fine-tuned at 224 pixels"),
        weights="https://github.com/ggjy/FastMIM.pytorch",
        weights_license_note=_LICENSE_NOTE,
    ),
    "fastmim-cmt-small": Preset(
        model_type="fastmim",
        config=_hierarchical({"model_type": "cmt", "image_size": 128, "final_norm": True}),
        image_processor=_PROCESSOR,
        parameters=25.092,
        published=imagenet_top1(83.9, "official repository, fine-tuned at 224 pixels"),
        weights="https://github.com/ggjy/FastMIM.pytorch",
        weights_license_note=_LICENSE_NOTE,
    ),
}
