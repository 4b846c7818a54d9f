"""The two networks of SAM-DiffSR (those of SRDiff, arXiv:2104.14951): the RRDB encoder and the U-Net denoiser.

Images are in [-1, 1]; `s` is the magnification, (h, w) the size of the low-resolution image, (H, W) = (s·h, s·w).
The file stands alone: it is copied beside the weights when a pipeline is saved.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import nn
from torch.nn import functional as F

SCALES = (2, 4, 8)


def _check_scale(scale: int) -> None:
    if scale not in SCALES:
        raise ValueError(f"scale: got {scale!r}, accepted are {', '.join(map(str, SCALES))}.")


def _check_channels(name: str, images: torch.Tensor, channels: int) -> None:
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"{name}: expected (batch, {channels}, height, width), got {tuple(images.shape)}.")


class _PortableConfig(ConfigMixin):
    """A configuration that is saved without the place it was loaded from, which may be a path of somebody's."""

    def to_json_string(self) -> str:
        config = json.loads(super().to_json_string())
        config.pop("_name_or_path", None)
        return json.dumps(config, indent=2, sort_keys=True) + "\n"


# ---- the condition encoder: residual-in-residual dense blocks (ESRGAN, arXiv:1809.00219, section 3.1) ----


class ResidualDenseBlock(nn.Module):
    """Five 3×3 convolutions, each on everything before it; a fifth of the result is added to the input."""

    def __init__(self, hidden_size: int, growth: int):
        super().__init__()
        widths = [growth] * 4 + [hidden_size]
        self.convs = nn.ModuleList(
            nn.Conv2d(hidden_size + index * growth, width, 3, padding=1) for index, width in enumerate(widths)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        collected = [hidden_states]
        for conv in self.convs[:-1]:
            collected.append(F.leaky_relu(conv(torch.cat(collected, 1)), 0.2))
        return self.convs[-1](torch.cat(collected, 1)) * 0.2 + hidden_states


class RRDB(nn.Module):
    """Three residual dense blocks; a fifth of the result is added to the input."""

    def __init__(self, hidden_size: int, growth: int):
        super().__init__()
        self.dense_blocks = nn.ModuleList(ResidualDenseBlock(hidden_size, growth) for _ in range(3))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states
        for block in self.dense_blocks:
            hidden_states = block(hidden_states)
        return hidden_states * 0.2 + residual


@dataclass
class RRDBOutput(BaseOutput):
    """What the encoder returns.

    Attributes:
        sample: the super-resolved image by regression, (batch, 3, 4h, 4w) (8h, 8w at scale 8) in [-1, 1]; None where
            it was not asked for.
        features: the outputs of the blocks and the sum after the trunk, `num_blocks + 1` maps
            (batch, hidden_size, h, w).
    """

    # Defaults because accelerate's hooks build outputs anew from a dictionary.
    sample: torch.Tensor | None = None
    features: tuple[torch.Tensor, ...] | None = None

    @property
    def condition(self) -> tuple[torch.Tensor, ...]:
        """The features that condition the denoiser: every third, from the third."""
        return self.features[2::3]


class RRDBModel(ModelMixin, _PortableConfig):
    """The RRDB network: a super-resolution model of its own (trained with L1) and the denoiser's condition encoder.

    Args:
        hidden_size: channels of the trunk; `num_blocks` of RRDB blocks; `growth` channels of a dense convolution.
        scale: 2, 4 or 8. The image head magnifies by 8 at scale 8 and by 4 otherwise, so at scale 2 only the features
            are of use.
        num_channels: of the image.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["RRDB"]

    @register_to_config
    def __init__(
        self, hidden_size: int = 64, num_blocks: int = 17, growth: int = 32, scale: int = 4, num_channels: int = 3
    ):
        super().__init__()
        _check_scale(scale)
        self.conv_first = nn.Conv2d(num_channels, hidden_size, 3, padding=1)
        self.trunk = nn.ModuleList(RRDB(hidden_size, growth) for _ in range(num_blocks))
        self.trunk_conv = nn.Conv2d(hidden_size, hidden_size, 3, padding=1)
        self.upsample_convs = nn.ModuleList(
            nn.Conv2d(hidden_size, hidden_size, 3, padding=1) for _ in range(3 if scale == 8 else 2)
        )
        self.high_resolution_conv = nn.Conv2d(hidden_size, hidden_size, 3, padding=1)
        self.conv_last = nn.Conv2d(hidden_size, num_channels, 3, padding=1)
        self.gradient_checkpointing = False

    def forward(
        self, sample: torch.Tensor, output_image: bool = True, return_dict: bool = True
    ) -> RRDBOutput | tuple[torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """Encode low-resolution images `sample`, (batch, 3, h, w) in [-1, 1].

        `output_image=False` leaves out the image head, which the denoiser has no use for.
        """
        _check_channels("sample", sample, self.config.num_channels)
        first = hidden_states = self.conv_first((sample + 1) / 2)
        features = []
        for block in self.trunk:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
            features.append(hidden_states)
        features.append(first + self.trunk_conv(hidden_states))
        image = self._image(features[-1]) if output_image else None
        if not return_dict:
            return image, tuple(features)
        return RRDBOutput(sample=image, features=tuple(features))

    def _image(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for conv in self.upsample_convs:
            hidden_states = F.leaky_relu(conv(F.interpolate(hidden_states, scale_factor=2, mode="nearest")), 0.2)
        hidden_states = F.leaky_relu(self.high_resolution_conv(hidden_states), 0.2)
        return self.conv_last(hidden_states).clamp(0, 1) * 2 - 1


# ---- the denoiser ----


def timestep_embedding(timesteps: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Sines, then cosines of t·10000^(-i/(size/2 - 1)), (batch, size), in float32 at least."""
    half = size // 2
    dtype = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(half, dtype=dtype, device=timesteps.device) * (-math.log(10_000) / (half - 1))
    angles = timesteps.to(dtype)[:, None] * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, padding_mode="reflect")


