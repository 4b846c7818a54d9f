"""A classifier whose first layers are a learnt code (Entropic Student, https://arxiv.org/abs/2108.11898): what learns,
is evaluated and saved, before it is cut in two."""

import copy
from collections.abc import Sequence
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
from ..splitting.points import Trace, input_shape, storageless, tensors_in, with_tensor
from .networks import check_same_class, take_weights
from .slimmable import SlimmableBottleneck, check_widths
from .wire import EntropicCodec, SlimmableCodec

#: Features in the place of what the network has at the cut; of the pass under way in this thread.
_FEATURES: ContextVar[torch.Tensor | None] = ContextVar("decoded features of a coded classifier", default=None)


@strict
class CodedConfig(PreTrainedConfig):
    r"""
    Configuration of a classifier with a learnt code in the place of its first layers.

    Args:
        network: configuration of the whole network, as its `to_dict` gives it.
        at: the module whose output the code is in the place of.
        widths: channels of the code, ascending; several are a slimmable encoder's.
        target_channels: of the features at the cut.
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

    def network_config(self) -> PreTrainedConfig:
        """Of the whole network."""
        if not self.network or "model_type" not in self.network:
            raise ValueError("network: it is missing; CodedForImageClassification.around(model, at) makes one.")
        return AutoConfig.for_model(**copy.deepcopy(self.network))


class CodedForImageClassification(PreTrainedModel):
    """Encoder, prior, decoder, and what is behind the cut of any classifier of transformers or this package.

    The layers before the cut have no storage: they are followed by shapes alone, as in a `SplitTail`.

    While the code learns (`config.table_lengths` is None), in training mode noise stands for rounding and the network
    stays as it is; after `fix_code` the code is rounded, and decoder and network learn.
    """

    config_class = CodedConfig
    base_model_prefix = "coded"
    main_input_name = "pixel_values"

    def __init__(self, config: CodedConfig):
        super().__init__(config)
        self.network = AutoModelForImageClassification.from_config(config.network_config())
        self.bottleneck = SlimmableBottleneck(config.widths, config.target_channels)
        for prior, length in zip(self.bottleneck.priors.values(), config.table_lengths or (), strict=False):
            prior.make_room(length)
        cut = Trace(self.network).cut(config.at)
        self._without_storage = tuple(sorted(cut.head - cut.tail))
        for name in self._without_storage:
            path, _, own = name.rpartition(".")
            module = self.network.get_submodule(path)
            empty = torch.empty_like(getattr(module, own), device="meta", requires_grad=False)
            delattr(module, own)
            module.__dict__[own] = empty
        self.network.get_submodule(cut.point.name).register_forward_hook(_decoded)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The bottleneck's modules begin as torch and their own constructors have made them."""

    @classmethod
    def around(
        cls, model: PreTrainedModel, at: str, widths: Sequence[int] = (24,), *, seed: int = 0
    ) -> "CodedForImageClassification":
        """`model` with a new code, of random weights, in the place of its layers up to a module.

        Args:
            model: a classifier; it stays as it is.
            at: a module, or the end of its name, whose output has a quarter of the image's side.
            widths: channels of the code.
            seed: of the code's weights.

        Raises:
            ValueError: no such module, one that is not the only way through, or features of another size.
        """
        point = Trace(model).cut(at).point
        if len(point.shape) != 4:
            raise ValueError(f"at: {point.name} gives {list(point.shape)}, accepted are channels of maps.")
        own = model.config
        if (channels := getattr(own, "num_channels", None) or 3) != 3:
            raise ValueError(f"model: it takes images of {channels} channels, accepted are 3.")
        config = CodedConfig(
            network=own.to_dict(),
            at=point.name,
            widths=list(check_widths(widths)),
            target_channels=point.shape[1],
            image_size=getattr(own, "image_size", None),
            num_channels=channels,
            id2label=own.id2label,
            label2id=own.label2id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            coded = cls(config)
        check_same_class(coded.network, model)
        twin, shape = storageless(coded.bottleneck).eval(), input_shape(model)
        with torch.no_grad():
            given = tuple(twin(torch.empty(shape, device="meta"))[0].shape)
        if given != tuple(point.shape):
            raise ValueError(
                f"at: {point.name} gives {tuple(point.shape[1:])} of images of {tuple(shape[2:])}, the bottleneck "
                f"{given[1:]}; accepted are maps of a quarter of the image's side."
            )
        coded.to(next(model.parameters()))
        take_weights(coded.network, model)
        coded.choose_what_learns()
        return coded.train(model.training)

    @property
    def code_is_fixed(self) -> bool:
        """Whether `fix_code` has made the tables."""
        return self.config.table_lengths is not None

    def choose_what_learns(self) -> None:
        """The code (encoder, prior, decoder), or once that is fixed decoder and network, by `requires_grad`."""
        self.network.requires_grad_(self.code_is_fixed)
        self.bottleneck.requires_grad_(not self.code_is_fixed)
        self.bottleneck.decoder.requires_grad_(True)

    def fix_code(self) -> None:
        """Make the tables by which the code is written; encoder and prior stay as they are from now on."""
        self.bottleneck.update()
        self.config.table_lengths = [prior.quantized_cdf.shape[1] for prior in self.bottleneck.priors.values()]
        self.choose_what_learns()

    def train(self, mode: bool = True):
        """As the class says; norms before the cut, which see shapes alone, and behind a code that learns stay as they
        are in evaluation."""
        super().train(mode)
        self.bottleneck.train(mode and not self.code_is_fixed)
        if not self.code_is_fixed:
            self.network.eval()
        for name in self._without_storage:
            self.network.get_submodule(name.rpartition(".")[0]).eval()
        return self

    def code(self, pixel_values: torch.Tensor, width: int | None = None) -> torch.Tensor:
        """What the decoder is given: (batch, width, height / 4 - 1, width / 4 - 1)."""
        latent, prior = self.bottleneck.encoder(pixel_values, width), self.bottleneck.prior(width)
        if self.code_is_fixed:
            return prior.round(latent).detach()
        return latent + torch.rand_like(latent) - 0.5 if self.training else prior.round(latent)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        width: int | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values: (batch, 3, height, width).
            labels: (batch,), for the cross entropy.
            width: of the code, one of `config.widths`; by default the largest.
        """
        features = self.bottleneck.decoder(self.code(pixel_values, width))
        token = _FEATURES.set(features)
        try:
            logits = self.network(pixel_values=torch.empty_like(pixel_values, device="meta")).logits
        finally:
            _FEATURES.reset(token)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def halves(self, processor=None) -> tuple[SplitHead, SplitTail]:
        """Head and tail, see `split`: the encoder alone, and decoder and network.

        Raises:
            ValueError: the code is not fixed yet.
        """
        if not self.code_is_fixed:
            raise ValueError("model: its code has no tables yet; train it, or call fix_code().")
        bottleneck = copy.deepcopy(self.bottleneck).eval()
        several = len(bottleneck.widths) > 1
        codec = SlimmableCodec.of(bottleneck) if several else EntropicCodec.of(bottleneck.at(bottleneck.widths[0]))
        return split(self.network, self.config.at, codec=codec, processor=processor)


def _decoded(module: nn.Module, args, output):
    features = _FEATURES.get()
    if features is None:
        return None
    (expected,) = tensors_in(output)
    if features.shape != expected.shape:
        raise ValueError(
            f"pixel_values: the code gives features {tuple(features.shape[1:])} where the network has "
            f"{tuple(expected.shape[1:])}; accepted are images whose sides are multiples of four."
        )
    return with_tensor(output, features)
