"""Blocks of transformers' whose configuration is made in a model, and is no part of the model's own."""

from torch import nn


class OwnBlocksMixin:
    """For a PreTrainedModel with modules that have such blocks, and their configuration as `blocks_config`.

    Nothing else tells the blocks that the model's attention is another.
    """

    def set_attn_implementation(self, *args, **kwargs) -> None:
        super().set_attn_implementation(*args, **kwargs)
        follow_attention(self)


def follow_attention(model: nn.Module) -> None:
    """All `blocks_config` in `model` have its implementation of attention."""
    for module in model.modules():
        if hasattr(module, "blocks_config"):
            module.blocks_config._attn_implementation = model.config._attn_implementation
