"""DeViT (https://arxiv.org/abs/2309.05015): small vision transformers, and a linear fusion of the tokens they send.

Tokens are (batch, tokens, width) throughout. Heads and neurons that were pruned are not there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.drop_path import DropPath
from ..layers.pixels import check_pixels
from ..layers.positions import resize_positions
from .configuration_devit import DeViTConfig


@dataclass
class DeViTModelOutput(BaseModelOutputWithPooling):
    """
    Args:
        last_hidden_state: (batch, tokens, Σ widths), the parts' sequences after their last norm side by side.
        pooler_output: (batch, Σ widths), the tokens that classify, side by side.
        part_tokens: of each part what it sends to the fusion, (batch, 1 or 2, width).
    """

    part_tokens: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class DeViTClassifierOutput(ImageClassifierOutput):
    """
    Args:
        logits: (batch, labels).
        token_logits: (batch, 1 or 2, labels), of each token's classifier; `logits` is the mean.
        fused_tokens: (batch, 1 or 2, fusion_hidden_size), between the fusion's layers, None where it has one.
        part_tokens: of each part what it sends, (batch, 1 or 2, width).
    """

    token_logits: torch.FloatTensor | None = None
    fused_tokens: torch.FloatTensor | None = None
    part_tokens: tuple[torch.FloatTensor, ...] | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with its weights: (batch, tokens, heads, head_dim) and (batch, heads, tokens, tokens)."""
    weights = (query @ key.transpose(2, 3) * scaling).softmax(-1)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (dropped @ value).transpose(1, 2), weights


class DeViTAttention(nn.Module):
    """Self-attention of the heads that were kept."""

    def __init__(self, config: DeViTConfig, sizes: dict, layer: int):
        super().__init__()
        self.config = config
        self.head_dim = sizes["head_dim"]
        self.num_heads = sizes["num_heads"][layer]
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        width = self.num_heads * self.head_dim
        self.qkv = nn.Linear(sizes["hidden_size"], 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, sizes["hidden_size"])

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        heads, weights = attention(self, query, key, value, None, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.proj(heads.flatten(2)), weights


class DeViTMLP(nn.Module):
    """The neurons that were kept."""

    def __init__(self, config: DeViTConfig, sizes: dict, layer: int):
        super().__init__()
        self.fc1 = nn.Linear(sizes["hidden_size"], sizes["intermediate_sizes"][layer])
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(sizes["intermediate_sizes"][layer], sizes["hidden_size"])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class DeViTLayer(GradientCheckpointingLayer):
    """Attention and MLP, each on the normalised stream and added to it."""

    def __init__(self, config: DeViTConfig, sizes: dict, layer: int):
        super().__init__()
        rate = config.drop_path_rate * layer / max(len(sizes["num_heads"]) - 1, 1)
        self.norm_before = nn.LayerNorm(sizes["hidden_size"], eps=config.layer_norm_eps)
        self.attention = DeViTAttention(config, sizes, layer)
        self.norm_after = nn.LayerNorm(sizes["hidden_size"], eps=config.layer_norm_eps)
        self.mlp = DeViTMLP(config, sizes, layer)
        self.drop_path = DropPath(rate)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        attended, _ = self.attention(self.norm_before(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(attended)
        return hidden_states + self.drop_path(self.mlp(self.norm_after(hidden_states)))


class DeViTPatches(nn.Module):
    """Patches, the class token and the distillation token of a DeiT, and where each stands."""

    def __init__(self, config: DeViTConfig, width: int):
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.num_tokens = config.num_tokens
        self.projection = nn.Conv2d(config.num_channels, width, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, width)) if self.num_tokens == 2 else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.side**2 + self.num_tokens, width))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        side = self.projection.kernel_size[0]
        return height // side, width // side

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        height, width = pixel_values.shape[-2:]
        side = self.projection.kernel_size[0]
        if min(height, width) < side:
            raise ValueError(f"pixel_values: got {height}×{width} pixels, accepted are images from {side}×{side}.")
        patches = self.projection(pixel_values)
        first = [t for t in (self.cls_token, self.distillation_token) if t is not None]
        tokens = [t.expand(patches.shape[0], -1, -1) for t in first] + [patches.flatten(2).transpose(1, 2)]
        return torch.cat(tokens, dim=1) + _positions(self, patches, self.num_tokens)


