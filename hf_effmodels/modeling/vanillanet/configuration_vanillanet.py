"""Configuration of VanillaNet (https://arxiv.org/abs/2305.12972) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, imagenet_top1

SCHEDULES = ("linear", "cosine")


@strict
class VanillaNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a VanillaNet. The defaults are VanillaNet-5.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
        hidden_sizes: channels after the stem and after each stage.
        strides: 1 or 2 for each stage: whether it halves the map by max-pooling.
        act_num: the paper's n: the series-informed activation looks at (2n+1)×(2n+1) neighbours (section 3.2).
        adaptive_pool_sizes: for each stage the side of the map that its pooling makes, 0 for max-pooling; only stages
            of stride 2 pool. With a list the stem has stride 3 and padding 1 instead of 4 and 0.
        act_learn: λ, the slope below zero of the activation between the two convolutions of a layer: 0 is ReLU, 1 the
            identity, with which the two are one (section 3.1). Published weights are for 1.
        deep_training_epochs: epochs over which training anneals `act_learn` from 0 to 1; 0 leaves it alone, as after
            the annealing. 100 in the paper.
        deep_training_schedule: how it rises, "linear" or "cosine".
        reparameterized: the model is folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        initializer_range: standard deviation of the initial weights.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "vanillanet"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    hidden_sizes: list[int] | tuple[int, ...] = (512, 1024, 2048, 4096)
    strides: list[int] | tuple[int, ...] = (2, 2, 2)
    act_num: int = 3
    adaptive_pool_sizes: list[int] | tuple[int, ...] | None = None
    act_learn: float | int = 1.0
    deep_training_epochs: int = 0
    deep_training_schedule: str = "linear"
    reparameterized: bool = False
    classifier_dropout: float | int = 0.0
    initializer_range: float = 0.02
    batch_norm_eps: float = 1e-6
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.strides = list(self.hidden_sizes), list(self.strides)
        if self.adaptive_pool_sizes is not None:
            self.adaptive_pool_sizes = list(self.adaptive_pool_sizes)
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.strides) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.num_channels < 1:
            raise ValueError(f"num_channels: got {self.num_channels}, accepted are whole numbers from 1.")
        if len(self.hidden_sizes) != len(self.strides) + 1 or min(self.hidden_sizes) < 1:
            raise ValueError(
                f"hidden_sizes: got {self.hidden_sizes} with strides {self.strides}, accepted is one width from 1 for "
                "the stem and one for each stride."
            )
        if not set(self.strides) <= {1, 2}:
            raise ValueError(f"strides: got {self.strides}, accepted are 1 and 2.")
        if self.act_num < 0:
            raise ValueError(f"act_num: got {self.act_num}, accepted are whole numbers from 0.")
        pools = self.adaptive_pool_sizes
        if pools is not None and (len(pools) != len(self.strides) or min(pools, default=0) < 0):
            raise ValueError(
                f"adaptive_pool_sizes: got {pools}, accepted are None and one whole number from 0 for each of the "
                f"{len(self.strides)} stages."
            )
        check_act_learn(self.act_learn)
        if self.reparameterized and self.act_learn != 1:
            raise ValueError(f"act_learn: got {self.act_learn} with reparameterized=True, accepted is 1.")
        if self.deep_training_epochs < 0:
            raise ValueError(
                f"deep_training_epochs: got {self.deep_training_epochs}, accepted are whole numbers from 0."
            )
        if self.deep_training_schedule not in SCHEDULES:
            raise ValueError(
                f"deep_training_schedule: got {self.deep_training_schedule!r}, accepted are "
                f"{' and '.join(map(repr, SCHEDULES))}."
            )

    @property
    def num_hidden_layers(self) -> int:
        return len(self.strides)


def check_act_learn(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"act_learn: got {value}, accepted are numbers from 0 (ReLU) to 1 (identity).")


_IMAGENET = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}
_IMAGENET |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_RELEASE = "https://github.com/huawei-noah/VanillaNet/releases/download/ckpt/"


def _preset(
    file: str,
    config: dict,
    parameters: tuple[float, float],
    macs: tuple[float, float],
    top1: float,
) -> Preset:
    """`parameters` and `macs` in millions, as trained and folded."""
    return Preset(
        model_type="vanillanet",
        config=config,
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=_IMAGENET,
        parameters=parameters[0],
        macs=macs[0],
        folded_parameters=parameters[1],
        folded_macs=macs[1],
        published=imagenet_top1(top1, "official repository"),
        weights=f"{_RELEASE}{file}.pth",
        weights_license="mit",
    )


def _deep(repeats: int, width: int = 128) -> dict:
    """VanillaNet-8 to -13: `repeats` stages of 16 · `width` channels at stride 16."""
    return {
        "hidden_sizes": [4 * width, 4 * width, 8 * width, *[16 * width] * repeats, 32 * width, 32 * width],
        "strides": [1, 2, 2, *[1] * (repeats - 1), 2, 1],
    }


_ADAPTIVE = {"adaptive_pool_sizes": [0, 38, 19, 0, 0, 0, 0, 0, 0, 10, 0]}

#: Published variants. Parameters and MACs (convolutions, one 224×224 image) in millions, as trained and folded.
#: top1: ImageNet-1k, per cent.
PRESETS: dict[str, Preset] = {
    "vanillanet-5": _preset(
        "vanillanet_5",
        {"hidden_sizes": [512, 1024, 2048, 4096], "strides": [2, 2, 2]},
        (22.329, 15.523),
        (8450.5, 5161.2),
        72.49,
    ),
    "vanillanet-6": _preset(
        "vanillanet_6",
        {"hidden_sizes": [512, 1024, 2048, 4096, 4096], "strides": [2, 2, 2, 1]},
        (56.117, 32.509),
        (10104.5, 5993.1),
        76.36,
    ),
    "vanillanet-7": _preset("vanillanet_7", _deep(1), (56.670, 32.798), (11827.4, 6893.9), 77.98),
    "vanillanet-8": _preset("vanillanet_8", _deep(2), (65.176, 37.096), (13491.2, 7735.6), 79.13),
    "vanillanet-9": _preset("vanillanet_9", _deep(3), (73.681, 41.395), (15155.0, 8577.4), 79.87),
    "vanillanet-10": _preset("vanillanet_10", _deep(4), (82.186, 45.694), (16818.9, 9419.1), 80.57),
    "vanillanet-11": _preset("vanillanet_11", _deep(5), (90.692, 49.993), (18482.7, 10260.9), 81.08),
    "vanillanet-12": _preset("vanillanet_12", _deep(6), (99.197, 54.291), (20146.5, 11102.6), 81.55),
    "vanillanet-13": _preset("vanillanet_13", _deep(7), (107.702, 58.590), (21810.4, 11944.4), 82.05),
    "vanillanet-13-1.5x": _preset("vanillanet_13_x1_5", _deep(7, 192), (236.942, 127.796), (48745.7, 26548.4), 82.53),
    "vanillanet-13-1.5x-ada-pool": _preset(
        "vanillanet_13_x1_5_ada_pool", _deep(7, 192) | _ADAPTIVE, (236.942, 127.796), (89966.3, 48982.5), 83.11
    ),
}
