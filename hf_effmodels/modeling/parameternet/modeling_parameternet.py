"""ParameterNet (https://arxiv.org/abs/2306.14525): a GhostNet of dynamic convolutions.

Nearly every convolution mixes its kernel from experts' for each image, which multiplies the parameters and hardly adds
computation. Shapes are (batch, channels, height, width) throughout.
"""

from dataclasses import dataclass
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
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin
from ..layers.squeeze_excite import SqueezeExcite
from ..layers.widths import round_width
from .configuration_parameternet import ParameterNetConfig
from .dynamic_conv import DynamicConv, DynamicConvNorm, ExpertRouter
from .upcycling import upcycle_ghostnet


def _hardswish(hidden_states: torch.Tensor) -> torch.Tensor:
    return F.hardswish(hidden_states, inplace=may_overwrite())


ACTIVATIONS = {"relu": F.relu, "hardswish": _hardswish, "gelu": F.gelu, "silu": F.silu}


@dataclass
class ParameterNetModelOutput(BaseModelOutputWithPoolingAndNoAttention):
    """Adds the mixtures: `routing[i]`, (batch, num_experts) in (0, 1), of the convolution `model.router_names[i]`."""

    routing: tuple[torch.Tensor, ...] | None = None


@dataclass
class ParameterNetClassifierOutput(ImageClassifierOutputWithNoAttention):
    """Adds the mixtures, as in `ParameterNetModelOutput`."""

    routing: tuple[torch.Tensor, ...] | None = None


def _dynamic_conv(config: ParameterNetConfig) -> partial:
    return partial(
        DynamicConvNorm,
        num_experts=config.num_experts,
        eps=config.batch_norm_eps,
        momentum=config.batch_norm_momentum,
        folded=config.reparameterized,
    )


