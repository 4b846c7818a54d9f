"""The blocks of TinyViT (https://arxiv.org/abs/2207.10666), those of MobileSAM's and TinySAM's image encoder, too:
inverted residuals, then attention in windows with a convolution between attention and MLP.

Maps are (batch, channels, height, width); blocks with attention compute on tokens (batch, height, width, channels),
which is the same memory in the channels-last layout. `config` is TinyViT's, or one with the same fields.
"""

from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .batch_norm import BatchNormMixin
from .drop_path import DropPath
from .initialization import init_like_torch
from .pixels import PixelsMixin
from .reparameterization import ConvNorm, ReparameterizationMixin


class TinyVitConvNorm(ConvNorm):
    """Convolution without bias and batch norm, with the configuration's constants."""

    def __init__(self, config: PreTrainedConfig, in_channels: int, out_channels: int, kernel_size: int = 1, **options):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            folded=config.reparameterized,
            **options,
        )


class TinyVitStem(nn.Module):
    """Two 3×3 convolutions with stride 2; an activation between them, none after the second."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.embed_dims[0]
        self.conv1 = TinyVitConvNorm(config, config.num_channels, width // 2, 3, stride=2)
        self.conv2 = TinyVitConvNorm(config, width // 2, width, 3, stride=2)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.activation(self.conv1(pixel_values)))


class TinyVitMBConv(GradientCheckpointingLayer):
    """Expand by 1×1, depthwise 3×3, project by 1×1; the activation comes after the sum with the input."""

    def __init__(self, config: PreTrainedConfig, channels: int, drop_path_rate: float):
        super().__init__()
        expanded = int(channels * config.mbconv_expand_ratio)
        self.conv1 = TinyVitConvNorm(config, channels, expanded)
        self.conv2 = TinyVitConvNorm(config, expanded, expanded, 3, groups=expanded)
        self.conv3 = TinyVitConvNorm(config, expanded, channels)
        if self.conv3.norm is not None:
            self.conv3.norm.starts_at_zero = True  # transformers asks modules with weights only how they begin
        self.drop_path = DropPath(drop_path_rate)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        expanded = self.activation(self.conv2(self.activation(self.conv1(hidden_states))))
        return self.activation(hidden_states + self.drop_path(self.conv3(expanded)))


class TinyVitDownsample(nn.Module):
    """1×1, depthwise 3×3 with the stride, 1×1; activations between them, no residual, none at the end."""

    def __init__(self, config: PreTrainedConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = TinyVitConvNorm(config, in_channels, out_channels)
        self.conv2 = TinyVitConvNorm(config, out_channels, out_channels, 3, stride=stride, groups=out_channels)
        self.conv3 = TinyVitConvNorm(config, out_channels, out_channels)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.conv3(self.activation(self.conv2(self.activation(self.conv1(hidden_states)))))


def split_windows(tokens: torch.Tensor, size: int) -> torch.Tensor:
    """(batch, height, width, channels) -> (batch · windows, size², channels), windows and tokens row by row.

    Height and width are multiples of `size`.
    """
    batch, height, width, channels = tokens.shape
    if height == width == size:
        return tokens.reshape(batch, size * size, channels)
    tokens = tokens.reshape(batch, height // size, size, width // size, size, channels)
    return tokens.transpose(2, 3).reshape(-1, size * size, channels)


def join_windows(windows: torch.Tensor, size: int, height: int, width: int) -> torch.Tensor:
    """The inverse of `split_windows`, for maps of `height` by `width`."""
    channels = windows.shape[-1]
    if height == width == size:
        return windows.reshape(-1, size, size, channels)
    windows = windows.reshape(-1, height // size, width // size, size, size, channels)
    return windows.transpose(2, 3).reshape(-1, height, width, channels)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q kᵀ · scaling + bias) v, and the weights; shapes (batch, heads, tokens, head size)."""
    weights = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _entries(size: int, device: torch.device) -> torch.Tensor:
    """The entry |Δrow| · size + |Δcolumn| of the table for each pair of a window's positions, (size⁴,)."""
    positions = torch.arange(size, device=device)
    distance = (positions[:, None] - positions[None]).abs()
    # row, column of the first position, row, column of the second
    return (distance[:, None, :, None] * size + distance[None, :, None, :]).flatten()


@lru_cache(maxsize=16)
def _kept_entries(size: int, device: torch.device) -> torch.Tensor:
    """`_entries`, which follow from the size alone."""
    with torch.inference_mode(False):
        return _entries(size, device)


