"""The input embedding DeLVM is trained with: the tokenizer's frozen codebook and a learned projection."""

import torch
from torch import nn
from torch.nn import functional as F


class FactorizedEmbedding(nn.Module):
    """Codes looked up in a fixed codebook and projected to the model's width: vocabulary · width parameters become
    code width · width learned ones.

    Args:
        codebook: (codes, code width), of the image tokenizer. It is saved with the model and never trained.
        embedding_dim: width of the model.
        std: deviation the projection starts with; 0.0052 is the official one.
    """

    def __init__(self, codebook: torch.Tensor, embedding_dim: int, std: float = 0.0052):
        super().__init__()
        if codebook.ndim != 2:
            raise ValueError(f"codebook: got shape {tuple(codebook.shape)}, expected (codes, code width).")
        self.register_buffer("codebook", codebook.detach().clone())
        self.projection = nn.Linear(codebook.shape[1], embedding_dim, bias=False).to(codebook)
        nn.init.normal_(self.projection.weight, std=std)

    @property
    def num_embeddings(self) -> int:
        return self.codebook.shape[0]

    @property
    def embedding_dim(self) -> int:
        return self.projection.out_features

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(...) ids -> (..., embedding_dim)."""
        return self.projection(F.embedding(input_ids, self.codebook))

    @torch.no_grad()
    def fold(self) -> nn.Embedding:
        """The same as a plain embedding."""
        folded = nn.Embedding(self.num_embeddings, self.embedding_dim, device="meta")
        folded.weight = nn.Parameter(self.codebook @ self.projection.weight.T)
        return folded


def factorize_embedding(model: nn.Module, codebook: torch.Tensor, std: float = 0.0052) -> nn.Module:
    """Replace the input embedding of a language model, in place, by the codebook and a new projection.

    Args:
        model: of transformers, whose head does not share the embedding's weights.
        codebook, std: see `FactorizedEmbedding`.

    Raises:
        ValueError: another number of codes than the vocabulary, or a shared embedding.
    """
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        raise ValueError("tie_word_embeddings: got True, accepted is False: the head needs weights of its own.")
    vocabulary = model.config.get_text_config().vocab_size
    if len(codebook) != vocabulary:
        raise ValueError(f"codebook: it has {len(codebook)} codes, the model a vocabulary of {vocabulary}.")
    old = model.get_input_embeddings()
    codebook = codebook.to(old.weight if isinstance(old, nn.Embedding) else old.codebook)
    model.set_input_embeddings(FactorizedEmbedding(codebook, model.config.get_text_config().hidden_size, std))
    return model


def fold_embedding(model: nn.Module) -> nn.Module:
    """Make a factorised input embedding, in place, a plain one that computes the same; the model then is a stock one.
    One that is plain stays as it is."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, FactorizedEmbedding):
        model.set_input_embeddings(embedding.fold())
    return model