class DynamicGhostModule(nn.Module):
    """Half of the output by a 1×1 convolution, the other from it by a cheap 3×3 depthwise one, both dynamic."""

    def __init__(self, config: ParameterNetConfig, in_channels: int, out_channels: int, *, activation: bool):
        super().__init__()
        conv = _dynamic_conv(config)
        intrinsic_channels = (out_channels + 1) // 2
        self.out_channels = out_channels
        self.activation = ACTIVATIONS[config.hidden_act] if activation else None
        self.primary = conv(in_channels, intrinsic_channels, 1)
        self.cheap = conv(intrinsic_channels, intrinsic_channels, 3, groups=intrinsic_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        intrinsic = self.primary(hidden_states)
        if self.activation is not None:
            intrinsic = self.activation(intrinsic)
        ghost = self.cheap(intrinsic)
        if self.activation is not None:
            ghost = self.activation(ghost)
        output = torch.cat((intrinsic, ghost), dim=1)
        return output if output.shape[1] == self.out_channels else output[:, : self.out_channels]


class DynamicGhostShortcut(nn.Module):
    """The residual path where a block changes the shape: depthwise k×k, then 1×1, dynamic, without activations."""

    def __init__(self, config: ParameterNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        conv = _dynamic_conv(config)
        self.depthwise = conv(in_channels, in_channels, kernel_size, stride=stride, groups=in_channels)
        self.pointwise = conv(in_channels, out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(hidden_states))


class DynamicGhostBottleneck(GradientCheckpointingLayer):
    """GhostNet's bottleneck of dynamic ghost modules; its strided depthwise convolution and its gate are static."""

    def __init__(
        self,
        config: ParameterNetConfig,
        in_channels: int,
        row: tuple[int, int, int, float, int],
        *,
        drop_path_rate: float,
    ):
        super().__init__()
        kernel_size, expansion, size, squeeze_ratio, stride = row
        expanded, out_channels = config.width(expansion), config.width(size)
        self.expand = DynamicGhostModule(config, in_channels, expanded, activation=True)
        self.depthwise = None
        if stride > 1:
            self.depthwise = ConvNorm(
                expanded,
                expanded,
                kernel_size,
                stride=stride,
                groups=expanded,
                eps=config.batch_norm_eps,
                momentum=config.batch_norm_momentum,
                folded=config.reparameterized,
            )
        self.squeeze_excite = None
        if squeeze_ratio > 0:
            activation = F.relu if config.hidden_act == "gelu" else ACTIVATIONS[config.hidden_act]
            self.squeeze_excite = SqueezeExcite(expanded, round_width(expanded * squeeze_ratio, 4), activation)
        self.project = DynamicGhostModule(config, expanded, out_channels, activation=False)
        self.drop_path = DropPath(drop_path_rate)
        self.shortcut = None
        if in_channels != out_channels or stride > 1:
            self.shortcut = DynamicGhostShortcut(config, in_channels, out_channels, kernel_size, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.expand(hidden_states)
        if self.depthwise is not None:
            hidden_states = self.depthwise(hidden_states)
        if self.squeeze_excite is not None:
            hidden_states = self.squeeze_excite(hidden_states)
        hidden_states = self.drop_path(self.project(hidden_states))
        # Last, so that the routers run in the order in which the modules are listed.
        return hidden_states + (residual if self.shortcut is None else self.shortcut(residual))


class ParameterNetStem(nn.Module):
    """Dynamic 3×3 convolution with stride 2, batch norm, activation."""

    def __init__(self, config: ParameterNetConfig):
        super().__init__()
        self.convolution = _dynamic_conv(config)(config.num_channels, config.hidden_sizes[0], 3, stride=2)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.activation(self.convolution(pixel_values))


class ParameterNetStage(nn.Module):
    """The blocks at one feature stride."""

    def __init__(self, config: ParameterNetConfig, index: int):
        super().__init__()
        in_channels = config.hidden_sizes[index]
        self.blocks = nn.ModuleList()
        for row, rate in zip(config.stages[index], config.drop_path_rates[index], strict=True):
            self.blocks.append(DynamicGhostBottleneck(config, in_channels, row, drop_path_rate=rate))
            in_channels = config.width(row[2])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class ParameterNetPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all ParameterNets share: configuration, initialisation, folding."""

    config: ParameterNetConfig
    base_model_prefix = "parameternet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # Depthwise convolutions are several times faster so.
    channels_last_on_cpu = True
    _no_split_modules = ["DynamicGhostBottleneck"]
    _can_record_outputs = {"hidden_states": ParameterNetStage, "routing": ExpertRouter}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init_like_torch(module)
        elif isinstance(module, DynamicConv):
            init.uniform_(module.weight, -module.init_bound, module.init_bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class ParameterNetModel(ParameterNetPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last 1×1 convolution (stride 32), `pooler_output` its average over the
    map; `hidden_states` are the outputs of the stem and of each stage. With `output_routing=True`, `routing` has the
    mixture of every dynamic convolution, (batch, num_experts) each, in the order of `router_names`.
    """

    def __init__(self, config: ParameterNetConfig):
        super().__init__(config)
        self.stem = ParameterNetStem(config)
        self.stages = nn.ModuleList(ParameterNetStage(config, index) for index in range(len(config.stages)))
        self.final = _dynamic_conv(config)(config.hidden_sizes[-1], config.width(config.final_size))
        self.post_init()

    @classmethod
    def from_ghostnet(cls, ghostnet: PreTrainedModel, num_experts: int = 4):
        """A ParameterNet that gives the features of a trained `GhostNetModel`, see `upcycle_ghostnet`."""
        return upcycle_ghostnet(ghostnet, cls, num_experts=num_experts)

    @property
    def router_names(self) -> list[str]:
        """The dynamic convolutions in the order of `routing`, such as "stages.1.blocks.0.expand.primary"."""
        return [name for name, module in self.named_modules() if isinstance(module, DynamicConvNorm)]

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> ParameterNetModelOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            output_routing: return the mixtures of the experts.
        """
        hidden_states = self.stem(self.prepare_pixels(pixel_values))
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        hidden_states = ACTIVATIONS[self.config.hidden_act](self.final(hidden_states))
        return ParameterNetModelOutput(last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3)))


class ParameterNetForImageClassification(ParameterNetPreTrainedModel):
    """ParameterNet with its two-layer classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: ParameterNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.parameternet = ParameterNetModel(config)
        self.head = nn.Linear(config.width(config.final_size), config.head_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.head_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @classmethod
    def from_ghostnet(cls, ghostnet: PreTrainedModel, num_experts: int = 4):
        """A ParameterNet that gives the outputs of a trained `GhostNetForImageClassification`, to start its training.

        See `upcycle_ghostnet`.
        """
        return upcycle_ghostnet(ghostnet, cls, num_experts=num_experts)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ParameterNetClassifierOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or multi-hot rows (batch, num_labels), or values for a regression; which
                of them is decided by `config.problem_type`. The loss is returned with them.
            output_routing: return the mixtures of the experts, see `ParameterNetModel`.
        """
        outputs = self.parameternet(pixel_values, **kwargs)
        hidden = ACTIVATIONS[self.config.hidden_act](self.head(outputs.pooler_output))
        logits = self.classifier(self.dropout(hidden))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ParameterNetClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, routing=outputs.routing
        )


class ParameterNetBackbone(StagesBackboneMixin, ParameterNetPreTrainedModel):
    """The stages as feature maps at strides 2 ("stem", "stage1"), 4, 8, 16 and 32 for detectors and segmenters."""

    _keys_to_ignore_on_load_unexpected = [r"^(parameternet\.)?final\.", r"^head\.", r"^classifier\."]

    def __init__(self, config: ParameterNetConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = ParameterNetStem(config)
        self.stages = nn.ModuleList(ParameterNetStage(config, index) for index in range(len(config.stages)))
        self.post_init()


__all__ = [
    "ParameterNetBackbone",
    "ParameterNetForImageClassification",
    "ParameterNetModel",
    "ParameterNetPreTrainedModel",
]
