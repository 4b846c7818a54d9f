"""DEKD, the distillation of DeViT (https://arxiv.org/abs/2309.05015): relations of queries, keys and values of one
block, and fused tokens."""

from typing import Literal

import torch
from torch.nn import functional as F

from .checks import check_temperature, exact
from .interface import LOGITS, POOLED, DistillationLoss, Networks
from .token_distillation import check_classifier, token_distillation_loss


def feature_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""KL(teacher ‖ student) of :math:`\mathrm{softmax}(F F^T / \sqrt{d})`, summed over tokens, over the batch.

    F are the heads side by side, (tokens, heads · d): numbers and widths of the heads may differ.

    Args:
        student, teacher: queries, keys or values, (batch, heads, tokens, d); no gradient flows into the teacher's.

    Raises:
        ValueError: another batch or number of tokens.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[::2] != teacher.shape[::2]:
        raise ValueError(
            f"teacher: got shape {tuple(teacher.shape)} for the student's {tuple(student.shape)}, accepted are "
            "(batch, heads, tokens, width of a head) of as many images and tokens."
        )
    found, expected = _relations(exact(student)), _relations(exact(teacher).detach())
    return F.kl_div(found, expected, reduction="sum", log_target=True) / len(student)


def _relations(features: torch.Tensor) -> torch.Tensor:
    joined = features.transpose(1, 2).flatten(2)
    return (joined @ joined.transpose(1, 2) / features.shape[-1] ** 0.5).log_softmax(-1)


def fused_token_loss(tokens: torch.Tensor, teacher_tokens: torch.Tensor, kind: Literal["mse", "kldiv"] = "mse"):
    """Between fused tokens and the teacher's, (batch, tokens, width): summed over class and distillation token, each
    the mean squared error, or the divergence of the softmax over the width (mean over the batch)."""
    if tokens.shape != teacher_tokens.shape:
        raise ValueError(
            f"teacher_tokens: got shape {tuple(teacher_tokens.shape)}, accepted is the student's "
            f"{tuple(tokens.shape)}."
        )
    tokens, teacher_tokens = exact(tokens), exact(teacher_tokens).detach()
    if kind == "mse":
        return (tokens - teacher_tokens).square().mean((0, 2)).sum()
    if kind != "kldiv":
        raise ValueError(f"kind: got {kind!r}, accepted are 'mse', 'kldiv'.")
    found, expected = tokens.log_softmax(-1), teacher_tokens.log_softmax(-1)
    return F.kl_div(found, expected, reduction="sum", log_target=True) / len(tokens)


