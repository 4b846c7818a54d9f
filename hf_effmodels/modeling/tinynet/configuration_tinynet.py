"""Configuration of TinyNet (https://arxiv.org/abs/2010.14819) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, imagenet_top1
from ..layers.widths import round_width

#: EfficientNet-B0, which all TinyNets shrink: rows of (blocks, depthwise kernel, stride, expansion, output width), a
#: row per stage. Expansion 1 is a depthwise separable block, another an inverted residual.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
#: Side of EfficientNet-B0's images in pixels.
BASE_SIZE = 224


@strict
class TinyNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a TinyNet: EfficientNet-B0 with a smaller resolution r, depth d and width w. The defaults are
    EfficientNet-B0's proportions (r = d = w = 1).

    Args:
        num_channels: channels of the input images.
        resolution_multiplier: r; says only what `image_size` is by default.
        depth_multiplier: d, factor of the numbers of blocks; the products are rounded, to 1 at least.
        width_multiplier: w, factor of the stages' widths; the products are rounded to multiples of 8.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
            ⌊224r⌋ by default.
        stem_size: output channels of the first convolution, which the multiplier leaves alone.
        stages: a row for each stage, see `STAGES`; blocks and widths before the multipliers.
        squeeze_ratio: width of the squeeze-and-excitation's hidden layer over that of the block's input; 0 for none.
        final_size: channels of the last 1×1 convolution, before the multiplier, and at least.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        drop_path_rate: rate of stochastic depth after the last block; linear in the number of the block.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "tinynet"

    num_channels: int = 3
    resolution_multiplier: float | int = 1.0
    depth_multiplier: float | int = 1.0
    width_multiplier: float | int = 1.0
    image_size: int | list[int] | tuple[int, int] | None = None
    stem_size: int = 32
    stages: list | tuple = STAGES
    squeeze_ratio: float | int = 0.25
    final_size: int = 1280
    reparameterized: bool = False
    classifier_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        if self.image_size is None:
            self.image_size = int(BASE_SIZE * self.resolution_multiplier)
        self.stages = [list(row) for row in self.stages]
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.stages) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("num_channels", "stem_size", "final_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("resolution_multiplier", "depth_multiplier", "width_multiplier"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        for row in self.stages:
            if len(row) != 5 or row[0] < 1 or row[1] % 2 == 0 or row[2] not in (1, 2) or row[3] < 1 or row[4] < 1:
                raise ValueError(
                    f"stages: got the row {row}, accepted are rows of (blocks from 1, odd kernel, stride 1 or 2, "
                    "expansion from 1, output width)."
                )
        if not self.squeeze_ratio >= 0:
            raise ValueError(f"squeeze_ratio: got {self.squeeze_ratio}, accepted are numbers from 0.")
        for name in ("classifier_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to below 1.")

    @property
    def depths(self) -> list[int]:
        """Number of blocks in each stage."""
        return [max(1, round(row[0] * self.depth_multiplier)) for row in self.stages]

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels after the stem and after each stage."""
        return [self.stem_size] + [round_width(row[4] * self.width_multiplier, 8) for row in self.stages]

    @property
    def head_size(self) -> int:
        """Channels of the pooled features."""
        return max(self.final_size, round_width(self.final_size * self.width_multiplier, 8))

    @property
    def num_hidden_layers(self) -> int:
        return len(self.stages)


def _preset(
    variant: str,
    multipliers: tuple[float, float, float],
    size: int,
    parameters: tuple[float, float],
    macs: float,
    top1: float,
) -> Preset:
    """`multipliers`: resolution, width, depth. `parameters` (as trained and folded) and `macs` in millions."""
    names = ("resolution_multiplier", "width_multiplier", "depth_multiplier")
    return Preset(
        model_type="tinynet",
        config=dict(zip(names, multipliers, strict=True)),
        num_labels=1000,
        classes="imagenet-1k",
        image_processor={
            "size": {"shortest_edge": size},
            "crop_pct": 0.875,
            "resample": 3,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=parameters[0],
        macs=macs,
        folded_parameters=parameters[1],
        folded_macs=macs,
        published=imagenet_top1(top1, "official repository"),
        weights=f"https://github.com/huawei-noah/CV-Backbones/releases/download/v1.2.0/tinynet_{variant}.pth",
        weights_license="apache-2.0",
        timm=f"tinynet_{variant}.in1k",
    )


#: Published variants. Parameters and MACs (convolutions and linear layers, one image of the variant's size) in
#: millions. top1: ImageNet-1k, per cent.
PRESETS: dict[str, Preset] = {
    "tinynet-a": _preset("a", (0.86, 1.0, 1.2), 192, (6.188, 6.162), 336.9, 76.8),
    "tinynet-b": _preset("b", (0.84, 0.75, 1.1), 188, (3.731, 3.714), 200.7, 75.0),
    "tinynet-c": _preset("c", (0.825, 0.54, 0.85), 184, (2.457, 2.446), 99.5, 71.2),
    "tinynet-d": _preset("d", (0.68, 0.54, 0.695), 152, (2.338, 2.330), 51.6, 67.0),
    "tinynet-e": _preset("e", (0.475, 0.51, 0.60), 106, (2.043, 2.036), 24.4, 59.9),
}
