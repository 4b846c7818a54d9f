"""AdaBin (https://arxiv.org/abs/2208.08084): residual networks with one-bit weights and activations.

Shapes are (batch, channels, height, width) throughout.
"""

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
from ..layers.binary import AdaptiveSign, BinaryConvNorm, BinaryRules
from ..layers.deployment import DeploymentMixin
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, norm_scale_and_shift
from .configuration_adabin import AdaBinConfig


def _norm(config: AdaBinConfig) -> dict:
    return {
        "eps": config.batch_norm_eps,
        "momentum": config.batch_norm_momentum,
        "folded": config.reparameterized,
    }


def _binary(config: AdaBinConfig) -> partial:
    """Constructor of the network's binary convolutions with their batch norms."""
    return partial(
        BinaryConvNorm,
        weights="equalized" if config.binary_weights else "real",
        activations="adaptive",
        **_norm(config),
    )


class AdaBinMaxout(nn.Module):
    """p·max(x, 0) - n·max(-x, 0) with learnt p (1 at first) and n (0.25) per channel: a PReLU with two free slopes."""

    def __init__(self, channels: int):
        super().__init__()
        self.positive_scale = nn.Parameter(torch.ones(channels))
        self.negative_scale = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        positive, negative = self.positive_scale[:, None, None], self.negative_scale[:, None, None]
        return positive * hidden_states.clamp(min=0) + negative * hidden_states.clamp(max=0)


class AdaBinStem(nn.Module):
    """A real convolution, batch norm, Maxout; for ImageNet 7×7 with stride 2, and max pooling."""

    def __init__(self, config: AdaBinConfig):
        super().__init__()
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        width = config.hidden_sizes[0]
        self.convolution = ConvNorm(config.num_channels, width, kernel, stride=stride, **_norm(config))
        self.activation = AdaBinMaxout(width)
        self.pools = config.stem == "imagenet"

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden_states = self.activation(self.convolution(pixel_values))
        return F.max_pool2d(hidden_states, 3, stride=2, padding=1) if self.pools else hidden_states