class DeViTTokenizer(nn.Module):
    """Convolutions with ReLU and max-pooling instead of patches (https://arxiv.org/abs/2104.05704, section 3.3)."""

    def __init__(self, config: DeViTConfig, width: int):
        super().__init__()
        kernel, layers = config.tokenizer_kernel_size, config.num_tokenizer_layers
        stride, padding = max(1, kernel // 2 - 1), max(1, kernel // 2)
        channels = [config.num_channels, *[64] * (layers - 1), width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride, padding, bias=False)
            for before, after in zip(channels[:-1], channels[1:], strict=True)
        )
        self.side, _ = self.grid(config.image_size, config.image_size)
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.side**2, width))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of what is left of an image."""
        for layer in self.convolutions:
            (kernel, _), (stride, _), (padding, _) = layer.kernel_size, layer.stride, layer.padding
            height, width = (((s + 2 * padding - kernel) // stride) // 2 + 1 for s in (height, width))
        return height, width

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            pixel_values = nn.functional.max_pool2d(convolution(pixel_values).relu(), 3, stride=2, padding=1)
        return pixel_values.flatten(2).transpose(1, 2) + _positions(self, pixel_values, 0)


def _positions(embeddings: nn.Module, grid: torch.Tensor, extra: int) -> torch.Tensor:
    """The table of positions, interpolated where the grid (batch, width, height, width) is another than it is for."""
    table = embeddings.position_embeddings
    if tuple(grid.shape[2:]) == (embeddings.side, embeddings.side):
        return table
    return resize_positions(table, *grid.shape[2:], extra_tokens=extra)


class DeViTTrunk(nn.Module):
    """The blocks of a part, and what they are given. Images in; the outputs of both as maps."""

    def __init__(self, config: DeViTConfig, number: int):
        super().__init__()
        sizes = config.parts[number]
        width = sizes["hidden_size"]
        self.num_tokens = config.num_tokens
        embeddings = DeViTTokenizer if config.part_type == "cct" else DeViTPatches
        self.embeddings = embeddings(config, width)
        self.layers = nn.ModuleList(DeViTLayer(config, sizes, layer) for layer in range(len(sizes["num_heads"])))

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Of (batch, channels, height, width) one map and one more for each block, (batch, width, rows, columns);
        tokens that belong to no place are left out."""
        states = [self.embeddings(pixel_values)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        rows, columns = self.embeddings.grid(*pixel_values.shape[-2:])
        return [state[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns)) for state in states]


class DeViTPart(DeViTTrunk):
    """One small vision transformer: what runs on a device. Images in; what it sends, and its whole sequence, out."""

    def __init__(self, config: DeViTConfig, number: int):
        super().__init__(config, number)
        width = config.parts[number]["hidden_size"]
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pooling = nn.Linear(width, 1) if config.part_type == "cct" else None

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        sequence = self.norm(hidden_states)
        if self.pooling is None:
            return sequence[:, : self.num_tokens], sequence
        return self.pooling(sequence).softmax(1).transpose(1, 2) @ sequence, sequence


