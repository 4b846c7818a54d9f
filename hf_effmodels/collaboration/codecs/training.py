"""The two stages in which Entropic Student's bottleneck learns (https://arxiv.org/abs/2108.11898; values of the
official repository and sc2bench): to imitate a network's features in few bits, and the rest to live with that."""

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..splitting.halves import evaluating
from ..splitting.points import Trace
from .entropic import EntropicBottleneck
from .prior import bits, rate_loss

#: The rate falls to a tenth after these shares of a stage.
_FIRST_MILESTONES, _SECOND_MILESTONES = (0.5, 0.8), (0.5,)


@dataclass(frozen=True)
class BottleneckTraining:
    """The published settings.

    Attributes:
        beta: factor of the bits beside the squared error, both summed over the batch (published: 0.01 to 5.12).
        channels: of the code.
        first_epochs, second_epochs: of the stages; the rate falls to a tenth after 5 and 8 tenths of the first, and
            half of the second.
        first_batch, second_batch: images of a step.
        first_learning_rate: of Adam, for encoder, decoder and prior.
        second_learning_rate, momentum, weight_decay: of SGD, for the decoder and the network behind it.
        alpha: share of the teacher's divergence in the second stage, beside the cross entropy.
        seed: of weights, order and noise.
    """

    beta: float = 0.16
    channels: int = 24
    first_epochs: int = 10
    second_epochs: int = 10
    first_batch: int = 64
    second_batch: int = 128
    first_learning_rate: float = 1e-3
    second_learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    alpha: float = 0.5
    seed: int = 0

    def __post_init__(self):
        for name in ("channels", "first_epochs", "second_epochs", "first_batch", "second_batch"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("first_learning_rate", "second_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        for name in ("beta", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: got {self.alpha}, accepted are numbers from 0 to 1.")


def train_bottleneck(
    model: nn.Module,
    at: str,
    dataset: Dataset,
    training: BottleneckTraining | None = None,
    *,
    features: Sequence[str] = (),
    told: Callable[[str, int, float], None] = lambda stage, epoch, loss: None,
) -> tuple[nn.Module, EntropicBottleneck]:
    """A bottleneck in the place of a network's first layers, and a copy of the network whose rest has learnt with it.

    The network itself is the teacher. The layers before the cut run in vain in each step: the code is in their place.

    Args:
        model: a classifier of images; it stays as it is.
        at: the module whose output the bottleneck imitates, of a quarter of the image's side; see `split_points`.
        dataset: samples with `pixel_values` and `labels`; epoch e asks for the numbers from e · n on of a
            `SeededDataset`, and of others for the same ones.
        training: how.
        features: further modules behind the cut, whose outputs count in the first stage as well (published: the ends
            of all further stages).
        told: called after each epoch with the stage, the epoch and the mean loss of an image.

    Raises:
        ValueError: a module that cannot be cut after, or features of another size.
    """
    t = training or BottleneckTraining()
    cut = Trace(model).cut(at)
    name, modules = cut.point.name, dict(model.named_modules())
    unknown = [path for path in features if path not in modules]
    if unknown:
        raise ValueError(f"features: there is no module {unknown[0]!r}.")
    if len(cut.point.shape) != 4:
        raise ValueError(f"at: {name} gives {list(cut.point.shape)}, accepted are channels of maps.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(t.seed)
        bottleneck = EntropicBottleneck(t.channels, cut.point.shape[1])
        device = next(model.parameters()).device
        teacher, student = evaluating(model), copy.deepcopy(model).eval().requires_grad_(False)
        bottleneck.to(device)
        _check_size(bottleneck, name, _batch(dataset, [0], device)[0], teacher)
        _first_stage(teacher, student, bottleneck, name, [name, *features], dataset, t, told)
        bottleneck.eval().entropy_bottleneck.update()
        _second_stage(teacher, student, bottleneck, name, cut.tail, dataset, t, told)
    return student.eval().requires_grad_(True), bottleneck.eval()


def _check_size(bottleneck, name: str, pixels: torch.Tensor, teacher: nn.Module) -> None:
    with torch.no_grad(), _outputs(teacher, [name]) as wanted:
        teacher(pixels)
        given = tuple(bottleneck.eval()(pixels)[0].shape[1:])
    if given != (expected := tuple(wanted[name].shape[1:])):
        raise ValueError(
            f"at: {name} gives {expected} of images of {tuple(pixels.shape[2:])}, the bottleneck {given}; accepted "
            "are maps of a quarter of the image's side."
        )


def _first_stage(teacher, student, bottleneck, name, watched, dataset, t: BottleneckTraining, told) -> None:
    optimizer = torch.optim.Adam(bottleneck.parameters(), lr=t.first_learning_rate)
    schedule = _schedule(optimizer, t.first_epochs, _FIRST_MILESTONES)
    bottleneck.train()
    for epoch in range(t.first_epochs):
        total = 0.0
        for pixels, _ in _batches(dataset, t.first_batch, t.seed, epoch, pixels_of=bottleneck):
            with torch.no_grad(), _outputs(teacher, watched) as wanted:
                teacher(pixels)
            imitated, likelihoods = bottleneck(pixels)
            with _instead(student, name, imitated), _outputs(student, watched) as found:
                student(pixels)
            error = sum((found[path] - wanted[path]).square().sum() for path in watched)
            loss = error + t.beta * rate_loss(likelihoods)
            optimizer.zero_grad()
            loss.backward()
            bottleneck.entropy_bottleneck.auxiliary_loss().backward()
            optimizer.step()
            total += float(loss.detach())
        schedule.step()
        told("features", epoch + 1, total / len(dataset))


def _second_stage(teacher, student, bottleneck, name, tail, dataset, t: BottleneckTraining, told) -> None:
    bottleneck.requires_grad_(False).eval().decoder.requires_grad_(True)
    learning = [*bottleneck.decoder.parameters()]
    for path, parameter in student.named_parameters():
        if path in tail:
            learning.append(parameter.requires_grad_(True))
    for path, module in student.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        if own and all((f"{path}.{inner}" if path else inner) in tail for inner, _ in own):
            module.train()  # norms behind the cut get used to the new features
    optimizer = torch.optim.SGD(learning, lr=t.second_learning_rate, momentum=t.momentum, weight_decay=t.weight_decay)
    schedule = _schedule(optimizer, t.second_epochs, _SECOND_MILESTONES)
    for epoch in range(t.second_epochs):
        total = 0.0
        for pixels, labels in _batches(dataset, t.second_batch, t.seed + 1, epoch, pixels_of=bottleneck):
            with torch.no_grad():
                wanted = teacher(pixels).logits.log_softmax(-1)
            with _instead(student, name, bottleneck.rounded(pixels)):
                logits = student(pixels).logits
            divergence = F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean", log_target=True)
            loss = (1 - t.alpha) * F.cross_entropy(logits, labels) + t.alpha * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(pixels)
        schedule.step()
        told("logits", epoch + 1, total / len(dataset))


def _schedule(optimizer, epochs: int, shares: Sequence[float]):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [max(1, round(share * epochs)) for share in shares])


def _batches(dataset, size: int, seed: int, epoch: int, pixels_of: nn.Module) -> Iterator:
    device, count = next(pixels_of.parameters()).device, len(dataset)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    offset = epoch * count if getattr(dataset, "seed", None) is not None else 0
    for start in range(0, count, size):
        yield _batch(dataset, (offset + order[start : start + size]).tolist(), device)


def _batch(dataset, numbers: Sequence[int], device) -> tuple[torch.Tensor, torch.Tensor]:
    samples = [dataset[number] for number in numbers]
    labels = torch.tensor([int(sample["labels"]) for sample in samples], device=device)
    return torch.stack([torch.as_tensor(sample["pixel_values"]) for sample in samples]).to(device), labels


@contextmanager
def _outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """What these modules give within the block."""
    found, handles = {}, []
    for name in names:
        keep = lambda module, args, output, name=name: found.__setitem__(name, _tensor(output))  # noqa: E731
        handles.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _instead(model: nn.Module, name: str, features: torch.Tensor) -> Iterator[None]:
    """Within the block a module gives `features`, whatever it is given."""

    def replace(module, args, output):
        return features if isinstance(output, torch.Tensor) else (features, *output[1:])

    handle = model.get_submodule(name).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _tensor(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def measure_bottleneck(
    model: nn.Module, at: str, bottleneck: EntropicBottleneck, dataset: Dataset, batch: int = 64
) -> dict[str, float]:
    """Accuracy by what is decoded from the bytes, and bytes of an image: those written, and those that the prior
    estimates."""
    name, student = Trace(model).cut(at).point.name, evaluating(model)
    device = next(student.parameters()).device
    right = written = estimated = 0.0
    for start in range(0, len(dataset), batch):
        pixels, labels = _batch(dataset, range(start, min(start + batch, len(dataset))), device)
        coded = bottleneck.encode(pixels)
        with _instead(student, name, bottleneck.decode(coded)):
            right += int((student(pixels).logits.argmax(-1) == labels).sum())
        written += coded.num_bytes
        estimated += float(bits(bottleneck.entropy_bottleneck(bottleneck.encoder(pixels))[1]).sum()) / 8
    count = len(dataset)
    return {"accuracy": right / count, "bytes": written / count, "estimated_bytes": estimated / count}


@torch.no_grad()
def measure_image_codec(
    model: nn.Module, normalization, dataset: Dataset, kind: str, quality: int, batch: int = 64
) -> dict[str, float]:
    """The same of pictures that are sent as "JPEG" or "WEBP", to the network as it is.

    Args:
        normalization: `training.data.normalization.Normalization` of the samples: they are pictures again by it.
        quality: Pillow's, 1 to 100.
    """
    if kind not in ("JPEG", "WEBP") or not 1 <= quality <= 100:
        raise ValueError(f"kind: got {kind!r} of quality {quality}, accepted are JPEG and WEBP from 1 to 100.")
    network = evaluating(model)
    scale, shift = (torch.tensor(v)[:, None, None] for v in (normalization.scale, normalization.shift))
    device, right, written = next(network.parameters()).device, 0, 0
    for start in range(0, len(dataset), batch):
        pixels, labels = _batch(dataset, range(start, min(start + batch, len(dataset))), "cpu")
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
