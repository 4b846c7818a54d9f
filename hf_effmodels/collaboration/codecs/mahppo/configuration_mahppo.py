"""Configuration of classifiers whose features are sent in fewer channels and bits, and the networks of MAHPPO
(https://arxiv.org/abs/2205.11854)."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from ....architecture import Preset
from ..networks import network_config


@strict
class ChannelCodedConfig(PreTrainedConfig):
    r"""
    Configuration of a classifier with 1×1 convolutions and a quantiser after one of its modules.

    Args:
        network: configuration of the whole network, as its `to_dict` gives it.
        at: the module after which the code is.
        channels: of the features there.
        shrink: how many times fewer are sent.
        bits: of each number.
        joint: whether the network learns, too; while False the code alone does.
        image_size: side of the images in pixels, as the network has it.
        num_channels: channels of the input images.
    """

    model_type = "channel_coded_classifier"

    network: dict | None = None
    at: str = ""
    channels: int = 64
    shrink: int = 16
    bits: int = 8
    joint: bool = False
    image_size: int | list[int] | tuple[int, ...] | None = None
    num_channels: int = 3

    def describe(self) -> str:
        """The code in a few words."""
        return f"{self.bits} bits for each of {max(self.channels // self.shrink, 1)} channels after {self.at}"

    def network_config(self) -> PreTrainedConfig:
        """Of the whole network."""
        return network_config(self, "ChannelCodedForImageClassification")


_RESNET = {
    "model_type": "resnet",
    "embedding_size": 64,
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}
_MOBILENET = {"model_type": "mobilenet_v2", "image_size": 224}


def _preset(network: dict, at: str, channels: int, shrink: int, parameters: float, macs: float) -> Preset:
    """`parameters` and `macs` in millions, counted here with 101 classes; of the whole on both machines."""
    return Preset(
        model_type="channel_coded_classifier",
        config={
            "network": network,
            "at": at,
            "channels": channels,
            "shrink": shrink,
            "bits": 8,
            "joint": True,
            "image_size": 224,
        },
        num_labels=101,
        image_processor={
            "size": {"shortest_edge": 224},
            "crop_pct": 1.0,
            "resample": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        parameters=parameters,
        macs=macs,
    )


_STAGE = "resnet.encoder.stages."
_LAYER = "mobilenet_v2.layer."

#: The four cuts of two of the three networks, with the published shrinking, for images of the size of the published
#: costs (224 pixels; trained at 128). No accuracy is published, and no weights. VGG-11 is not in transformers.
PRESETS: dict[str, Preset] = {
    "mahppo-resnet18-1": _preset(_RESNET, "resnet.embedder", 64, 16, 11.229, 1815.2),
    "mahppo-resnet18-2": _preset(_RESNET, f"{_STAGE}1.layers.0", 128, 16, 11.231, 1815.2),
    "mahppo-resnet18-3": _preset(_RESNET, f"{_STAGE}2.layers.0", 256, 16, 11.237, 1815.2),
    "mahppo-resnet18-4": _preset(_RESNET, f"{_STAGE}3.layers.0", 512, 8, 11.294, 1816.8),
    "mahppo-mobilenetv2-1": _preset(_MOBILENET, "mobilenet_v2.conv_stem", 16, 8, 2.353, 300.4),
    "mahppo-mobilenetv2-2": _preset(_MOBILENET, f"{_LAYER}0", 24, 12, 2.353, 299.9),
    "mahppo-mobilenetv2-3": _preset(_MOBILENET, f"{_LAYER}2", 32, 8, 2.354, 299.8),
    "mahppo-mobilenetv2-4": _preset(_MOBILENET, f"{_LAYER}5", 64, 8, 2.354, 299.8),
}
