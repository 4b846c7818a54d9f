"""Configuration of TinySAM (https://arxiv.org/abs/2312.13789) and of what has its layout: MobileSAM."""

from math import prod

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.sam.configuration_sam import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig

from ...architecture import Preset, Published


@strict
class TinySamVisionConfig(PreTrainedConfig):
    r"""
    Configuration of TinySAM's image encoder: the stages of a TinyViT-5M with the last downsampling at stride 1, and
    SAM's neck. The defaults are the published ones.

    Args:
        image_size: side of the square images in pixels, a multiple of the encoder's stride (16).
        num_channels: channels of the input images.
        embed_dims, depths, num_heads, window_sizes, mlp_ratio, mbconv_expand_ratio, local_conv_size, hidden_act,
            hidden_dropout_prob, drop_path_rate, layer_norm_eps, batch_norm_eps, batch_norm_momentum,
            initializer_range: see `TinyVitConfig`.
        downsample_strides: of the downsampling before each stage from the second on.
        output_channels: channels of the image embeddings, the width of prompt encoder and mask decoder.
        neck_layer_norm_eps: of the neck's layer norms.
        num_pos_feats: half the width of the random Fourier position encoding.
        scale: standard deviation of its matrix at initialisation.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
    """

    base_config_key = "vision_config"
    model_type = "tinysam_vision_model"

    image_size: int = 1024
    num_channels: int = 3
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 14, 7)
    downsample_strides: list[int] | tuple[int, ...] = (2, 2, 1)
    mlp_ratio: float | int = 4.0
    mbconv_expand_ratio: float | int = 4.0
    local_conv_size: int = 3
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-5
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    initializer_range: float = 0.02
    output_channels: int = 256
    neck_layer_norm_eps: float = 1e-6
    num_pos_feats: int = 128
    scale: float | int = 1.0
    reparameterized: bool = False

    def __post_init__(self, **kwargs):
        for name in ("embed_dims", "depths", "num_heads", "window_sizes", "downsample_strides"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        stages = len(self.depths)
        for name, length in (
            ("embed_dims", stages),
            ("num_heads", stages - 1),
            ("window_sizes", stages - 1),
            ("downsample_strides", stages - 1),
        ):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are {length} numbers for these depths.")
        for name in ("embed_dims", "depths", "num_heads", "window_sizes"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("num_channels", "output_channels", "num_pos_feats", "mlp_ratio", "mbconv_expand_ratio", "scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        if not {1, 2} >= set(self.downsample_strides):
            raise ValueError(f"downsample_strides: got {self.downsample_strides}, accepted are 1 and 2.")
        if self.embed_dims[0] % 2:
            raise ValueError(f"embed_dims: got {self.embed_dims}, the first must be even: the stem halves it.")
        for width, heads in zip(self.embed_dims[1:], self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"num_heads: got {heads}, which does not divide the width {width} of its stage.")
        if self.local_conv_size < 1 or self.local_conv_size % 2 == 0:
            raise ValueError(f"local_conv_size: got {self.local_conv_size}, accepted are odd numbers.")
        for name in ("hidden_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to below 1.")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size: got {self.image_size}, accepted are multiples of the stride {self.patch_size}."
            )

    @property
    def patch_size(self) -> int:
        """Pixels of the image per position of the embeddings, in each direction."""
        return 4 * prod(self.downsample_strides)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage."""
        return self.embed_dims[-1]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


@strict
class TinySamConfig(SamConfig):
    r"""
    Configuration of a TinySAM: SAM's, with another image encoder. Where nothing is said, the layer norms of the mask
    decoder have the official epsilon 1e-5 (SAM's configuration says 1e-6), and the prompt encoder follows the image
    encoder's size and stride.

    Args:
        vision_config: a `TinySamVisionConfig` or its fields.
        prompt_encoder_config, mask_decoder_config: SAM's, or their fields.
        always_multimask: the model gives its three masks whatever `multimask_output` says, as TinySAM's official code,
            which has no such argument. MobileSAM's takes it.
        reparameterized: the image encoder's batch norms are folded for deployment (see `reparameterize()`).
        initializer_range: of the mask decoder and the prompt encoder.
    """

    model_type = "tinysam"
    sub_configs_defaults = {
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": TinySamVisionConfig,
    }

    always_multimask: bool = True
    reparameterized: bool = False

    def __post_init__(self, **kwargs):
        if self.vision_config is None:
            self.vision_config = TinySamVisionConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = TinySamVisionConfig(**self.vision_config)
        vision = self.vision_config
        self.reparameterized = vision.reparameterized = self.reparameterized or vision.reparameterized
        if not isinstance(self.prompt_encoder_config, PreTrainedConfig):
            follows = {
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "hidden_size": vision.output_channels,
            }
            self.prompt_encoder_config = SamPromptEncoderConfig(**{**follows, **(self.prompt_encoder_config or {})})
        if not isinstance(self.mask_decoder_config, PreTrainedConfig):
            official = {"layer_norm_eps": 1e-5, "hidden_size": vision.output_channels}
            self.mask_decoder_config = SamMaskDecoderConfig(**{**official, **(self.mask_decoder_config or {})})
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        vision, prompts, decoder = self.vision_config, self.prompt_encoder_config, self.mask_decoder_config
        for name, got, expected in (
            ("prompt_encoder_config.image_size", prompts.image_size, vision.image_size),
            ("prompt_encoder_config.patch_size", prompts.patch_size, vision.patch_size),
            ("prompt_encoder_config.hidden_size", prompts.hidden_size, vision.output_channels),
            ("mask_decoder_config.hidden_size", decoder.hidden_size, vision.output_channels),
            ("vision_config.num_pos_feats", vision.num_pos_feats * 2, vision.output_channels),
        ):
            if got != expected:
                raise ValueError(f"{name}: got {got}, the image encoder has {expected}.")

    @property
    def num_channels(self) -> int:
        return self.vision_config.num_channels

    @property
    def image_size(self) -> int:
        return self.vision_config.image_size


_PROCESSOR = {
    "size": {"longest_edge": 1024},
    "pad_size": {"height": 1024, "width": 1024},
    "image_mean": [123.675 / 255, 116.28 / 255, 103.53 / 255],
    "image_std": [58.395 / 255, 57.12 / 255, 57.375 / 255],
}


def _results(coco: float, lvis: float) -> tuple[Published, ...]:
    """Zero-shot instance segmentation with the boxes of ViTDet-H."""
    return (
        Published("mAP", coco, "COCO val2017, boxes of ViTDet-H", "paper"),
        Published("mAP", lvis, "LVIS v1, boxes of ViTDet-H", "paper"),
    )


#: Published variants. Parameters and MACs (convolutions and matrix products of the encoder, and of the decoder for one
#: point) in millions, at 1024 pixels.
PRESETS: dict[str, Preset] = {
    "tinysam": Preset(
        model_type="tinysam",
        config={},
        image_processor=_PROCESSOR,
        parameters=9.809,
        macs=40564.2,
        folded_parameters=9.804,
        folded_macs=40564.2,
        published=_results(42.3, 38.9),
        weights="https://github.com/xinghaochen/TinySAM/releases/download/3.0/tinysam_42.3.pth",
        weights_license="apache-2.0",
    ),
    "mobilesam": Preset(
        model_type="tinysam",
        config={"always_multimask": False},
        image_processor=_PROCESSOR,
        parameters=9.809,
        macs=40564.2,
        folded_parameters=9.804,
        folded_macs=40564.2,
        published=_results(41.0, 37.0),
        weights="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        weights_license="apache-2.0",
    ),
}
