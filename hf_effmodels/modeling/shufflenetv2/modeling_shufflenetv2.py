"""ShuffleNetV2 (https://arxiv.org/abs/1807.11164): half of the channels pass each unit untouched, then all shuffled.

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
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin
from .configuration_shufflenetv2 import ShuffleNetV2Config


def _conv(config: ShuffleNetV2Config) -> partial:
    """Constructor of the network's convolutions with their batch norms."""
    return partial(
        ConvNorm, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum, folded=config.reparameterized
    )


def shuffled(hidden_states: torch.Tensor) -> torch.Tensor:
    """The channels of both halves in turns: 0, C/2, 1, C/2 + 1, ... (section 3.2; two groups)."""
    return hidden_states.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleNetV2Unit(GradientCheckpointingLayer):
    """1×1, depthwise 3×3 without activation, 1×1, beside a half of the channels as it is (figure 3c); then a shuffle.

    With stride 2 both sides get all channels, and the other one a depthwise 3×3 and a 1×1 of its own (figure 3d).
    """

    def __init__(self, config: ShuffleNetV2Config, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        conv, half = _conv(config), out_channels // 2
        self.shortcut = None
        if stride > 1:
            self.shortcut = nn.Sequential(
                conv(in_channels, in_channels, 3, stride=stride, groups=in_channels), conv(in_channels, half)
            )
        self.reduce = conv(in_channels if stride > 1 else half, half)
        self.depthwise = conv(half, half, 3, stride=stride, groups=half)
        self.expand = conv(half, half)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.shortcut is None:
            kept, hidden_states = hidden_states.chunk(2, dim=1)
        else:
            kept = self.shortcut(hidden_states).relu()
        hidden_states = self.depthwise(self.reduce(hidden_states).relu())
        return shuffled(torch.cat((kept, self.expand(hidden_states).relu()), dim=1))


class ShuffleNetV2Stem(nn.Module):
    """3×3 convolution with stride 2, batch norm, ReLU, and a 3×3 maximum with stride 2."""

    def __init__(self, config: ShuffleNetV2Config):
        super().__init__()
        self.convolution = _conv(config)(config.num_channels, config.hidden_sizes[0], 3, stride=2)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(self.convolution(pixel_values).relu(), 3, stride=2, padding=1)


class ShuffleNetV2Stage(nn.Module):
    """Units of one width, the first of which halves the map."""

    def __init__(self, config: ShuffleNetV2Config, index: int):
        super().__init__()
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        self.units = nn.ModuleList(
            ShuffleNetV2Unit(
                config, out_channels if position else in_channels, out_channels, stride=1 if position else 2
            )
            for position in range(config.depths[index])
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for unit in self.units:
            hidden_states = unit(hidden_states)
        return hidden_states


class ShuffleNetV2PreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all ShuffleNetV2s share: configuration, initialisation, folding."""

    config: ShuffleNetV2Config
    base_model_prefix = "shufflenetv2"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ShuffleNetV2Unit"]
    _can_record_outputs = {"hidden_states": ShuffleNetV2Stage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As torchvision's, which leaves it to PyTorch: uniform in ±1/√fan-in."""
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            super()._init_weights(module)
            return
        bound = 1 / math.sqrt(module.weight[0].numel())
        init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            init.uniform_(module.bias, -bound, bound)


class ShuffleNetV2Model(ShuffleNetV2PreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last 1×1 convolution (stride 32), `pooler_output` its average over the
    map; `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: ShuffleNetV2Config):
        super().__init__(config)
        self.stem = ShuffleNetV2Stem(config)
        self.stages = nn.ModuleList(ShuffleNetV2Stage(config, index) for index in range(len(config.depths)))
        self.final = _conv(config)(config.hidden_sizes[-1], config.final_size)
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
        hidden_states = self.final(hidden_states).relu()
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3))
        )


class ShuffleNetV2ForImageClassification(ShuffleNetV2PreTrainedModel):
    """ShuffleNetV2 with its linear classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: ShuffleNetV2Config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.shufflenetv2 = ShuffleNetV2Model(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.final_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
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
        outputs = self.shufflenetv2(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class ShuffleNetV2Backbone(StagesBackboneMixin, ShuffleNetV2PreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides: 4 ("stem"), 8 ("stage1"), 16 ("stage2"), 32 ("stage3").
    """

    _keys_to_ignore_on_load_unexpected = [r"^(shufflenetv2\.)?final\.", r"^classifier\."]

    def __init__(self, config: ShuffleNetV2Config):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = ShuffleNetV2Stem(config)
        self.stages = nn.ModuleList(ShuffleNetV2Stage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = [
    "ShuffleNetV2Backbone",
    "ShuffleNetV2ForImageClassification",
    "ShuffleNetV2Model",
    "ShuffleNetV2PreTrainedModel",
]
