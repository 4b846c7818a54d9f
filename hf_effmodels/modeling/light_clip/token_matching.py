"""Words and the parts of a picture that they speak of (in the style of LightCLIP, https://arxiv.org/abs/2312.00674).

The paper's equations were not at hand: its relaxed bipartite matching is written out here in a way of our own.
"""

from typing import Literal

import torch
from torch.nn import functional as F
from transformers.utils import is_scipy_available

if is_scipy_available():
    from scipy.optimize import linear_sum_assignment


def match_words(
    similarities: torch.Tensor,
    mask: torch.Tensor,
    top_k: int = 1,
    matching: Literal["relaxed", "one_to_one"] = "relaxed",
) -> torch.Tensor:
    """The patches of each word, best first; -1 for words that do not count.

    Args:
        similarities: (..., words, patches), without gradient.
        mask: (..., words), true for words that count.
        top_k: patches of a word. "one_to_one" has one.
        matching: "relaxed": each word takes its most similar patches, whatever others take; of equal ones the first.
            "one_to_one": the assignment with the largest sum, in which no patch has two words.

    Returns:
        (..., words, top_k), int64.

    Raises:
        ValueError: more patches than there are, another matching, or more words than patches for "one_to_one".
    """
    words, patches = similarities.shape[-2:]
    if not 1 <= top_k <= patches:
        raise ValueError(f"top_k: got {top_k}, accepted are 1 to the number of patches, {patches}.")
    if matching == "relaxed":
        if top_k == 1:  # of equal ones argmax has the first
            return similarities.detach().argmax(-1, keepdim=True).masked_fill(~mask[..., None], -1)
        order = similarities.detach().sort(dim=-1, descending=True, stable=True).indices
        return order[..., :top_k].masked_fill(~mask[..., None], -1)
    if matching != "one_to_one":
        raise ValueError(f"matching: got {matching!r}, accepted are 'relaxed' and 'one_to_one'.")
    if top_k != 1:
        raise ValueError(f"top_k: got {top_k}, accepted is 1 with one_to_one.")
    if not is_scipy_available():
        raise ImportError("matching: one_to_one takes scipy, which is not installed: pip install scipy.")
    flat, counted = similarities.detach().reshape(-1, words, patches), mask.reshape(-1, words)
    found = torch.full((len(flat), words, 1), -1, dtype=torch.long)
    for number, (table, of_text) in enumerate(zip(flat.cpu().double(), counted.cpu(), strict=True)):
        rows = of_text.nonzero().flatten()
        if len(rows) > patches:
            raise ValueError(
                f"mask: got {len(rows)} words for {patches} patches, accepted are no more with one_to_one."
            )
        chosen, columns = linear_sum_assignment(-table[rows].numpy())
        found[number, rows[torch.from_numpy(chosen)], 0] = torch.from_numpy(columns)
    return found.reshape(*similarities.shape[:-1], 1).to(similarities.device)


def token_scores(
    patch_tokens: torch.Tensor,
    word_tokens: torch.Tensor,
    mask: torch.Tensor,
    top_k: int = 1,
    matching: Literal["relaxed", "one_to_one"] = "relaxed",
) -> torch.Tensor:
    """(images, texts): the mean over a text's words of the mean cosine with their patches.

    Args:
        patch_tokens: (images, patches, width); word_tokens: (texts, words, width); both of any length.
        mask: (texts, words), true for words that count; each text has one.
        top_k, matching: see `match_words`.

    Raises:
        ValueError: a text without words, and as `match_words`.
    """
    mask = mask.bool()
    if not mask.any(1).all():
        raise ValueError(f"mask: text {int((~mask.any(1)).nonzero()[0])} has no word.")
    patches, words = F.normalize(patch_tokens, dim=-1), F.normalize(word_tokens, dim=-1)
    similarities = torch.einsum("twd,ipd->itwp", words, patches)
    counted = mask.expand(len(patches), -1, -1)
    matches = match_words(similarities, counted, top_k, matching)
    matched = similarities.gather(-1, matches.clamp_min(0)).mean(-1) * counted
    return matched.sum(-1) / counted.sum(-1)


def token_matching_loss(
    patch_tokens: torch.Tensor,
    word_tokens: torch.Tensor,
    mask: torch.Tensor,
    logit_scale: torch.Tensor | float,
    top_k: int = 1,
    matching: Literal["relaxed", "one_to_one"] = "relaxed",
) -> torch.Tensor:
    """CLIP's loss with `token_scores` in the place of the cosines; the matching has no gradient.

    Args:
        patch_tokens, word_tokens, mask, top_k, matching: see `token_scores`; pair i is row i of all.
        logit_scale: factor of the scores.

    Raises:
        ValueError: not as many images as texts, a batch of one, and as `token_scores`.
    """
    if len(patch_tokens) != len(word_tokens) or len(patch_tokens) < 2:
        count = f"{len(patch_tokens)} images and {len(word_tokens)} texts"
        raise ValueError(f"patch_tokens, word_tokens: got {count}, accepted are as many of both, two or more.")
    logits = logit_scale * token_scores(patch_tokens, word_tokens, mask, top_k, matching)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
