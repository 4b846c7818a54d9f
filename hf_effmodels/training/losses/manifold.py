"""Manifold distillation: relations of patches between two vision transformers (https://arxiv.org/abs/2107.01378)."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .checks import exact
from .interface import DistillationLoss, FeatureSpec, Networks, as_tokens


def manifold_loss(
    student_tokens: Sequence[torch.Tensor],
    teacher_tokens: Sequence[torch.Tensor],
    *,
    sample_weight: float = 0.1,
    patch_weight: float = 4.0,
    random_weight: float = 0.2,
    num_random: int = 192,
    max_patches: int = 0,
    chosen: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Mean squared differences of the Gram matrices of normalised patch tokens, averaged over pairs of layers
    (section 3.2): `patch`, of the patches of each image; `sample`, of the images at each patch; `random`, of some
    patches of the whole batch. Each is weighted; their sum is the loss.

    Only Gram matrices are compared: widths may differ, and no projection is needed.

    Args:
        student_tokens, teacher_tokens: for each pair of layers (batch, tokens, width), class and distillation tokens
            first; where one network has more of these, its first ones are left out. No gradient flows into the
            teacher's.
        sample_weight, patch_weight, random_weight: 0 leaves one out.
        num_random: patches of the batch that are drawn, anew for each pair of layers.
        max_patches: of networks with more patches, neighbours are laid side by side on a square grid of so many;
            0 for never.
        chosen: numbers of these patches in the flattened (batch · patch) axis, instead of a draw.

    Raises:
        ValueError: layers or patches that do not fit.
    """
    if len(student_tokens) != len(teacher_tokens) or not len(student_tokens):
        raise ValueError(
            f"teacher_tokens: got {len(teacher_tokens)} layers for the student's {len(student_tokens)}, accepted are "
            "as many, 1 and more."
        )
    totals = {"sample": 0.0, "patch": 0.0, "random": 0.0}
    for student, teacher in zip(student_tokens, teacher_tokens, strict=True):
        student, teacher = _patches(student, teacher, max_patches)
        if patch_weight:
            totals["patch"] += patch_weight * _difference(student, teacher)
        if sample_weight:
            totals["sample"] += sample_weight * _difference(student.transpose(0, 1), teacher.transpose(0, 1))
        if random_weight:
            student, teacher = student.flatten(0, 1), teacher.flatten(0, 1)
            drawn = torch.randperm(len(student), device=student.device)[:num_random] if chosen is None else chosen
            totals["random"] += random_weight * _difference(student[drawn], teacher[drawn])
    zero = exact(student_tokens[0]).new_zeros(())
    return {name: zero + value / len(student_tokens) for name, value in totals.items()}


