"""Official TinyViT checkpoints, and timm's of the same names -> ours."""

import re
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .configuration_tinyvit import TinyVitConfig

#: Index tables and gathered biases, which older files carry; the network computes them.
IGNORED = re.compile(r"\.(attention_bias_idxs|ab)$|(^|\.)total_(ops|params)$")

#: No weight has another shape here.
RESHAPED = re.compile(r"(?!)")

#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    # timm's names: the downsampling stands at the beginning of a stage, as here.
    (r"^head\.norm\b", "norm"),
    (r"^head\.fc\b", "classifier"),
    (r"^patch_embed\.conv(\d)\b", r"stem.conv\1"),
    # The official names: at the end of the stage before.
    (r"^patch_embed\.seq\.0\b", "stem.conv1"),
    (r"^patch_embed\.seq\.1$", "stem.activation"),
    (r"^patch_embed\.seq\.2\b", "stem.conv2"),
    (r"^patch_embed$", "stem"),
    (r"^layers\.(\d+)\.downsample\b", lambda m: f"stages.{int(m[1]) + 1}.downsample"),
    (r"^layers\.(\d+)\b", r"stages.\1"),
    (r"\.attn\b", ".attention"),
    (r"\.c(\.|$)", r".conv\1"),
    (r"\.bn\b", ".norm"),
    (r"^norm_head\b", "norm"),
    (r"^head\b", "classifier"),
)


def adapt(state_dict: dict, config: TinyVitConfig) -> TinyVitConfig:
    """The configuration of the checkpoint's layout: there is only one."""
    return config


def resize_bias_table(table: torch.Tensor, window_size: int) -> torch.Tensor:
    """A table of biases (heads, window²) for windows of another size: bicubic over the distances, as published.

    Fine-tuning at a larger size takes larger windows (7 at 224 pixels, 12 at 384, 16 at 512).
    """
    heads, entries = table.shape
    side = round(entries**0.5)
    if side * side != entries:
        raise ValueError(f"table: got {entries} entries per head, accepted are squares.")
    if side == window_size:
        return table
    square = table.view(1, heads, side, side)
    resized = F.interpolate(square, size=(window_size, window_size), mode="bicubic", align_corners=False)
    return resized.reshape(heads, window_size**2)


def gather_classes(values: torch.Tensor, mapping: Sequence[int]) -> torch.Tensor:
    """Rows of a classifier for another list of classes: row i is `values[mapping[i]]`, the mean of those for -1.

    The 1000 classes of ImageNet-1k are 999 of the 21841 of ImageNet-22k, and one that is not there.

    Args:
        values: weights (classes, width) or biases (classes,).
        mapping: number of each new class among the old ones, -1 where there is none.
    """
    known = torch.tensor([number for number in mapping if number >= 0], device=values.device)
    rows = values.new_empty(len(mapping), *values.shape[1:])
    present = torch.tensor([number >= 0 for number in mapping], device=values.device)
    rows[present] = values[known]
    rows[~present] = values[known].mean(0)
    return rows


def gather_logits(logits: torch.Tensor, mapping: Sequence[int]) -> torch.Tensor:
    """Logits (batch, classes) for another list of classes; 0 where a class is not among the old ones (-1)."""
    index = torch.tensor([max(number, 0) for number in mapping], device=logits.device)
    present = torch.tensor([number >= 0 for number in mapping], device=logits.device)
    return torch.where(present, logits[:, index], torch.zeros_like(logits[:, :1]))
