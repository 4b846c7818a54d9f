"""What a decoder costs with fewer image tokens in its deeper blocks (paper, section 3.3)."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from .settings import PyramidDropSettings


@dataclass(frozen=True)
class PyramidCosts:
    """Of one prompt. Multiply-adds are those of the blocks: without embeddings and head.

    Attributes:
        lengths: tokens that each block sees.
        macs, full_macs: multiply-adds with the drops and without, in units.
        ranking_macs: those of `macs` that the ranking takes.
        cache_values, full_cache_values: numbers kept as keys and values, with and without.
    """

    lengths: tuple[int, ...]
    macs: int
    full_macs: int
    ranking_macs: int
    cache_values: int
    full_cache_values: int


def pyramid_costs(
    config: PreTrainedConfig, settings: PyramidDropSettings, image_tokens: int, text_tokens: int
) -> PyramidCosts:
    """
    Costs of the prefill of a prompt, by the formula of the block: projections, both products of the attention (all
    pairs of tokens counted, as is usual), the gated feed-forward; of each drop the keys and the one query.

    Args:
        config: of the decoder.
        image_tokens, text_tokens: of the prompt.
    """
    config = config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wide, narrow = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    hidden = config.hidden_size
    per_token = 2 * hidden * (wide + narrow) + 3 * hidden * config.intermediate_size

    def block(tokens: int) -> int:
        return tokens * per_token + 2 * tokens * tokens * wide

    lengths, ranking, now = [], 0, image_tokens
    for index in range(config.num_hidden_layers):
        if index in settings.layers:
            before, now = now, settings.kept(image_tokens, settings.layers.index(index))
            if now < before:
                length = text_tokens + before
                ranking += length * hidden * narrow + hidden * wide + length * wide
        lengths.append(text_tokens + now)
    full = text_tokens + image_tokens
    return PyramidCosts(
        lengths=tuple(lengths),
        macs=sum(map(block, lengths)) + ranking,
        full_macs=len(lengths) * block(full),
        ranking_macs=ranking,
        cache_values=sum(lengths) * 2 * narrow,
        full_cache_values=len(lengths) * full * 2 * narrow,
    )
