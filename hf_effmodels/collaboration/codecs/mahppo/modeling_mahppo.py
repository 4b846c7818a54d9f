"""A classifier whose features are sent in fewer channels and bits at one place (MAHPPO,
https://arxiv.org/abs/2205.11854): what learns, is evaluated and saved, before it is cut in two."""

import copy
from contextvars import ContextVar

import torch
from torch import nn
from transformers import AutoModelForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from ...._numbers import check_whole
from ....modeling.layers.initialization import StockPartsMixin, init_like_torch
from ...splitting.halves import SplitHead, SplitTail, split
from ...splitting.points import Trace, tensors_in, with_tensor
from ..networks import check_same_class, network_fields, sides, take_weights
from ..wire import ChannelCodec
from .configuration_mahppo import ChannelCodedConfig

#: The model whose pass is under way in this thread.
_MODEL: ContextVar["ChannelCodedForImageClassification | None"] = ContextVar("channel-coded classifier", default=None)


class ChannelCodedForImageClassification(StockPartsMixin, PreTrainedModel):
    """Any classifier of transformers or this package, and a `ChannelCodec` after one of its modules.

    In training mode features go through the convolutions alone, as published; in evaluation they are rounded to
    `bits` as well, as between two machines. While the code learns the network stays as it is; after `fix_code` both
    learn together.
    """

    config: ChannelCodedConfig
    base_model_prefix = "channel_coded"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False

    def __init__(self, config: ChannelCodedConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.network = AutoModelForImageClassification.from_config(config.network_config())
        self.code = ChannelCodec(config.channels, config.shrink, config.bits)
        for parameter in self.code.parameters():
            parameter._is_hf_initialized = not parameter.is_meta  # as torch has made it
        self.network.get_submodule(config.at).register_forward_hook(_through_code)
        self.choose_what_learns()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_like_torch(module)

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
        check_whole(1, shrink=shrink)
        check_whole(1, 8, bits=bits)
        check_whole(0, seed=seed)
        config = ChannelCodedConfig(
            network=network_fields(model),
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
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def bytes_sent(self, pixel_values: torch.Tensor) -> float:
        """Of an image of (batch, channels, height, width), with the ends of its range."""
        head, _ = self.halves()
        return sum(value.numel() * value.itemsize for value in head(pixel_values).values()) / len(pixel_values)

    def halves(self, processor=None) -> tuple[SplitHead, SplitTail]:
        """Head and tail, see `split`."""
        code, size = copy.deepcopy(self.code), sides(self.config)
        return split(self.network, self.config.at, codec=code, processor=processor, image_size=size)


def _through_code(module: nn.Module, args, output):
    model = _MODEL.get()
    if model is None:
        return None
    (features,) = tensors_in(output)
    if model.training:
        return with_tensor(output, model.code.codec(features))
    code = model.code  # what is made bytes comes back as it was
    return with_tensor(output, code.restore(code.between(features), tuple(features.shape), features.dtype))
