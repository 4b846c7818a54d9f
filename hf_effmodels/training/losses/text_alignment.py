"""GPT4Image: images aligned with the embeddings of their descriptions (https://arxiv.org/abs/2306.00693)."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from .checks import check_temperature, exact

KINDS = ("clip", "ctr", "byol")


def text_alignment_loss(
    image_features: torch.Tensor,
    text_embeddings: torch.Tensor,
    *,
    kind: Literal["clip", "ctr", "byol"] = "clip",
    temperature: float = 0.2,
    ids: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""How far projected images are from the texts that describe them (section 3.3).

    With unit vectors v of the images and t of the texts: `clip` is the mean of the cross entropies of
    :math:`v_i \cdot t_j / τ` over the texts of each image and over the images of each text, `ctr` over the texts
    alone, `byol` the mean of :math:`2 - 2 v_i \cdot t_i`.

    Args:
        image_features: (batch, width), of any length; they are normalised here.
        text_embeddings: (batch, width) unit vectors; no gradient flows into them.
        kind: see above.
        temperature: τ of `clip` and `ctr`, above 0. The published ones are 0.2 (ResNet) and 0.05 (DeiT).
        ids: of the samples, (batch,): those of the same id, such as copies of repeated augmentation, are not
            each other's negatives. The official code has them be.

    Returns:
        A scalar. For a loss over the rows of all processes gather them first, by `gather_rows`.

    Raises:
        ValueError: shapes that do not fit, an unknown kind.
    """
    check_temperature(temperature)
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, accepted are {', '.join(KINDS)}.")
    if image_features.ndim != 2 or image_features.shape != text_embeddings.shape:
        raise ValueError(
            f"text_embeddings: got shape {tuple(text_embeddings.shape)}, expected the images' "
            f"{tuple(image_features.shape)}, which is (batch, width)."
        )
    images = F.normalize(exact(image_features), dim=-1)
    texts = text_embeddings.detach().to(images.dtype)
    if kind == "byol":
        return (2 - 2 * (images * texts).sum(-1)).mean()
    scores = images @ texts.T / temperature
    own = torch.arange(len(scores), device=scores.device)
    if ids is not None:
        same = (ids[:, None] == ids[None]) & (own[:, None] != own[None])
        scores = scores.masked_fill(same, float("-inf"))
    loss = F.cross_entropy(scores, own)
    return loss if kind == "ctr" else (loss + F.cross_entropy(scores.T, own)) / 2


def gather_rows(rows: torch.Tensor, *, true_gradient: bool = False) -> torch.Tensor:
    """The rows (batch, ...) of all processes, in their order; batches may differ in size.

    The gradient reaches the rows of this process alone. Every process computes the loss of all rows and the trainer
    takes the mean of their gradients, so that the gradient of the loss is divided by the number of processes: the
    official recipes' weights are meant so. `true_gradient` makes up for it: on any number of processes the step is
    that of one process with all rows, where the loss counts by each process's share of the rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(size) for size in sizes]
    padded = rows.detach().new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    own = rows
    if true_gradient and rows.requires_grad:
        factor = sum(sizes) / len(rows)
        own = rows.detach() + factor * (rows - rows.detach())
    parts[dist.get_rank()] = own
    return torch.cat(parts)


class TextProjection(nn.Sequential):
    """From an image's pooled features to the space of the texts; for training only.

    Args:
        in_features: width of the features before the classifier.
        embed_dim: width of the text embeddings.
        kind: `mlp` (Linear to twice the width, ReLU, Linear) or `linear` (one, without bias).
        norm: a batch norm before the ReLU, and no bias before it: the ResNets' head. Without it is DeiT's.
        init_std: of the truncated normal that all weights are drawn from; by default the published 1024^-0.5 with a
            norm, and 0.02 without.
    """

    def __init__(
        self,
        in_features: int,
        embed_dim: int,
        *,
        kind: Literal["mlp", "linear"] = "mlp",
        norm: bool = True,
        init_std: float | None = None,
    ):
        if kind not in ("mlp", "linear"):
            raise ValueError(f"projection: got {kind!r}, accepted are 'mlp' and 'linear'.")
        if kind == "linear":
            layers = [nn.Linear(in_features, embed_dim, bias=False)]
        else:
            layers = [nn.Linear(in_features, 2 * embed_dim, bias=not norm)]
            layers += [nn.BatchNorm1d(2 * embed_dim)] if norm else []
            layers += [nn.ReLU(), nn.Linear(2 * embed_dim, embed_dim)]
        super().__init__(*layers)
        std = init_std if init_std is not None else (1024**-0.5 if norm else 0.02)
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=std)