class ResnetBlock(nn.Module):
    """Two convolutions with Mish after each and the time embedding in between; no normalisation."""

    def __init__(self, in_channels: int, out_channels: int, time_embedding_size: int):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels)
        self.time_emb_proj = nn.Linear(time_embedding_size, out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, hidden_states: torch.Tensor, time_embedding: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.conv_shortcut is None else self.conv_shortcut(hidden_states)
        hidden_states = F.mish(self.conv1(hidden_states))
        hidden_states = hidden_states + self.time_emb_proj(F.mish(time_embedding))[:, :, None, None]
        return F.mish(self.conv2(hidden_states)) + residual


class LinearAttnProcessor:
    """Linear attention over positions: softmax on the keys, queries as they are, out = (k vᵀ)ᵀ q."""

    def __call__(self, attn: "LinearAttention", hidden_states: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = hidden_states.shape
        query, key, value = attn.to_qkv(hidden_states).reshape(batch, 3, attn.heads, -1, height * width).unbind(1)
        context = key.softmax(dim=-1) @ value.transpose(-1, -2)  # (batch, heads, d_key, d_value)
        hidden_states = context.transpose(-1, -2) @ query
        return attn.to_out(hidden_states.reshape(batch, -1, height, width))


class LinearAttention(nn.Module, AttentionModuleMixin):
    """Linear attention behind a learnt gate that starts at zero."""

    _default_processor_cls = LinearAttnProcessor
    _available_processors = [LinearAttnProcessor]
    _supports_qkv_fusion = False

    def __init__(self, channels: int, heads: int = 4, head_size: int = 32):
        super().__init__()
        self.heads = heads
        self.gate = nn.Parameter(torch.zeros(1))
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_size, 1, bias=False)
        self.to_out = nn.Conv2d(heads * head_size, channels, 1)
        self.set_processor(self._default_processor_cls())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.gate * self.processor(self, hidden_states)


class DownBlock(nn.Module):
    """Two residual blocks; the caller takes the skip before `downsample` halves the size."""

    def __init__(self, in_channels: int, out_channels: int, time_embedding_size: int, downsample: bool):
        super().__init__()
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(in_channels, out_channels, time_embedding_size),
                ResnetBlock(out_channels, out_channels, time_embedding_size),
            ]
        )
        self.downsample = _conv3x3(out_channels, out_channels, stride=2) if downsample else None

    def forward(self, hidden_states: torch.Tensor, time_embedding: torch.Tensor) -> torch.Tensor:
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states, time_embedding)
        return hidden_states


