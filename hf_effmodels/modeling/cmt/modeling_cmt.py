"""CMT (https://arxiv.org/abs/2107.06263): attention over fewer keys than queries, and depthwise convolutions in every
block. Maps are (batch, channels, height, width).
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.backbone import StagesBackboneMixin
from ..layers.batch_norm import BatchNormMixin
from ..layers.drop_path import DropPath
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from ..layers.positions import resize_bias_plane
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, norm_scale_and_shift
from .configuration_cmt import CmtConfig


class CmtNorm(nn.Module):
    """A batch norm that no convolution comes before, so that it folds into a factor and a shift per channel only."""

    def __init__(self, config: CmtConfig, channels: int):
        super().__init__()
        self.norm = self.scale = self.shift = None
        if config.reparameterized:
            self.scale = nn.Parameter(torch.ones(channels, 1, 1))
            self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        else:
            self.norm = nn.BatchNorm2d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.scale + self.shift if self.norm is None else self.norm(hidden_states)

    def fold(self) -> None:
        if self.norm is not None:
            values, like = norm_scale_and_shift(self.norm), self.norm.weight
            self.scale, self.shift = (nn.Parameter(v.to(like)[:, None, None]) for v in values)
            self.norm = None


class CmtConvNorm(ConvNorm):
    """Convolution with bias and batch norm, with the configuration's constants."""

    def __init__(self, config: CmtConfig, in_channels: int, out_channels: int, kernel_size: int = 1, **options):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            bias=True,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            folded=config.reparameterized,
            **options,
        )