class AdaBinShortcut(nn.Module):
    """What a block adds where it changes the shape; see `AdaBinConfig.shortcut`. Real, not binary."""

    def __init__(self, config: AdaBinConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.kind, self.stride, self.padding = config.shortcut, stride, (out_channels - in_channels) // 2
        self.projection = None
        if self.kind != "pad":
            strides = stride if self.kind == "conv" else 1
            self.projection = ConvNorm(in_channels, out_channels, stride=strides, **_norm(config))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.kind == "pad":
            reduced = hidden_states[:, :, :: self.stride, :: self.stride]
            return F.pad(reduced, (0, 0, 0, 0, self.padding, self.padding))
        if self.kind == "avgpool_conv" and self.stride > 1:
            hidden_states = F.avg_pool2d(
                hidden_states, self.stride, self.stride, ceil_mode=True, count_include_pad=False
            )
        return self.projection(hidden_states)


class AdaBinBasicBlock(GradientCheckpointingLayer):
    """Two times binary convolution, batch norm, sum with what went in, Maxout."""

    def __init__(self, config: AdaBinConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        conv = _binary(config)
        self.convolution1 = conv(in_channels, out_channels, 3, stride=stride)
        self.activation1 = AdaBinMaxout(out_channels)
        self.convolution2 = conv(out_channels, out_channels, 3)
        self.activation2 = AdaBinMaxout(out_channels)
        self.shortcut = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = AdaBinShortcut(config, in_channels, out_channels, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.shortcut is None else self.shortcut(hidden_states)
        hidden_states = self.activation1(self.convolution1(hidden_states) + residual)
        return self.activation2(self.convolution2(hidden_states) + hidden_states)


class AdaBinPlainBlock(GradientCheckpointingLayer):
    """Binary convolution, batch norm, max pooling with a stride, Maxout: a layer of VGG-small.

    The authors publish no code of it. Others pool before the batch norm; this order is the one that folds.
    """

    def __init__(self, config: AdaBinConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.convolution1 = _binary(config)(in_channels, out_channels, 3)
        self.activation1 = AdaBinMaxout(out_channels)
        self.stride = stride

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.convolution1(hidden_states)
        if self.stride > 1:
            hidden_states = F.max_pool2d(hidden_states, self.stride)
        return self.activation1(hidden_states)


_BLOCKS = {"basic": AdaBinBasicBlock, "plain": AdaBinPlainBlock}


class AdaBinStage(nn.Module):
    """Blocks of one width. A basic stage halves the map in its first block, a plain one in its last."""

    def __init__(self, config: AdaBinConfig, index: int):
        super().__init__()
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        depth = config.depths[index]
        halves = index > 0 or config.downsample_first
        strided = (0 if config.block == "basic" else depth - 1) if halves else None
        self.blocks = nn.ModuleList(
            _BLOCKS[config.block](
                config,
                out_channels if position else in_channels,
                out_channels,
                2 if position == strided else 1,
            )
            for position in range(depth)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class AdaBinPreTrainedModel(PixelsMixin, DeploymentMixin, BatchNormMixin, PreTrainedModel):
    """What all AdaBin networks share: configuration, initialisation, annealing, folding."""

    config: AdaBinConfig
    base_model_prefix = "adabin"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["AdaBinBasicBlock", "AdaBinPlainBlock"]
    _can_record_outputs = {"hidden_states": AdaBinStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CIFAR's ResNet-20 has Kaiming's normal weights, CIFAR's ResNet-18 torch's, the ImageNet networks normal ones
        with variance 2 / fan-out."""
        if isinstance(module, AdaBinMaxout):
            init.ones_(module.positive_scale)
            init.constant_(module.negative_scale, 0.25)
        elif isinstance(module, AdaptiveSign):
            init.ones_(module.alpha)
            init.zeros_(module.beta)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            init_like_torch(module)
            if self.config.stem == "imagenet" and isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out")
            elif self.config.stem == "cifar" and self.config.shortcut == "pad":
                init.kaiming_normal_(module.weight)
        else:
            super()._init_weights(module)

    def set_surrogate(self, gain: float, sharpness: float) -> None:
        """Set k and t of the surrogate of the weights' sign, 1 - tanh² of t·z times k·t; no output depends on them.

        They become part of the configuration, which is saved with the model.
        """
        if not (gain > 0 and sharpness > 0):
            raise ValueError(f"gain, sharpness: got {gain} and {sharpness}, accepted are positive numbers.")
        self.config.surrogate_gain, self.config.surrogate_sharpness = float(gain), float(sharpness)
        for module in self.modules():
            if isinstance(module, BinaryRules):
                module.gain, module.sharpness = float(gain), float(sharpness)

    def post_init(self):
        super().post_init()
        self.set_surrogate(self.config.surrogate_gain, self.config.surrogate_sharpness)

    def training_callbacks(self) -> list:
        """What a Trainer must be given for this model to be trained as its configuration says: the callback that
        sharpens the surrogate where `progressive` is set, `Trainer(callbacks=model.training_callbacks(), ...)`.

        Training with this package asks for it by itself, also where this network is a part of another.
        """
        if not self.config.progressive:
            return []
        from .progressive_training import ProgressiveCallback

        return [ProgressiveCallback(self)]


class AdaBinModel(AdaBinPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last stage, `pooler_output` its average over the map (over each of
    `pool_size`² parts of it, laid side by side); `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: AdaBinConfig):
        super().__init__(config)
        self.stem = AdaBinStem(config)
        self.stages = nn.ModuleList(AdaBinStage(config, index) for index in range(len(config.depths)))
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
        if self.config.pool_size == 1:
            pooled = hidden_states.mean((2, 3))
        else:
            pooled = F.adaptive_avg_pool2d(hidden_states, self.config.pool_size).flatten(1)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden_states, pooler_output=pooled)


class AdaBinForImageClassification(AdaBinPreTrainedModel):
    """AdaBin with its real linear classifier, behind a batch norm of the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: AdaBinConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.adabin = AdaBinModel(config)
        size = config.hidden_sizes[-1] * config.pool_size**2
        self.norm = None
        # Without classes there is nothing that the norm could be folded into.
        if config.classifier_norm and not (config.reparameterized and config.num_labels > 0):
            self.norm = nn.BatchNorm1d(size, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(size, config.num_labels) if config.num_labels > 0 else nn.Identity()
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
        outputs = self.adabin(pixel_values, **kwargs)
        features = outputs.pooler_output if self.norm is None else self.norm(outputs.pooler_output)
        logits = self.classifier(self.dropout(features))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def fold(self) -> None:
        """Fold the batch norm before the classifier into it."""
        if self.norm is None or not isinstance(self.classifier, nn.Linear):
            return
        scale, shift = norm_scale_and_shift(self.norm)
        weight = self.classifier.weight.double()
        self.classifier.bias.data = (self.classifier.bias.double() + weight @ shift).to(self.classifier.bias.dtype)
        self.classifier.weight.data = (weight * scale).to(self.classifier.weight.dtype)
        self.norm = None


class AdaBinBackbone(StagesBackboneMixin, AdaBinPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides of the ImageNet networks: 4 ("stem", "stage1"), 8, 16, 32; of CIFAR's: 1 ("stem", "stage1"), 2, 4, 8.
    """

    _keys_to_ignore_on_load_unexpected = [r"^norm\.", r"^classifier\."]

    def __init__(self, config: AdaBinConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = AdaBinStem(config)
        self.stages = nn.ModuleList(AdaBinStage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = [
    "AdaBinBackbone",
    "AdaBinForImageClassification",
    "AdaBinModel",
    "AdaBinPreTrainedModel",
]