def _patches(student: torch.Tensor, teacher: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch tokens of both, as many of each, with norm 1."""
    if student.ndim != 3 or teacher.ndim != 3 or len(student) != len(teacher):
        raise ValueError(
            f"teacher_tokens: got shape {tuple(teacher.shape)} for the student's {tuple(student.shape)}, accepted are "
            "(batch, tokens, width) of the same batch."
        )
    student, teacher = exact(student), exact(teacher).detach()
    fewest = min(student.shape[1], teacher.shape[1])
    student, teacher = student[:, student.shape[1] - fewest :], teacher[:, teacher.shape[1] - fewest :]
    if most:
        student, teacher = merge_patches(student, most), merge_patches(teacher, most)
    return F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)


def merge_patches(tokens: torch.Tensor, most: int) -> torch.Tensor:
    """Tokens (batch, patches, width) of a square grid on one of at most `most` patches, those that fall together laid
    side by side: (batch, m², width · k²) with m = ⌊√most⌋ and k = √patches / m.

    Raises:
        ValueError: the patches are no square, or do not divide.
    """
    patches = tokens.shape[1]
    if patches <= most:
        return tokens
    side, smaller = math.isqrt(patches), math.isqrt(most)
    if side**2 != patches or smaller < 1 or side % smaller:
        raise ValueError(
            f"max_patches: {patches} patches cannot be laid together on {smaller}×{smaller}, accepted are squares "
            "whose side divides theirs."
        )
    factor = side // smaller
    grid = tokens.unflatten(1, (smaller, factor, smaller, factor)).transpose(2, 3)
    return grid.flatten(3, 5).flatten(1, 2)


def _difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Of the Gram matrices of the last two axes' rows."""
    return F.mse_loss(student @ student.transpose(-1, -2), teacher @ teacher.transpose(-1, -2))


class ManifoldLoss(DistillationLoss):
    """`manifold_loss` between blocks of both networks. Maps count as tokens, so that a convolutional stage can be
    compared with a block of a transformer on as many places.

    Args:
        student_blocks, teacher_blocks: names of the features that are compared, in pairs: paths of blocks, or `stage1`
            and so on. The paper takes the first and the last four blocks.
        sample_weight, patch_weight, random_weight, num_random, max_patches: see `manifold_loss`.
        weight: see `DistillationLoss`.
    """

    name = "manifold"
    parts = ("sample", "patch", "random")

    def __init__(
        self,
        student_blocks: list[str] = ("stage1", "stage2", "stage3", "stage4"),
        teacher_blocks: list[str] = ("stage1", "stage2", "stage3", "stage4"),
        sample_weight: float = 0.1,
        patch_weight: float = 4.0,
        random_weight: float = 0.2,
        num_random: int = 192,
        max_patches: int = 0,
        weight: float = 1.0,
    ):
        super().__init__(weight)
        self.blocks = list(student_blocks), list(teacher_blocks)
        if not self.blocks[0] or len(self.blocks[0]) != len(self.blocks[1]):
            raise ValueError(
                f"student_blocks: got {len(self.blocks[0])}, and {len(self.blocks[1])} teacher_blocks, accepted are "
                "as many names of features, 1 and more."
            )
        if num_random < 1:
            raise ValueError(f"num_random: got {num_random}, accepted are whole numbers from 1.")
        self.options = {"sample_weight": sample_weight, "patch_weight": patch_weight, "random_weight": random_weight}
        self.options |= {"num_random": num_random, "max_patches": max_patches}
        self._specs: list[tuple[FeatureSpec, FeatureSpec]] = []

    def student_features(self):
        return tuple(self.blocks[0])

    def teacher_features(self):
        return tuple(self.blocks[1])

    def build(self, networks: Networks) -> None:
        for ours, theirs in zip(*self.blocks, strict=True):
            specs = networks.student[ours], networks.teacher[theirs]
            patches = [
                spec.shape[0] - spec.prefix_tokens if spec.layout == "tokens" else math.prod(spec.grid)
                for spec in specs
            ]
            if most := self.options["max_patches"]:  # what does not divide is told now
                patches = [merge_patches(torch.zeros(1, number, 1), most).shape[1] for number in patches]
            if patches[0] != patches[1]:
                raise ValueError(
                    f"student_blocks: {ours} has {patches[0]} patches, {theirs} of the teacher {patches[1]}; accepted "
                    "are as many, or a setting max_patches."
                )
            self._specs.append(specs)

    def forward(self, student, teacher, batch):
        ours, theirs = [], []
        for own, their, specs in zip(*self.blocks, self._specs, strict=True):
            ours.append(self._patches(student[own], specs[0]))
            theirs.append(self._patches(teacher[their], specs[1]))
        return manifold_loss(ours, theirs, **self.options)

    def _patches(self, features: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
        """Those of one network. They are laid together here: networks with other numbers of them would lose their
        first ones to `manifold_loss`, which takes these for class tokens."""
        patches = as_tokens(features, spec)[:, spec.prefix_tokens :]
        most = self.options["max_patches"]
        return merge_patches(patches, most) if most else patches
