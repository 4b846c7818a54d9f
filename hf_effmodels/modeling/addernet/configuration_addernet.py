"""Configuration of AdderNet (https://arxiv.org/abs/1912.13200) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, Published

STEMS = ("cifar", "imagenet")
BLOCKS = ("basic", "bottleneck")


@strict
class AdderNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of an AdderNet. The defaults are those of ResNet-50 for ImageNet.

    Args:
        num_channels: channels of the input images.
        image_size: side of the images in pixels the model is meant for; any other size works.
        stem: "cifar" (3×3 convolution) or "imagenet" (7×7 with stride 2, then max pooling): ordinary convolutions.
        block: "basic" (two 3×3 adder layers) or "bottleneck" (1×1, 3×3 with the stride, 1×1).
        hidden_sizes: channels after the stem and after each stage; those inside a bottleneck are a quarter.
        depths: blocks of each stage.
        classifier_bias: of the linear classifier, an ordinary one.
        classifier_norm: batch norm of the logits.
        adder_eta: η of the adaptive local rate of the adder layers.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "addernet"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    stem: str = "imagenet"
    block: str = "bottleneck"
    hidden_sizes: list[int] | tuple[int, ...] = (64, 256, 512, 1024, 2048)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    classifier_bias: bool = True
    classifier_norm: bool = True
    adder_eta: float | int = 0.2
    reparameterized: bool = False
    classifier_dropout: float | int = 0.0
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name, accepted in (("stem", STEMS), ("block", BLOCKS)):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, accepted are {', '.join(map(repr, accepted))}."
                )
        if self.num_channels < 1:
            raise ValueError(f"num_channels: got {self.num_channels}, accepted are whole numbers from 1.")
        for name in ("hidden_sizes", "depths"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if len(self.hidden_sizes) != len(self.depths) + 1:
            raise ValueError(
                f"hidden_sizes: got {self.hidden_sizes}, accepted are {len(self.depths) + 1} numbers for these depths."
            )
        if self.block == "bottleneck" and any(size % 4 for size in self.hidden_sizes[1:]):
            raise ValueError(f"hidden_sizes: got {self.hidden_sizes}, accepted for bottlenecks are multiples of 4.")
        if not self.adder_eta > 0:
            raise ValueError(f"adder_eta: got {self.adder_eta}, accepted are positive numbers.")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(
                f"classifier_dropout: got {self.classifier_dropout}, accepted are numbers from 0 to below 1."
            )

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


_SOURCE = "official repository"
_IMAGENET = {
    "num_labels": 1000,
    "classes": "imagenet-1k",
    "image_processor": {
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "resample": 2,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
}

#: Published variants. Parameters in millions; multiply-adds (in millions, one image of the variant's size) are those
#: of the ordinary convolutions and the classifier, the adder layers multiply nothing.
PRESETS: dict[str, Preset] = {
    "addernet-resnet20-cifar10": Preset(
        model_type="addernet",
        config={
            "image_size": 32,
            "stem": "cifar",
            "block": "basic",
            "hidden_sizes": [16, 16, 32, 64],
            "depths": [3, 3, 3],
            "classifier_bias": False,
        },
        num_labels=10,
        classes="cifar-10",
        image_processor={
            "size": {"shortest_edge": 32},
            "crop_pct": 1.0,
            "resample": 2,
            "image_mean": [0.4914, 0.4822, 0.4465],
            "image_std": [0.2023, 0.1994, 0.2010],
        },
        parameters=0.272,
        macs=0.4,
        folded_parameters=0.272,
        folded_macs=0.4,
        published=(Published("top-1", 92.02, "CIFAR-10", _SOURCE), Published("top-1", 67.6, "CIFAR-100", _SOURCE)),
    ),
    "addernet-resnet18": Preset(
        model_type="addernet",
        config={"block": "basic", "hidden_sizes": [64, 64, 128, 256, 512], "depths": [2, 2, 2, 2]},
        parameters=11.692,
        macs=118.5,
        folded_parameters=11.689,
        folded_macs=118.5,
        published=(
            Published("top-1", 67.0, "ImageNet-1k", _SOURCE),
            Published("top-5", 87.6, "ImageNet-1k", _SOURCE),
        ),
        **_IMAGENET,
    ),
    "addernet-resnet50": Preset(
        model_type="addernet",
        config={},
        parameters=25.559,
        macs=120.1,
        folded_parameters=25.557,
        folded_macs=120.1,
        published=(
            Published("top-1", 74.9, "ImageNet-1k", _SOURCE),
            Published("top-5", 91.7, "ImageNet-1k", _SOURCE),
        ),
        **_IMAGENET,
    ),
}
