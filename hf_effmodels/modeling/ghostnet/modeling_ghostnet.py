"""GhostNet (https://arxiv.org/abs/1911.11907), GhostNetV2 (https://arxiv.org/abs/2211.12905) and GhostNetV3
(https://arxiv.org/abs/2404.11202).

One network in three generations: V2 adds an attention gate to the expanded features, V3 trains every ghost
convolution as parallel branches that fold into V2. Shapes are (batch, channels, height, width) throughout.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.backbone import StagesBackboneMixin
from ..layers.batch_norm import BatchNormMixin
from ..layers.fast_path import depthwise_conv_of_parts, is_plain, is_plain_conv, pointwise_conv_of_parts
from ..layers.in_place import add, may_overwrite, multiply
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, RepConvNorm
from ..layers.squeeze_excite import SqueezeExcite
from ..layers.widths import round_width
from .configuration_ghostnet import GhostNetConfig, GhostNetV2Config, GhostNetV3Config


def _single_conv(config: GhostNetConfig) -> partial:
    """Constructor of the convolutions that have one branch in every generation."""
    return partial(
        ConvNorm, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum, folded=config.reparameterized
    )


def _ghost_conv(config: GhostNetConfig) -> partial:
    """Constructor of the convolutions that GhostNetV3 trains as parallel branches."""
    if config.num_conv_branches == 0:
        return _single_conv(config)
    return partial(
        RepConvNorm,
        num_branches=config.num_conv_branches,
        eps=config.batch_norm_eps,
        momentum=config.batch_norm_momentum,
        folded=config.reparameterized,
    )


def _smallest_side(config: GhostNetConfig) -> int:
    """Of images whose features are 2×2 or more wherever there is attention: each halving rounds up."""
    rows = [row for stage in config.stages for row in stage]
    return 1 + 2 * math.prod(row[-1] for row in rows[:-1])


class DFCAttention(nn.Module):
    """Decoupled fully connected attention (GhostNetV2, equations 4 to 6, on the halved map of section 4.2).

    The gate is computed at half resolution, horizontally and then vertically; an odd last row or column is dropped.
    """

    def __init__(self, config: GhostNetConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.smallest = _smallest_side(config)
        conv = _single_conv(config)
        self.pointwise = conv(in_channels, out_channels)
        self.horizontal = conv(out_channels, out_channels, (1, 5), groups=out_channels)
        self.vertical = conv(out_channels, out_channels, (5, 1), groups=out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        height, width = hidden_states.shape[-2:]
        if height < 2 or width < 2:
            raise ValueError(
                f"pixel_values: the images are too small: their features shrink to {height}×{width} where the "
                f"attention needs 2×2. This network accepts images from {self.smallest}×{self.smallest} pixels."
            )
        gate = F.avg_pool2d(hidden_states, kernel_size=2, stride=2)
        gate = self.vertical(self.horizontal(self.pointwise(gate)))
        # The gate is the same before and after nearest-neighbour upsampling: the sigmoid sees a quarter of the values.
        return F.interpolate(gate.sigmoid(), size=(height, width), mode="nearest")


class GhostModule(nn.Module):
    """Half of the output by a 1×1 convolution, the other from it by a cheap 3×3 depthwise one (GhostNet, eq. 3)."""

    def __init__(
        self, config: GhostNetConfig, in_channels: int, out_channels: int, *, activation: bool, attention: bool = False
    ):
        super().__init__()
        conv = _ghost_conv(config)
        intrinsic_channels = (out_channels + 1) // 2
        self.out_channels = out_channels
        self.activation = activation
        self.primary = conv(in_channels, intrinsic_channels, 1)
        self.cheap = conv(intrinsic_channels, intrinsic_channels, 3, groups=intrinsic_channels)
        self.attention = DFCAttention(config, in_channels, out_channels) if attention else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output = torch.cat(self.parts(self.primary(hidden_states)), dim=1)
        return output if self.attention is None else multiply(output, self.attention(hidden_states))

    def parts(self, intrinsic: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both halves of the output, before the attention, from what the primary convolution gives."""
        if self.activation:
            intrinsic = F.relu(intrinsic, inplace=may_overwrite())
        ghost = self.cheap(intrinsic)
        if self.activation:
            ghost = F.relu(ghost, inplace=may_overwrite())
        return intrinsic, ghost[:, : self.out_channels - intrinsic.shape[1]]


