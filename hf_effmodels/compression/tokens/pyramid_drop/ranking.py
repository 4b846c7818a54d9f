"""How much the text looks at each token: the attention of a block's own weights, before it runs (section 3.2)."""

import torch
from torch import nn


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


@torch.no_grad()
def attention_scores(
    layer: nn.Module,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    valid: torch.Tensor,
    queries: torch.Tensor,
) -> torch.Tensor:
    """
    Attention that `layer` would pay to each position of one row, averaged over heads and over some positions of it.

    Args:
        layer: a decoder block with `input_layernorm` and `self_attn.q_proj`, `k_proj` (and their norms, if it has).
        hidden_states: what the block is about to take, (L, D).
        position_embeddings: cosines and sines of the positions, (L, head size) each.
        valid: False where there is padding, (L,).
        queries: the positions that ask, (Q,).

    Returns:
        (L,) in float32; a probability distribution over the positions if there is one query.
    """
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden_states[None])[0]
    cos, sin = position_embeddings

    def heads(projection: str, rows: torch.Tensor, places: slice | torch.Tensor) -> torch.Tensor:
        states = getattr(attention, f"{projection}_proj")(rows[None])[0].unflatten(-1, (-1, attention.head_dim))
        if (norm := getattr(attention, f"{projection}_norm", None)) is not None:
            states = norm(states)
        return _rotate(states.transpose(0, 1), cos[places], sin[places])

    query, key = heads("q", normed[queries], queries), heads("k", normed, slice(None))
    key = key.repeat_interleave(len(query) // len(key), dim=0)
    logits = query @ key.transpose(1, 2) * attention.scaling
    places = torch.arange(len(normed), device=normed.device)
    seen = valid & (places <= queries[:, None])
    probabilities = logits.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32)
    return probabilities.mean(dim=(0, 1))


def best(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` highest scores, ascending; of equal ones the first come first."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def answer_starts(labels: torch.Tensor) -> torch.Tensor:
    """The positions just before each answer: no label there, and one on the next (Q,), of labels (L,)."""
    return ((labels[:-1] == -100) & (labels[1:] != -100)).nonzero()[:, 0]
