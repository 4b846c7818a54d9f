"""A classifier whose first layers are a learnt code (Entropic Student, https://arxiv.org/abs/2108.11898): what learns,
is evaluated and saved, before it is cut in two."""

import copy
import math
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict

import torch
from torch import nn
from transformers import AutoModelForImageClassification
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from ...._numbers import check_whole
from ....modeling.layers.initialization import StockPartsMixin, init_like_torch
from ...splitting.halves import SplitHead, SplitTail, split
from ...splitting.points import Trace, input_shape, storageless, tensors_in, with_tensor
from ..entropic import BottleneckShape
from ..gdn import DivisiveNorm
from ..networks import check_same_class, network_fields, sides, take_weights
from ..prior import FactorizedPrior, TabledPrior
from ..slimmable import SlimmableBottleneck, check_widths
from ..wire import EntropicCodec, SlimmableCodec
from .configuration_entropic_student import CodedConfig

#: Features in the place of what the network has at the cut; of the pass under way in this thread.
_FEATURES: ContextVar[torch.Tensor | None] = ContextVar("decoded features of a coded classifier", default=None)


class CodedPreTrainedModel(StockPartsMixin, PreTrainedModel):
    """How a code begins."""

    config: CodedConfig
    base_model_prefix = "coded"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.ParameterList):
            priors = (m for m in self.modules() if isinstance(m, FactorizedPrior))
            module = next(p for p in priors if module in (p.matrices, p.biases, p.factors))
        if isinstance(module, nn.Conv2d):
            init_like_torch(module)
        elif isinstance(module, nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, DivisiveNorm | FactorizedPrior):
            # Without gradients and as they are made: what is random is drawn again.
            made = (
                DivisiveNorm(len(module.beta)) if isinstance(module, DivisiveNorm) else FactorizedPrior(module.tables)
            )
            for own, new in zip(module.parameters(), made.parameters(), strict=True):
                init.copy_(own, new.to(own))
        if isinstance(module, TabledPrior):
            for name, table in module.named_buffers(recurse=False):
                init.copy_(getattr(module, name), torch.zeros_like(table))


class CodedForImageClassification(CodedPreTrainedModel):
    """Encoder, prior, decoder, and what is behind the cut of any classifier of transformers or this package.

    The layers before the cut have no storage: they are followed by shapes alone, as in a `SplitTail`.

    While the code learns (`config.table_lengths` is None), in training mode noise stands for rounding and the network
    stays as it is; after `fix_code` the code is rounded, and decoder and network learn.
    """

    accepts_loss_kwargs = False

    def __init__(self, config: CodedConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.network = AutoModelForImageClassification.from_config(config.network_config())
        self.bottleneck = SlimmableBottleneck(config.widths, **asdict(config.bottleneck_shape()))
        for parameter in self.bottleneck.parameters():
            parameter._is_hf_initialized = not parameter.is_meta  # as its own constructors have made it
        for prior, length in zip(self.bottleneck.priors.values(), config.table_lengths or (), strict=False):
            prior.make_room(length)
        cut = Trace(self.network).cut(config.at)
        self._without_storage = cut.head - cut.tail
        for name in self._without_storage:
            path, _, own = name.rpartition(".")
            module = self.network.get_submodule(path)
            empty = torch.empty_like(getattr(module, own), device="meta", requires_grad=False)
            delattr(module, own)
            module.__dict__[own] = empty
            if hasattr(module, "track_running_stats"):
                module.track_running_stats = False  # else a batch norm asks a checkpoint for its step counter
        self.network.get_submodule(cut.point.name).register_forward_hook(_decoded)
        self.post_init()

    @classmethod
    def around(
        cls, model: PreTrainedModel, at: str, widths: Sequence[int] = (24,), *, seed: int = 0, **shape
    ) -> "CodedForImageClassification":
        """`model` with a new code, of random weights, in the place of its layers up to a module.

        Args:
            model: a classifier; it stays as it is.
            at: a module, or the end of its name, whose output has a quarter of the image's side.
            widths: channels of the code.
            seed: of the code's weights.
            shape: `prior`, `hyper_channels`, `encoder_channels`, `decoder_channels`, see `CodedConfig`.

        Raises:
            ValueError: no such module, one that is not the only way through, or features of another size.
        """
        check_whole(0, seed=seed)
        point = Trace(model).cut(at).point
        if len(point.shape) != 4:
            raise ValueError(f"at: {point.name} gives {list(point.shape)}, accepted are channels of maps.")
        own = model.config
        if (channels := getattr(own, "num_channels", None) or 3) != 3:
            raise ValueError(f"model: it takes images of {channels} channels, accepted are 3.")
        bottleneck = BottleneckShape(point.shape[1], **shape)  # says what is wrong with it
        config = CodedConfig(
            network=network_fields(model),
            at=point.name,
            widths=list(check_widths(widths)),
            **asdict(bottleneck),
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
    def idle_modules(self) -> frozenset[str]:
        """Those before the cut, which compute nothing but shapes: multiply-adds are not counted there."""
        return frozenset(f"network.{name.rpartition('.')[0]}" for name in self._without_storage)

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
        self.config.table_lengths = [prior.table_length for prior in self.bottleneck.priors.values()]
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
        code, likelihoods = prior(latent)
        self.bottleneck.likelihoods(likelihoods)  # which is where the loss hears of them
        return code

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
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
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
        return split(self.network, self.config.at, codec=codec, processor=processor, image_size=sides(self.config))


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