class DekdLoss(DistillationLoss):
    """What DEKD adds to the cross entropy: `feature_relation_loss` of queries, keys and values of one block, and
    `token_distillation_loss`. The published objective is 0.5 · cross entropy + 0.5 · `logits` + 0.2 Lq + 0.1 Lk +
    0.3 Lv, the last three divided by the student's number of blocks.

    Args:
        student_block, teacher_block: paths of the attention modules of the middle blocks (numbers L/2 - 1).
        student_head_width, teacher_head_width: channels of one head; how many heads there are does not matter, so a
            block may have lost some.
        blocks: of the student, by which the relations are divided.
        query_weight, key_weight, value_weight, logits_weight: 0 leaves one out.
        head: path of the module that learns the teacher's logits, of a DeiT's distillation token; the student's logits
            by default.
        kind, temperature: see `token_distillation_loss`.
        student_layers, teacher_layers: linear layers in these modules, one of queries, keys and values side by side
            (`qkv`), or one for each of the three.
        weight: see `DistillationLoss`.
    """

    name = "dekd"
    parts = ("query", "key", "value", "logits")

    def __init__(
        self,
        student_block: str = "devit.parts.0.layers.5.attention",
        teacher_block: str = "vit.layers.11.attention",
        student_head_width: int = 64,
        teacher_head_width: int = 64,
        blocks: int = 12,
        query_weight: float = 0.2,
        key_weight: float = 0.1,
        value_weight: float = 0.3,
        logits_weight: float = 0.5,
        head: str | None = None,
        kind: Literal["hard", "soft"] = "hard",
        temperature: float = 1.0,
        student_layers: list[str] = ("qkv",),
        teacher_layers: list[str] = ("q_proj", "k_proj", "v_proj"),
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        sizes = {"student_head_width": student_head_width, "teacher_head_width": teacher_head_width, "blocks": blocks}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: got {value}, accepted are whole numbers from 1.")
        for name, layers in (("student_layers", student_layers), ("teacher_layers", teacher_layers)):
            if len(layers) not in (1, 3):
                raise ValueError(
                    f"{name}: got {list(layers)}, accepted are one name of q, k and v together, or three."
                )
        self.paths = (
            [f"{student_block}.{layer}" for layer in student_layers],
            [f"{teacher_block}.{layer}" for layer in teacher_layers],
        )
        self.widths = student_head_width, teacher_head_width
        self.blocks = blocks
        self.weights = {"query": query_weight, "key": key_weight, "value": value_weight}
        self.logits_weight, self.head = logits_weight, head or LOGITS
        self.kind, self.temperature = kind, temperature

    def student_features(self):
        return (*self.paths[0], self.head)

    def teacher_features(self):
        return tuple(self.paths[1])

    def build(self, networks: Networks) -> None:
        if self.head != LOGITS:
            check_classifier(networks, "head", self.head)
        lengths = []
        for side, specs, paths, width in zip(
            ("student", "teacher"), (networks.student, networks.teacher), self.paths, self.widths, strict=True
        ):
            for path in paths:
                spec = specs[path]
                if spec.layout != "tokens" or spec.channels % (width * (3 if len(paths) == 1 else 1)):
                    together = " for queries, keys and values together" if len(paths) == 1 else ""
                    raise ValueError(
                        f"{side}_head_width: got {width}, but {path} gives {spec.shape}{together}; accepted is a "
                        "number that divides its width, of tokens."
                    )
                lengths.append(spec.shape[0])
        if len(set(lengths)) > 1:
            raise ValueError(f"teacher_block: the networks have {sorted(set(lengths))} tokens, accepted are as many.")

    def forward(self, student, teacher, batch):
        ours, theirs = (
            _heads([features[path] for path in paths], width)
            for features, paths, width in zip((student, teacher), self.paths, self.widths, strict=True)
        )
        losses = {
            name: weight / self.blocks * feature_relation_loss(own, their)
            for (name, weight), own, their in zip(self.weights.items(), ours, theirs, strict=True)
        }
        options = {"kind": self.kind, "temperature": self.temperature}
        logits = token_distillation_loss(student[self.head], teacher[LOGITS], **options)
        return {**losses, "logits": self.logits_weight * logits}


def _heads(outputs: list[torch.Tensor], width: int) -> list[torch.Tensor]:
    """Queries, keys and values, (batch, heads, tokens, width of a head)."""
    separate = outputs if len(outputs) == 3 else outputs[0].chunk(3, dim=-1)
    return [values.unflatten(-1, (-1, width)).transpose(1, 2) for values in separate]


class FusedTokensLoss(DistillationLoss):
    """`fused_token_loss`: what a DeViT makes of its parts' tokens, beside the token that the teacher classifies by.

    Args:
        student_tokens: paths of the modules that give the fused tokens, class token first; a DeiT has
            `fusion.hidden.distillation` as well.
        teacher_tokens: where the teacher's are, as many: `pooled` is what its classifier is given.
        kind: "mse" or "kldiv".
        weight: see `DistillationLoss`.
    """

    name = "fused_tokens"

    def __init__(
        self,
        student_tokens: list[str] = ("fusion.hidden.cls",),
        teacher_tokens: list[str] = (POOLED,),
        kind: Literal["mse", "kldiv"] = "mse",
        weight: float = 1.0,
    ):
        super().__init__(weight)
        if not student_tokens or len(student_tokens) != len(teacher_tokens):
            raise ValueError(
                f"teacher_tokens: got {len(teacher_tokens)} for {len(student_tokens)} of the student, accepted are as "
                "many, 1 and more."
            )
        self.paths, self.kind = (tuple(student_tokens), tuple(teacher_tokens)), kind

    def student_features(self):
        return self.paths[0]

    def teacher_features(self):
        return self.paths[1]

    def build(self, networks: Networks) -> None:
        for own, their in zip(*self.paths, strict=True):
            ours, theirs = networks.student[own], networks.teacher[their]
            if ours.layout != "vector" or ours.shape != theirs.shape:
                raise ValueError(
                    f"student_tokens: {own} gives {ours.shape} and the teacher's {their} {theirs.shape}; accepted are "
                    "vectors of one width (the fusion_hidden_size of a DeViT)."
                )

    def forward(self, student, teacher, batch):
        ours, theirs = (
            torch.stack([features[path] for path in paths], dim=1)
            for features, paths in zip((student, teacher), self.paths, strict=True)
        )
        return fused_token_loss(ours, theirs, self.kind)