class CmtConvActNorm(nn.Module):
    """Convolution with bias, activation, and only then the batch norm."""

    def __init__(self, config: CmtConfig, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = CmtNorm(config, out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.activation(self.conv(hidden_states)))


class CmtStem(nn.Module):
    """Three 3×3 convolutions, the first of which halves the image."""

    def __init__(self, config: CmtConfig):
        super().__init__()
        width = config.stem_channels
        self.conv1 = CmtConvActNorm(config, config.num_channels, width, 3, stride=2)
        self.conv2 = CmtConvActNorm(config, width, width, 3)
        self.conv3 = CmtConvActNorm(config, width, width, 3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.conv3(self.conv2(self.conv1(pixel_values)))


class CmtPatchEmbedding(nn.Module):
    """A 2×2 convolution that halves the map, and a layer norm over the channels."""

    def __init__(self, config: CmtConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 2, stride=2)
        self.norm = nn.LayerNorm(out_channels, eps=config.embedding_norm_eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(hidden_states).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q kᵀ · scaling + bias) v, and the weights; shapes (batch, heads, tokens, head size)."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class CmtAttention(nn.Module):
    """Queries of every position, keys and values of the map that a strided depthwise convolution makes smaller, and a
    learnt bias for every pair (section 3.2)."""

    def __init__(self, config: CmtConfig, index: int):
        super().__init__()
        width, ratio = config.embed_dims[index], config.sr_ratios[index]
        self.config = config
        self.num_heads = config.num_heads[index]
        self.head_dim = width // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.reduction = None
        if ratio > 1:
            self.reduction = CmtConvNorm(config, width, width, ratio, stride=ratio, padding=0, groups=width)

    def forward(
        self, hidden_states: torch.Tensor, bias: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states: normalised tokens, (batch, height, width, channels).
            bias: (heads, queries, keys) for maps of any size, see `resize_bias_plane`.

        Returns:
            The same shape, and the attention weights (batch, heads, queries, keys).
        """
        batch, height, width, channels = hidden_states.shape
        tokens = hidden_states.reshape(batch, -1, channels)
        seen = tokens
        if self.reduction is not None:
            seen = self.reduction(hidden_states.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        query, key, value = (
            layer(x).view(batch, -1, self.num_heads, self.head_dim).transpose(1, 2)
            for layer, x in ((self.q, tokens), (self.k, seen), (self.v, seen))
        )
        bias = resize_bias_plane(bias, query.shape[2], key.shape[2]).to(query.dtype)[None]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(self, query, key, value, bias, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.proj(attended.reshape(batch, height, width, channels)), weights


class CmtFeedForward(nn.Module):
    """Expand by 1×1, a depthwise 3×3 with its input added, project by 1×1 (section 3.3)."""

    def __init__(self, config: CmtConfig, channels: int):
        super().__init__()
        hidden = int(channels * config.mlp_ratio)
        self.expand = CmtConvActNorm(config, channels, hidden)
        self.local = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = CmtNorm(config, hidden)
        self.project = CmtConvNorm(config, hidden, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.expand(hidden_states)
        hidden_states = self.norm(self.activation(self.local(hidden_states) + hidden_states))
        return self.project(hidden_states)


class CmtBlock(GradientCheckpointingLayer):
    """A depthwise convolution, attention and a feed-forward, each with its input added."""

    def __init__(self, config: CmtConfig, index: int, drop_path_rate: float):
        super().__init__()
        width = config.embed_dims[index]
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = CmtAttention(config, index)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = CmtFeedForward(config, width)
        self.drop_path = DropPath(drop_path_rate)

    def forward(
        self, hidden_states: torch.Tensor, bias: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """
        Args:
            hidden_states: a map, (batch, channels, height, width).
            bias: the stage's, see `CmtAttention`.
        """
        tokens = (self.local(hidden_states) + hidden_states).permute(0, 2, 3, 1)
        attended, _ = self.attention(self.norm1(tokens), bias, **kwargs)
        tokens = tokens + self.drop_path(attended)
        fed = self.mlp(self.norm2(tokens).permute(0, 3, 1, 2))
        return tokens.permute(0, 3, 1, 2) + self.drop_path(fed)


class CmtStage(nn.Module):
    """A patch embedding and blocks, which share the bias of their attention."""

    def __init__(self, config: CmtConfig, index: int):
        super().__init__()
        first_block, ratio = sum(config.depths[:index]), config.sr_ratios[index]
        size = config.image_size
        height, width = (side >> (index + 2) for side in ((size, size) if isinstance(size, int) else size))
        self.patch_embed = CmtPatchEmbedding(config, config.hidden_sizes[index], config.embed_dims[index])
        keys = (height // ratio) * (width // ratio)
        self.relative_positions = nn.Parameter(torch.zeros(config.num_heads[index], height * width, keys))
        self.blocks = nn.ModuleList(
            CmtBlock(config, index, config.drop_path_rate * (first_block + block) / max(sum(config.depths) - 1, 1))
            for block in range(config.depths[index])
        )

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        hidden_states = self.patch_embed(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, self.relative_positions, **kwargs)
        return hidden_states


class CmtPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all CMTs share: configuration, initialisation, folding."""

    config: CmtConfig
    base_model_prefix = "cmt"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["CmtBlock"]
    _can_record_outputs = {"hidden_states": CmtStage, "attentions": CmtAttention}
    _supports_sdpa = True
    _supports_flash_attn = False  # the kernels take no bias
    _supports_flex_attn = False
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers truncated normal, convolutions as PyTorch's; the tables of relative positions standard normal
        (the official code)."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init_like_torch(module)
        elif isinstance(module, CmtStage):
            init.normal_(module.relative_positions)
        elif isinstance(module, CmtNorm) and module.norm is None:
            init.ones_(module.scale)
            init.zeros_(module.shift)
        else:
            super()._init_weights(module)

    def no_weight_decay(self) -> list[str]:
        """Names of the tables of relative positions."""
        return [name for name, _ in self.named_parameters() if name.endswith("relative_positions")]


class CmtModel(CmtPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the map of the last stage (normalised where `config.final_norm` says so), `pooler_output`
    its mean over all positions; `hidden_states` are the outputs of each stage.
    """

    _keys_to_ignore_on_load_unexpected = [r"^head_conv\.", r"^classifier\."]

    def __init__(self, config: CmtConfig, final_norm: bool | None = None):
        super().__init__(config)
        self.stem = CmtStem(config)
        self.stages = nn.ModuleList(CmtStage(config, index) for index in range(len(config.depths)))
        self.norm = None
        if config.final_norm if final_norm is None else final_norm:
            self.norm = nn.LayerNorm(config.embed_dims[-1], eps=config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
        """
        pixel_values = self.prepare_pixels(pixel_values)
        smallest = 2 ** (len(self.config.depths) + 1) * self.config.sr_ratios[-1]
        if min(pixel_values.shape[-2:]) < smallest:
            raise ValueError(
                f"pixel_values: got {tuple(pixel_values.shape)}, accepted are sides from {smallest} pixels."
            )
        hidden_states = self.stem(pixel_values)
        for stage in self.stages:
            hidden_states = stage(hidden_states, **kwargs)
        if self.norm is not None:
            hidden_states = self.norm(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3)))


class CmtForImageClassification(CmtPreTrainedModel):
    """CMT with a 1×1 convolution before the pooling and a linear classifier after it."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"^(cmt\.)?norm\."]

    def __init__(self, config: CmtConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cmt = CmtModel(config, final_norm=False)
        self.head_conv = CmtConvNorm(config, config.embed_dims[-1], config.head_channels)
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = config.head_channels
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or multi-hot rows (batch, num_labels), or values for a regression; which
                of them is decided by `config.problem_type`. The loss is returned with them.
        """
        outputs = self.cmt(pixel_values, **kwargs)
        features = F.silu(self.head_conv(outputs.last_hidden_state)).mean((2, 3))
        logits = self.classifier(self.dropout(features))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class CmtBackbone(StagesBackboneMixin, CmtPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides: 2 ("stem"), 4 ("stage1"), 8 ("stage2"), 16 ("stage3"), 32 ("stage4").
    """

    _keys_to_ignore_on_load_unexpected = [r"^norm\.", r"^head_conv\.", r"^classifier\."]

    def __init__(self, config: CmtConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = CmtStem(config)
        self.stages = nn.ModuleList(CmtStage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = ["CmtBackbone", "CmtForImageClassification", "CmtModel", "CmtPreTrainedModel"]