class TinyVitAttention(nn.Module):
    r"""Attention in windows: x ↦ W_o · softmax(q kᵀ / √d + b) v, of the normalised tokens of each window.

    The bias is a table with an entry for each |Δrow|, |Δcolumn| and head. Maps that do not divide into windows are
    filled up with zeros below and to the right *before* the normalisation; those tokens take part.
    """

    def __init__(self, config: PreTrainedConfig, channels: int, num_heads: int, window_size: int):
        super().__init__()
        self.config = config
        self.num_heads, self.window_size = num_heads, window_size
        self.head_dim = channels // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))

    def bias(self) -> torch.Tensor:
        """The table spread over all pairs of a window's positions, (heads, window², window²)."""
        size, device = self.window_size, self.attention_biases.device
        # A program that is traced computes them itself: what is kept must be a tensor of its own.
        entries = (_entries if torch.compiler.is_compiling() or device.type == "meta" else _kept_entries)(size, device)
        return self.attention_biases.index_select(1, entries).view(self.num_heads, size**2, size**2)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(windows, tokens, channels) -> the same, and the attention weights (windows, heads, tokens, tokens)."""
        windows, tokens, channels = hidden_states.shape
        # Each head's query, key and value lie side by side in the projection.
        projected = self.qkv(self.norm(hidden_states)).view(windows, tokens, self.num_heads, 3 * self.head_dim)
        query, key, value = projected.transpose(1, 2).split(self.head_dim, dim=-1)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        bias = self.bias().to(query.dtype)[None]
        attended, weights = attend(self, query, key, value, bias, scaling=self.scaling, dropout=0.0, **kwargs)
        return self.proj(attended.reshape(windows, tokens, channels)), weights


class TinyVitMLP(nn.Module):
    """Layer norm, a wide layer, activation, a narrow layer."""

    def __init__(self, config: PreTrainedConfig, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(channels, int(channels * config.mlp_ratio))
        self.fc2 = nn.Linear(int(channels * config.mlp_ratio), channels)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(self.norm(tokens))))))


class TinyVitBlock(GradientCheckpointingLayer):
    """Attention with its residual, a depthwise convolution without, an MLP with its residual."""

    def __init__(
        self, config: PreTrainedConfig, channels: int, num_heads: int, window_size: int, drop_path_rate: float
    ):
        super().__init__()
        self.attention = TinyVitAttention(config, channels, num_heads, window_size)
        self.local_conv = TinyVitConvNorm(config, channels, channels, config.local_conv_size, groups=channels)
        self.mlp = TinyVitMLP(config, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """
        Args:
            hidden_states: a map, (batch, channels, height, width).
        """
        tokens = hidden_states.permute(0, 2, 3, 1)
        size, (height, width) = self.attention.window_size, tokens.shape[1:3]
        below, right = -height % size, -width % size
        padded = F.pad(tokens, (0, 0, 0, right, 0, below)) if below or right else tokens  # by nothing it copies, too
        windows = split_windows(padded, size)
        attended, _ = self.attention(windows, **kwargs)
        attended = join_windows(attended, size, height + below, width + right)[:, :height, :width]
        tokens = tokens + self.drop_path(attended)
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens = tokens + self.drop_path(self.mlp(tokens))
        return tokens.permute(0, 3, 1, 2)


class TinyVitStage(nn.Module):
    """A downsampling, except in the first stage, and blocks: MBConvs in the first stage, attention in the others."""

    def __init__(self, config: PreTrainedConfig, index: int):
        super().__init__()
        channels, first_block = config.embed_dims[index], sum(config.depths[:index])
        rates = [
            config.drop_path_rate * (first_block + position) / max(sum(config.depths) - 1, 1)
            for position in range(config.depths[index])
        ]
        self.downsample = None
        if index == 0:
            self.blocks = nn.ModuleList(TinyVitMBConv(config, channels, rate) for rate in rates)
            return
        stride = config.downsample_strides[index - 1]
        self.downsample = TinyVitDownsample(config, config.embed_dims[index - 1], channels, stride)
        shape = (channels, config.num_heads[index - 1], config.window_sizes[index - 1])
        self.blocks = nn.ModuleList(TinyVitBlock(config, *shape, rate) for rate in rates)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        if self.downsample is not None:
            hidden_states = self.downsample(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states, **kwargs) if self.downsample is not None else block(hidden_states)
        return hidden_states


class TinyVitBlocksMixin(PixelsMixin, ReparameterizationMixin, BatchNormMixin):
    """What every PreTrainedModel of a `stem` and `stages` of these blocks has: initialisation, folding, layers."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["TinyVitMBConv", "TinyVitBlock"]
    _can_record_outputs = {"hidden_states": TinyVitStage, "attentions": TinyVitAttention}
    _supports_sdpa = True
    _supports_flash_attn = False  # the kernels take no bias
    _supports_flex_attn = False
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Linear layers truncated normal, convolutions as PyTorch's; an MBConv's last norm and the bias tables 0."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init_like_torch(module)
        elif isinstance(module, TinyVitAttention):
            init.zeros_(module.attention_biases)
        else:
            super()._init_weights(module)
        if getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)

    def no_weight_decay(self) -> list[str]:
        """Names of the bias tables, which do not decay though they have two dimensions (the official optimizer)."""
        return [name for name, _ in self.named_parameters() if name.endswith("attention_biases")]

    def learning_layers(self) -> dict[str, int]:
        """Number of the layer of each parameter, for layer-wise learning rates: the blocks of all stages in a row. The
        stem is with the first, a downsampling with the block before it, what follows the stages with the last."""
        first = [sum(self.config.depths[:index]) for index in range(len(self.config.depths) + 1)]
        numbers = {}
        for name, _ in self.named_parameters():
            path = name.removeprefix(f"{self.base_model_prefix}.").split(".")
            if path[0] == "stem":
                numbers[name] = 0
            elif path[0] != "stages":
                numbers[name] = first[-1] - 1
            elif path[2] == "blocks":
                numbers[name] = first[int(path[1])] + int(path[3])
            else:
                numbers[name] = first[int(path[1])] - 1
        return numbers
