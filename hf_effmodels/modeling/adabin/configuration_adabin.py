"""Configuration of AdaBin (https://arxiv.org/abs/2208.08084) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, Published, imagenet_top1

STEMS = ("cifar", "imagenet")
BLOCKS = ("basic", "plain")
SHORTCUTS = ("pad", "conv", "avgpool_conv")


@strict
class AdaBinConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of an AdaBin network. The defaults are those of ResNet-18 for ImageNet.

    Args:
        num_channels: channels of the input images.
        image_size: side of the images in pixels the model is meant for; any other size works.
        stem: "cifar" (3×3 convolution) or "imagenet" (7×7 with stride 2, then max pooling). The stem is real.
        block: "basic" (two binary convolutions, each with a shortcut) or "plain" (one binary convolution, none: VGG).
        hidden_sizes: channels after the stem and after each stage.
        depths: blocks of each stage.
        downsample_first: whether the first stage halves the map, too.
        shortcut: where a basic block changes the shape: "pad" (every second pixel, zero channels on both sides),
            "conv" (real 1×1 convolution and batch norm) or "avgpool_conv" (average pooling before it).
        pool_size: side of the map that the classifier sees: 1 is global average pooling.
        classifier_norm: batch norm of the pooled features before the classifier.
        binary_weights: False leaves the weights real: the first of two-step training, activations only (ReActNet,
            https://arxiv.org/abs/2003.03488).
        progressive: in training, the surrogate of the weights' sign sharpens from epoch to epoch: t goes from 10⁻³
            towards 10, k = max(1/t, 1). The published runs do so.
        surrogate_gain, surrogate_sharpness: k and t where `progressive` has not set them.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "adabin"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    stem: str = "imagenet"
    block: str = "basic"
    hidden_sizes: list[int] | tuple[int, ...] = (64, 64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    downsample_first: bool = False
    shortcut: str = "avgpool_conv"
    pool_size: int = 1
    classifier_norm: bool = True
    binary_weights: bool = True
    progressive: bool = False
    surrogate_gain: float | int = 10.0
    surrogate_sharpness: float | int = 0.1
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
        for name, accepted in (("stem", STEMS), ("block", BLOCKS), ("shortcut", SHORTCUTS)):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, accepted are {', '.join(map(repr, accepted))}."
                )
        for name in ("num_channels", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("hidden_sizes", "depths"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if len(self.hidden_sizes) != len(self.depths) + 1:
            raise ValueError(
                f"hidden_sizes: got {self.hidden_sizes}, accepted are {len(self.depths) + 1} numbers for these depths."
            )
        for before, after in zip(self.hidden_sizes[:-1], self.hidden_sizes[1:], strict=True):
            if self.block == "basic" and self.shortcut == "pad" and (after < before or (after - before) % 2):
                raise ValueError(
                    f"hidden_sizes: {before} to {after} channels cannot be padded with zeros by equal numbers on both "
                    "sides; accepted with shortcut='pad' are widths that grow by even numbers."
                )
        for name in ("surrogate_gain", "surrogate_sharpness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(
                f"classifier_dropout: got {self.classifier_dropout}, accepted are numbers from 0 to below 1."
            )

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


def _processor(size: int, crop_pct: float) -> dict:
    return {
        "size": {"shortest_edge": size},
        "crop_pct": crop_pct,
        "resample": 2,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }


#: ImageNet's mean and deviation for CIFAR-10, too: the official script has them, and the checkpoint needs them.
_CIFAR = {"num_labels": 10, "classes": "cifar-10", "image_processor": _processor(32, 1.0)}
_IMAGENET = {"num_labels": 1000, "classes": "imagenet-1k", "image_processor": _processor(224, 0.875)}
_CODE = "https://github.com/huawei-noah/Efficient-Computing/tree/master/BinaryNetworks/AdaBin"

#: Published variants. Parameters and MACs (convolutions and linear layers, one image of the variant's size; all of
#: the binary convolutions' are bit operations) in millions.
PRESETS: dict[str, Preset] = {
    "adabin-resnet20-cifar10": Preset(
        model_type="adabin",
        config={
            "image_size": 32,
            "stem": "cifar",
            "hidden_sizes": [16, 16, 32, 64],
            "depths": [3, 3, 3],
            "shortcut": "pad",
        },
        parameters=0.271,
        macs=40.6,
        folded_parameters=0.270,
        folded_macs=40.6,
        published=(
            Published("top-1", 88.1, "CIFAR-10", "official repository"),
            Published("top-1", 88.2, "CIFAR-10", "paper"),
        ),
        weights=f"{_CODE}/cifar10",
        weights_license="mit",
        **_CIFAR,
    ),
    "adabin-resnet18-cifar10": Preset(
        model_type="adabin",
        config={"image_size": 32, "stem": "cifar", "shortcut": "conv"},
        parameters=11.183,
        macs=555.4,
        folded_parameters=11.177,
        folded_macs=555.4,
        published=(Published("top-1", 93.1, "CIFAR-10", "paper"),),
        **_CIFAR,
    ),
    "adabin-vgg-small-cifar10": Preset(
        model_type="adabin",
        config={
            "image_size": 32,
            "stem": "cifar",
            "block": "plain",
            "hidden_sizes": [128, 128, 256, 512],
            "depths": [1, 2, 2],
            "downsample_first": True,
            "pool_size": 4,
            "classifier_norm": False,
        },
        parameters=4.664,
        macs=607.6,
        folded_parameters=4.662,
        folded_macs=607.6,
        published=(Published("top-1", 92.3, "CIFAR-10", "paper"),),
        **_CIFAR,
    ),
    "adabin-resnet18": Preset(
        model_type="adabin",
        config={},
        parameters=11.698,
        macs=1814.1,
        folded_parameters=11.693,
        folded_macs=1814.1,
        published=(
            *imagenet_top1(63.1, "paper"),
            Published("top-5", 84.3, "ImageNet-1k", "paper"),
            Published("top-1", 66.4, "ImageNet-1k", "paper, two-step training"),
            Published("top-5", 86.5, "ImageNet-1k", "paper, two-step training"),
        ),
        **_IMAGENET,
    ),
    "adabin-resnet34": Preset(
        model_type="adabin",
        config={"depths": [3, 4, 6, 3]},
        parameters=21.814,
        macs=3663.8,
        folded_parameters=21.804,
        folded_macs=3663.8,
        published=(*imagenet_top1(66.4, "paper"), Published("top-5", 86.6, "ImageNet-1k", "paper")),
        **_IMAGENET,
    ),
}
