"""LSSKD (https://arxiv.org/abs/2506.07055): a network that teaches itself, by heads that drop off; and HSAKD
(https://arxiv.org/abs/2107.13715), whose student learns from a teacher with such heads."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .checks import check_temperature
from .interface import DistillationLoss, FeatureSpec, Networks, as_maps
from .joint_heads import JointHeads, light_extractors, remaining_stages
from .joint_labels import ROTATIONS, joint_label_loss, layered_loss
from .kl_divergence import kl_divergence_loss

#: Beside a network that was trained with heads: these.
HEADS_FILE = "joint_heads.safetensors"
_KINDS = ("copy", "light")


class LayeredLoss(DistillationLoss):
    """A head after each stage learns class and rotation at once (`joint`), and the deepest head teaches the others, by
    its logits (`divergence`) and by its features (`features`): `joint_label_loss` and `layered_loss`. Each picture is
    shown at four rotations; the network's own head learns from the upright one, as in any training. There is no
    teacher, and the heads are for training only.

    HSAKD's learning from labels (https://arxiv.org/abs/2107.13715, section 3.1) is `divergence_weight` and
    `feature_weight` 0, and `keep_heads` for a network that is going to teach others (`hsakd`). The weights of LSSKD
    were not published where this was written; these are ours.

    Args:
        stages: numbers of the network's stages that get a head, see `stage_taps`; two and more.
        heads: `copy`, as published: new copies of the stages that follow, and of the last one once more at the same
            size; for networks whose stages are modules or blocks one after the other and make maps. `light`: a 3×3
            convolution each, for any network.
        temperature: T of the divergence, above 0.
        joint_weight, divergence_weight, feature_weight: of the three parts; they are multiplied by `weight`.
        keep_heads: write them beside the network, to `joint_heads.safetensors`.
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
        keep_heads: bool = False,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        self.stages, self.keep_heads = _checked_stages(stages), keep_heads
        _check_kind(heads)
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
        self.heads = _new_heads(self.kind, networks.model, self.specs, networks.num_classes)

    def kept(self):
        facts = {"heads": self.kind, "stages": ",".join(map(str, self.stages))}
        return {HEADS_FILE: (self.heads, facts)} if self.keep_heads else {}

    def forward(self, student, teacher, batch):
        if batch.labels.ndim != 1:
            raise ValueError("lsskd: labels are mixed or soft, accepted is one class for each picture (no --mixup).")
        maps = [as_maps(student[name], spec) for name, spec in zip(self.student_features(), self.specs, strict=True)]
        logits, pooled = self.heads(maps)
        found = layered_loss(logits, pooled, temperature=self.temperature)
        found |= {"joint": joint_label_loss(student["logits"], logits, batch.labels)["joint"]}
        return {part: self.weights[part] * found[part] for part in self.parts}


