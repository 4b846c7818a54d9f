"""Heads for joint labels after every stage of a network, each as deep as the network itself (HSAKD,
https://arxiv.org/abs/2107.13715, section 3.1)."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from .joint_labels import ROTATIONS


class JointHeads(nn.Module):
    """One head per stage, from shallow to deep: `extractor`, `finish`, an average over the map, a classifier of
    `transforms · num_labels`.

    They are trained beside the network and left out of what is deployed.

    Args:
        extractors: what makes maps of the network's last width of each stage's map, see `remaining_stages`.
        width: the last stage's.
        num_labels: classes of the network.
        transforms: of an image, see `joint_labels.rotated`.
        finish: what the network does between its last stage and its average, such as a batch norm and an activation;
            each head gets a copy.
    """

    def __init__(
        self,
        extractors: Sequence[nn.Module],
        width: int,
        num_labels: int,
        *,
        transforms: int = ROTATIONS,
        finish: nn.Module | None = None,
    ):
        super().__init__()
        self.extractors = nn.ModuleList(extractors)
        self.finish = nn.ModuleList(
            nn.Identity() if finish is None else renewed(copy.deepcopy(finish)) for _ in self.extractors
        )
        self.classifiers = nn.ModuleList(nn.Linear(width, transforms * num_labels) for _ in self.extractors)

    def forward(
        self, features: Sequence[torch.Tensor], *, detach: bool = False
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Joint logits (batch, transforms · classes) and what the classifiers got (batch, width), of each head.

        Args:
            features: the stages' maps (batch, channels, height, width), from shallow to deep.
            detach: let no gradient into the network: the heads alone are trained.
        """
        pooled = []
        for features_of_stage, extractor, finish in zip(features, self.extractors, self.finish, strict=True):
            features_of_stage = features_of_stage.detach() if detach else features_of_stage
            pooled.append(finish(extractor(features_of_stage)).mean((2, 3)))
        return [classifier(values) for classifier, values in zip(self.classifiers, pooled, strict=True)], pooled


def remaining_stages(stages: Sequence[nn.Module]) -> list[nn.Sequential]:
    """The extractors of a staged network: after each stage new copies of those that follow it, and after the last one
    its own blocks once more at stride 1."""
    extractors = []
    for number in range(1, len(stages)):
        extractors.append(nn.Sequential(*(renewed(copy.deepcopy(stage)) for stage in stages[number:])))
    return [*extractors, nn.Sequential(same_width(stages[-1]))]


def same_width(stage: nn.Module) -> nn.Module:
    """A new copy of a stage whose first block, which changes width and size, is one more of the other ones.

    Raises:
        ValueError: the stage has no list of two blocks or more.
    """
    stage = copy.deepcopy(stage)
    lists = [m for m in stage.modules() if isinstance(m, nn.Sequential | nn.ModuleList) and len(m)]
    if not lists or len(lists[0]) == 1:
        raise ValueError(f"stages: {type(stage).__name__} has no second block that keeps the width; use light heads.")
    blocks = lists[0]  # the outermost
    blocks[0] = copy.deepcopy(blocks[1])
    return renewed(stage)


def light_extractors(widths: Sequence[int]) -> list[nn.Sequential]:
    """Cheaper extractors for any network: a 3×3 convolution to the last width, batch norm, ReLU."""
    return [
        nn.Sequential(nn.Conv2d(width, widths[-1], 3, padding=1, bias=False), nn.BatchNorm2d(widths[-1]), nn.ReLU())
        for width in widths
    ]


def renewed(module: nn.Module) -> nn.Module:
    """The module with new random weights, wherever its layers know how to draw them."""
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return module
