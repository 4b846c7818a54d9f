"""Configuration of classifiers with a learnt code in the place of their first layers (Entropic Student,
https://arxiv.org/abs/2108.11898), and the published networks (SC2 Benchmark, https://arxiv.org/abs/2203.08875)."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from ....architecture import Preset
from ..entropic import BottleneckShape
from ..kinds import PRIORS
from ..networks import network_config
from ..slimmable import check_widths


@strict
class CodedConfig(PreTrainedConfig):
    r"""
    Configuration of a classifier with a learnt code in the place of its first layers.

    Args:
        network: configuration of the whole network, as its `to_dict` gives it.
        at: the module whose output the code is in the place of.
        widths: channels of the code, ascending; several are a slimmable encoder's.
        target_channels: of the features at the cut.
        prior: what says how many bits the code takes: "factorized", "scale_hyperprior" or "mean_scale_hyperprior".
        hyper_channels: of a hyperprior's side code.
        encoder_channels: of the encoder's first and second convolution; by default four times and twice the code's.
        decoder_channels: of the decoder's first and second; by default twice and once those of the features.
        table_lengths: longest table of each width's prior, None while the code still learns. With tables the code is
            fixed: from then on its decoder and the rest of the network learn.
        image_size: side of the images in pixels, as the network has it.
        num_channels: channels of the input images.
    """

    model_type = "coded_classifier"

    network: dict | None = None
    at: str = ""
    widths: list[int] | tuple[int, ...] = (24,)
    target_channels: int = 256
    prior: str = PRIORS[0]
    hyper_channels: int = 16
    encoder_channels: list[int] | tuple[int, ...] | None = None
    decoder_channels: list[int] | tuple[int, ...] | None = None
    table_lengths: list[int] | None = None
    image_size: int | list[int] | tuple[int, ...] | None = None
    num_channels: int = 3

    def __post_init__(self, **kwargs):
        self.widths = list(check_widths(self.widths))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.table_lengths is not None and len(self.table_lengths) != len(self.widths):
            raise ValueError(
                f"table_lengths: got {len(self.table_lengths)} for {len(self.widths)} widths, accepted are as many."
            )
        if self.num_channels != 3:
            raise ValueError(f"num_channels: got {self.num_channels}, the encoder takes 3.")
        self.bottleneck_shape()

    def bottleneck_shape(self) -> BottleneckShape:
        """Of encoder, prior and decoder, beside `widths`."""
        return BottleneckShape(
            self.target_channels, self.prior, self.hyper_channels, self.encoder_channels, self.decoder_channels
        )

    def describe(self) -> str:
        """The code in a few words."""
        widths = ", ".join(map(str, self.widths))
        state = "learns still" if self.table_lengths is None else "is fixed"
        return f"{widths} channels in the place of all up to {self.at}, {self.prior.replace('_', ' ')} prior; {state}"

    def network_config(self) -> PreTrainedConfig:
        """Of the whole network."""
        return network_config(self, "CodedForImageClassification")


def _resnet(depths: tuple[int, ...]) -> dict:
    # Those of transformers' ResNetConfig, written out: a preset shall not change with its defaults.
    return {
        "model_type": "resnet",
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": list(depths),
        "layer_type": "bottleneck",
    }


_REGNET = {
    "model_type": "regnet",
    "embedding_size": 32,
    "hidden_sizes": [144, 288, 576, 1296],
    "depths": [2, 7, 14, 2],
    "groups_width": 72,
    "layer_type": "y",
}
_RELEASE = "https://github.com/yoshitomo-matsubara/sc2-benchmark/releases"


def _preset(network: dict, at: str, prior: str, parameters: float, macs: float, **fields) -> Preset:
    """`parameters` and `macs` in millions, counted here, with the tables made; of the whole on both machines."""
    return Preset(
        model_type="coded_classifier",
        config={"network": network, "at": at, "prior": prior, "image_size": 224, **fields},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor={
            "size": {"shortest_edge": 224},
            "crop_pct": 0.875,
            "resample": 3 if network is _REGNET else 2,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=parameters,
        macs=macs,
        weights=_RELEASE,
    )


_MEANS = "mean_scale_hyperprior"
_AT, _REGNET_AT = "resnet.encoder.stages.0", "regnet.encoder.stages.0"
_NARROW = {"widths": [64], "target_channels": 144, "encoder_channels": [64, 64], "decoder_channels": [288, 144]}

#: A network for each β: they differ in their weights alone. Accuracies by bytes are published as curves alone, so no
#: number is here.
PRESETS: dict[str, Preset] = {
    "entropic-student-resnet50": _preset(_resnet((3, 4, 6, 3)), _AT, PRIORS[0], 26.636, 7478.9),
    "entropic-student-resnet50-mshp": _preset(_resnet((3, 4, 6, 3)), _AT, _MEANS, 26.696, 7587.3),
    "entropic-student-resnet101": _preset(_resnet((3, 4, 23, 3)), _AT, PRIORS[0], 45.628, 11191.1),
    "entropic-student-resnet101-mshp": _preset(_resnet((3, 4, 23, 3)), _AT, _MEANS, 45.688, 11299.5),
    "entropic-student-regnety-064": _preset(_REGNET, _REGNET_AT, PRIORS[0], 30.872, 7315.6, **_NARROW),
    "entropic-student-regnety-064-mshp": _preset(_REGNET, _REGNET_AT, _MEANS, 30.994, 7584.6, **_NARROW),
}
