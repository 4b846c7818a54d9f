"""DToP (https://arxiv.org/abs/2308.01045): tokens whose class is certain leave a vision transformer early.

The heads are SegViT's: queries of the classes look at the tokens, and how much the query of a class looks at a token
is the mask of the class. Letters of shapes: B images, N tokens of an image, L tokens left, C classes, D width.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.vit.modeling_vit import ViTAttention, ViTEmbeddings, ViTLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.import_utils import is_torchdynamo_exporting
from transformers.utils.output_capturing import capture_outputs

from ..layers.drop_path import DropPath
from ..layers.pixels import check_pixels
from .configuration_dtop import DtopConfig


@dataclass
class DtopOutput(SemanticSegmenterOutput):
    """
    Attributes:
        loss: of all heads, if there are labels.
        logits: (B, C, height, width) scores from 0 to 1: that the class is in the image and the pixel is of it.
        class_logits: of each head (B, C, 2): the class is there, or it is not.
        mask_logits: of each head (B, C, N), before the sigmoid; of a token that has left, those it left with.
        finished_tokens: (B, N) after each head: True where the token has left.
        num_tokens: (B, blocks) tokens that each block of the ViT has worked on.
    """

    class_logits: tuple[torch.Tensor, ...] | None = None
    mask_logits: tuple[torch.Tensor, ...] | None = None
    finished_tokens: tuple[torch.Tensor, ...] | None = None
    num_tokens: torch.Tensor | None = None


class DtopLayer(ViTLayer):
    """A block of the ViT with stochastic depth: both branches pass what ViT has its dropout for."""

    def __init__(self, config: DtopConfig, index: int):
        super().__init__(config.backbone_config)
        self.dropout = DropPath(config.drop_path_rate * index / max(config.backbone_config.num_hidden_layers - 1, 1))


class DtopEncoder(nn.Module):
    """The ViT: embeddings and blocks."""

    def __init__(self, config: DtopConfig):
        super().__init__()
        self.embeddings = ViTEmbeddings(config.backbone_config)
        self.layers = nn.ModuleList(DtopLayer(config, i) for i in range(config.backbone_config.num_hidden_layers))

    def embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D). The class token is part of official checkpoints only: it leaves at once."""
        return self.embeddings(pixel_values, interpolate_pos_encoding=True)[:, 1:]


