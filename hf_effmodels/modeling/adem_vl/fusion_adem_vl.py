"""The parameter-free cross-attention of ADEM-VL (https://arxiv.org/abs/2410.17779, section 3.2 and 3.3), shared by the
PEFT method (`hf_effmodels.adapters.adem`) and the vision-language model.

Every decoder layer's feed-forward network becomes `mlp(n) + alpha · fuse(n)`. Keys and values are the same in all
layers, so they are computed once per forward pass (once per prompt in generation) and kept in a `Fusion` while the
decoder runs: a stock decoder layer calls `mlp(n)` and has no way to hand anything else through.

Shapes: B rows, T text tokens, N visual tokens, D the decoder's width.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


def fusion_keys_values(
    image_embeds: torch.Tensor | None, key_offsets: torch.Tensor, value_offsets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """K = silu(image_embeds + key offsets), V = image_embeds + value offsets, each (B, N, D).

    Args:
        image_embeds: (B, N, D), zero in rows without an image; None where no row has one: then K and V are (1, N, D).
        key_offsets, value_offsets: (1, N, D), the learned memory that rows without an image see too.
    """
    if image_embeds is None:
        return F.silu(key_offsets), value_offsets
    image_embeds = image_embeds.to(key_offsets.dtype)
    return F.silu(image_embeds + key_offsets), image_embeds + value_offsets


def fuse(hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, drop_ratio: float) -> torch.Tensor:
    """Scores silu(hidden) Kᵀ without scaling and softmax; the lowest of each token are dropped; times V.

    Args:
        hidden: (B, T, D), the input of the feed-forward network.
        keys, values: (B, N, D) or (1, N, D).
        drop_ratio: the ⌊drop_ratio · N⌋ lowest (signed) scores of each token become 0; ties with the lowest one kept
            are kept. No gradient flows through the choice.
    """
    scores = F.silu(hidden) @ keys.transpose(-1, -2)
    dropped = int(drop_ratio * keys.shape[-2])
    if dropped:
        # The largest of the dropped + 1 smallest scores is the lowest that stays.
        lowest = torch.topk(scores.detach(), dropped + 1, dim=-1, largest=False, sorted=False).values
        scores = scores.masked_fill(scores < lowest.amax(dim=-1, keepdim=True), 0.0)
    return scores @ values


class Fusion:
    """What the feed-forward networks need during one forward pass.

    Args:
        keys_values: adapter -> (keys, values), each (B, N, D), or (1, N, D) where no row has an image.
        rows: B; None where no row has an image: such keys and values suit any batch.
        expansion: in generation with beams or several sequences per prompt, the number of copies of each row that the
            decoder may see.
    """

    def __init__(
        self,
        keys_values: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        rows: int | None = None,
        expansion: int = 1,
    ):
        self.keys_values = keys_values
        self.rows = rows
        self.expansion = expansion
        self._ready: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, adapter: str, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of `adapter` in the rows, dtype and device of `hidden` (B, T, D).

        Raises:
            ValueError: `hidden` has other channels, or its rows are not those of the images.
        """
        key = (adapter, len(hidden), hidden.dtype, hidden.device)
        if key not in self._ready:
            self._ready[key] = self._fitted(adapter, hidden)
        return self._ready[key]

    def _fitted(self, adapter: str, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if adapter not in self.keys_values:
            raise ValueError(f"image_embeds: their shape does not fit the active adapter {adapter!r}.")
        keys, values = self.keys_values[adapter]
        if hidden.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"target_modules: a module's input has {hidden.shape[-1]} channels, the fusion {keys.shape[-1]}; "
                "target the feed-forward networks, whose input has the decoder's hidden size."
            )
        if self.rows is not None and len(hidden) != self.rows:
            if len(hidden) != self.rows * self.expansion:
                raise ValueError(
                    f"image_embeds: got {self.rows} rows for a batch of {len(hidden)}, expected one row per sequence "
                    "(zeros where a sequence has no image)."
                )
            # As `generate` repeats the ids of each prompt.
            keys, values = (x.repeat_interleave(self.expansion, dim=0) for x in (keys, values))
        return keys.to(hidden.device, hidden.dtype), values.to(hidden.device, hidden.dtype)


class FusionSlot:
    """Where the feed-forward networks of one decoder find the fusion of the running forward pass."""

    def __init__(self):
        self.fusion: Fusion | None = None

    @contextmanager
    def filled(self, fusion: Fusion, decoder: nn.Module) -> Iterator[None]:
        """`fusion` is in the slot during the block, and again whenever a checkpointed layer of it is recomputed."""
        with ExitStack() as stack:
            for module in _checkpointed(decoder):
                stack.enter_context(_remembering(module, self, fusion))
            stack.enter_context(self._holding(fusion))
            yield

    @contextmanager
    def _holding(self, fusion: Fusion) -> Iterator[None]:
        previous, self.fusion = self.fusion, fusion
        try:
            yield
        finally:
            self.fusion = previous


def _checkpointed(decoder: nn.Module) -> list[nn.Module]:
    if not (decoder.training and torch.is_grad_enabled()):
        return []
    return [m for m in decoder.modules() if getattr(m, "gradient_checkpointing", False)]


@contextmanager
def _remembering(module: nn.Module, slot: FusionSlot, fusion: Fusion) -> Iterator[None]:
    """Make `module`'s checkpointing function fill `slot` whenever it runs a layer.

    A layer is recomputed in the backward pass, when its forward pass has long left the slot; other passes may have
    run in between.
    """
    checkpoint = module._gradient_checkpointing_func
    if isinstance(checkpoint, partial) and checkpoint.keywords.get("use_reentrant"):
        raise ValueError(
            "gradient checkpointing: got use_reentrant=True, accepted is False. Keys and values are shared by all "
            "layers, and the re-entrant form would free their graph after the first."
        )

    def checkpoint_with_fusion(layer, *args, **kwargs):
        def run(*inputs, **named):
            with slot._holding(fusion):
                return layer(*inputs, **named)

        return checkpoint(run, *args, **kwargs)

    module._gradient_checkpointing_func = checkpoint_with_fusion
    try:
        yield
    finally:
        module._gradient_checkpointing_func = checkpoint
