"""One-for-All: distillation between unlike architectures in the space of the logits (https://arxiv.org/abs/2310.19444)."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .checks import check_logits, check_temperature, hard_labels
from .interface import POOLED, DistillationLoss, FeatureSpec, Networks, as_maps, as_tokens

#: Heads and MLP ratio of a branch's transformer blocks, and the grid that patches are merged down to.
_HEADS, _MLP_RATIO, _SMALLEST_GRID = 4, 4, 7
_STAGES = 4


def ofa_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float = 1.0,
    temperature: float = 1.0,
    non_target_power: bool = True,
) -> torch.Tensor:
    r"""Adaptive target enhancement: the mean over the batch of
    :math:`-\sum_c [(p^t_c + m_c)^ε - m_c] \log p^s_c`, with p = softmax(z / T) and m the one-hot target.

    There is no factor T². With ε = 1 it is cross entropy with the teacher's probabilities.

    Args:
        student_logits, teacher_logits: (batch, classes); no gradient flows into the teacher's.
        labels: (batch,) classes, or probabilities (batch, classes), of which the largest is the target.
        eps: ε, above 0; more enhances the target the surer the teacher is of it.
        temperature: T, above 0.
        non_target_power: as in the official code, the power acts on all classes, and the hard label's 1 is left to the
            task's loss. Otherwise the paper's equation 6: the power on the target alone, its 1 included,
            :math:`-(1 + p^t_y)^ε \log p^s_y - \sum_{c \ne y} p^t_c \log p^s_c`.

    Raises:
        ValueError: shapes that differ, a temperature or ε that is not positive.
    """
    check_temperature(temperature)
    check_temperature(eps, "eps")
    student, teacher = check_logits(student_logits, teacher_logits)
    target = F.one_hot(hard_labels(labels), student.shape[1]).to(student.dtype)
    probabilities = (teacher / temperature).softmax(1)
    if non_target_power:
        weights = (probabilities + target).pow(eps) - target
    else:
        weights = torch.where(target > 0, (1 + probabilities).pow(eps), probabilities)
    return -(weights * (student / temperature).log_softmax(1)).sum(1).mean()


class Downsampling(nn.Module):
    """Two depthwise separable convolutions, the first of stride 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.op = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, in_channels, 1, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(),
            nn.Conv2d(in_channels, in_channels, 3, 1, 1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.op(maps)


def map_branch(channels: int, stage: int, width: int, num_classes: int) -> nn.Sequential:
    """From maps (batch, channels, height, width) of a stage, 1 to 4, to logits: 4 - stage units that double the
    channels, the last one to `width`; at stage 4 a convolution."""
    layers: list[nn.Module] = []
    for unit in range(_STAGES - stage):
        out = width if unit == _STAGES - stage - 1 else 2 * channels
        layers.append(Downsampling(channels, out))
        channels = out
    layers = layers or [nn.Conv2d(channels, width, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


class PatchMerging(nn.Module):
    """Four neighbours of a square grid into one; a grid of odd sides is padded by zeros: the published code refuses
    it."""

    def __init__(self, in_channels: int, out_channels: int, activated: bool):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)
        self.activation = nn.GELU() if activated else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(tokens.shape[1])
        grid = tokens.unflatten(1, (side, side))
        if side % 2:
            grid = F.pad(grid, (0, 0, 0, 1, 0, 1))
        corners = [grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.activation(self.reduction(self.norm(torch.cat(corners, dim=-1)).flatten(1, 2)))


class BesideTokens(nn.Module):
    """A function of the patches alone; the first `prefix_tokens` pass by."""

    def __init__(self, fn: nn.Module, prefix_tokens: int):
        super().__init__()
        self.fn, self.prefix_tokens = fn, prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        patches = self.fn(tokens[:, self.prefix_tokens :])
        return torch.cat([tokens[:, : self.prefix_tokens], patches], dim=1) if self.prefix_tokens else patches


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer block that norms first."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width)
        hidden = _MLP_RATIO * width
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, width))
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ClassFeature(nn.Module):
    """The prefix tokens side by side, or the mean where there are none."""

    def __init__(self, prefix_tokens: int):
        super().__init__()
        self.prefix_tokens = prefix_tokens

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, : self.prefix_tokens].flatten(1) if self.prefix_tokens else tokens.mean(1)


