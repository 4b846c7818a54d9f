"""Layer-wise learning-rate decay: the deeper a layer lies below the classifier, the slower it learns."""

import re
from collections.abc import Iterable

from torch import nn

from .weight_decay import decaying_parameters

_STAGE = re.compile(r"(?:^|\.)stages\.(\d+)\.")
_STEM = re.compile(r"(?:^|\.)stem\.")
# Vision transformers of transformers (`vit.layers.3`, `dinov2.encoder.layer.3`) and of timm (`blocks.3`).
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|layer)\.(\d+)\.")
# Swin's, whose stages hold blocks and then merge patches: `swin.encoder.layers.1.blocks.0`.
_BLOCK_OF_STAGE = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embeddings|patch_embed|cls_token|pos_embed)(?:\.|$)")


def layer_decay_scales(names: Iterable[str], decay: float, num_layers: int | None = None) -> dict[str, float]:
    """Factor of the learning rate for each parameter: decay^(L + 1 - l).

    The layers l are 0 for the stem, i + 1 for stage i, and L + 1 for everything else: the classifier. ConvNeXt and
    VanillaNet count in this way. Of a vision transformer they are 0 for the embeddings, i + 1 for block i, and L + 1
    for the rest (BEiT, MAE); a Swin's blocks are counted through all stages, what merges its patches belongs to the
    block before.

    Args:
        names: of the parameters of a network whose body is `stem` and `stages`, as all of this package's are, or
            embeddings and equal blocks.
        decay: factor between neighbouring layers, above 0 and up to 1.
        num_layers: L, the number of stages or blocks by default.
    """
    names = list(names)
    if not 0 < decay <= 1:
        raise ValueError(f"decay: got {decay}, accepted are numbers above 0 and up to 1.")
    stem, stages = _STEM, {name: int(match[1]) for name in names if (match := _STAGE.search(name))}
    if not stages:
        stem, stages = _EMBEDDINGS, _numbered_blocks(names)
    if not stages or (stem is _EMBEDDINGS and not any(map(stem.search, names))):
        raise ValueError("names: got no parameter of a stage, accepted are names such as 'stages.0.conv.weight'.")
    last = (max(stages.values()) + 1 if num_layers is None else num_layers) + 1
    layers = {name: 0 if stem.search(name) else stages[name] + 1 if name in stages else last for name in names}
    return {name: decay ** (last - layer) for name, layer in layers.items()}


def _numbered_blocks(names: list[str]) -> dict[str, int]:
    """Name of each parameter of a block -> the block's number, from 0."""
    nested = {name: match for name in names if (match := _BLOCK_OF_STAGE.search(name))}
    if not any(match[2] for match in nested.values()):
        return {name: int(match[1]) for name in names if (match := _BLOCK.search(name))}
    blocks = sorted({(int(match[1]), int(match[2])) for match in nested.values() if match[2]})
    last = {stage: number for number, (stage, _) in enumerate(blocks)}
    return {
        name: blocks.index((int(match[1]), int(match[2]))) if match[2] else last[int(match[1])]
        for name, match in nested.items()
    }


def layer_decay_groups(
    model: nn.Module,
    decay: float,
    *,
    learning_rate: float,
    weight_decay: float,
    num_layers: int | None = None,
) -> list[dict]:
    """Parameter groups for an optimizer: one for each layer's learning rate, with and without weight decay.

    `decaying_parameters` says which decay. Parameters that need no gradient are left out.

    Args:
        model: a network whose body is `stem` and `stages`, or one that numbers its layers itself: `learning_layers()`
            gives the number of each parameter's layer, the highest at the classifier.
        decay, num_layers: see `layer_decay_scales`.
        learning_rate: of the classifier, the highest.
        weight_decay: of the tensors that decay.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names = [name for name, _ in model.named_parameters()]
    if hasattr(model, "learning_layers"):
        layers = model.learning_layers()
        scales = {name: decay ** (max(layers.values()) - layers[name]) for name in names}
    else:
        scales = layer_decay_scales(names, decay, num_layers)
    decaying = decaying_parameters(model)
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in trainable.items():
        scale, decays = scales[name], name in decaying
        group = groups.setdefault(
            (scale, decays),
            {"params": [], "lr": learning_rate * scale, "weight_decay": weight_decay if decays else 0.0},
        )
        group["params"].append(parameter)
    return list(groups.values())
