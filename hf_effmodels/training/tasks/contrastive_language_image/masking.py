"""Words of a caption that are to be guessed."""

import numpy as np

#: Of the masked words these shares become the mask, another word, and stay.
MASKED, RANDOM = 0.8, 0.1
IGNORED = -100


def mask_words(
    ids: np.ndarray, words: np.ndarray, ratio: float, mask_id: int, ordinary: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A caption with some words masked, and what they were.

    Of the words `ratio` is masked, rounded, one at least; 80 % of these become the mask, 10 % any word, 10 % stay.

    Args:
        ids: (tokens,).
        words: (tokens,), true for words: neither marks nor padding.
        mask_id: stands for a masked word.
        ordinary: ids that may come in its place.

    Returns:
        ids and labels, -100 where nothing is asked for.
    """
    places = np.flatnonzero(words)
    labels = np.full_like(ids, IGNORED)
    masked = ids.copy()
    if not len(places):
        return masked, labels
    chosen = rng.permutation(places)[: max(1, round(ratio * len(places)))]
    labels[chosen] = ids[chosen]
    fate = rng.random(len(chosen))
    others = ordinary[rng.integers(len(ordinary), size=len(chosen))]
    masked[chosen] = np.where(fate < MASKED, mask_id, np.where(fate < MASKED + RANDOM, others, ids[chosen]))
    return masked, labels