def token_branch(spec: FeatureSpec, stage: int, width: int, num_classes: int) -> nn.Sequential:
    """From tokens (batch, length, channels) of a stage to logits: patches are merged down to a grid of about 7, then
    4 - stage transformer blocks, one at least.

    Args:
        spec: of the tokens. Where nothing is merged, other channels than `width` are brought to it by a linear layer,
            which the published code lacks: its students have none such.
        stage: 1 to 4.
        width: of the student's pooled features, which the branch works in; a multiple of 4.
        num_classes: of the logits.
    """
    if width % _HEADS:
        raise ValueError(f"the student's pooled features have {width} channels, accepted are multiples of {_HEADS}.")
    if math.isqrt(spec.shape[0] - spec.prefix_tokens) ** 2 != spec.shape[0] - spec.prefix_tokens:
        raise ValueError(f"{spec.path}: {spec.shape[0]} tokens ({spec.prefix_tokens} of them prefix) fill no square.")
    merges = max(int(math.log2(max(spec.grid[0], 1) / _SMALLEST_GRID)), 0)
    layers: list[nn.Module] = [
        PatchMerging(spec.channels if number == 0 else width, width, activated=number == 0 or number < merges - 1)
        for number in range(merges)
    ]
    if merges and spec.prefix_tokens and spec.channels != width:
        raise ValueError(
            f"{spec.path}: class tokens have {spec.channels} channels, accepted are the {width} of the student's "
            "pooled features."
        )
    merging = BesideTokens(nn.Sequential(*layers), spec.prefix_tokens)
    if not merges and spec.channels != width:
        merging = nn.Linear(spec.channels, width)
    blocks = nn.Sequential(*(Block(width) for _ in range(max(_STAGES - stage, 1))))
    head = nn.Linear(width * max(spec.prefix_tokens, 1), num_classes)
    return nn.Sequential(merging, blocks, ClassFeature(spec.prefix_tokens), head)


def initialize(branch: nn.Module) -> None:
    """Convolutions Kaiming normal (fan out, ReLU), linear layers truncated normal 0.02, as the official code does."""
    for module in branch.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class OfaLoss(DistillationLoss):
    """OFA-KD: `ofa_loss` of the student's logits, and of those that a branch makes of each stage of it, against the
    teacher's logits. The branches are for training only.

    Of the teacher only its logits are needed, and the width of its pooled features. The student's stages are maps or
    tokens.

    Args:
        stages: numbers of the student's stages, from 1 to 4, see `stage_taps`.
        eps: ε, one for all, or one for each of the stages and, last, one for the logits. The paper's are 1.5 for
            DeiT-T → ResNet18 on ImageNet and 1 for Swin-T → ResNet18 on CIFAR-100.
        temperature: T, above 0.
        kd_weight: of the student's own logits; it is multiplied by `weight`.
        stage_weight: of the sum over the stages, likewise.
        non_target_power: see `ofa_loss`.
        weight: see `DistillationLoss`.
    """

    name = "ofa"
    parts = ("logits", "stages")

    def __init__(
        self,
        stages: list[int] = (1, 2, 3, 4),
        eps: float | list[float] = 1.0,
        temperature: float = 1.0,
        kd_weight: float = 1.0,
        stage_weight: float = 1.0,
        non_target_power: bool = True,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        self.stages = list(stages)
        if not self.stages or len({*self.stages}) < len(self.stages) or not {*self.stages} <= {*range(1, _STAGES + 1)}:
            raise ValueError(f"stages: got {self.stages}, accepted are different numbers from 1 to {_STAGES}.")
        self.eps = list(eps) if isinstance(eps, Sequence) else [eps] * (len(self.stages) + 1)
        if len(self.eps) != len(self.stages) + 1:
            raise ValueError(
                f"eps: got {len(self.eps)} values, accepted are one, or one for each of the {len(self.stages)} stages "
                "and one for the logits."
            )
        for value in self.eps:
            check_temperature(value, "eps")
        for name, value in (("kd_weight", kd_weight), ("stage_weight", stage_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: got {value}, accepted are numbers from 0.")
        self.kd_weight, self.stage_weight = kd_weight, stage_weight
        self.settings = {"temperature": temperature, "non_target_power": non_target_power}
        self.projector = nn.ModuleDict()
        self._specs: dict[int, FeatureSpec] = {}

    def student_features(self):
        return tuple(f"stage{stage}" for stage in self.stages)

    def build(self, networks: Networks) -> None:
        width = networks.student[POOLED].channels
        widest = max(width, networks.teacher[POOLED].channels)
        for stage in self.stages:
            spec = self._specs[stage] = networks.student[f"stage{stage}"]
            if spec.layout == "tokens":
                branch = token_branch(spec, stage, width, networks.num_classes)
            elif spec.layout == "maps" or not _is_token_mixer(networks.student):
                branch = map_branch(spec.channels, stage, widest, networks.num_classes)
            else:
                flat = FeatureSpec((math.prod(spec.grid), spec.channels), "tokens", 0, spec.path)
                branch = token_branch(flat, stage, width, networks.num_classes)
            initialize(branch)
            self.projector[str(stage)] = branch

    def branch_logits(self, stage: int, features: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes) of the features of a stage."""
        branch, spec = self.projector[str(stage)], self._specs[stage]
        takes_tokens = not isinstance(branch[0], Downsampling | nn.Conv2d)
        return branch(as_tokens(features, spec) if takes_tokens else as_maps(features, spec))

    def forward(self, student, teacher, batch):
        expected, labels = teacher["logits"], batch.labels
        found = {
            "logits": self.kd_weight * ofa_loss(student["logits"], expected, labels, eps=self.eps[-1], **self.settings)
        }
        found["stages"] = self.stage_weight * sum(
            ofa_loss(self.branch_logits(stage, student[f"stage{stage}"]), expected, labels, eps=eps, **self.settings)
            for stage, eps in zip(self.stages, self.eps[:-1], strict=True)
        )
        return found


def _is_token_mixer(student) -> bool:
    """Networks with maps (height, width, channels), such as timm's Swin, are token students, as in the paper."""
    return all(spec.layout in ("maps_last", "tokens", "vector") for spec in student.values())
