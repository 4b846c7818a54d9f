"""LSSKD (https://arxiv.org/abs/2506.07055): a network that teaches itself, by heads that drop off."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from .checks import check_temperature
from .interface import DistillationLoss, FeatureSpec, Networks, as_maps
from .joint_heads import JointHeads, light_extractors, remaining_stages
from .joint_labels import joint_label_loss, layered_loss

_KINDS = ("copy", "light")


class LayeredLoss(DistillationLoss):
    """A head after each stage learns class and rotation at once (`joint`), and the deepest head teaches the others, by
    its logits (`divergence`) and by its features (`features`): `joint_label_loss` and `layered_loss`. Each picture is
    shown at four rotations; the network's own head learns from the upright one, as in any training. There is no
    teacher, and the heads are for training only.

    HSAKD's learning from labels (https://arxiv.org/abs/2107.13715, section 3.1) is `divergence_weight` and
    `feature_weight` 0. The weights of LSSKD were not published where this was written; these are ours.

    Args:
        stages: numbers of the network's stages that get a head, see `stage_taps`; two and more.
        heads: `copy`, as published: new copies of the stages that follow, and of the last one once more at the same
            size; for networks whose stages are modules or blocks one after the other and make maps. `light`: a 3×3
            convolution each, for any network.
        temperature: T of the divergence, above 0.
        joint_weight, divergence_weight, feature_weight: of the three parts; they are multiplied by `weight`.
        weight: see `DistillationLoss`.
    """

    name = "lsskd"
    parts = ("joint", "divergence", "features")
    needs_teacher = False
    rotates = True

    def __init__(
        self,
        stages: list[int] = (1, 2, 3, 4),
        heads: Literal["copy", "light"] = "copy",
        temperature: float = 3.0,
        joint_weight: float = 1.0,
        divergence_weight: float = 1.0,
        feature_weight: float = 0.01,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        self.stages = list(stages)
        if len({*self.stages}) < 2 or self.stages != sorted({*self.stages}) or self.stages[0] < 1:
            raise ValueError(f"stages: got {self.stages}, accepted are two or more numbers from 1, in order.")
        if heads not in _KINDS:
            raise ValueError(f"heads: got {heads!r}, accepted are {', '.join(_KINDS)}.")
        self.weights = {"joint": joint_weight, "divergence": divergence_weight, "features": feature_weight}
        for part, value in self.weights.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"weight of {part}: got {value}, accepted are numbers from 0.")
        self.kind, self.temperature = heads, temperature
        self.specs: list[FeatureSpec] = []

    def student_features(self):
        return tuple(f"stage{stage}" for stage in self.stages)

    def build(self, networks: Networks) -> None:
        self.specs = [networks.student[name] for name in self.student_features()]
        widths = [spec.channels for spec in self.specs]
        if self.kind == "light":
            extractors = light_extractors(widths)
        else:
            extractors = _copies(networks.model, self.specs)
        self.heads = JointHeads(extractors, widths[-1], networks.num_classes)
        for module in self.heads.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, student, teacher, batch):
        if batch.labels.ndim != 1:
            raise ValueError("lsskd: labels are mixed or soft, accepted is one class for each picture (no --mixup).")
        maps = [as_maps(student[name], spec) for name, spec in zip(self.student_features(), self.specs, strict=True)]
        logits, pooled = self.heads(maps)
        found = layered_loss(logits, pooled, temperature=self.temperature)
        found |= {"joint": joint_label_loss(student["logits"], logits, batch.labels)["joint"]}
        return {part: self.weights[part] * found[part] for part in self.parts}


def stage_modules(model: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """What makes the features at each of these paths of those at the path before it: numbered siblings.

    Raises:
        ValueError: the paths are no numbered siblings in order.
    """
    matches = [re.fullmatch(r"(.*?)\.?(\d+)", path) for path in paths]
    parents = {match and match[1] for match in matches}
    numbers = [int(match[2]) for match in matches if match]
    if len(parents) != 1 or None in parents or numbers != sorted({*numbers}):
        raise ValueError(
            f"heads: the stages end at {', '.join(paths)}, which are no parts of one list; accepted is light, or "
            "--student_taps with such parts."
        )
    siblings = model.get_submodule(parents.pop())
    stages, first = [], 0
    for number in numbers:
        span = [siblings.get_submodule(str(at)) for at in range(first, number + 1)]
        stages.append(span[0] if len(span) == 1 else nn.Sequential(*span))
        first = number + 1
    return stages


def _copies(model: nn.Module, specs: Sequence[FeatureSpec]) -> list[nn.Module]:
    """`remaining_stages` of a network, tried out.

    Raises:
        ValueError: they cannot be copied, or do not fit one another.
    """
    hint = "accepted is light"
    if any(spec.layout != "maps" for spec in specs):
        raise ValueError(f"heads: the stages give {', '.join(spec.layout for spec in specs)}, no maps; {hint}.")
    parameter = next(model.parameters())
    extractors = [_FirstTensor(e) for e in remaining_stages(stage_modules(model, [spec.path for spec in specs]))]
    for extractor, spec in zip(extractors, specs, strict=True):
        try:
            with torch.no_grad():
                found = extractor.eval()(torch.zeros(2, *spec.shape, device=parameter.device, dtype=parameter.dtype))
        except Exception as error:  # whatever a stage makes of being called by itself
            raise ValueError(f"heads: copies of the stages after {spec.path} do not run ({error}); {hint}.") from error
        if not isinstance(found, torch.Tensor) or found.ndim != 4 or found.shape[1] != specs[-1].channels:
            raise ValueError(f"heads: copies of the stages after {spec.path} give no maps of the last stage; {hint}.")
        extractor.train()
    return extractors


class _FirstTensor(nn.Sequential):
    """Modules one after the other, each given the first tensor of what the one before it returns."""

    def __init__(self, modules: nn.Sequential):
        super().__init__(*modules)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for module in self:
            features = module(features)
            if isinstance(features, Mapping):
                features = next(iter(features.values()))
            features = features[0] if isinstance(features, list | tuple) else features
        return features
