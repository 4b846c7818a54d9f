"""A vision transformer from which heads and neurons were cut, beside one that is built at the size of what is left."""

import math

import torch
from torch import nn

from ..compression.pruning.vision import prune_vision_transformer
from ..compression.pruning.vision_widths import prune_part
from ..models import create_model

#: Share of the heads, and of the neurons, that each block loses.
_HEADS, _NEURONS = 0.5, 0.4


def pruned(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """The preset without a random half of the heads and two fifths of the neurons of each block of each part."""
    model, random = create_model(preset, **overrides).eval(), torch.Generator().manual_seed(0)

    def some(count: int, share: float) -> list[int]:
        return torch.randperm(count, generator=random)[: math.ceil(count * (1 - share))].sort().values.tolist()

    for number, sizes in enumerate(model.config.parts):
        heads = [some(count, _HEADS) for count in sizes["num_heads"]]
        neurons = [some(count, _NEURONS) for count in sizes["intermediate_sizes"]]
        model = prune_part(model, heads, neurons, number)
    return model


def built(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """A network of the sizes of `pruned`, with weights of its own."""
    model = pruned(preset, folded, overrides)
    return type(model)(model.config).eval()


def vit_like(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """transformers' ViT as wide and deep as a part of the preset before anything is cut."""
    from transformers import ViTConfig, ViTForImageClassification

    config = create_model(preset, **overrides).config
    [sizes] = config.parts[:1]
    if config.part_type != "vit" or len(config.parts) > 1 or len({*sizes["num_heads"]}) > 1:
        raise ValueError(f"--against: vit-like is a whole ViT, which {preset} is not.")
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=sizes["hidden_size"],
            num_hidden_layers=len(sizes["num_heads"]),
            num_attention_heads=sizes["num_heads"][0],
            intermediate_size=sizes["intermediate_sizes"][0],
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_channels=config.num_channels,
            num_labels=config.num_labels,
        )
    ).eval()


def stock_pruned(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """`vit_like` pruned to three fifths of its parameters by `prune_vision_transformer`: of the stock class again."""
    model = vit_like(preset, folded, overrides)
    sides = [model.config.image_size] * 2
    pictures = torch.randn(2, model.config.num_channels, *sides, generator=torch.Generator().manual_seed(0))
    return prune_vision_transformer(model, [pictures], target_parameters=0.6, tolerance=0.1)[0].eval()


def stock_fresh(preset: str, folded: bool, overrides: dict) -> nn.Module:
    """A ViT with random weights of the sizes of `stock_pruned`."""
    model = stock_pruned(preset, folded, overrides)
    return type(model)(model.config).eval()
