"""TinyNet (https://arxiv.org/abs/2010.14819): EfficientNet-B0 shrunk in resolution, depth and width.

Shapes are (batch, channels, height, width) throughout.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
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
from ..layers.drop_path import DropPath
from ..layers.in_place import may_overwrite
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin
from ..layers.widths import round_width
from .configuration_tinynet import TinyNetConfig


def _conv(config: TinyNetConfig) -> partial:
    """Constructor of the network's convolutions with their batch norms."""
    return partial(
        ConvNorm, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum, folded=config.reparameterized
    )


class TinyNetSqueezeExcite(nn.Module):
    """x · sigmoid(W₂ SiLU(W₁ mean(x) + b₁) + b₂), per channel (https://arxiv.org/abs/1709.01507).

    The two 1×1 convolutions of the official code see a single pixel: here they are linear layers, which start faster.
    """

    def __init__(self, channels: int, reduced_channels: int):
        super().__init__()
        self.reduce = nn.Linear(channels, reduced_channels)
        self.expand = nn.Linear(reduced_channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate = self.expand(F.silu(self.reduce(hidden_states.mean((2, 3))))).sigmoid()
        return hidden_states * gate[:, :, None, None]


class TinyNetBlock(GradientCheckpointingLayer):
    """Expand by 1×1, depthwise k×k, squeeze and excite, project by 1×1 without activation: an inverted residual.

    With expansion 1 there is no first convolution: a depthwise separable block. Both add their input where it has the
    output's shape.
    """

    def __init__(
        self,
        config: TinyNetConfig,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        expansion: float,
        drop_path_rate: float,
    ):
        super().__init__()
        conv = _conv(config)
        expanded, self.expand = in_channels, None
        if expansion != 1:
            expanded = round_width(in_channels * expansion, 8)
            self.expand = conv(in_channels, expanded)
        self.depthwise = conv(expanded, expanded, kernel_size, stride=stride, groups=expanded)
        self.squeeze_excite = None
        if config.squeeze_ratio > 0:
            # Of the block's input, unlike in other networks with this layer.
            reduced = max(1, int(in_channels * config.squeeze_ratio + 0.5))
            self.squeeze_excite = TinyNetSqueezeExcite(expanded, reduced)
        self.project = conv(expanded, out_channels)
        self.drop_path = DropPath(drop_path_rate) if stride == 1 and in_channels == out_channels else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states
        if self.expand is not None:
            hidden_states = F.silu(self.expand(hidden_states), inplace=may_overwrite())
        hidden_states = F.silu(self.depthwise(hidden_states), inplace=may_overwrite())
        if self.squeeze_excite is not None:
            hidden_states = self.squeeze_excite(hidden_states)
        hidden_states = self.project(hidden_states)
        if self.drop_path is not None:
            hidden_states = self.drop_path(hidden_states) + residual
        return hidden_states


class TinyNetStem(nn.Module):
    """3×3 convolution with stride 2, batch norm, SiLU."""

    def __init__(self, config: TinyNetConfig):
        super().__init__()
        self.convolution = _conv(config)(config.num_channels, config.stem_size, 3, stride=2)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return F.silu(self.convolution(pixel_values), inplace=may_overwrite())


class TinyNetStage(nn.Module):
    """Blocks of one kernel size and width; the first of them is strided where the stage is."""

    def __init__(self, config: TinyNetConfig, index: int):
        super().__init__()
        _, kernel_size, stride, expansion, _ = config.stages[index]
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        first_block = sum(config.depths[:index])
        self.blocks = nn.ModuleList(
            TinyNetBlock(
                config,
                out_channels if position else in_channels,
                out_channels,
                kernel_size=kernel_size,
                stride=1 if position else stride,
                expansion=expansion,
                drop_path_rate=config.drop_path_rate * (first_block + position) / sum(config.depths),
            )
            for position in range(config.depths[index])
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class TinyNetPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all TinyNets share: configuration, initialisation, folding."""

    config: TinyNetConfig
    base_model_prefix = "tinynet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["TinyNetBlock"]
    _can_record_outputs = {"hidden_states": TinyNetStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As EfficientNet's authors: normal with variance 2 / fan-out; the classifier uniform in ±1/√classes."""
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            super()._init_weights(module)
            return
        outputs = module.weight.shape[0]
        if module is getattr(self, "classifier", None):
            init.uniform_(module.weight, -1 / math.sqrt(outputs), 1 / math.sqrt(outputs))
        else:
            # Linear layers are the squeeze-and-excitation's, which are 1×1 convolutions in the official code.
            area = module.weight.shape[2:].numel()
            fan_out = area * outputs // getattr(module, "groups", 1)
            init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            init.zeros_(module.bias)


class TinyNetModel(TinyNetPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last 1×1 convolution (stride 32), `pooler_output` its average over the
    map; `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: TinyNetConfig):
        super().__init__(config)
        self.stem = TinyNetStem(config)
        self.stages = nn.ModuleList(TinyNetStage(config, index) for index in range(len(config.stages)))
        self.final = _conv(config)(config.hidden_sizes[-1], config.head_size)
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
        hidden_states = F.silu(self.final(hidden_states), inplace=may_overwrite())
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3))
        )


class TinyNetForImageClassification(TinyNetPreTrainedModel):
    """TinyNet with its linear classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: TinyNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tinynet = TinyNetModel(config)
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
        outputs = self.tinynet(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class TinyNetBackbone(StagesBackboneMixin, TinyNetPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides: 2 ("stem", "stage1"), 4 ("stage2"), 8 ("stage3"), 16 ("stage4", "stage5"), 32 ("stage6", "stage7").
    """

    _keys_to_ignore_on_load_unexpected = [r"^(tinynet\.)?final\.", r"^classifier\."]

    def __init__(self, config: TinyNetConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = TinyNetStem(config)
        self.stages = nn.ModuleList(TinyNetStage(config, index) for index in range(len(config.stages)))
        self.post_init()


__all__ = [
    "TinyNetBackbone",
    "TinyNetForImageClassification",
    "TinyNetModel",
    "TinyNetPreTrainedModel",
]
