"""Configuration of the networks of CDFKD-MFS (https://arxiv.org/abs/2205.11845) and their published variants."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset

TRUNKS = ("resnet", "wide_resnet", "backbone")
SHARINGS = ("multi_level", "last_block", "none")
AGGREGATIONS = ("mean", "attention")


@strict
class CdfkdMfsConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a student with a head for each of its teachers, or of such a teacher (`sharing="none"`). The
    defaults are those of the student of three ResNets for images of 32 pixels, `mhresnet8x18`.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
        trunk: what all heads share: "resnet" (basic blocks), "wide_resnet" (pre-activation blocks), or "backbone",
            any that `AutoBackbone` makes of `backbone_config`, whose maps halve from one to the next.
        backbone_config: configuration of that backbone; its `out_features` are the shared stages.
        stem: of the first two, "cifar" (a 3×3 convolution) or "imagenet" (7×7 with stride 2, then a max-pooling).
        hidden_sizes: channels after the stem and after each stage.
        depths: blocks of each stage; all stages but the first halve the map.
        num_heads: one for each teacher.
        sharing: how a head comes to its features: "multi_level" (separable convolutions gather the maps of all
            stages, one chain for each head), "last_block" (each has its own last block of a ResNet, as in CDFKD), or
            "none" (the pooled end of the trunk; a plain classifier with a single head).
        aggregation: how the logits of the heads become one: "mean", or "attention": a weighted mean, the weights a
            softmax over the heads of the products of a query (from the mean of their features) and a key (from the
            head's features). The weights are equal until they are trained.
        attention_size: width of that query and of the keys.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifiers, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "cdfkd_mfs"
    sub_configs = {"backbone_config": AutoConfig}

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 32
    trunk: str = "resnet"
    backbone_config: dict | PreTrainedConfig | None = None
    stem: str = "cifar"
    hidden_sizes: list[int] | tuple[int, ...] = (64, 64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    num_heads: int = 3
    sharing: str = "multi_level"
    aggregation: str = "mean"
    attention_size: int = 64
    reparameterized: bool = False
    classifier_dropout: float | int = 0.0
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.backbone_config, dict):
            fields = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(fields.pop("model_type", "resnet"), **fields)
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.hidden_sizes))]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)

    def validate_architecture(self):
        for name, accepted in (
            ("trunk", TRUNKS),
            ("stem", ("cifar", "imagenet")),
            ("sharing", SHARINGS),
            ("aggregation", AGGREGATIONS),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, accepted are {', '.join(accepted)}.")
        for name in ("num_channels", "num_heads", "attention_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("hidden_sizes", "depths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if len(self.depths) + 1 != len(self.hidden_sizes):
            raise ValueError(
                f"depths: got {self.depths}, expected one for each of hidden_sizes {self.hidden_sizes} but the stem's."
            )
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(f"classifier_dropout: got {self.classifier_dropout}, accepted are 0 to below 1.")
        if (self.trunk == "backbone") != (self.backbone_config is not None):
            raise ValueError("backbone_config: it belongs to trunk='backbone', and that needs it.")
        if self.sharing == "none" and self.num_heads != 1:
            raise ValueError(f"num_heads: got {self.num_heads}, accepted with sharing='none' is 1.")
        if self.sharing == "last_block" and (self.trunk != "resnet" or self.depths[-1] < 2):
            raise ValueError(
                "sharing: 'last_block' takes trunk='resnet' with two blocks or more in its last stage, got "
                f"trunk={self.trunk!r} and depths={self.depths}."
            )


def _preset(
    trunk: str,
    sizes: tuple[int, ...],
    depths: tuple[int, ...],
    parameters: tuple[float, float],
    macs: tuple[float, float],
    *,
    sharing: str = "multi_level",
    stem: str = "cifar",
) -> Preset:
    """`parameters` and `macs` in millions, as trained and folded, with 100 classes and, of students, three heads."""
    size = 32 if stem == "cifar" else 224
    mean, std = ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])
    if stem == "imagenet":
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return Preset(
        model_type="cdfkd_mfs",
        config={
            "image_size": size,
            "trunk": trunk,
            "stem": stem,
            "hidden_sizes": list(sizes),
            "depths": list(depths),
            "num_heads": 1 if sharing == "none" else 3,
            "sharing": sharing,
        },
        num_labels=100,
        classes="cifar-100" if stem == "cifar" else None,
        image_processor={
            "size": {"shortest_edge": size},
            "crop_pct": 1.0,
            "resample": 3,
            "image_mean": mean,
            "image_std": std,
        },
        parameters=parameters[0],
        macs=macs[0],
        folded_parameters=parameters[1],
        folded_macs=macs[1],
    )


_RESNET = (64, 64, 128, 256, 512)
_BLOCK, _AT_224 = "last_block", {"sharing": "none", "stem": "imagenet"}
_NARROW, _WIDE = (16, 16, 32, 64), (16, 32, 64, 128)

#: Students (mh..., smh... of the earlier CDFKD) and teachers. No accuracies: the paper's text could not be read, and
#: no weights are published.
PRESETS: dict[str, Preset] = {
    "mhresnet8x18": _preset("resnet", _RESNET, (2, 2, 2, 2), (18.164, 18.149), (636.6, 636.6)),
    "mhresnet8x34": _preset("resnet", _RESNET, (3, 4, 6, 3), (28.272, 28.254), (1240.6, 1240.6)),
    "mhresnet18": _preset("resnet", _RESNET, (2, 2, 2, 2), (18.172, 18.157), (2079.9, 2079.9), stem="imagenet"),
    "mhresnet34": _preset("resnet", _RESNET, (3, 4, 6, 3), (28.280, 28.262), (3929.6, 3929.6), stem="imagenet"),
    "mhwrn4x161": _preset("wide_resnet", _NARROW, (2, 2, 2), (0.308, 0.307), (30.6, 30.6)),
    "mhwrn4x162": _preset("wide_resnet", _WIDE, (2, 2, 2), (1.158, 1.155), (115.6, 115.7)),
    "mhwrn4x402": _preset("wide_resnet", _WIDE, (6, 6, 6), (2.710, 2.706), (342.1, 342.5)),
    "smhresnet8x18": _preset("resnet", _RESNET, (2, 2, 2, 2), (20.764, 20.757), (706.6, 706.6), sharing=_BLOCK),
    "smhresnet8x34": _preset(
        "resnet", _RESNET, (3, 4, 6, 3), (30.872, 30.862), (1310.5, 1310.5), sharing="last_block"
    ),
    "resnet8x18": _preset("resnet", _RESNET, (2, 2, 2, 2), (11.220, 11.215), (555.5, 555.5), sharing="none"),
    "resnet8x34": _preset("resnet", _RESNET, (3, 4, 6, 3), (21.328, 21.320), (1159.4, 1159.4), sharing="none"),
    "resnet18-224": _preset(
        "resnet", _RESNET, (2, 2, 2, 2), (11.228, 11.223), (1813.6, 1813.6), sharing="none", stem="imagenet"
    ),
    "resnet34-224": _preset(
        "resnet", _RESNET, (3, 4, 6, 3), (21.336, 21.327), (3663.3, 3663.3), sharing="none", stem="imagenet"
    ),
    "wrn4x161": _preset("wide_resnet", _NARROW, (2, 2, 2), (0.181, 0.181), (26.7, 26.7), sharing="none"),
    "wrn4x162": _preset("wide_resnet", _WIDE, (2, 2, 2), (0.703, 0.703), (101.1, 101.2), sharing="none"),
    "wrn4x402": _preset("wide_resnet", _WIDE, (6, 6, 6), (2.255, 2.254), (327.6, 328.0), sharing="none"),
}
