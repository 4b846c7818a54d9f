"""How many tokens a model takes of a text, and what fills up the rest.

A Space has this file beside its app.py, as it has images.py: it imports nothing of the package.
"""

from typing import Any

import torch

#: Tokenizers that know no end of a text say so by a number beyond this.
_ENDLESS = 1_000_000
#: SigLIP was trained on texts that are all filled up to so many tokens: transformers' pipeline has the number, too.
_SIGLIP_LENGTH = 64


def longest_text(model: Any, tokenizer: Any) -> int | None:
    """Tokens of the longest text that a model (a network, or an exported program with its configuration) takes: for so
    many it has places and its tokenizer is meant. None for any number."""
    config = getattr(model.config, "text_config", None) or model.config
    known = [getattr(tokenizer, "model_max_length", None), getattr(config, "max_position_embeddings", None)]
    if isinstance(model, torch.nn.Module):
        for name, module in model.named_modules():
            # RoBERTa's kind counts from behind the padding: 514 places are for 512 tokens.
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                known.append(module.num_embeddings - module.padding_idx - 1)
    known = [length for length in known if length is not None and 0 < length < _ENDLESS]
    return min(known) if known else None


def one_length(model: Any, tokenizer: Any, longest: int | None = None) -> dict[str, Any]:
    """What a tokenizer is asked for, so that texts come in one batch as the model was trained on them.

    Args:
        longest: tokens, where fewer are wanted than the model takes.
    """
    filled_up = "siglip" in str(getattr(model.config, "model_type", ""))
    known = [longest, longest_text(model, tokenizer), _SIGLIP_LENGTH if filled_up else None]
    known = [length for length in known if length is not None]
    cut = {"truncation": True, "max_length": min(known)} if known else {}
    return {"padding": "max_length" if filled_up else True, **cut, "return_tensors": "pt"}
