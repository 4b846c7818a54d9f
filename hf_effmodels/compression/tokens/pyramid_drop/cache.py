"""The cache of blocks that see fewer tokens than the first."""

import torch
from transformers.cache_utils import Cache, DynamicLayer


class StageLayer(DynamicLayer):
    """Keys and values of a block after a drop, with the padding of what they belong to.

    Attributes:
        valid: (B, length), False where there is padding. It goes with the keys through beam search and cropping.
    """

    def __init__(self, valid: torch.Tensor):
        super().__init__()
        self.valid = valid

    def append(self, valid: torch.Tensor) -> None:
        """Say which of the tokens that come next (B, T) are padding."""
        self.valid = torch.cat([self.valid, valid], dim=-1)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.valid = self.valid.index_select(0, beam_idx.to(self.valid.device))

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        if tokens_to_remove:
            self.valid = self.valid[:, :tokens_to_remove]

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.valid = self.valid.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.valid = self.valid[indices]

    def reset(self) -> None:
        raise ValueError(
            "past_key_values: got a cache of dropped image tokens, which cannot be emptied; make a new DynamicCache."
        )


def check_cache(cache: Cache, num_layers: int) -> None:
    """A ValueError where the layers cannot have lengths of their own; otherwise the cache has all of them."""
    kinds = sorted({type(layer).__name__ for layer in cache.layers if type(layer) not in (DynamicLayer, StageLayer)})
    if kinds:
        raise ValueError(
            f"past_key_values: got {type(cache).__name__} of {', '.join(kinds)}, accepted is a DynamicCache "
            "(cache_implementation='dynamic'): after a drop each block has a length of its own."
        )
    while len(cache.layers) < num_layers:
        cache.layers.append(DynamicLayer())
