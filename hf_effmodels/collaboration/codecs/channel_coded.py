"""A classifier whose features are sent in fewer channels and bits at one place (MAHPPO,
https://arxiv.org/abs/2205.11854): what learns, is evaluated and saved, before it is cut in two."""

import copy
from contextvars import ContextVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from ..splitting.halves import SplitHead, SplitTail, split
from ..splitting.points import Trace, tensors_in, with_tensor
from .networks import check_same_class, take_weights
from .wire import ChannelCodec

#: The model whose pass is under way in this thread.
_MODEL: ContextVar["ChannelCodedForImageClassification | None"] = ContextVar("channel-coded classifier", default=None)


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

    def network_config(self) -> PreTrainedConfig:
        """Of the whole network."""
        if not self.network or "model_type" not in self.network:
            raise ValueError("network: it is missing; ChannelCodedForImageClassification.around(model, at) makes one.")
        return AutoConfig.for_model(**copy.deepcopy(self.network))


class ChannelCodedForImageClassification(PreTrainedModel):
    """Any classifier of transformers or this package, and a `ChannelCodec` after one of its modules.

    In training mode features go through the convolutions alone, as published; in evaluation they are rounded to
    `bits` as well, as between two machines. While the code learns the network stays as it is; after `fix_code` both
    learn together.
    """

    config_class = ChannelCodedConfig
    base_model_prefix = "channel_coded"
    main_input_name = "pixel_values"

    def __init__(self, config: ChannelCodedConfig):
        super().__init__(config)
        self.network = AutoModelForImageClassification.from_config(config.network_config())
        self.code = ChannelCodec(config.channels, config.shrink, config.bits)
        self.network.get_submodule(config.at).register_forward_hook(_through_code)
        self.choose_what_learns()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The code's convolutions begin as torch has made them."""

    @classmethod
    def around(
        cls, model: PreTrainedModel, at: str, shrink: int, bits: int = 8, *, seed: int = 0
    ) -> "ChannelCodedForImageClassification":
        """`model` with a new code of random weights after a module.

        Args:
            model: a classifier; it stays as it is.
            at: a module, or the end of its name, whose output are channels of maps.
            shrink: how many times fewer channels are sent.
            bits: of each number, 1 to 8.
            seed: of the code's weights.

        Raises:
            ValueError: no such module, or one that is not the only way through.
        """
        point, own = Trace(model).cut(at).point, model.config
        if len(point.shape) != 4:
            raise ValueError(f"at: {point.name} gives {list(point.shape)}, accepted are channels of maps.")
        for name, value in (("shrink", shrink), ("bits", bits)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name}: got {value!r}, accepted are whole numbers from 1.")
        config = ChannelCodedConfig(
            network=own.to_dict(),
            at=point.name,
            channels=point.shape[1],
            shrink=shrink,
            bits=bits,
            image_size=getattr(own, "image_size", None),
            num_channels=getattr(own, "num_channels", None) or 3,
            id2label=own.id2label,
            label2id=own.label2id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            coded = cls(config)
        check_same_class(coded.network, model)
        coded.to(next(model.parameters()))
        take_weights(coded.network, model)
        return coded.train(model.training)

    @property
    def code_is_fixed(self) -> bool:
        """Whether the first stage is over, in which the code alone learns."""
        return self.config.joint

    def choose_what_learns(self) -> None:
        """The code, or code and network, by `requires_grad`."""
        self.network.requires_grad_(self.config.joint)
        self.code.requires_grad_(True)

    def fix_code(self) -> None:
        """End the first stage: from now on code and network learn together."""
        self.config.joint = True
        self.choose_what_learns()

    def train(self, mode: bool = True):
        """As the class says; the norms of a network that does not learn stay as they are."""
        super().train(mode)
        if not self.config.joint:
            self.network.eval()
        return self

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values: (batch, channels, height, width).
            labels: (batch,), for the cross entropy.
        """
        token = _MODEL.set(self)
        try:
            logits = self.network(pixel_values=pixel_values).logits
        finally:
            _MODEL.reset(token)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def bytes_sent(self, pixel_values: torch.Tensor) -> float:
        """Of an image of (batch, channels, height, width), with the ends of its range."""
        head, _ = self.halves()
        return sum(value.numel() * value.itemsize for value in head(pixel_values).values()) / len(pixel_values)

    def halves(self, processor=None) -> tuple[SplitHead, SplitTail]:
        """Head and tail, see `split`."""
        return split(self.network, self.config.at, codec=copy.deepcopy(self.code), processor=processor)


def _through_code(module: nn.Module, args, output):
    model = _MODEL.get()
    if model is None:
        return None
    (features,) = tensors_in(output)
    if model.training:
        return with_tensor(output, model.code.codec(features))
    return with_tensor(output, model.code.decode(model.code.encode(features), tuple(features.shape), features.dtype))
