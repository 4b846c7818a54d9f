"""Images sent as they are: the whole of a network, or one part of a DeViT, behind the service that serves tails."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ...modeling.devit.modeling_devit import DeViTForImageClassification
from ..codecs.wire import RawCodec, Tensors
from ..decomposition import take_part
from .client import SplitClassifier
from .halves import SplitFacts, evaluating
from .points import logits_of

#: Where a network that gets images is cut.
IMAGE, PART = "image", "part"


class ImageHead:
    """A device that computes nothing: what `SplitClassifier` takes for a head.

    Args:
        facts: those of the `WholeTail`.
        codec: how images are sent.
        config: of the network.
        processor: its image processor, for pictures.
        dtype: of the images that the network takes.
    """

    def __init__(self, facts: SplitFacts, codec: nn.Module, config, processor, dtype: torch.dtype):
        self.facts, self.codec, self.config, self.processor = facts, codec.eval(), config, processor
        self.network = nn.Module()
        self.network.register_parameter("like", nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False))

    def __call__(self, pixel_values: torch.Tensor, *, width: int | None = None) -> Tensors:
        """What is sent for images (batch, channels, height, width)."""
        if width is not None:
            raise ValueError(f"width: got {width!r}, but images are sent, by {self.codec.kind}.")
        with torch.no_grad():
            return self.codec.encode(pixel_values)


class WholeTail:
    """A server that computes everything from images: what the service takes for a tail.

    Args:
        network: in evaluation mode.
        compute: images -> (images, numbers).
        facts, codec: as the head's.
    """

    half = "tail"

    def __init__(self, network: PreTrainedModel, compute: Callable, facts: SplitFacts, codec: nn.Module):
        self.network, self.compute, self.facts, self.codec = network, compute, facts, codec.eval()

    @property
    def config(self):
        """Of the network."""
        return self.network.config

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.device

    @torch.no_grad()
    def __call__(self, sent: Tensors, input_shape: tuple[int, ...]) -> torch.Tensor:
        """(images, numbers) of what an `ImageHead` has sent for images of `input_shape`."""
        pixels = self.codec.decode(sent, tuple(input_shape), getattr(torch, self.facts.dtype))
        return self.compute(pixels.to(self.device))


def whole(model: PreTrainedModel, *, codec: nn.Module | None = None, processor=None) -> tuple[ImageHead, WholeTail]:
    """Nothing on the device, everything on the server.

    Args:
        model: any classifier of images; it stays as it is.
        codec: how images are sent, by default as they are; see `collaboration.codecs.wire`.
        processor: its image processor.
    """
    network = evaluating(model)
    return _ends(network, network.state_dict(), IMAGE, lambda pixels: logits_of(network(pixels)), codec, processor)


def part(model: DeViTForImageClassification, *, codec: nn.Module | None = None, processor=None):
    """Head and tail of a DeViT of one part, which answers with what the part sends to the fusion.

    Raises:
        ValueError: a network that is no DeViT, or of several parts; `take_part` takes one out.
    """
    if not isinstance(model, DeViTForImageClassification) or len(model.config.parts) != 1:
        raise ValueError(f"model: got {type(model).__name__}, accepted are DeViTs of one part (take_part).")
    network = evaluating(model)
    weights = network.devit.parts[0].state_dict()  # not the classifier, which the fusion has no use for
    return _ends(network, weights, PART, lambda pixels: network.encode(0, pixels).flatten(1), codec, processor)


def _ends(network, weights, at: str, compute, codec, processor) -> tuple[ImageHead, WholeTail]:
    codec = codec or RawCodec()
    dtype = next(network.parameters()).dtype
    found = hashlib.sha256(json.dumps([at, codec.kind, codec.settings()]).encode())
    for name, value in sorted({**weights, **codec.state_dict()}.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    facts = SplitFacts(
        at=at,
        digest=found.hexdigest(),
        architecture=type(network).__name__,
        codec=codec.kind,
        codec_settings=codec.settings(),
        attention=getattr(network.config, "_attn_implementation", None),
        dtype=str(dtype).removeprefix("torch."),
    )
    head = ImageHead(facts, codec, network.config, processor, dtype)
    return head, WholeTail(network, compute, facts, codec)


@dataclass(frozen=True)
class FusedOutput:
    """An answer of several parts.

    Attributes:
        logits: (images, labels).
        missing: numbers of the parts that did not answer.
        bytes_sent, bytes_received: of all parts together.
        milliseconds: for each part what `SplitOutput.milliseconds` says, None where it did not answer.
    """

    logits: torch.Tensor
    missing: tuple[int, ...]
    bytes_sent: int
    bytes_received: int
    milliseconds: tuple[dict[str, float] | None, ...]


class FusedClassifier:
    """A DeViT whose parts run elsewhere: the image goes to all at once, and what comes back is fused here.

    Args:
        model: the whole; of its parts only the digests are used here.
        urls: of each part, where it is served (`hf-effmodels serve-tail device0`).
        missing: "error", or "zeros" for parts that do not answer within `patience`.
        codec: how images are sent.
        options: of each `SplitClassifier`: token, timeout, patience, bandwidth.
    """

    def __init__(self, model: DeViTForImageClassification, urls, *, missing: str = "error", codec=None, **options):
        if not isinstance(model, DeViTForImageClassification):
            raise ValueError(f"model: got {type(model).__name__}, accepted are DeViTs.")
        if isinstance(urls, str) or len(urls) != len(model.config.parts):
            raise ValueError(f"urls: got {len(urls)} for {len(model.config.parts)} parts, accepted are as many.")
        if missing not in ("error", "zeros"):
            raise ValueError(f"missing: got {missing!r}, accepted are 'error' and 'zeros'.")
        self.model, self.missing = evaluating(model), missing
        heads = [part(take_part(model, number), codec=codec)[0] for number in range(len(urls))]
        self.clients = [SplitClassifier(head, url, **options) for head, url in zip(heads, urls, strict=True)]

    def logits(self, pixel_values: torch.Tensor) -> FusedOutput:
        """The answer for images (images, channels, height, width).

        Raises:
            ConnectionError: a part does not answer, where that is an error, or none does.
        """

        def ask(client: SplitClassifier):
            try:
                return client.logits(pixel_values)
            except ConnectionError as error:
                return error

        with ThreadPoolExecutor(len(self.clients)) as pool:
            answers = list(pool.map(ask, self.clients))
        failed = {number: answer for number, answer in enumerate(answers) if isinstance(answer, ConnectionError)}
        if failed and (self.missing == "error" or len(failed) == len(answers)):
            number, error = next(iter(failed.items()))
            raise ConnectionError(f"part {number}: {error}") from error
        count, there = self.model.config.num_tokens, [a for n, a in enumerate(answers) if n not in failed]
        tokens = [None if n in failed else a.logits.unflatten(1, (count, -1)) for n, a in enumerate(answers)]
        with torch.no_grad():
            fused = self.model.fuse([None if t is None else t.to(self.model.device) for t in tokens])
        return FusedOutput(
            logits=fused,
            missing=tuple(failed),
            bytes_sent=sum(answer.bytes_sent for answer in there),
            bytes_received=sum(answer.bytes_received for answer in there),
            milliseconds=tuple(None if n in failed else a.milliseconds for n, a in enumerate(answers)),
        )
