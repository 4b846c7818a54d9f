"""Several documents in one row, which must not see each other."""

import torch
from transformers.cache_utils import Cache
from transformers.utils import is_tracing, torch_compilable_check


def cache_of_rows(
    use_cache: bool | None,
    position_ids: torch.LongTensor | None,
    attention_mask: torch.Tensor | None,
    cache: Cache | None,
) -> bool | None:
    """`use_cache` as the decoder may have it: False where a row packs documents, `use_cache` elsewhere.

    transformers tells documents apart by positions that do not go on by one, but only where there is neither a mask
    nor a cache; with the cache that is on by default they would see each other.

    Args:
        position_ids: (batch, length) or (1, length).
        use_cache, attention_mask, cache: as the decoder was called with them.

    Raises:
        ValueError: a cache is asked for, which could not keep the documents apart.
    """
    if use_cache is False or position_ids is None or attention_mask is not None or cache is not None:
        return use_cache
    follow = position_ids.diff(dim=-1) == 1
    if is_tracing(position_ids):  # values are not known; without a cache it is right either way
        if use_cache:
            torch_compilable_check(follow, _REFUSED)
        return use_cache or False
    if follow.all():
        return use_cache
    if use_cache:
        raise ValueError(_REFUSED)
    return False


_REFUSED = (
    "use_cache: got True with position_ids of several documents in a row, accepted is False: a cache cannot keep them "
    "apart."
)
