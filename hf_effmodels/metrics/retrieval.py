"""How often the right text is among the nearest of an image, and the right image among the nearest of a text."""

from collections.abc import Sequence

import numpy as np

#: Rows of the table of similarities that are made at a time.
_ROWS = 1024


def retrieval_recall(
    images: np.ndarray, texts: np.ndarray, groups: np.ndarray | None = None, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at k in both directions, of pairs (images[i], texts[i]).

    A tie counts against the right one: embeddings that are all the same find nothing.

    Args:
        images, texts: (pairs, width) unit vectors.
        groups: (pairs,), equal for pairs whose texts say the same: each of them is right for the others.
        ks: those that are larger than the number of pairs are left out.

    Returns:
        "image_to_text_recall_at_1", "text_to_image_recall_at_1", ... in [0, 1].

    Raises:
        ValueError: not as many images as texts, or none.
    """
    if images.shape != texts.shape or not len(images):
        raise ValueError(f"texts: got shape {texts.shape}, accepted is that of images, {images.shape}, and not none.")
    groups = np.arange(len(images)) if groups is None else np.asarray(groups)
    measured = {}
    for name, queries, others in (("image_to_text", images, texts), ("text_to_image", texts, images)):
        before = np.concatenate(
            [
                _wrong_before(queries[start : start + _ROWS], others, groups[start : start + _ROWS], groups)
                for start in range(0, len(queries), _ROWS)
            ]
        )
        measured |= {f"{name}_recall_at_{k}": float((before < k).mean()) for k in ks if k <= len(images)}
    return measured


def _wrong_before(queries: np.ndarray, others: np.ndarray, of_queries: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each query, how many wrong ones are as near as the nearest right one."""
    similarities = queries.astype(np.float64) @ others.astype(np.float64).T
    right = of_queries[:, None] == groups[None]
    best = np.where(right, similarities, -np.inf).max(1, keepdims=True)
    return ((similarities >= best) & ~right).sum(1)
