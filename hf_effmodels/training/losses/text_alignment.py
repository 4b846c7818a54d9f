"""GPT4Image: images aligned with the embeddings of their descriptions (https://arxiv.org/abs/2306.00693)."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from .checks import check_temperature, exact
from .interface import POOLED, DistillationLoss, Networks

KINDS = ("clip", "ctr", "byol")
#: Column of a data set: the embedding of the text that describes each sample.
TEXT_EMBEDS = "text_embeds"


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


class TextAlignmentLoss(DistillationLoss):
    """GPT4Image: `text_alignment_loss` of the pooled features, projected, with the embeddings of descriptions that the
    samples have as `text_embeds`. There is no teacher; the projection is for training only.

    It is a loss of the batch as a whole, over all processes, so that accumulated batches are not one large one.

    Args:
        kind: `clip`, `ctr` or `byol`. Of several processes `clip` is over all their rows, `ctr` and `byol` over each
            one's own, as published.
        temperature: τ; published: 0.2 for ResNets, 0.05 for DeiTs.
        projection: `mlp` or `linear`, see `TextProjection`.
        norm: with a batch norm in `mlp`: the published ResNets' head; without, DeiT's.
        init_std: see `TextProjection`.
        embed_dim: width of the embeddings; found in the data set by default.
        true_gradient: see `gather_rows`; the published weights are meant for false.
        mask_copies: copies of one sample in a batch (repeated augmentation) are not each other's negatives; published:
            they are.
        text_mixup: what a mixed picture is aligned with: `none`, the text of the first picture, as published; or
            `mix`, both texts by their pictures' shares.
        weight: see `DistillationLoss`; published: 0.3.
    """

    name = "text_alignment"
    columns = (TEXT_EMBEDS,)
    needs_teacher = False

    def __init__(
        self,
        kind: Literal["clip", "ctr", "byol"] = "clip",
        temperature: float = 0.2,
        projection: Literal["mlp", "linear"] = "mlp",
        norm: bool = True,
        init_std: float | None = None,
        embed_dim: int | None = None,
        true_gradient: bool = False,
        mask_copies: bool = False,
        text_mixup: Literal["none", "mix"] = "none",
        weight: float = 1.0,
    ):
        super().__init__(weight)
        check_temperature(temperature)
        for argument, value, accepted in (("kind", kind, KINDS), ("text_mixup", text_mixup, ("none", "mix"))):
            if value not in accepted:
                raise ValueError(f"{argument}: got {value!r}, accepted are {', '.join(accepted)}.")
        self.kind, self.temperature, self.embed_dim = kind, temperature, embed_dim
        self.settings = {"kind": projection, "norm": norm, "init_std": init_std}
        self.true_gradient, self.needs_index, self.text_mixup = true_gradient, mask_copies, text_mixup

    def build(self, networks: Networks) -> None:
        shape = networks.columns.get(TEXT_EMBEDS, (self.embed_dim,))
        if len(shape) != 1 or shape[0] is None or self.embed_dim not in (None, shape[0]):
            raise ValueError(f"embed_dim: got {self.embed_dim} for text_embeds of shape {shape}, accepted is a width.")
        self.projection = TextProjection(networks.student[POOLED].channels, shape[0], **self.settings)

    def _project(self, pooled: torch.Tensor) -> torch.Tensor:
        """One picture alone, as the last of an epoch may be, has no variance: the norm takes what it has measured."""
        if len(pooled) > 1 or not self.projection.training:
            return self.projection(pooled)
        self.projection.eval()
        try:
            return self.projection(pooled)
        finally:
            self.projection.train()

    def forward(self, student, teacher, batch):
        images, texts = self._project(student[POOLED]), batch.extra[TEXT_EMBEDS]
        if self.text_mixup == "mix" and batch.own_share is not None:
            share = batch.own_share[:, None].to(texts)
            texts = F.normalize(share * texts + (1 - share) * texts.flip(0), dim=-1)
        ids = batch.index if self.needs_index else None
        if self.kind == "clip":
            images, texts = gather_rows(images, true_gradient=self.true_gradient), gather_rows(texts)
            ids = None if ids is None else gather_rows(ids)
        return text_alignment_loss(images, texts, kind=self.kind, temperature=self.temperature, ids=ids)
