"""What head and tail say to each other: safetensors over HTTP: numbers, nothing to be executed."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

#: Where a tail listens.
COMPUTE, INFO, HEALTH = "/v1/logits", "/v1/tail", "/v1/health"
MEDIA_TYPE = "application/vnd.safetensors"
#: Headers: the cut that a head belongs to, a number that comes back with the answer, and times.
DIGEST, NUMBER, TAIL_TIME, QUEUE_TIME = "x-split-digest", "x-split-number", "x-split-tail-ms", "x-split-queue-ms"
_SHAPE = "input_shape"
_LONGEST_SIDE = 16384


def pack(sent: Mapping[str, torch.Tensor], input_shape: tuple[int, ...]) -> bytes:
    """A head's question."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in sent.items()}
    return save({**tensors, _SHAPE: torch.tensor(input_shape, dtype=torch.int64)})


def unpack(
    body: bytes, *, channels: int, max_images: int, max_pixels: int
) -> tuple[dict[str, torch.Tensor], tuple[int, ...]]:
    """What `pack` was given.

    Raises:
        ValueError: bytes that are no safetensors, or a shape that no images have.
    """
    sent = _load(body)
    shape = sent.pop(_SHAPE, None)
    if shape is None or shape.dtype != torch.int64 or tuple(shape.shape) != (4,):
        raise ValueError("payload: input_shape must be four whole numbers.")
    batch, planes, height, width = shape.tolist()
    if not 1 <= batch <= max_images:
        raise ValueError(f"payload: got {batch} images, accepted are 1 to {max_images}.")
    if batch * height * width > max_pixels:
        raise ValueError(f"payload: got {batch * height * width} pixels, accepted are {max_pixels}.")
    if planes != channels or not all(1 <= side <= _LONGEST_SIDE for side in (height, width)):
        raise ValueError(
            f"payload: input_shape {[batch, planes, height, width]}, accepted are {channels} channels and sides of "
            f"1 to {_LONGEST_SIDE}."
        )
    return sent, (batch, planes, height, width)


def pack_logits(logits: torch.Tensor) -> bytes:
    """A tail's answer."""
    return save({"logits": logits.detach().cpu().contiguous()})


def unpack_logits(body: bytes, images: int) -> torch.Tensor:
    """(images, labels).

    Raises:
        ValueError: anything else.
    """
    logits = _load(body, "answer").get("logits")
    if logits is None or logits.ndim != 2 or len(logits) != images:
        raise ValueError(f"answer: it holds no logits of {images} images.")
    if not torch.isfinite(logits).all():
        raise ValueError("answer: its logits are not finite.")
    return logits


def _load(body: bytes, what: str = "payload") -> dict[str, torch.Tensor]:
    try:
        return load(bytes(body))
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{what}: {len(body)} bytes that are no safetensors: {error}") from error
