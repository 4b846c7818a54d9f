"""AdderNet (https://arxiv.org/abs/1912.13200): residual networks of l1 distances.

Shapes are (batch, channels, height, width) throughout.
"""

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

from ..layers.adder import AdderConv2d
from ..layers.backbone import StagesBackboneMixin
from ..layers.batch_norm import BatchNormMixin
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, norm_scale_and_shift
from .configuration_addernet import AdderNetConfig


def _norm(config: AdderNetConfig) -> dict:
    return {"eps": config.batch_norm_eps, "momentum": config.batch_norm_momentum}


class AdderConvNorm(nn.Module):
    """An adder layer, then batch norm; once folded, an adder layer with a scale and a bias."""

    def __init__(self, config: AdderNetConfig, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        folded = config.reparameterized
        self.conv = AdderConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            bias=folded,
            scale=folded,
            eta=config.adder_eta,
        )
        self.norm = None if folded else nn.BatchNorm2d(out_channels, **_norm(config))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv(hidden_states)
        return hidden_states if self.norm is None else self.norm(hidden_states)

    def fold(self) -> None:
        """No weight can take up the scale: |s·x - s·w| is not what the layer computes. It becomes the layer's own."""
        if self.norm is not None:
            scale, shift = norm_scale_and_shift(self.norm)
            self.conv.scale = nn.Parameter(scale.to(self.conv.weight.dtype))
            self.conv.bias = nn.Parameter(shift.to(self.conv.weight.dtype))
            self.norm = None


class AdderNetStem(nn.Module):
    """An ordinary convolution, batch norm, ReLU; for ImageNet 7×7 with stride 2, and max pooling."""

    def __init__(self, config: AdderNetConfig):
        super().__init__()
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.convolution = ConvNorm(
            config.num_channels,
            config.hidden_sizes[0],
            kernel,
            stride=stride,
            folded=config.reparameterized,
            **_norm(config),
        )
        self.pools = config.stem == "imagenet"

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden_states = self.convolution(pixel_values).relu()
        return F.max_pool2d(hidden_states, 3, stride=2, padding=1) if self.pools else hidden_states


class AdderNetBlock(GradientCheckpointingLayer):
    """Adder layers with batch norms and ReLUs between them, the sum with the input, ReLU.

    Where the shape changes, the input goes through a 1×1 adder layer and a batch norm.
    """

    def __init__(self, config: AdderNetConfig, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.adder3 = None
        if config.block == "basic":
            self.adder1 = AdderConvNorm(config, in_channels, out_channels, 3, stride)
            self.adder2 = AdderConvNorm(config, out_channels, out_channels, 3)
        else:
            inner = out_channels // 4
            self.adder1 = AdderConvNorm(config, in_channels, inner, 1)
            self.adder2 = AdderConvNorm(config, inner, inner, 3, stride)
            self.adder3 = AdderConvNorm(config, inner, out_channels, 1)
        self.shortcut = None
        if stride > 1 or in_channels != out_channels:
            self.shortcut = AdderConvNorm(config, in_channels, out_channels, 1, stride)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.shortcut is None else self.shortcut(hidden_states)
        hidden_states = self.adder2(self.adder1(hidden_states).relu())
        if self.adder3 is not None:
            hidden_states = self.adder3(hidden_states.relu())
        return (hidden_states + residual).relu()


class AdderNetStage(nn.Module):
    """Blocks of one width; the first of them halves the map in every stage but the first."""

    def __init__(self, config: AdderNetConfig, index: int):
        super().__init__()
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        self.blocks = nn.ModuleList(
            AdderNetBlock(
                config,
                out_channels if position else in_channels,
                out_channels,
                2 if index > 0 and position == 0 else 1,
            )
            for position in range(config.depths[index])
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class AdderNetPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all AdderNets share: configuration, initialisation, folding."""

    config: AdderNetConfig
    base_model_prefix = "addernet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["AdderNetBlock"]
    _can_record_outputs = {"hidden_states": AdderNetStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Adder layers are standard normal, ordinary convolutions normal with variance 2 / fan-out."""
        if isinstance(module, AdderConv2d):
            init.normal_(module.weight)
            if module.scale is not None:
                init.ones_(module.scale)
            if module.bias is not None:
                init.uniform_(module.bias, 0, 1)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init_like_torch(module)
        else:
            super()._init_weights(module)

    def training_callbacks(self) -> list:
        """What a Trainer must be given for accumulated batches to count as one, `AdderGradientCallback`.

        Training with this package asks for it by itself, also where this network is a part of another.
        """
        from .gradients import AdderGradientCallback

        return [AdderGradientCallback(self)]


class AdderNetModel(AdderNetPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last stage, `pooler_output` its average over the map;
    `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: AdderNetConfig):
        super().__init__(config)
        self.stem = AdderNetStem(config)
        self.stages = nn.ModuleList(AdderNetStage(config, index) for index in range(len(config.depths)))
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
        pooled = hidden_states.mean((2, 3))
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden_states, pooler_output=pooled)


class AdderNetForImageClassification(AdderNetPreTrainedModel):
    """AdderNet with its ordinary linear classifier and a batch norm of the logits."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: AdderNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.addernet = AdderNetModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier, self.norm = nn.Identity(), None
        if config.num_labels > 0:
            bias = config.classifier_bias or (config.classifier_norm and config.reparameterized)
            self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels, bias=bias)
            if config.classifier_norm and not config.reparameterized:
                self.norm = nn.BatchNorm1d(config.num_labels, **_norm(config))
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
        outputs = self.addernet(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        if self.norm is not None:
            logits = self.norm(logits)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def fold(self) -> None:
        """Fold the batch norm of the logits into the classifier."""
        if self.norm is None:
            return
        scale, shift = norm_scale_and_shift(self.norm)
        weight, bias = self.classifier.weight, self.classifier.bias
        if bias is not None:
            shift = shift + bias.double() * scale
        self.classifier.bias = nn.Parameter(shift.to(weight.dtype))
        weight.data = (weight.double() * scale[:, None]).to(weight.dtype)
        self.norm = None


class AdderNetBackbone(StagesBackboneMixin, AdderNetPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides of the ImageNet networks: 4 ("stem", "stage1"), 8, 16, 32; of CIFAR's: 1 ("stem", "stage1"), 2, 4, 8.
    """

    _keys_to_ignore_on_load_unexpected = [r"^norm\.", r"^classifier\."]

    def __init__(self, config: AdderNetConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = AdderNetStem(config)
        self.stages = nn.ModuleList(AdderNetStage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = [
    "AdderNetBackbone",
    "AdderNetForImageClassification",
    "AdderNetModel",
    "AdderNetPreTrainedModel",
]
