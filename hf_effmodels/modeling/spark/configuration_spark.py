"""Configuration of SparK (https://arxiv.org/abs/2301.03580) and sizes to begin with."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset, imagenet_top1

NORMS = ("batch", "layer")


@strict
class SparkConfig(PreTrainedConfig):
    r"""
    Configuration of masked image modelling for convolutional networks, which see what is visible only.

    Args:
        backbone_config: of the encoder, any convolutional network of transformers or of this package.
        encoder_widths: channels of the maps that the decoder takes, the coarsest first; None finds out.
        image_size, num_channels: of the images that are trained on.
        block_size: side in pixels of the blocks that are masked as a whole: the encoder's stride, a power of two.
        mask_ratio: share of the blocks that is masked.
        scales: maps that the decoder takes, from the stride `block_size` on, each twice as fine as the one before.
        decoder_hidden_size: channels of the decoder at its beginning; each of its blocks halves them.
        densify_norm: of the encoder's maps before the decoder: "batch", or "layer"; None for the published choice,
            layer norms with ConvNeXts and batch norms with everything else.
        normalize_target: pixels by the mean and deviation of their block.
    """

    model_type = "spark"
    sub_configs = {"backbone_config": AutoConfig}
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    encoder_widths: list[int] | tuple[int, ...] | None = None
    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3
    block_size: int = 32
    mask_ratio: float = 0.6
    scales: int = 4
    decoder_hidden_size: int = 768
    densify_norm: str | None = None
    normalize_target: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.densify_norm is None:
            self.densify_norm = "layer" if self.backbone_config.model_type.startswith("convnext") else "batch"

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio: got {self.mask_ratio}, accepted are values between 0 and 1.")
        block = self.block_size
        if block < 2 or block & (block - 1):
            raise ValueError(f"block_size: got {block}, accepted are powers of two from 2.")
        if self.densify_norm not in NORMS:
            raise ValueError(f"densify_norm: got {self.densify_norm!r}, accepted are {' and '.join(NORMS)}.")
        steps = self.decoder_blocks
        if not 1 <= self.scales <= steps:
            raise ValueError(f"scales: got {self.scales}, accepted are 1 to {steps} with block_size {block}.")
        if self.decoder_hidden_size < 1 or self.decoder_hidden_size % 2**steps:
            raise ValueError(
                f"decoder_hidden_size: got {self.decoder_hidden_size}, accepted are multiples of {2**steps}, which "
                f"the {steps} blocks halve."
            )
        for side in [self.image_size] if isinstance(self.image_size, int) else self.image_size:
            if side % block:
                raise ValueError(f"image_size: got {side}, accepted are multiples of block_size, {block}.")
        if getattr(self.backbone_config, "reparameterized", False):
            raise ValueError("backbone_config: it is folded, and there is nothing to train in it.")
        if self.encoder_widths is not None and len(self.encoder_widths) != self.scales:
            raise ValueError(f"encoder_widths: got {self.encoder_widths}, accepted is one for each of {self.scales}.")

    @property
    def decoder_blocks(self) -> int:
        """Blocks of the decoder, each of which doubles the sides."""
        return self.block_size.bit_length() - 1

    @property
    def strides(self) -> list[int]:
        """Of the maps that the decoder takes, the coarsest first."""
        return [self.block_size >> number for number in range(self.scales)]


_PROCESSOR = {
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def _resnet(depths: list[int]) -> dict:
    return {"model_type": "resnet", "depths": depths}


def _convnext(depths: list[int], width: int, drop_path: float) -> dict:
    widths = [width << number for number in range(4)]
    return {"model_type": "convnext", "depths": depths, "hidden_sizes": widths, "drop_path_rate": drop_path}


def _preset(backbone: dict, parameters: tuple[float, float], top1: float, size: int = 224, **fields) -> Preset:
    """`parameters` in millions: all, and the encoder's."""
    return Preset(
        model_type="spark",
        config={"backbone_config": {**backbone, "image_size": size} if size != 224 else backbone, **fields},
        image_processor={**_PROCESSOR, "size": {"height": size, "width": size}},
        parameters=parameters[0],
        part_parameters={"encoder": parameters[1]},
        published=imagenet_top1(top1, f"official repository, fine-tuned at {size} pixels"),
        weights="https://github.com/keyu-tian/SparK",
        weights_license="mit",
    )


PRESETS: dict[str, Preset] = {
    "spark-resnet-50": _preset(_resnet([3, 4, 6, 3]), (52.922, 23.508), 80.6),
    "spark-resnet-101": _preset(_resnet([3, 4, 23, 3]), (71.914, 42.500), 82.2),
    "spark-resnet-152": _preset(_resnet([3, 8, 36, 3]), (87.558, 58.144), 82.7),
    "spark-resnet-200": _preset(_resnet([3, 24, 36, 3]), (92.039, 62.625), 83.1),
    "spark-convnext-small": _preset(_convnext([3, 3, 27, 3], 96, 0.2), (74.385, 49.455), 84.1),
    "spark-convnext-base": _preset(_convnext([3, 3, 27, 3], 128, 0.3), (113.866, 87.566), 84.8),
    "spark-convnext-large": _preset(_convnext([3, 3, 27, 3], 192, 0.4), (224.087, 196.230), 85.4),
    "spark-convnext-large-384": _preset(
        _convnext([3, 3, 27, 3], 192, 0.4), (224.087, 196.230), 86.0, 384, image_size=384, mask_ratio=0.75
    ),
}
