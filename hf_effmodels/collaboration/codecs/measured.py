"""What codes and pictures cost in bytes, and in accuracy."""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from ..._numbers import check_whole, is_whole
from ..splitting.halves import evaluating
from .entropic_student.modeling_entropic_student import CodedForImageClassification
from .prior import bits


@torch.no_grad()
def measure_coded(
    model: CodedForImageClassification,
    dataset: Dataset,
    *,
    width: int | None = None,
    samples: int | None = None,
    batch: int = 64,
) -> dict[str, float]:
    """Accuracy, bytes of an image that are really written, and bytes that the prior estimates.

    Args:
        model: its code is fixed; what is decoded is what it classifies by, which is tried.
        dataset: samples with `pixel_values` and `labels`.
        width: of the code; by default the largest.
        samples: bytes are counted for the first so many alone; None for all.
        batch: samples at a time.

    Raises:
        ValueError: what is decoded is something else than what was encoded; no samples.
    """
    check_whole(1, batch=batch, samples=len(dataset) if samples is None else samples)
    network, bottleneck = evaluating(model), model.bottleneck
    device, right, written, estimated, counted = next(network.parameters()).device, 0, 0, 0.0, 0
    most = len(dataset) if samples is None else min(samples, len(dataset))
    for start in range(0, len(dataset), batch):
        pixels, labels = batch_of(dataset, range(start, min(start + batch, len(dataset))), device)
        right += int((network(pixels, width=width).logits.argmax(-1) == labels).sum())
        if start >= most:
            continue
        pixels = pixels[: most - start]
        latent, prior = bottleneck.encoder(pixels, width), bottleneck.prior(width)
        rounded, likelihoods = prior(latent)
        streams = prior.compress(latent)
        if not torch.equal(prior.decompress(streams, tuple(latent.shape[2:])), rounded):
            raise ValueError("model: what its tables decode is not what they have encoded.")
        written += sum(map(len, streams))
        estimated += float(bits(likelihoods).sum()) / 8
        counted += len(pixels)
    return {"accuracy": right / len(dataset), "bytes": written / counted, "estimated_bytes": estimated / counted}


@torch.no_grad()
def measure_image_codec(
    model: nn.Module, normalization, dataset: Dataset, kind: str, quality: int, batch: int = 64
) -> dict[str, float]:
    """The same of pictures that are sent as "JPEG" or "WEBP", to the network as it is.

    Args:
        normalization: `training.data.normalization.Normalization` of the samples: they are pictures again by it.
        quality: Pillow's, 1 to 100.
    """
    if kind not in ("JPEG", "WEBP") or not is_whole(quality, 1, 100):
        raise ValueError(f"kind: got {kind!r} of quality {quality!r}, accepted are JPEG and WEBP from 1 to 100.")
    network = evaluating(model)
    scale, shift = (torch.tensor(v)[:, None, None] for v in (normalization.scale, normalization.shift))
    device, right, written = next(network.parameters()).device, 0, 0
    for start in range(0, len(dataset), batch):
        pixels, labels = batch_of(dataset, range(start, min(start + batch, len(dataset))), "cpu")
        seen = []
        for values in ((pixels - shift) / scale).round().clamp(0, 255).byte():
            buffer = io.BytesIO()
            array = values.permute(1, 2, 0).numpy()
            Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, kind, quality=quality)
            written += len(buffer.getvalue())
            read = Image.open(buffer)
            seen.append(normalization(read.convert("L" if array.shape[-1] == 1 else "RGB")))
        right += int((network(torch.stack(seen).to(device)).logits.argmax(-1).cpu() == labels).sum())
    return {"accuracy": right / len(dataset), "bytes": written / len(dataset)}


def batch_of(dataset: Dataset, numbers: Sequence[int], device) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values and labels of these samples."""
    samples = [dataset[number] for number in numbers]
    labels = torch.tensor([int(sample["labels"]) for sample in samples], device=device)
    return torch.stack([torch.as_tensor(sample["pixel_values"]) for sample in samples]).to(device), labels
