"""The parameter-free cross-attention of ADEM-VL (https://arxiv.org/abs/2410.17779, section 3.2 and 3.3), shared by the
PEFT method (`hf_effmodels.adapters.adem`) and the vision-language model.

Every decoder layer's feed-forward network becomes `mlp(n) + alpha · fuse(n)`. Keys and values are the same in all
layers, so they are computed once per forward pass (once per prompt in generation). A stock decoder layer calls
`mlp(n)` and has no way to hand anything else through, so a `Fusion` lies in a `FusionSlot` while the decoder runs: a
place of the running thread, never of the module, which other threads run at the same time.

What one call saw goes on in the next through the key-value cache: see `keep_with_cache`.

Shapes: B rows, T text tokens, N visual tokens, D the decoder's width.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache


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
        image_embeds: (B, N, D), of which they were made; None where no row has an image: such keys and values suit any
            batch.
        expansion: in generation with beams or several sequences per prompt, the number of copies of each row that the
            decoder may see.
    """

    def __init__(
        self,
        keys_values: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        image_embeds: torch.Tensor | None = None,
        expansion: int = 1,
    ):
        self.keys_values = keys_values
        self.image_embeds = image_embeds
        self.rows = None if image_embeds is None else len(image_embeds)
        self.expansion = expansion
        self._ready: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, adapter: str, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of `adapter` in the rows, dtype and device of `hidden` (B, T, D).

        Raises:
            ValueError: `hidden` has other channels, or its rows are not those of the images.
        """
        if torch.compiler.is_compiling():  # which computes the same once, and lets a checkpointed layer change nothing
            return self._fitted(adapter, hidden)
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
    """Where the feed-forward networks of one decoder find the fusion of the forward pass that runs in their thread."""

    @property
    def fusion(self) -> Fusion | None:
        running = _running()
        while running is not None:
            if running.slot is self:
                return running.fusion
            running = running.outer
        return None

    @contextmanager
    def filled(self, fusion: Fusion, decoder: nn.Module) -> Iterator[None]:
        """`fusion` is in the slot during the block, and again whenever a checkpointed layer of it is recomputed."""
        if decoder.training and torch.is_grad_enabled():
            _let_recomputed_layers_see(decoder)
        with _as_running(_Running(self, fusion, _running())):
            yield


class _Running:
    """A forward pass, and those around it (a model in a model, a model that is called while another generates)."""

    def __init__(self, slot: FusionSlot, fusion: Fusion, outer: "_Running | None"):
        self.slot, self.fusion, self.outer = slot, fusion, outer


# A forward pass does not change its thread, and a compiler follows a thread's own values, but no `ContextVar`.
_thread = threading.local()


def _running() -> _Running | None:
    return getattr(_thread, "running", None)


@contextmanager
def _as_running(running: _Running | None) -> Iterator[None]:
    previous = _running()
    _thread.running = running
    try:
        yield
    finally:
        _thread.running = previous


def _let_recomputed_layers_see(decoder: nn.Module) -> None:
    """Make checkpointing functions hand on what runs when they are called.

    A layer is recomputed in the backward pass, when its forward pass has long left the slot, other passes may have run
    in between, and the thread may be another.
    """
    for module in decoder.modules():
        for name in ("_gradient_checkpointing_func", "checkpoint_fn"):  # transformers' layers, torch's wrapper of any
            function = module.__dict__.get(name)
            if function is not None and not isinstance(function, _HandingOn):
                setattr(module, name, _HandingOn(function))


class _HandingOn:
    """A checkpointing function that runs a layer, whenever it does, with the fusions of its first run."""

    def __init__(self, checkpoint: Callable):
        self.checkpoint = checkpoint

    def __call__(self, layer: Callable, *args, **kwargs):
        running = _running()
        if running is None or torch.compiler.is_compiling():  # a compiler sees both runs from here
            return self.checkpoint(layer, *args, **kwargs)
        if {**getattr(self.checkpoint, "keywords", {}), **kwargs}.get("use_reentrant"):
            raise ValueError(
                "gradient checkpointing: got use_reentrant=True, accepted is False. Keys and values are shared by all "
                "layers, and the re-entrant form would free their graph after the first."
            )

        def run(*inputs, **named):
            with _as_running(running):
                return layer(*inputs, **named)

        return self.checkpoint(run, *args, **kwargs)


def check_in_graph(condition: torch.Tensor, message: str) -> None:
    """Make a compiled graph fail where `condition` does not hold everywhere, without a break in it."""
    torch._assert_async(condition.all(), message)


@dataclass
class _Seen:
    fusion: Fusion
    mark: torch.Tensor | None


def keep_with_cache(cache: Cache | None, fusion: Fusion) -> None:
    """Remember with a key-value cache which images its tokens have seen, for calls that hand on the cache alone."""
    if cache is None or fusion.image_embeds is None:
        return
    seen = getattr(cache, "adem_seen", None)
    if seen is None or seen.fusion.image_embeds is not fusion.image_embeds:
        cache.adem_seen = _Seen(fusion, _mark_of_rows(cache))


def seen_with_cache(cache: Cache | None) -> Fusion | None:
    """What `keep_with_cache` remembered; None where nothing was, or the cache has been emptied.

    Raises:
        ValueError: the rows of the cache are no longer those that saw the images, or this cannot be told.
    """
    seen = getattr(cache, "adem_seen", None)
    if seen is None or not cache.get_seq_length():
        return None
    mark = _mark_of_rows(cache)
    if mark is None or seen.mark is None or mark.shape != seen.mark.shape:
        raise ValueError(_ROWS_CHANGED)
    if torch.compiler.is_compiling():
        check_in_graph(mark == seen.mark, _ROWS_CHANGED)
    elif not torch.equal(mark, seen.mark):
        raise ValueError(_ROWS_CHANGED)
    return seen.fusion


_ROWS_CHANGED = (
    "past_key_values: its tokens have seen images, and its rows may have changed since; say again which image each "
    "row has (vision_context of an ADEM-VL model, image_embeds of an adapter)."
)


def _mark_of_rows(cache: Cache) -> torch.Tensor | None:
    """(rows, heads, size) that goes with the rows wherever they go: the keys of the first token, in the last layer,
    where they depend on the image. None where the cache does not keep them."""
    layers = getattr(cache, "layers", [])
    layer = next((x for x in reversed(layers) if not getattr(x, "is_sliding", False)), layers[-1] if layers else None)
    keys = getattr(layer, "keys", None)
    if not isinstance(keys, torch.Tensor) or keys.ndim != 4 or not keys.shape[2]:
        return None
    if getattr(layer, "is_sliding", False) and layer.cumulative_length > keys.shape[2]:
        return None
    return keys[:, :, 0].detach().clone().cpu()
