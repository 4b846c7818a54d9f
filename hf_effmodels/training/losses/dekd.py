"""DEKD, the distillation of DeViT (https://arxiv.org/abs/2309.05015): relations of queries, keys and values of one
block, and fused tokens."""

from typing import Literal

import torch
from torch.nn import functional as F

from .checks import check_logits, check_temperature, exact
from .interface import DistillationLoss, Networks


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


def logit_distillation(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    kind: Literal["hard", "soft"] = "hard",
    temperature: float = 1.0,
) -> torch.Tensor:
    """DeiT's distillation (https://arxiv.org/abs/2012.12877): "hard" is the cross entropy with the teacher's class,
    "soft" the divergence, times T², divided by batch and classes.

    Args:
        logits: of the distillation token where there is one, (batch, classes).
        teacher_logits: (batch, classes); no gradient flows into it.
    """
    check_temperature(temperature)
    logits, teacher_logits = check_logits(logits, teacher_logits)
    if kind == "hard":
        return F.cross_entropy(logits, teacher_logits.argmax(-1))
    if kind != "soft":
        raise ValueError(f"kind: got {kind!r}, accepted are 'hard', 'soft'.")
    found, expected = (logits / temperature).log_softmax(-1), (teacher_logits / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(found, expected, reduction="sum", log_target=True) / found.numel()


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
    `logit_distillation`. The published objective is 0.5 · cross entropy + 0.5 · `logits` + 0.2 Lq + 0.1 Lk + 0.3 Lv,
    the last three divided by the student's number of blocks.

    Args:
        student_block, teacher_block: paths of the attention modules of the middle blocks (numbers L/2 - 1). They hold
            one linear layer `qkv`, or three, `q_proj`, `k_proj` and `v_proj` (or `query`, `key`, `value`).
        student_heads, teacher_heads: heads of these blocks.
        blocks: of the student, by which the relations are divided.
        query_weight, key_weight, value_weight, logits_weight: 0 leaves one out.
        kind: "hard" or "soft", of the logits.
        temperature: of "soft".
        weight: see `DistillationLoss`.
    """

    name = "dekd"
    parts = ("query", "key", "value", "logits")

    def __init__(
        self,
        student_block: str = "devit.parts.0.layers.5.attention",
        teacher_block: str = "vit.layers.11.attention",
        student_heads: int = 6,
        teacher_heads: int = 16,
        blocks: int = 12,
        query_weight: float = 0.2,
        key_weight: float = 0.1,
        value_weight: float = 0.3,
        logits_weight: float = 0.5,
        kind: Literal["hard", "soft"] = "hard",
        temperature: float = 1.0,
        student_layers: list[str] = ("qkv",),
        teacher_layers: list[str] = ("q_proj", "k_proj", "v_proj"),
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        for name, value in (("student_heads", student_heads), ("teacher_heads", teacher_heads), ("blocks", blocks)):
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
        self.heads = student_heads, teacher_heads
        self.blocks = blocks
        self.weights = {"query": query_weight, "key": key_weight, "value": value_weight}
        self.logits_weight, self.kind, self.temperature = logits_weight, kind, temperature

    def student_features(self):
        return tuple(self.paths[0])

    def teacher_features(self):
        return tuple(self.paths[1])

    def build(self, networks: Networks) -> None:
        lengths = []
        for side, specs, paths, heads in zip(
            ("student", "teacher"), (networks.student, networks.teacher), self.paths, self.heads, strict=True
        ):
            for path in paths:
                spec = specs[path]
                parts = heads * (3 if len(paths) == 1 else 1)
                if spec.layout != "tokens" or spec.channels % parts:
                    raise ValueError(
                        f"{side}_heads: got {heads}, but {path} gives {spec.shape}; accepted is a number that divides "
                        "its width, of tokens."
                    )
                lengths.append(spec.shape[0])
        if len(set(lengths)) > 1:
            raise ValueError(f"teacher_block: the networks have {sorted(set(lengths))} tokens, accepted are as many.")

    def forward(self, student, teacher, batch):
        ours, theirs = (
            self._heads([features[path] for path in paths], heads)
            for features, paths, heads in zip((student, teacher), self.paths, self.heads, strict=True)
        )
        losses = {
            name: weight / self.blocks * feature_relation_loss(own, their)
            for (name, weight), own, their in zip(self.weights.items(), ours, theirs, strict=True)
        }
        logits = logit_distillation(student["logits"], teacher["logits"], self.kind, self.temperature)
        return {**losses, "logits": self.logits_weight * logits}

    def _heads(self, outputs: list[torch.Tensor], heads: int) -> list[torch.Tensor]:
        """Queries, keys and values, (batch, heads, tokens, width of a head)."""
        separate = outputs if len(outputs) == 3 else outputs[0].chunk(3, dim=-1)
        return [values.unflatten(-1, (heads, -1)).transpose(1, 2) for values in separate]
