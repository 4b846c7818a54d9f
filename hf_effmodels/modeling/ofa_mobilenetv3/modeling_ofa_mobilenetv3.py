"""The elastic MobileNetV3 (https://arxiv.org/abs/1908.09791): a network that holds the weights of its sub-networks.

Shapes are (batch, channels, height, width) throughout.
"""

import math
from collections.abc import Sequence
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
from ..layers.squeeze_excite import SqueezeExcite
from ..layers.widths import round_width
from .configuration_ofa_mobilenetv3 import ACTIVATIONS, SQUEEZES, STRIDES, OfaMobileNetV3Config


def _conv(config: OfaMobileNetV3Config) -> partial:
    """Constructor of the network's convolutions with their batch norms."""
    return partial(
        ConvNorm, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum, folded=config.reparameterized
    )


def hard_swish(hidden_states: torch.Tensor) -> torch.Tensor:
    """x · ReLU6(x + 3) / 6."""
    # Not F.hardswish: its backward multiplies by constants rounded to single precision, in every dtype.
    return hidden_states * F.relu6(hidden_states + 3) / 6


_ACTIVATIONS = {"relu": F.relu, "hardswish": hard_swish}


class OfaMobileNetV3Block(GradientCheckpointingLayer):
    """Expand by 1×1, depthwise k×k, squeeze and excite, project by 1×1 without activation.

    Without `expand_ratio` there is no first convolution. The input is added where it has the output's shape.

    `kernel_transforms` holds a matrix for each step from one of `kernel_sizes` to the next smaller one (None without
    such steps), which sub-networks with smaller kernels use; the block itself does not.
    """

    def __init__(
        self,
        config: OfaMobileNetV3Config,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        expand_ratio: float | None,
        activation: str,
        squeeze: bool,
        kernel_sizes: Sequence[int] = (),
    ):
        super().__init__()
        conv = _conv(config)
        self.activation = _ACTIVATIONS[activation]
        expanded, self.expand = in_channels, None
        if expand_ratio is not None:
            expanded = round_width(round(in_channels * expand_ratio), 8)
            self.expand = conv(in_channels, expanded)
        self.depthwise = conv(expanded, expanded, kernel_size, stride=stride, groups=expanded)
        self.squeeze_excite = SqueezeExcite(expanded, round_width(expanded // 4, 8)) if squeeze else None
        self.project = conv(expanded, out_channels)
        self.adds_input = stride == 1 and in_channels == out_channels
        steps = sorted(kernel_sizes, reverse=True)
        matrices = {f"{large}to{small}": torch.eye(small**2) for large, small in zip(steps, steps[1:], strict=False)}
        self.kernel_transforms = nn.ParameterDict(matrices) if matrices else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states
        if self.expand is not None:
            hidden_states = self.activation(self.expand(hidden_states))
        hidden_states = self.activation(self.depthwise(hidden_states))
        if self.squeeze_excite is not None:
            hidden_states = self.squeeze_excite(hidden_states)
        hidden_states = self.project(hidden_states)
        return hidden_states + residual if self.adds_input else hidden_states

    def fold(self) -> None:
        """What belongs to sub-networks alone goes: a folded network has none."""
        self.kernel_transforms = None


class OfaMobileNetV3Stem(nn.Module):
    """3×3 convolution with stride 2, batch norm, hard swish."""

    def __init__(self, config: OfaMobileNetV3Config):
        super().__init__()
        self.convolution = _conv(config)(config.num_channels, config.hidden_sizes[0], 3, stride=2)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return hard_swish(self.convolution(pixel_values))


class OfaMobileNetV3Stage(nn.Module):
    """The first block, which is not elastic (index 0), or the blocks of an elastic stage."""

    def __init__(self, config: OfaMobileNetV3Config, index: int):
        super().__init__()
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        kind = {"activation": ACTIVATIONS[index], "squeeze": SQUEEZES[index]}
        if index == 0:
            block = OfaMobileNetV3Block(
                config, in_channels, out_channels, kernel_size=3, stride=STRIDES[0], expand_ratio=None, **kind
            )
            self.blocks = nn.ModuleList([block])
            return
        self.blocks = nn.ModuleList(
            OfaMobileNetV3Block(
                config,
                out_channels if position else in_channels,
                out_channels,
                kernel_size=kernel_size,
                stride=1 if position else STRIDES[index],
                expand_ratio=expand_ratio,
                kernel_sizes=() if config.submodel is not None or config.reparameterized else config.kernel_sizes,
                **kind,
            )
            for position, (kernel_size, expand_ratio) in enumerate(config.blocks_of(index - 1))
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class OfaMobileNetV3PreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all elastic MobileNetV3s share: configuration, initialisation, folding."""

    config: OfaMobileNetV3Config
    base_model_prefix = "ofa_mobilenetv3"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["OfaMobileNetV3Block"]
    _can_record_outputs = {"hidden_states": OfaMobileNetV3Stage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the official code: normal with variance 2 / fan-out; linear layers uniform in ±1/√inputs; the kernels'
        matrices begin as the identity: a smaller kernel is the middle of the larger one."""
        if isinstance(module, nn.ParameterDict):
            for matrix in module.values():
                init.eye_(matrix)
        elif isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight.shape[2:].numel() // module.groups
            init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.weight.shape[1])
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class OfaMobileNetV3Model(OfaMobileNetV3PreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last 1×1 convolution (stride 32), `pooler_output` its average over the map
    through the layer after it; `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: OfaMobileNetV3Config):
        super().__init__(config)
        final = round_width(config.final_size * config.width_multiplier, 8)
        self.stem = OfaMobileNetV3Stem(config)
        self.stages = nn.ModuleList(OfaMobileNetV3Stage(config, index) for index in range(config.num_hidden_layers))
        self.final = _conv(config)(config.hidden_sizes[-1], final)
        self.features = nn.Linear(final, round_width(config.feature_size * config.width_multiplier, 8), bias=False)
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
        hidden_states = hard_swish(self.final(hidden_states))
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states, pooler_output=hard_swish(self.features(hidden_states.mean((2, 3))))
        )


class OfaMobileNetV3ForImageClassification(OfaMobileNetV3PreTrainedModel):
    """The network with its linear classifier."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: OfaMobileNetV3Config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ofa_mobilenetv3 = OfaMobileNetV3Model(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = self.ofa_mobilenetv3.features.out_features
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels > 0 else nn.Identity()
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
        outputs = self.ofa_mobilenetv3(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class OfaMobileNetV3Backbone(StagesBackboneMixin, OfaMobileNetV3PreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides: 2 ("stem", "stage1"), 4 ("stage2"), 8 ("stage3"), 16 ("stage4", "stage5"), 32 ("stage6").
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^(ofa_mobilenetv3\.)?final\.",
        r"^(ofa_mobilenetv3\.)?features\.",
        r"^classifier\.",
    ]

    def __init__(self, config: OfaMobileNetV3Config):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = OfaMobileNetV3Stem(config)
        self.stages = nn.ModuleList(OfaMobileNetV3Stage(config, index) for index in range(config.num_hidden_layers))
        self.post_init()


__all__ = [
    "OfaMobileNetV3Backbone",
    "OfaMobileNetV3ForImageClassification",
    "OfaMobileNetV3Model",
    "OfaMobileNetV3PreTrainedModel",
]