class GhostShortcut(nn.Module):
    """The residual path where a block changes the shape: depthwise k×k, then 1×1, without activations."""

    def __init__(self, config: GhostNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        conv = _single_conv(config)
        self.depthwise = conv(in_channels, in_channels, kernel_size, stride=stride, groups=in_channels)
        self.pointwise = conv(in_channels, out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(hidden_states))


class GhostBottleneck(GradientCheckpointingLayer):
    """Expand by a ghost module, reduce the map if strided, squeeze and excite, project by a second ghost module."""

    def __init__(
        self,
        config: GhostNetConfig,
        in_channels: int,
        row: tuple[int, int, int, float, int],
        *,
        attention: bool,
    ):
        super().__init__()
        kernel_size, expansion, size, squeeze_ratio, stride = row
        expanded, out_channels = config.width(expansion), config.width(size)
        self.config = config
        self.expand = GhostModule(config, in_channels, expanded, activation=True, attention=attention)
        self.depthwise = None
        if stride > 1:
            self.depthwise = _ghost_conv(config)(expanded, expanded, kernel_size, stride=stride, groups=expanded)
        self.squeeze_excite = None
        if squeeze_ratio > 0:
            self.squeeze_excite = SqueezeExcite(expanded, round_width(expanded * squeeze_ratio, 4))
        self.project = GhostModule(config, expanded, out_channels, activation=False)
        self.shortcut = None
        if in_channels != out_channels or stride > 1:
            self.shortcut = GhostShortcut(config, in_channels, out_channels, kernel_size, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.shortcut is None else self.shortcut(hidden_states)
        height, width = hidden_states.shape[-2:]
        in_halves = height * width >= 28 * 28 and not torch.compiler.is_exporting() and self._can_run_in_halves()
        output = self._forward_in_halves(hidden_states) if in_halves else self._forward(hidden_states)
        return add(output, residual)

    def _can_run_in_halves(self) -> bool:
        """Folded, and nobody watches or has changed the modules that `_forward_in_halves` does without calling."""
        if not self.config.reparameterized:
            return False
        convs = [getattr(layer, "conv", None) for layer in (self.depthwise, self.project.primary) if layer is not None]
        around = (self.expand, self.depthwise, self.squeeze_excite, self.project, self.project.primary)
        return all(map(is_plain_conv, convs)) and is_plain(*(module for module in around if module is not None))

    def _forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.expand(hidden_states)
        if self.depthwise is not None:
            hidden_states = self.depthwise(hidden_states)
        if self.squeeze_excite is not None:
            hidden_states = self.squeeze_excite(hidden_states)
        return self.project(hidden_states)

    def _forward_in_halves(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The same without laying both halves of the widest features side by side in memory: on large maps the copy
        takes longer than the convolutions (on small ones the additional calls do)."""
        parts = self.expand.parts(self.expand.primary(hidden_states))
        sizes = [part.shape[1] for part in parts]
        if self.expand.attention is not None:
            gates = self.expand.attention(hidden_states).split(sizes, dim=1)
            parts = [multiply(part, gate) for part, gate in zip(parts, gates, strict=True)]
        if self.depthwise is not None:
            parts = depthwise_conv_of_parts(self.depthwise.conv, parts)
        if self.squeeze_excite is not None:
            mean = torch.cat([part.mean((2, 3)) for part in parts], dim=1)
            gates = self.squeeze_excite.gate(mean).split(sizes, dim=1)
            parts = [multiply(part, gate) for part, gate in zip(parts, gates, strict=True)]
        intrinsic = pointwise_conv_of_parts(self.project.primary.conv, parts)
        return torch.cat(self.project.parts(intrinsic), dim=1)


class GhostNetStem(nn.Module):
    """3×3 convolution with stride 2, batch norm, ReLU."""

    def __init__(self, config: GhostNetConfig):
        super().__init__()
        self.convolution = _single_conv(config)(config.num_channels, config.hidden_sizes[0], 3, stride=2)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return F.relu(self.convolution(pixel_values), inplace=may_overwrite())


class GhostNetStage(nn.Module):
    """The blocks at one feature stride."""

    def __init__(self, config: GhostNetConfig, index: int):
        super().__init__()
        first_block = sum(len(stage) for stage in config.stages[:index])
        in_channels = config.hidden_sizes[index]
        self.blocks = nn.ModuleList()
        for position, row in enumerate(config.stages[index]):
            # The first two blocks of the network have no attention (official code; the paper does not say so).
            attention = config.dfc_attention and first_block + position >= 2
            self.blocks.append(GhostBottleneck(config, in_channels, row, attention=attention))
            in_channels = config.width(row[2])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class GhostNetPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all GhostNets share: configuration, initialisation, folding."""

    config: GhostNetConfig
    base_model_prefix = "ghostnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["GhostBottleneck"]
    _can_record_outputs = {"hidden_states": GhostNetStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # The papers say nothing and the official code leaves PyTorch's defaults.
            init_like_torch(module)
        else:
            super()._init_weights(module)


class GhostNetModel(GhostNetPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last 1×1 convolution (stride 32), `pooler_output` its average over the
    map; `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: GhostNetConfig):
        super().__init__(config)
        self.stem = GhostNetStem(config)
        self.stages = nn.ModuleList(GhostNetStage(config, index) for index in range(len(config.stages)))
        self.final = _single_conv(config)(config.hidden_sizes[-1], config.width(config.final_size))
        self.post_init()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
        """
        hidden_states = self.stem(self.prepare_pixels(pixel_values))
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        hidden_states = F.relu(self.final(hidden_states), inplace=may_overwrite())
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3))
        )


class GhostNetForImageClassification(GhostNetPreTrainedModel):
    """GhostNet with its two-layer classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False
    model_class = GhostNetModel

    def __init__(self, config: GhostNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, self.model_class(config))
        self.head = nn.Linear(config.width(config.final_size), config.head_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.head_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutputWithNoAttention:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or multi-hot rows (batch, num_labels), or values for a regression; which
                of them is decided by `config.problem_type`. The loss is returned with them.
        """
        outputs = self.base_model(pixel_values, **kwargs)
        hidden = F.relu(self.head(outputs.pooler_output))
        logits = self.classifier(self.dropout(hidden))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class GhostNetBackbone(StagesBackboneMixin, GhostNetPreTrainedModel):
    """The stages as feature maps at strides 2 ("stem", "stage1"), 4, 8, 16 and 32 for detectors and segmenters."""

    _keys_to_ignore_on_load_unexpected = [r"^(ghostnet\w*\.)?final\.", r"^head\.", r"^classifier\."]

    def __init__(self, config: GhostNetConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = GhostNetStem(config)
        self.stages = nn.ModuleList(GhostNetStage(config, index) for index in range(len(config.stages)))
        self.post_init()


class GhostNetV2PreTrainedModel(GhostNetPreTrainedModel):
    config: GhostNetV2Config
    base_model_prefix = "ghostnetv2"


class GhostNetV2Model(GhostNetV2PreTrainedModel, GhostNetModel):
    """GhostNetV2 without its classifier. See `GhostNetModel`."""


class GhostNetV2ForImageClassification(GhostNetV2PreTrainedModel, GhostNetForImageClassification):
    """GhostNetV2 with its classifier. See `GhostNetForImageClassification`."""

    model_class = GhostNetV2Model


class GhostNetV2Backbone(GhostNetV2PreTrainedModel, GhostNetBackbone):
    """GhostNetV2's feature maps. See `GhostNetBackbone`."""


class GhostNetV3PreTrainedModel(GhostNetPreTrainedModel):
    config: GhostNetV3Config
    base_model_prefix = "ghostnetv3"


class GhostNetV3Model(GhostNetV3PreTrainedModel, GhostNetModel):
    """GhostNetV3 without its classifier. See `GhostNetModel`."""


class GhostNetV3ForImageClassification(GhostNetV3PreTrainedModel, GhostNetForImageClassification):
    """GhostNetV3 with its classifier. See `GhostNetForImageClassification`."""

    model_class = GhostNetV3Model


class GhostNetV3Backbone(GhostNetV3PreTrainedModel, GhostNetBackbone):
    """GhostNetV3's feature maps. See `GhostNetBackbone`."""


__all__ = [
    "GhostNetBackbone",
    "GhostNetForImageClassification",
    "GhostNetModel",
    "GhostNetPreTrainedModel",
    "GhostNetV2Backbone",
    "GhostNetV2ForImageClassification",
    "GhostNetV2Model",
    "GhostNetV2PreTrainedModel",
    "GhostNetV3Backbone",
    "GhostNetV3ForImageClassification",
    "GhostNetV3Model",
    "GhostNetV3PreTrainedModel",
]
