"""The teachers: frozen classifiers whose batch norms remember what they were trained on."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification

import hf_effmodels

from ....hub.ids import check_place, reading
from ....hub.whole import load_whole
from ....models import sized_processor
from ...data.classes import model_classes, shown
from ...data.images import check_processor
from ...data.normalization import Normalization
from ...data.processors import load_image_processor
from ...data_free import batch_norms_of
from ...linear_head import linear_head, seen_by

#: What is said where there is no teacher.
_UNTRAINED = "The teachers are trained first (docs/systems/cdfkd_mfs.md)."


@dataclass
class Input:
    """What a network is given: side in pixels, and how 8-bit values become its numbers."""

    size: int
    normalization: Normalization

    @property
    def num_channels(self) -> int:
        return len(self.normalization.scale)


class Teacher:
    """A frozen classifier, shown images that are normalised for another one. Not a module: it is neither trained nor
    saved.

    Args:
        model: a classifier that ends in a linear layer.
        own: what it takes; given: what it is given.
        classes: number of its class for each of the student's.
    """

    def __init__(self, name: str, model: nn.Module, own: Input, given: Input, classes: Sequence[int]):
        self.name, self.model = name, model.eval().requires_grad_(False)
        self.size = None if own.size == given.size else own.size
        ours, theirs = (torch.tensor([side.scale, side.shift]) for side in (own.normalization, given.normalization))
        # x = v s + t of the 8-bit value v is to become v s' + t'.
        self._factor = ours[0] / theirs[0]
        self._shift = ours[1] - theirs[1] * self._factor
        self._is_same = own.normalization == given.normalization
        self._classes = None if list(classes) == [*range(model.config.num_labels)] else torch.tensor(list(classes))
        pixels = torch.zeros(2, own.num_channels, own.size, own.size, device=next(model.parameters()).device)
        self.head = linear_head(model, pixels, f"--teachers: {name}")

    @property
    def width(self) -> int:
        """Of the features."""
        return self.head.in_features

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, classes) logits in the order of the student's classes and (batch, width) features, both float32.

        Args:
            pixels: (batch, channels, height, width). Gradients flow through to them.
        """
        if not self._is_same:
            factor, shift = (v.to(pixels)[:, None, None] for v in (self._factor, self._shift))
            pixels = pixels * factor + shift
        if self.size is not None:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", align_corners=False)
        with seen_by(self.head) as seen:
            logits = self.model(pixel_values=pixels).logits.float()
        return logits if self._classes is None else logits[:, self._classes.to(logits.device)], seen[0].float()


@dataclass
class Loaded:
    """A teacher as it is found: its name, the network, and what goes with it."""

    name: str
    model: nn.Module
    processor: object

    @property
    def classes(self) -> list[str]:
        return [self.model.config.id2label[number] for number in range(self.model.config.num_labels)]


def load_teachers(names: Sequence[str], token: str | None, trust_remote_code: bool, statistics: bool) -> list[Loaded]:
    """The classifiers of `--teachers`.

    Args:
        statistics: their batch norms are needed.

    Raises:
        ValueError: one with random weights, without batch norms, or of other classes than the first.
        OSError: one that cannot be found or reached.
    """
    source = {"token": token, "trust_remote_code": trust_remote_code}
    for name in names:
        if name in hf_effmodels.list_models():
            raise ValueError(f"--teachers: {name} is a preset, whose random weights know nothing. {_UNTRAINED}")
        check_place("--teachers", name, hint=_UNTRAINED)
    loaded = []
    for name in names:
        with reading("--teachers", name, hint=_UNTRAINED):
            config = AutoConfig.from_pretrained(name, **source)
            processor = load_image_processor(name, config, **source)
        options = {"hint": _UNTRAINED, "dtype": torch.float32, **source}
        model = load_whole(AutoModelForImageClassification, "--teachers", name, **options)
        check_processor("--teachers", processor)
        if statistics and not batch_norms_of(model):
            raise ValueError(
                f"--teachers: {name}, a {type(model).__name__}, has no batch norm that remembers statistics of its "
                "images; accepted are classifiers with batch norms that are not folded (ResNet, MobileNet, ...). "
                "--statistics_weight 0 does without."
            )
        loaded.append(Loaded(name, model, processor))
    first = loaded[0]
    for other in loaded[1:]:
        if len(other.classes) != len(first.classes):
            raise ValueError(
                f"--teachers: {other.name} has {len(other.classes)} classes, {first.name} has {len(first.classes)}."
            )
        _class_numbers(first, other)
    return loaded


def teachers_for(loaded: Sequence[Loaded], given: Input) -> list[Teacher]:
    """The teachers as they take what the student is given.

    Raises:
        ValueError: one that takes other channels, or whose logits come from no linear layer.
    """
    made = []
    for one in loaded:
        own = input_of(one.processor, getattr(one.model.config, "num_channels", 3))
        if own.num_channels != given.num_channels:
            raise ValueError(
                f"--teachers: {one.name} takes {own.num_channels} channels, the student {given.num_channels}."
            )
        made.append(Teacher(one.name, one.model, own, given, _class_numbers(loaded[0], one)))
    return made


def student_processor(loaded: Sequence[Loaded], image_size: int | None):
    """The student's image processor: the first teacher's, for images of `image_size` pixels or as it is."""
    processor = copy.deepcopy(loaded[0].processor)
    return processor if image_size is None else sized_processor(processor, image_size)


def input_of(processor, num_channels: int) -> Input:
    """What a network with this image processor takes; a ValueError for images that are no squares."""
    crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
    sides = {value for value in dict(crop or processor.size).values() if value is not None}
    if len(sides) != 1:
        raise ValueError(f"--teachers: an image processor with the size {processor.size}; accepted are squares.")
    return Input(int(sides.pop()), Normalization.of(processor, num_channels))


def _class_numbers(first: Loaded, other: Loaded) -> list[int]:
    try:
        return list(model_classes(first.classes, other.classes))
    except ValueError:
        raise ValueError(
            f"--teachers: the classes of {other.name} ({shown(other.classes)}) are not those of {first.name} "
            f"({shown(first.classes)})."
        ) from None
