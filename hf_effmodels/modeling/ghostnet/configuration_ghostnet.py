"""Configurations of GhostNet (https://arxiv.org/abs/1911.11907), GhostNetV2 (https://arxiv.org/abs/2211.12905) and
GhostNetV3 (https://arxiv.org/abs/2404.11202), and their published variants.
"""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, imagenet_top1
from ..layers.widths import round_width

#: Rows of (depthwise kernel, expansion width, output width, squeeze-excite ratio, stride), a stage per feature stride.
#: The same for all three generations (GhostNet, table 1; widths before the multiplier).
STAGES = (
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


@strict
class GhostNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a GhostNet. The defaults are GhostNet 1.0x.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
        width_multiplier: factor of all widths but `head_size`; the products are rounded to multiples of 4.
        stem_size: output channels of the first convolution, before the multiplier.
        stages: for each stage the rows of its blocks, see `STAGES`.
        final_size: channels of the last 1×1 convolution, before the multiplier.
        head_size: width of the classifier's hidden layer.
        dfc_attention: gate the expanded features of every block but the first two by decoupled fully connected
            attention (GhostNetV2, section 4.2).
        num_conv_branches: k×k branches that each ghost convolution is trained with, beside a 1×1 and an identity
            branch (GhostNetV3, section 3.1); 0 for a single convolution without further branches.
        reparameterized: the model is folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "ghostnet"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    width_multiplier: float | int = 1.0
    stem_size: int = 16
    stages: list | tuple = STAGES
    final_size: int = 960
    head_size: int = 1280
    dfc_attention: bool = False
    num_conv_branches: int = 0
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
        for name in ("num_channels", "stem_size", "final_size", "head_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if self.num_conv_branches < 0:
            raise ValueError(f"num_conv_branches: got {self.num_conv_branches}, accepted are whole numbers from 0.")
        if not self.width_multiplier > 0:
            raise ValueError(f"width_multiplier: got {self.width_multiplier}, accepted are positive numbers.")
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


@strict
class GhostNetV2Config(GhostNetConfig):
    r"""Configuration of a GhostNetV2: a GhostNet with decoupled fully connected attention. See `GhostNetConfig`."""

    model_type = "ghostnetv2"

    dfc_attention: bool = True


@strict
class GhostNetV3Config(GhostNetConfig):
    r"""Configuration of a GhostNetV3: a GhostNetV2 trained with parallel branches that fold. See `GhostNetConfig`."""

    model_type = "ghostnetv3"

    dfc_attention: bool = True
    num_conv_branches: int = 3
    # The official forward has no dropout: its constructor takes the argument and ignores it.
    classifier_dropout: float | int = 0.0


_IMAGENET = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
_IMAGENET |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_BILINEAR, _BICUBIC = _IMAGENET | {"resample": 2}, _IMAGENET | {"resample": 3}
_RELEASES = "https://github.com/huawei-noah/Efficient-AI-Backbones/releases/download/"
_AS_TIMM = "the official folder has no licence file of its own; timm redistributes the weights as apache-2.0"

#: Published variants. Parameters and MACs (convolutions and linear layers, one 224×224 image) in millions, as trained
#: and as `reparameterize()` leaves them: it folds every batch norm, so that its parameters are a little fewer than the
#: official fusion's (6.148 M for GhostNetV3 1.0x). top1: ImageNet-1k, per cent.
PRESETS: dict[str, Preset] = {
    "ghostnet-0.5x": Preset(
        model_type="ghostnet",
        config={"width_multiplier": 0.5},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BILINEAR,
        parameters=2.587,
        macs=42.3,
        folded_parameters=2.582,
        folded_macs=42.3,
        published=imagenet_top1(66.2, "paper, quoted from memory"),
    ),
    "ghostnet-1.0x": Preset(
        model_type="ghostnet",
        config={"width_multiplier": 1.0},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BILINEAR,
        parameters=5.183,
        macs=141.2,
        folded_parameters=5.172,
        folded_macs=141.2,
        published=imagenet_top1(73.98, "official repository"),
        weights="https://github.com/huawei-noah/Efficient-AI-Backbones/blob/master/ghostnet_pytorch/models/"
        "state_dict_73.98.pth",
        weights_license="apache-2.0",
        timm="ghostnet_100.in1k",
    ),
    "ghostnet-1.3x": Preset(
        model_type="ghostnet",
        config={"width_multiplier": 1.3},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BILINEAR,
        parameters=7.359,
        macs=227.0,
        folded_parameters=7.345,
        folded_macs=227.0,
        published=imagenet_top1(75.7, "paper"),
    ),
    "ghostnetv2-1.0x": Preset(
        model_type="ghostnetv2",
        config={"width_multiplier": 1.0},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=6.157,
        macs=167.0,
        folded_parameters=6.126,
        folded_macs=167.0,
        published=imagenet_top1(75.3, "paper"),
        weights=_RELEASES + "GhostNetV2/ck_ghostnetv2_10.pth.tar",
        weights_license="apache-2.0",
        weights_license_note=_AS_TIMM,
        timm="ghostnetv2_100.in1k",
    ),
    "ghostnetv2-1.3x": Preset(
        model_type="ghostnetv2",
        config={"width_multiplier": 1.3},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=8.960,
        macs=269.3,
        folded_parameters=8.920,
        folded_macs=269.3,
        published=imagenet_top1(76.9, "paper"),
        weights=_RELEASES + "GhostNetV2/ck_ghostnetv2_13.pth.tar",
        weights_license="apache-2.0",
        weights_license_note=_AS_TIMM,
        timm="ghostnetv2_130.in1k",
    ),
    "ghostnetv2-1.6x": Preset(
        model_type="ghostnetv2",
        config={"width_multiplier": 1.6},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=12.393,
        macs=398.6,
        folded_parameters=12.343,
        folded_macs=398.6,
        published=imagenet_top1(77.8, "paper"),
        weights=_RELEASES + "GhostNetV2/ck_ghostnetv2_16.pth.tar",
        weights_license="apache-2.0",
        weights_license_note=_AS_TIMM,
        timm="ghostnetv2_160.in1k",
    ),
    "ghostnetv3-0.5x": Preset(
        model_type="ghostnetv3",
        config={"width_multiplier": 0.5},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=3.395,
        macs=117.5,
        folded_parameters=2.842,
        folded_macs=49.6,
        published=imagenet_top1(69.4, "paper, quoted from memory"),
    ),
    "ghostnetv3-1.0x": Preset(
        model_type="ghostnetv3",
        config={"width_multiplier": 1.0},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=8.129,
        macs=404.1,
        folded_parameters=6.126,
        folded_macs=167.0,
        published=imagenet_top1(77.1, "paper, quoted from memory"),
        weights=_RELEASES + "GhostNetV3/ghostnetv3-1.0.pth.tar",
        weights_license="apache-2.0",
        weights_license_note=_AS_TIMM,
        timm="ghostnetv3_100.in1k",
    ),
    "ghostnetv3-1.3x": Preset(
        model_type="ghostnetv3",
        config={"width_multiplier": 1.3},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=12.218,
        macs=654.8,
        folded_parameters=8.920,
        folded_macs=269.3,
        published=imagenet_top1(79.1, "paper"),
    ),
    "ghostnetv3-1.6x": Preset(
        model_type="ghostnetv3",
        config={"width_multiplier": 1.6},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_BICUBIC,
        parameters=17.276,
        macs=971.6,
        folded_parameters=12.343,
        folded_macs=398.6,
        published=imagenet_top1(80.4, "paper, quoted from memory"),
    ),
}
