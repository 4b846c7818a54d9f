"""Configuration of ParameterNet (https://arxiv.org/abs/2306.14525) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, Published, imagenet_top1
from ..layers.widths import round_width

#: Rows of (depthwise kernel, expansion width, output width, squeeze-excite ratio, stride), a stage per feature stride.
#: GhostNet's table but for the squeeze-excitations in all blocks of the last stage (official code; widths before the
#: multiplier).
STAGES = (
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2), (3, 72, 24, 0, 1)),
    ((5, 72, 40, 0.25, 2), (3, 120, 40, 0.25, 1), (3, 120, 40, 0.25, 1)),
    (
        (3, 240, 80, 0, 2),
        (3, 200, 80, 0, 1),
        (3, 200, 80, 0, 1),
        (3, 200, 80, 0, 1),
        (3, 480, 112, 0.25, 1),
        (3, 672, 112, 0.25, 1),
        (3, 672, 112, 0.25, 1),
    ),
    (
        (5, 672, 160, 0.25, 2),
        (3, 960, 160, 0.25, 1),
        (3, 960, 160, 0.25, 1),
        (3, 960, 160, 0.25, 1),
        (3, 960, 160, 0.25, 1),
        (3, 960, 160, 0.25, 1),
    ),
)

#: GhostNet's own rows, which the smaller network has.
GHOSTNET_STAGES = (
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2), (3, 72, 24, 0, 1)),
    ((5, 72, 40, 0.25, 2), (5, 120, 40, 0.25, 1)),
    (
        (3, 240, 80, 0, 2),
        (3, 200, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 480, 112, 0.25, 1),
        (3, 672, 112, 0.25, 1),
    ),
    (
        (5, 672, 160, 0.25, 2),
        (5, 960, 160, 0, 1),
        (5, 960, 160, 0.25, 1),
        (5, 960, 160, 0, 1),
        (5, 960, 160, 0.25, 1),
    ),
)

ACTIVATIONS = ("relu", "hardswish", "gelu", "silu")


@strict
class ParameterNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a ParameterNet. The defaults are ParameterNet-600M.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
        width_multiplier: factor of all widths but `head_size`; the products are rounded to multiples of 4.
        num_experts: kernels that each dynamic convolution mixes.
        stem_size: output channels of the first convolution, before the multiplier.
        stages: for each stage the rows of its blocks, see `STAGES`.
        final_size: channels of the last 1×1 convolution, before the multiplier.
        head_size: width of the classifier's hidden layer.
        hidden_act: activation: "relu", "hardswish", "gelu" or "silu". The squeeze-excitations use the same, except
            that they have a ReLU where this is "gelu" (official code).
        drop_path_rate: largest probability to drop a block's branch in training. It grows linearly from 0 over the
            groups of blocks, where each strided block is a group and the blocks behind it are the next.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "parameternet"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    width_multiplier: float | int = 1.9
    num_experts: int = 4
    stem_size: int = 16
    stages: list | tuple = STAGES
    final_size: int = 960
    head_size: int = 1280
    hidden_act: str = "hardswish"
    drop_path_rate: float | int = 0.0
    reparameterized: bool = False
    classifier_dropout: float | int = 0.2
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stages = [[list(row) for row in stage] for stage in self.stages]
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.stages) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("num_channels", "num_experts", "stem_size", "final_size", "head_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if not self.width_multiplier > 0:
            raise ValueError(f"width_multiplier: got {self.width_multiplier}, accepted are positive numbers.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: got {self.drop_path_rate}, accepted are numbers from 0 to below 1.")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act: got {self.hidden_act!r}, accepted are {', '.join(map(repr, ACTIVATIONS))}.")
        for row in (row for stage in self.stages for row in stage):
            if len(row) != 5 or row[0] % 2 == 0 or row[4] not in (1, 2):
                raise ValueError(
                    f"stages: got the row {row}, accepted are rows of (odd kernel, expansion width, output width, "
                    "squeeze-excite ratio, stride 1 or 2)."
                )

    def width(self, base: float) -> int:
        """Channels of a layer of the width `base` in the 1.0x network."""
        return round_width(base * self.width_multiplier, 4)

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels after the stem and after each stage."""
        return [self.width(self.stem_size)] + [self.width(stage[-1][2]) for stage in self.stages]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.stages)

    @property
    def drop_path_rates(self) -> list[list[float]]:
        """The probability of each block, stage by stage."""
        groups = []
        for stage in self.stages:
            for position, row in enumerate(stage):
                starts = position == 0 or row[4] > 1 or stage[position - 1][4] > 1
                groups.append(starts + (groups[-1] if groups else -1))
        rates = iter(self.drop_path_rate * group / max(groups[-1], 1) for group in groups)
        return [[next(rates) for _ in stage] for stage in self.stages]


_IMAGENET = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 2}
_IMAGENET |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _published(*, pretrained: float, plain: float) -> tuple[Published, ...]:
    """Top-1 with and without pre-training on ImageNet-22k."""
    return imagenet_top1(pretrained, "paper, pre-trained on ImageNet-22k") + imagenet_top1(plain, "paper")


#: Published variants. Parameters and MACs (convolutions, linear layers and the mixing of kernels, one 224×224 image)
#: in millions, as trained and folded. No weights were ever published.
PRESETS: dict[str, Preset] = {
    # Not in the official code. GhostNet's own rows at this width have the paper's parameters for 1, 4 and 8 experts
    # (8.6, 15.7 and 25.2 million); the activation is taken to be that of the larger network.
    "parameternet-300m": Preset(
        model_type="parameternet",
        config={"width_multiplier": 1.45, "stages": GHOSTNET_STAGES},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_IMAGENET,
        parameters=15.737,
        macs=292.3,
        folded_parameters=15.721,
        folded_macs=292.3,
        published=_published(pretrained=79.1, plain=77.2),
    ),
    "parameternet-600m": Preset(
        model_type="parameternet",
        config={"width_multiplier": 1.9},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_IMAGENET,
        parameters=34.505,
        macs=589.6,
        folded_parameters=34.480,
        folded_macs=589.6,
        published=_published(pretrained=81.6, plain=79.0),
    ),
}