class MidBlock(nn.Module):
    def __init__(self, channels: int, time_embedding_size: int, use_attention: bool):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, time_embedding_size) for _ in range(2))
        self.attention = LinearAttention(channels) if use_attention else None

    def forward(self, hidden_states: torch.Tensor, time_embedding: torch.Tensor) -> torch.Tensor:
        hidden_states = self.resnets[0](hidden_states, time_embedding)
        if self.attention is not None:
            hidden_states = self.attention(hidden_states)
        return self.resnets[1](hidden_states, time_embedding)


class UpBlock(nn.Module):
    """Two residual blocks on the features and the skip, then twice the size."""

    def __init__(self, in_channels: int, out_channels: int, time_embedding_size: int):
        super().__init__()
        self.resnets = nn.ModuleList(
            [
                ResnetBlock(2 * in_channels, out_channels, time_embedding_size),
                ResnetBlock(out_channels, out_channels, time_embedding_size),
            ]
        )
        self.upsample = nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, hidden_states: torch.Tensor, skip: torch.Tensor, time_embedding: torch.Tensor) -> torch.Tensor:
        hidden_states = torch.cat([hidden_states, skip], dim=1)
        for resnet in self.resnets:
            hidden_states = resnet(hidden_states, time_embedding)
        return self.upsample(hidden_states)


@dataclass
class SamDiffSRUNetOutput(BaseOutput):
    """What the denoiser returns.

    Attributes:
        sample: the predicted noise, (batch, 3, H, W).
        condition: the projected condition, (batch, hidden_size, H, W). It is the same at every timestep: given back as
            `condition` at the next step, it is not computed again.
    """

    sample: torch.Tensor | None = None
    condition: torch.Tensor | None = None