class DtopAttention(nn.Module):
    """Attention of queries to tokens or to each other. Beside its output it gives its logits, averaged over heads."""

    def __init__(self, config: DtopConfig):
        super().__init__()
        size = config.head_hidden_size
        self.num_heads, self.dropout = config.head_num_attention_heads, config.head_dropout
        self.q_proj, self.k_proj = nn.Linear(size, size), nn.Linear(size, size)
        self.v_proj, self.o_proj = nn.Linear(size, size), nn.Linear(size, size)

    def forward(
        self, queries: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, D) and (B, L, D), of which `valid` (B, L) are none -> (B, C, D) and (B, C, L)."""
        query, key, value = (
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, states in ((self.q_proj, queries), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        masked = logits if valid is None else logits.masked_fill(~valid[:, None, None], -torch.inf)
        probabilities = F.dropout(masked.softmax(-1), self.dropout, self.training)
        return self.o_proj((probabilities @ value).transpose(1, 2).flatten(2)), logits.mean(dim=1)


class DtopDecoderLayer(nn.Module):
    """Queries look at each other, then at the tokens."""

    def __init__(self, config: DtopConfig):
        super().__init__()
        size = config.head_hidden_size
        self.self_attention, self.cross_attention = DtopAttention(config), DtopAttention(config)
        self.fc1, self.fc2 = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(size), nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(
        self, queries: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        queries = self.norm1(queries + self.dropout(self.self_attention(queries, queries)[0]))
        seen, logits = self.cross_attention(queries, tokens, valid)
        queries = self.norm2(queries + self.dropout(seen))
        widened = self.dropout(self.fc1(queries).relu())
        return self.norm3(queries + self.dropout(self.fc2(widened))), logits


class DtopHead(nn.Module):
    """SegViT's head: from tokens to classes and their masks."""

    def __init__(self, config: DtopConfig):
        super().__init__()
        size = config.head_hidden_size
        self.input_projection = nn.Linear(config.backbone_config.hidden_size, size)
        self.input_norm = nn.LayerNorm(size)
        self.queries = nn.Embedding(config.num_labels, size)
        self.layers = nn.ModuleList(DtopDecoderLayer(config) for _ in range(config.head_num_layers))
        self.classifier = nn.Linear(size, 2)

    def forward(
        self, hidden_states: torch.Tensor, valid: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states: tokens that are left, (B, L, D).
            valid: (B, L) False where a row is filled up.

        Returns:
            Logits of the classes (B, C, 2) and of their masks (B, C, L).
        """
        tokens = self.input_norm(self.input_projection(hidden_states))
        queries = self.queries.weight.expand(tokens.shape[0], -1, -1)
        for layer in self.layers:
            queries, masks = layer(queries, tokens, valid)
        return self.classifier(queries), masks


def class_scores(class_logits: torch.Tensor, mask_logits: torch.Tensor) -> torch.Tensor:
    """That the class is there and the token is of it, (B, C, 2) and (B, C, N) -> (B, C, N) from 0 to 1."""
    return class_logits.softmax(-1)[..., :1] * mask_logits.sigmoid()


def certain_tokens(scores: torch.Tensor, threshold: float, keep_top_k: int, valid: torch.Tensor) -> torch.Tensor:
    """
    The tokens that may leave (section 3.3): their highest score is above the threshold, and they are not among the
    `keep_top_k` highest of those of their class.

    Args:
        scores: (B, C, L).
        threshold: from 1 on no token leaves.
        keep_top_k: of equal scores the first come first.
        valid: (B, L) False where a row is filled up.

    Returns:
        (B, L) boolean.
    """
    value, label = scores.max(dim=1)
    certain = (value > threshold) & valid
    order = value.masked_fill(~certain, -1.0).sort(dim=1, descending=True, stable=True).indices
    labels = F.one_hot(label.gather(1, order), scores.shape[1]) * certain.gather(1, order)[..., None]
    rank = (labels.cumsum(dim=1) * labels).sum(-1)  # from 1, within the class; 0 where not certain
    leaves = torch.zeros_like(certain).scatter(1, order, rank > keep_top_k)
    return leaves


def segmentation_losses(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    labels: torch.Tensor,
    grid: tuple[int, int],
    config: DtopConfig,
) -> dict[str, torch.Tensor]:
    """
    The losses of one head: cross-entropy of the presence of each class, focal and Dice loss of the masks of the
    classes that are present, over the number of these masks in the batch.

    Args:
        class_logits, mask_logits: of a head, (B, C, 2) and (B, C, N).
        labels: (B, height, width), class indices or `semantic_loss_ignore_index`, which is background of every mask.
        grid: rows and columns of the N tokens.

    Returns:
        "class", "mask" and "dice", with their weights.
    """
    present = torch.stack([(labels == label).flatten(1).any(1) for label in range(class_logits.shape[1])], dim=1)
    if 0 <= config.semantic_loss_ignore_index < present.shape[1]:
        present[:, config.semantic_loss_ignore_index] = False
    weight = class_logits.new_tensor([1.0, config.absent_class_weight])
    losses = {"class": F.cross_entropy(class_logits.transpose(1, 2), (~present).long(), weight)}
    image, label = present.nonzero(as_tuple=True)
    masks = mask_logits.unflatten(-1, grid)[image, label]
    masks = F.interpolate(masks[:, None], labels.shape[-2:], mode="bilinear", align_corners=False).flatten(1)
    truth = (labels[image] == label[:, None, None]).flatten(1).to(masks.dtype)
    probability, count = masks.sigmoid(), max(len(label), 1)
    entropy = F.binary_cross_entropy_with_logits(masks, truth, reduction="none")
    missed = probability * (1 - truth) + (1 - probability) * truth
    balance = 0.25 * truth + 0.75 * (1 - truth)
    losses["mask"] = (balance * missed.square() * entropy).mean(1).sum() / count
    overlap = (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)
    losses["dice"] = (1 - overlap).sum() / count
    return {name: getattr(config, f"{name}_loss_weight") * loss for name, loss in losses.items()}


class DtopPreTrainedModel(PreTrainedModel):
    """What all share: configuration and initialisation."""

    config: DtopConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ViTEmbeddings", "DtopLayer", "DtopDecoderLayer"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": DtopLayer, "attentions": ViTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, ViTEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=std)
            init.trunc_normal_(module.cls_token, std=std)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        else:
            super()._init_weights(module)


class DtopForSemanticSegmentation(DtopPreTrainedModel):
    """A ViT with heads at several depths; tokens that a head is certain about leave."""

    accepts_loss_kwargs = False

    def __init__(self, config: DtopConfig):
        super().__init__(config)
        # These modules are no PreTrainedModels: nothing else tells them the implementation of attention.
        config.backbone_config._attn_implementation = config._attn_implementation
        self.vit = DtopEncoder(config)
        self.heads = nn.ModuleList(DtopHead(config) for _ in config.out_indices)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vit.embeddings.patch_embeddings

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DtopOutput:
        """
        Args:
            pixel_values: normalised images, (B, num_channels, height, width), sides multiples of the patch size.
            labels: (B, height, width), class indices or `config.semantic_loss_ignore_index`.
        """
        grid = self._grid(pixel_values, labels)
        hidden_states = self.vit.embed(pixel_values)
        batch, count, _ = hidden_states.shape
        places = torch.arange(count, device=hidden_states.device).expand(batch, -1)
        valid = mask = canvas = None
        finished = hidden_states.new_zeros(batch, count, dtype=torch.bool)
        class_logits, mask_logits, finished_tokens, num_tokens = [], [], [], []
        for index, layer in enumerate(self.vit.layers):
            num_tokens.append(count - finished.sum(1))
            hidden_states = layer(hidden_states, mask, **kwargs)
            if index not in self.config.out_indices:
                continue
            head = len(mask_logits)
            classes, masks = self.heads[head](hidden_states, valid)
            canvas = masks if canvas is None else _write(canvas, masks, places, valid)
            class_logits.append(classes)
            mask_logits.append(canvas)
            # Where multiply-adds are counted there are no scores: nothing leaves.
            counting = hidden_states.is_meta
            if head < len(self.config.thresholds) and self.config.thresholds[head] < 1 and not counting:
                with torch.no_grad():
                    known = torch.ones_like(places, dtype=torch.bool) if valid is None else valid
                    scores = class_scores(classes, masks)
                    leaves = certain_tokens(scores, self.config.thresholds[head], self.config.keep_top_k, known)
                    # Filled up places belong to tokens that have left: they change nothing.
                    finished = finished.scatter(1, places, leaves | ~known)
                    if is_torchdynamo_exporting():
                        # A graph has no sizes that depend on what is in an image: what leaves stays, and is not seen.
                        valid = known & ~leaves
                    else:
                        stays, kept = _pack(known & ~leaves)
                        places = places.gather(1, stays)
                        valid = None if bool(kept.all()) else kept
                    mask = None if valid is None else _key_mask(valid, hidden_states.dtype)
                if not is_torchdynamo_exporting():
                    hidden_states = hidden_states.gather(1, stays[..., None].expand(-1, -1, hidden_states.shape[-1]))
            finished_tokens.append(finished)
        logits = class_scores(class_logits[-1], canvas).unflatten(-1, grid)
        logits = F.interpolate(logits, pixel_values.shape[-2:], mode="bilinear", align_corners=False)
        loss = None
        if labels is not None:
            loss = sum(
                (1.0 if head == len(self.heads) - 1 else self.config.auxiliary_loss_weight) * value
                for head in range(len(self.heads))
                for value in segmentation_losses(
                    class_logits[head], mask_logits[head], labels, grid, self.config
                ).values()
            )
        return DtopOutput(
            loss=loss,
            logits=logits,
            class_logits=tuple(class_logits),
            mask_logits=tuple(mask_logits),
            finished_tokens=tuple(finished_tokens),
            num_tokens=torch.stack(num_tokens, dim=1),
        )

    def _grid(self, pixel_values: torch.Tensor, labels: torch.Tensor | None) -> tuple[int, int]:
        """Rows and columns of the tokens; a ValueError says what is wrong with images or labels."""
        check_pixels(pixel_values, self.config.num_channels)
        patch = self.config.backbone_config.patch_size
        height, width = pixel_values.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(
                f"pixel_values: got images of {height}×{width} pixels, accepted are multiples of {patch} as sides."
            )
        if labels is not None and labels.shape != (len(pixel_values), height, width):
            raise ValueError(
                f"labels: got shape {tuple(labels.shape)}, accepted is {(len(pixel_values), height, width)}: a class "
                "for each pixel."
            )
        if labels is not None and not torch.compiler.is_compiling():
            known = (labels >= 0) & (labels < self.config.num_labels)
            outside = ~known & (labels != self.config.semantic_loss_ignore_index)
            if outside.any():
                raise ValueError(
                    f"labels: got the class {labels[outside][0].item()}, accepted are 0 to "
                    f"{self.config.num_labels - 1}, and {self.config.semantic_loss_ignore_index} for none."
                )
        return height // patch, width // patch


def _write(
    canvas: torch.Tensor, masks: torch.Tensor, places: torch.Tensor, valid: torch.Tensor | None
) -> torch.Tensor:
    """`canvas` (B, C, N) with `masks` (B, C, L) at `places` (B, L), but for those of rows that are filled up."""
    index = places[:, None].expand_as(masks)
    if valid is not None:
        masks = torch.where(valid[:, None], masks, canvas.gather(2, index))
    return canvas.scatter(2, index, masks)


def _pack(kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of (B, L) the places of True in order, filled up to the longest row (B, L'), and which of them are True."""
    order = (~kept).to(torch.uint8).sort(dim=1, stable=True).indices[:, : int(kept.sum(1).max())]
    return order, kept.gather(1, order)


def _key_mask(valid: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What attention adds to its logits so that nobody looks at filled up places, (B, 1, L, L)."""
    mask = torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, torch.finfo(dtype).min)
    return mask[:, None, None].expand(-1, 1, valid.shape[1], -1)


__all__ = ["DtopForSemanticSegmentation", "DtopPreTrainedModel"]