class DeViTFusion(nn.Module):
    """Classifies by the parts' tokens: one or two linear layers, for a distillation token others of its own."""

    def __init__(self, config: DeViTConfig):
        super().__init__()
        self.widths = [part["hidden_size"] for part in config.parts]
        self.num_tokens = config.num_tokens
        hidden, width = config.fusion_hidden_size, config.fusion_hidden_size or config.hidden_size
        names = ("cls", "distillation")[: config.num_tokens]
        self.hidden = None
        if hidden is not None:
            self.hidden = nn.ModuleDict({name: nn.Linear(config.hidden_size, hidden) for name in names})
        self.classifiers = nn.ModuleDict({name: nn.Linear(width, config.num_labels) for name in names})

    def forward(
        self, part_tokens: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `DeViTForImageClassification.fuse`: logits, those of each token, and the fused tokens."""
        tokens = torch.cat(self._filled(part_tokens), dim=-1).unbind(1)
        fused = None
        if self.hidden is not None:
            tokens = [layer(token) for layer, token in zip(self.hidden.values(), tokens, strict=True)]
            fused = torch.stack(tokens, dim=1)
        logits = torch.stack([f(token) for f, token in zip(self.classifiers.values(), tokens, strict=True)], dim=1)
        return logits.mean(1), logits, fused

    def _filled(self, part_tokens: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        present = [tokens for tokens in part_tokens if tokens is not None]
        if len(part_tokens) != len(self.widths) or not present:
            raise ValueError(
                f"part_tokens: got {len(part_tokens)} parts, {len(present)} of them present; accepted are "
                f"{len(self.widths)}, at least one of them present."
            )
        for number, (tokens, width) in enumerate(zip(part_tokens, self.widths, strict=True)):
            expected = (present[0].shape[0], self.num_tokens, width)
            if tokens is not None and tokens.shape != expected:
                raise ValueError(f"part_tokens: part {number} sent {tuple(tokens.shape)}, accepted is {expected}.")
        return [
            present[0].new_zeros(present[0].shape[0], self.num_tokens, width) if tokens is None else tokens
            for tokens, width in zip(part_tokens, self.widths, strict=True)
        ]


class DeViTPreTrainedModel(PreTrainedModel):
    """What all DeViTs share: configuration, initialisation."""

    config: DeViTConfig
    base_model_prefix = "devit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeViTPatches", "DeViTTokenizer", "DeViTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DeViTLayer, "attentions": DeViTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (DeViTPatches, DeViTTokenizer)):
            for parameter in module.parameters(recurse=False):
                init.trunc_normal_(parameter, std=std)
        else:
            super()._init_weights(module)


class DeViTModel(DeViTPreTrainedModel):
    """The parts without the fusion. `hidden_states`: what the first block is given, and the outputs of all
    parts' blocks, part by part; `attentions` likewise."""

    def __init__(self, config: DeViTConfig):
        super().__init__(config)
        self.parts = nn.ModuleList(DeViTPart(config, number) for number in range(len(config.parts)))
        self.post_init()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> DeViTModelOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
        """
        check_pixels(pixel_values, self.config.num_channels)
        tokens, sequences = zip(*(part(pixel_values, **kwargs) for part in self.parts), strict=True)
        return DeViTModelOutput(
            last_hidden_state=torch.cat(sequences, dim=-1),
            pooler_output=torch.cat([t[:, 0] for t in tokens], dim=-1),
            part_tokens=tokens,
        )


class DeViTBackbone(BackboneMixin, DeViTPreTrainedModel):
    """The parts' maps side by side, for detectors and segmenters: all stages have the stride of the patches ("vit",
    "deit") or of the tokenizer ("cct") and the channels of all parts together.

    A stage is what the block of its number gives in each part, before the last norm; a part with fewer blocks gives
    what its last one gave.
    """

    has_attentions = False
    _keys_to_ignore_on_load_unexpected = [r"^(devit\.)?parts\.\d+\.(norm|pooling)\.", r"^fusion\."]

    def __init__(self, config: DeViTConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * len(config.stage_names)
        self.parts = nn.ModuleList(DeViTTrunk(config, number) for number in range(len(config.parts)))
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
        """
        check_pixels(pixel_values, self.config.num_channels)
        of_parts = [part(pixel_values) for part in self.parts]
        hidden_states = tuple(
            torch.cat([maps[min(stage, len(maps) - 1)] for maps in of_parts], dim=1)
            for stage in range(len(self.stage_names))
        )
        feature_maps = tuple(hidden_states[self.stage_names.index(name)] for name in self.out_features)
        return BackboneOutput(feature_maps=feature_maps, hidden_states=hidden_states)


class DeViTForImageClassification(DeViTPreTrainedModel):
    """The parts and the fusion of what they send. `encode` and `fuse` are the halves, for devices and aggregator."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: DeViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.devit = DeViTModel(config)
        self.fusion = DeViTFusion(config)
        self.post_init()

    def encode(self, part: int, pixel_values: torch.Tensor) -> torch.Tensor:
        """What part number `part` sends for images (batch, channels, height, width): (batch, 1 or 2, width)."""
        if not 0 <= part < len(self.devit.parts):
            raise ValueError(f"part: got {part}, accepted are 0 to {len(self.devit.parts) - 1}.")
        check_pixels(pixel_values, self.config.num_channels)
        return self.devit.parts[part](pixel_values)[0]

    def fuse(self, part_tokens: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Logits (batch, labels) from what the parts sent, in their order; None for a device that did not answer,
        whose tokens count as zeros.

        Raises:
            ValueError: another number of parts, none that answered, or tokens of another shape.
        """
        return self.fusion(part_tokens)[0]

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> DeViTClassifierOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or as `config.problem_type` says. The loss is returned with them.
        """
        outputs = self.devit(pixel_values, **kwargs)
        logits, token_logits, fused = self.fusion(outputs.part_tokens)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return DeViTClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            token_logits=token_logits,
            fused_tokens=fused,
            part_tokens=outputs.part_tokens,
        )


__all__ = ["DeViTBackbone", "DeViTForImageClassification", "DeViTModel", "DeViTPreTrainedModel"]