class SamDiffSRUNet2DModel(ModelMixin, AttentionMixin, _PortableConfig):
    """The denoiser of the residual HR - bicubic(LR), conditioned on features of the low-resolution image.

    No normalisation, reflection padding, Mish; the full-resolution skip, which carries the condition, is not consumed:
    the condition acts through the encoder path only, as in the official network.

    Args:
        hidden_size: channels of the first level, which `dim_mults` multiplies level by level.
        condition_channels: channels of one condition map; `num_conditions` of such maps.
        scale: 2, 4 or 8: the magnification from the condition to the sample.
        use_attention: linear attention in the middle (off in the published model).
        upsampled_input: the bicubic image enters the first level as well (off in the published model).
        num_channels: of the image.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResnetBlock"]

    @register_to_config
    def __init__(
        self,
        hidden_size: int = 64,
        dim_mults: Sequence[int] = (1, 2, 3, 4),
        condition_channels: int = 64,
        num_conditions: int = 6,
        scale: int = 4,
        use_attention: bool = False,
        upsampled_input: bool = False,
        num_channels: int = 3,
    ):
        super().__init__()
        _check_scale(scale)
        if hidden_size < 4 or hidden_size % 2:
            raise ValueError(f"hidden_size: got {hidden_size}, accepted are even numbers from 4.")
        if len(dim_mults) < 2 or min(dim_mults) < 1 or dim_mults[0] != 1:
            raise ValueError(f"dim_mults: got {list(dim_mults)}, accepted are two or more positive integers, first 1.")
        widths = [hidden_size * factor for factor in dim_mults]
        self.time_embedding = TimestepEmbedding(hidden_size, 4 * hidden_size, act_fn="mish", out_dim=hidden_size)
        self.condition_proj = nn.ConvTranspose2d(
            condition_channels * num_conditions, hidden_size, 2 * scale, stride=scale, padding=scale // 2
        )
        self.upsampled_proj = _conv3x3(num_channels, hidden_size) if upsampled_input else None
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            DownBlock(before, width, hidden_size, downsample=level < last)
            for level, (before, width) in enumerate(zip([num_channels, *widths[:-1]], widths, strict=True))
        )
        self.mid_block = MidBlock(widths[-1], hidden_size, use_attention)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[level], widths[level - 1], hidden_size) for level in range(last, 0, -1)
        )
        self.conv_features = _conv3x3(hidden_size, hidden_size)
        self.conv_out = nn.Conv2d(hidden_size, num_channels, 1)
        self.gradient_checkpointing = False

    @property
    def size_multiple(self) -> int:
        """Sides of a sample are multiples of this, and twice this at least."""
        return 2 ** (len(self.config.dim_mults) - 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        condition: torch.Tensor | Sequence[torch.Tensor],
        upsampled: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> SamDiffSRUNetOutput | tuple[torch.Tensor, torch.Tensor]:
        """Predict the noise in `sample`.

        Args:
            sample: noisy residuals, (batch, 3, H, W).
            timestep: one number, or (batch,) numbers.
            condition: `num_conditions` maps (batch, condition_channels, h, w), the `condition` of the encoder's
                output; or the `condition` that an earlier call for the same images returned.
            upsampled: the bicubic image, (batch, 3, H, W) in [-1, 1]; needed with `upsampled_input` unless an earlier
                call's `condition` is given.
        """
        self._check_sample(sample)
        if not isinstance(condition, torch.Tensor):
            condition = self._project(condition, upsampled, sample)
        elif condition.shape[-2:] != sample.shape[-2:]:
            raise ValueError(f"condition: {tuple(condition.shape)} does not fit a sample {tuple(sample.shape)}.")
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        embedding = timestep_embedding(timesteps, self.config.hidden_size, sample.dtype).to(sample.dtype)
        embedding = self.time_embedding(embedding)

        hidden_states, skips = sample, []
        for level, block in enumerate(self.down_blocks):
            hidden_states = self._run(block, hidden_states, embedding)
            if level == 0:
                hidden_states = hidden_states + condition
            else:
                skips.append(hidden_states)
            if block.downsample is not None:
                hidden_states = block.downsample(hidden_states)
        hidden_states = self._run(self.mid_block, hidden_states, embedding)
        for block in self.up_blocks:
            hidden_states = self._run(block, hidden_states, skips.pop(), embedding)
        noise = self.conv_out(F.mish(self.conv_features(hidden_states)))
        if not return_dict:
            return noise, condition
        return SamDiffSRUNetOutput(sample=noise, condition=condition)

    def _run(self, block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)

    def _project(
        self, maps: Sequence[torch.Tensor], upsampled: torch.Tensor | None, sample: torch.Tensor
    ) -> torch.Tensor:
        expected = self.config.num_conditions
        if len(maps) != expected:
            raise ValueError(f"condition: expected {expected} maps, the encoder's `condition`, got {len(maps)}.")
        height, width = (side // self.config.scale for side in sample.shape[-2:])
        if any(m.shape[1:] != (self.config.condition_channels, height, width) for m in maps):
            raise ValueError(
                f"condition: expected maps (batch, {self.config.condition_channels}, {height}, {width}) for a sample "
                f"{tuple(sample.shape)}, got {tuple(maps[0].shape)}."
            )
        condition = self.condition_proj(torch.cat(list(maps), dim=1))
        if self.upsampled_proj is None:
            return condition
        if upsampled is None:
            raise ValueError("upsampled: got None, but this network (upsampled_input=True) needs the bicubic image.")
        return condition + self.upsampled_proj(upsampled)

    def _check_sample(self, sample: torch.Tensor) -> None:
        _check_channels("sample", sample, self.config.num_channels)
        multiple = self.size_multiple
        if any(side % multiple or side < 2 * multiple for side in sample.shape[-2:]):
            raise ValueError(
                f"sample: sides must be multiples of {multiple} from {2 * multiple}, got {tuple(sample.shape[-2:])}; "
                "the pipeline pads images of other sizes."
            )
