"""One vector for each text, by any text encoder of transformers."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from ....hub.ids import reading
from ....hub.whole import load_whole
from ....texts import one_length

Pooling = Literal["auto", "projected", "cls", "mean", "last"]
POOLINGS = get_args(Pooling)


class TextEncoder:
    """A text encoder and its tokenizer.

    Args:
        model: with `get_text_features` (CLIP, SigLIP, ...), a text tower with a projection, or any that gives
            `last_hidden_state`; of one with a decoder beside it, the encoder.
        tokenizer: its own.
        pooling: `projected`, into the space that texts and images share; `cls`, the first token's vector; `mean` of
            the tokens; `last`, the last token's. `auto` is `projected` where there is a projection, else `mean`.
        max_length: tokens of a text at most; by default what tokenizer and model know.

    Raises:
        ValueError: there is no projection, or nothing to pad with.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        pooling: Pooling = "auto",
        max_length: int | None = None,
    ):
        projects = hasattr(model, "get_text_features") or type(model).__name__.endswith("WithProjection")
        if pooling == "auto":
            pooling = "projected" if projects else "mean"
        if pooling == "projected" and not projects:
            raise ValueError(f"--pooling: {type(model).__name__} has no projection; accepted are cls, mean and last.")
        if pooling != "projected" and hasattr(model, "get_text_features"):
            model = getattr(model, "text_model", model)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ValueError("--encoder: its tokenizer has neither a token to pad with nor one for the end.")
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        self.model, self.tokenizer, self.pooling = model.eval().requires_grad_(False), tokenizer, pooling
        self.how = one_length(model, tokenizer, max_length)
        self.max_length = self.how.get("max_length")

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """(texts, width), as the encoder gives them: not normalised."""
        device = next(self.model.parameters()).device
        inputs = self.tokenizer(list(texts), return_token_type_ids=False, **self.how).to(device)
        if self.pooling == "projected":
            if not hasattr(self.model, "get_text_features"):
                return self.model(**inputs).text_embeds
            found = self.model.get_text_features(**inputs)
            return found.pooler_output if isinstance(found, Mapping) else found
        hidden = self.model(**inputs).last_hidden_state
        mask = inputs.get("attention_mask")
        mask = torch.ones(hidden.shape[:2], device=device) if mask is None else mask
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "mean":
            return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return hidden[torch.arange(len(hidden)), mask.sum(1).long().clamp(min=1) - 1]


def load_encoder(
    name: str,
    *,
    revision: str | None = None,
    pooling: Pooling = "auto",
    max_length: int | None = None,
    dtype: str = "auto",
    token: str | None = None,
    trust_remote_code: bool = False,
) -> TextEncoder:
    """The encoder of `--encoder`, in a folder or on the Hub.

    Raises:
        OSError: it cannot be found or reached. ValueError: it is no text encoder.
    """
    hub = {"revision": revision, "token": token, "trust_remote_code": trust_remote_code}
    with reading("--encoder", name, revision=("--encoder_revision", revision)):
        config = AutoConfig.from_pretrained(name, **hub)
        # Text towers with a projection have no Auto class.
        towers = [arch for arch in config.architectures or () if arch.endswith("TextModelWithProjection")]
        loader = getattr(transformers, towers[0]) if towers and hasattr(transformers, towers[0]) else AutoModel
        tokenizer = AutoTokenizer.from_pretrained(name, **hub)
    hub["revision"] = ("--encoder_revision", revision)
    model = load_whole(loader, "--encoder", name, spared=("pooler.", "decoder."), dtype=dtype, **hub)
    encoder = TextEncoder(model, tokenizer, pooling, max_length)
    try:
        found = encoder(["a picture"])
    except Exception as error:  # whatever a network of another kind makes of tokens
        raise ValueError(f"--encoder: {name} ({type(model).__name__}) encodes no texts ({error}).") from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise ValueError(f"--encoder: {name} ({type(model).__name__}) gives no vector for a text.")
    return encoder