class JointTeacherLoss(DistillationLoss):
    """HSAKD (section 3.3): head by head, the student's joint labels of class and rotation are drawn to those of a
    teacher that was trained with such heads (`joint`), and its logits of all rotations to the teacher's (`logits`),
    each by `kl_divergence_loss`; `joint_labels.joint_teacher_loss` is their sum. The student's heads learn from
    nothing else, and drop off.

    Args:
        stages: numbers of the student's stages that get a head, as many as the teacher's.
        heads: see `LayeredLoss`; of the student.
        temperature: T, above 0.
        teacher_heads: the teacher's, what `lsskd` with `keep_heads` has written: a file, or the folder it lies in. By
            default the teacher's own folder.
        weight: see `DistillationLoss`.
    """

    name = "hsakd"
    parts = ("joint", "logits")
    rotates = True

    def __init__(
        self,
        stages: list[int] = (1, 2, 3, 4),
        heads: Literal["copy", "light"] = "copy",
        temperature: float = 3.0,
        teacher_heads: str | None = None,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        _check_kind(heads)
        self.stages, self.kind, self.temperature = _checked_stages(stages), heads, temperature
        self.teacher_heads, self.teacher_stages = teacher_heads, None
        self.specs: list[FeatureSpec] = []
        self.teacher_specs: list[FeatureSpec] = []
        self._taught_by: list[JointHeads] = []  # in a list: not trained, saved or spread with the student

    def student_features(self):
        return tuple(f"stage{stage}" for stage in self.stages)

    def teacher_features(self):
        return self.student_features()

    def build(self, networks: Networks) -> None:
        self.specs = [networks.student[name] for name in self.student_features()]
        self.teacher_specs = [networks.teacher[name] for name in self.teacher_features()]
        self.heads = _new_heads(self.kind, networks.model, self.specs, networks.num_classes)
        theirs = _load_heads(self.teacher_heads, networks.teacher_model, self.teacher_specs, self.stages)
        self._taught_by = [theirs.eval().requires_grad_(False)]
        classes = torch.tensor(networks.teacher_classes or range(networks.num_classes))
        joint = ROTATIONS * classes[:, None] + torch.arange(ROTATIONS)
        self.register_buffer("teacher_order", joint.flatten(), persistent=False)

    def forward(self, student, teacher, batch):
        maps = [as_maps(student[name], spec) for name, spec in zip(self.student_features(), self.specs, strict=True)]
        logits, _ = self.heads(maps)
        with torch.no_grad():
            theirs = self._taught_by[0].to(maps[0].device)
            specs = zip(self.teacher_features(), self.teacher_specs, strict=True)
            expected, _ = theirs([as_maps(teacher[name], spec).float() for name, spec in specs])
        pairs = zip(logits, (head[:, self.teacher_order] for head in expected), strict=True)
        return {
            "joint": sum(kl_divergence_loss(own, target, self.temperature) for own, target in pairs),
            "logits": kl_divergence_loss(student["logits"], teacher["logits"], self.temperature),
        }


def _checked_stages(stages: Sequence[int]) -> list[int]:
    stages = list(stages)
    if len({*stages}) < 2 or stages != sorted({*stages}) or stages[0] < 1:
        raise ValueError(f"stages: got {stages}, accepted are two or more numbers from 1, in order.")
    return stages


def _check_kind(heads: str) -> None:
    if heads not in _KINDS:
        raise ValueError(f"heads: got {heads!r}, accepted are {', '.join(_KINDS)}.")


def _new_heads(kind: str, model: nn.Module, specs: Sequence[FeatureSpec], num_classes: int) -> JointHeads:
    widths = [spec.channels for spec in specs]
    extractors = light_extractors(widths) if kind == "light" else _copies(model, specs)
    heads = JointHeads(extractors, widths[-1], num_classes)
    for module in heads.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return heads


def _load_heads(
    place: str | None, model: nn.Module, specs: Sequence[FeatureSpec], stages: Sequence[int]
) -> JointHeads:
    """The heads that were trained with a teacher.

    Raises:
        ValueError: there are none, or they are of other stages or another network.
    """
    file = Path(model.name_or_path if place is None else place)
    file = file / HEADS_FILE if file.is_dir() or file.suffix != ".safetensors" else file
    made_by = "the loss lsskd with keep_heads writes them beside the network that it trains"
    try:
        with safe_open(file, framework="pt") as opened:
            facts = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"teacher_heads: {file} cannot be read ({error}); {made_by}.") from None
    theirs = facts.get("stages", "").split(",")
    if theirs != [str(stage) for stage in stages] or facts.get("heads") not in _KINDS:
        raise ValueError(
            f"teacher_heads: those of {file} are {facts.get('heads')} heads of the stages {', '.join(theirs)}, the "
            f"student's of {', '.join(map(str, stages))}; accepted are the same."
        )
    heads = _new_heads(facts["heads"], model, specs, model.config.num_labels)
    try:
        heads.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"teacher_heads: {file} is of another network: {' '.join(str(error).split())}") from None
    return heads


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
