"""Configuration of the elastic MobileNetV3 (https://arxiv.org/abs/1908.09791) and its published search spaces."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset
from ..layers.widths import round_width

#: Channels of the stem, of the first block and of the five elastic stages.
BASE_WIDTHS = (16, 16, 24, 40, 80, 112, 160)
#: Of the first block and the elastic stages: stride of the first block, activation, squeeze-and-excitation.
STRIDES = (1, 2, 2, 2, 1, 2)
ACTIVATIONS = ("relu", "relu", "relu", "hardswish", "hardswish", "hardswish")
SQUEEZES = (False, False, True, False, True, True)


@strict
class OfaMobileNetV3Config(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of an elastic MobileNetV3, or of one of its sub-networks. The network itself is the largest
    sub-network: all blocks, the largest kernels and expansions.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
        width_multiplier: factor of all widths; the products are rounded to multiples of 8.
        base_widths: channels of the stem, of the first block and of the five elastic stages, before the multiplier.
        final_size: channels of the 1×1 convolution before pooling, before the multiplier.
        feature_size: channels of the layer after pooling, before the multiplier.
        kernel_sizes: kernels that a block of a sub-network may have. Where there are several, each block has a matrix
            for each step from a kernel to the next smaller one.
        expand_ratios: expansions that a block of a sub-network may have.
        depths: numbers of blocks that a stage of a sub-network may have.
        submodel: None for the elastic network. Of a sub-network that was taken out: its `kernel_sizes` and
            `expand_ratios`, one for each block of the elastic network, and `depths`, one for each stage.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "ofa_mobilenetv3"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    width_multiplier: float | int = 1.0
    base_widths: list[int] | tuple[int, ...] = BASE_WIDTHS
    final_size: int = 960
    feature_size: int = 1280
    kernel_sizes: list[int] | tuple[int, ...] = (3, 5, 7)
    expand_ratios: list[float | int] | tuple[float | int, ...] = (3, 4, 6)
    depths: list[int] | tuple[int, ...] = (2, 3, 4)
    submodel: dict | None = None
    reparameterized: bool = False
    classifier_dropout: float | int = 0.1
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        for name in ("base_widths", "kernel_sizes", "expand_ratios", "depths"):
            setattr(self, name, list(getattr(self, name)))
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.base_widths))]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("num_channels", "final_size", "feature_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if not self.width_multiplier > 0:
            raise ValueError(f"width_multiplier: got {self.width_multiplier}, accepted are positive numbers.")
        if not 3 <= len(self.base_widths) <= len(BASE_WIDTHS) or min(self.base_widths) < 1:
            raise ValueError(
                f"base_widths: got {self.base_widths}, accepted are 3 to {len(BASE_WIDTHS)} whole numbers from 1: of "
                "the stem, the first block and the elastic stages."
            )
        for name, is_right, accepted in (
            ("kernel_sizes", lambda size: size % 2 == 1 and size > 0, "odd numbers from 1"),
            ("expand_ratios", lambda ratio: ratio >= 1, "numbers from 1"),
            ("depths", lambda depth: depth >= 1, "whole numbers from 1"),
        ):
            values = getattr(self, name)
            if not values or not all(map(is_right, values)) or len(set(values)) < len(values):
                raise ValueError(f"{name}: got {values}, accepted are different {accepted}.")
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(
                f"classifier_dropout: got {self.classifier_dropout}, accepted are numbers from 0 to below 1."
            )
        if self.submodel is not None:
            self.check_submodel(self.submodel)

    def check_submodel(self, submodel: dict) -> None:
        """Raise ValueError unless a sub-network says a kernel and an expansion for each block and a depth for each
        stage, out of what this network has."""
        if not isinstance(submodel, dict) or submodel.keys() != {"kernel_sizes", "expand_ratios", "depths"}:
            raise ValueError(
                f"submodel: got {submodel}, accepted is {{kernel_sizes: …, expand_ratios: …, depths: …}}."
            )
        for name, number in (
            ("kernel_sizes", self.num_elastic_blocks),
            ("expand_ratios", self.num_elastic_blocks),
            ("depths", self.num_elastic_stages),
        ):
            values, choices = list(submodel[name]), getattr(self, name)
            if len(values) != number or not set(values) <= set(choices):
                accepted = ", ".join(map(str, choices))
                raise ValueError(f"submodel: got {name} {values}, accepted are {number} numbers out of {accepted}.")

    @property
    def num_elastic_stages(self) -> int:
        return len(self.base_widths) - 2

    @property
    def num_elastic_blocks(self) -> int:
        """Blocks of all elastic stages at their greatest depth."""
        return self.num_elastic_stages * max(self.depths)

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels after the stem and after each stage."""
        return [round_width(width * self.width_multiplier, 8) for width in self.base_widths]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.base_widths) - 1

    def blocks_of(self, stage: int) -> list[tuple[int, float]]:
        """(kernel, expansion) of the blocks of an elastic stage, counted from 0, as this network computes them."""
        most = max(self.depths)
        if self.submodel is None:
            return [(max(self.kernel_sizes), max(self.expand_ratios))] * most
        blocks = range(stage * most, stage * most + self.submodel["depths"][stage])
        return [(self.submodel["kernel_sizes"][block], self.submodel["expand_ratios"][block]) for block in blocks]


def _preset(width: float, parameters: tuple[float, float], macs: float) -> Preset:
    """`parameters` (as trained, with the kernels' matrices, and folded) and `macs` of the largest, in millions."""
    return Preset(
        model_type="ofa_mobilenetv3",
        config={"width_multiplier": width},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor={
            "size": {"shortest_edge": 224},
            "crop_pct": 0.875,
            "resample": 2,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=parameters[0],
        macs=macs,
        folded_parameters=parameters[1],
        folded_macs=macs,
    )


#: The two search spaces of Once-for-All over kernels 3, 5, 7, expansions 3, 4, 6 and depths 2, 3, 4. Parameters and
#: MACs (convolutions and linear layers, one image of 224 pixels) of the largest sub-network, in millions.
PRESETS: dict[str, Preset] = {
    "ofa-mobilenetv3-1.0x": _preset(1.0, (7.679, 7.644), 566.2),
    "ofa-mobilenetv3-1.2x": _preset(1.2, (10.716, 10.676), 843.1),
}
