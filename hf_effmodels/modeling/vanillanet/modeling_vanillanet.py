"""VanillaNet (https://arxiv.org/abs/2305.12972): a plain stack of convolutions without shortcuts.

Every layer is trained as two convolutions with an activation between them that is annealed to the identity, and
deployed as one. Shapes are (batch, channels, height, width) throughout.
"""

import math

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
from ..layers.in_place import may_overwrite
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, conv_with_values, fold_conv_norm
from .configuration_vanillanet import VanillaNetConfig, check_act_learn


class SeriesActivation(ConvNorm):
    """The series-informed activation: Σ over the (2n+1)² neighbours of a_ij · ReLU(x_ij), per channel (section 3.2).

    That is ReLU, then a depthwise convolution, then a batch norm (whose shift stands for the paper's biases); once
    folded, the convolution has a bias instead. Works in place where that is allowed.
    """

    def __init__(self, config: VanillaNetConfig, channels: int):
        super().__init__(
            channels,
            channels,
            2 * config.act_num + 1,
            groups=channels,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            folded=config.reparameterized,
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(F.relu(hidden_states, inplace=may_overwrite()))


class DeepConvolution(nn.Module):
    """Convolution, norm, leaky ReLU of slope λ, 1×1 convolution, norm; once folded, one convolution (section 3.1).

    (1 - λ) · ReLU(x) + λ · x, the paper's annealed activation, is a leaky ReLU. λ is `config.act_learn`, which all
    layers of a model read, so that it is saved with the model and copied with it.
    """

    def __init__(
        self,
        config: VanillaNetConfig,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        last_norm: bool = True,
    ):
        super().__init__()
        self.config = config
        self.conv = self.conv1 = self.norm1 = self.conv2 = self.norm2 = None
        shape = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
        if config.reparameterized:
            self.conv = nn.Conv2d(in_channels, out_channels, **shape)
            return
        norm = {"eps": config.batch_norm_eps, "momentum": config.batch_norm_momentum}
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, **shape)
        self.norm1 = nn.BatchNorm2d(hidden_channels, **norm)
        self.conv2 = nn.Conv2d(hidden_channels, out_channels, 1)
        if last_norm:
            self.norm2 = nn.BatchNorm2d(out_channels, **norm)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.conv is not None:
            return self.conv(hidden_states)
        hidden_states = self.norm1(self.conv1(hidden_states))
        if self.config.act_learn != 1:
            hidden_states = F.leaky_relu(hidden_states, float(self.config.act_learn), inplace=may_overwrite())
        hidden_states = self.conv2(hidden_states)
        return hidden_states if self.norm2 is None else self.norm2(hidden_states)

    def fold(self) -> None:
        """Merge the two convolutions into one, W = W₂W₁ and b = W₂b₁ + b₂; right for λ = 1 only."""
        if self.conv is not None:
            return
        kernel1, bias1 = fold_conv_norm(self.conv1, self.norm1)
        if self.norm2 is None:
            kernel2, bias2 = self.conv2.weight.double(), self.conv2.bias.double()
        else:
            kernel2, bias2 = fold_conv_norm(self.conv2, self.norm2)
        matrix = kernel2[:, :, 0, 0]
        kernel = torch.einsum("oh,hikl->oikl", matrix, kernel1)
        self.conv = conv_with_values(self.conv1, kernel, matrix @ bias1 + bias2)
        self.conv1 = self.norm1 = self.conv2 = self.norm2 = None


class VanillaNetStem(nn.Module):
    """4×4 patches, 4 pixels apart (3 with adaptive pooling), then a series activation."""

    def __init__(self, config: VanillaNetConfig):
        super().__init__()
        channels = config.hidden_sizes[0]
        stride, padding = (4, 0) if config.adaptive_pool_sizes is None else (3, 1)
        self.convolution = DeepConvolution(
            config,
            config.num_channels,
            channels,
            hidden_channels=channels,
            kernel_size=4,
            stride=stride,
            padding=padding,
        )
        self.activation = SeriesActivation(config, channels)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.activation(self.convolution(pixel_values))


def _smallest_side(config: VanillaNetConfig) -> int:
    """Of images whose features are 1×1 or more after each halving, up to the first pooling to a size of its own."""
    sizes = config.adaptive_pool_sizes or [0] * len(config.strides)
    last = next((number for number, size in enumerate(sizes) if size), len(sizes))
    side = math.prod(config.strides[:last])
    return 4 * side if config.adaptive_pool_sizes is None else 3 * side - 1


class VanillaNetStage(GradientCheckpointingLayer):
    """A layer of the network: 1×1 convolution, max-pooling where it is strided, series activation."""

    def __init__(self, config: VanillaNetConfig, index: int):
        super().__init__()
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        self.stride = config.strides[index]
        self.smallest = _smallest_side(config)
        self.pool_size = config.adaptive_pool_sizes[index] if config.adaptive_pool_sizes else 0
        self.convolution = DeepConvolution(config, in_channels, out_channels, hidden_channels=in_channels)
        self.activation = SeriesActivation(config, out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.activation(self.pool(self.convolution(hidden_states)))

    def pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Halve the map, or shrink it to `pool_size`; a last odd row or column is dropped when halving."""
        if self.stride == 1:
            return hidden_states
        if self.pool_size:
            return F.adaptive_max_pool2d(hidden_states, self.pool_size)
        height, width = hidden_states.shape[-2:]
        if height < 2 or width < 2:
            raise ValueError(
                f"pixel_values: the images are too small: their features shrink to {height}×{width} before the last "
                f"halving. This network accepts images from {self.smallest}×{self.smallest} pixels."
            )
        return F.max_pool2d(hidden_states, kernel_size=2, stride=2)


class VanillaNetPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all VanillaNets share: configuration, initialisation, annealing, folding."""

    config: VanillaNetConfig
    base_model_prefix = "vanillanet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VanillaNetStage"]
    _can_record_outputs = {"hidden_states": VanillaNetStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def set_act_learn(self, value: float) -> None:
        """Set λ, the slope below zero of the activations that are annealed: 0 is ReLU, 1 the identity.

        It becomes part of the configuration, which is saved with the model.

        Raises:
            ValueError: not from 0 to 1, or not 1 where the model is folded.
        """
        check_act_learn(value)
        if self.config.reparameterized and value != 1:
            raise ValueError(f"act_learn: got {value}, but a folded {type(self).__name__} has λ = 1 for good.")
        self.config.act_learn = float(value)

    def training_callbacks(self) -> list:
        """What a Trainer must be given for this model to be trained as its configuration says: the callback of deep
        training where `deep_training_epochs` is above 0, `Trainer(callbacks=model.training_callbacks(), ...)`.

        Training with this package asks for it by itself, also where this network is a part of another.
        """
        if not self.config.deep_training_epochs:
            return []
        from .deep_training import DeepTrainingCallback

        return [DeepTrainingCallback(self)]

    def check_reparameterizable(self) -> None:
        if self.config.act_learn != 1:
            raise RuntimeError(
                f"reparameterize: act_learn is {self.config.act_learn}: {type(self).__name__} still has an activation "
                "between the two convolutions of each layer. They are one only at act_learn = 1, the end of deep "
                "training (config.deep_training_epochs)."
            )


class VanillaNetModel(VanillaNetPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last stage (stride 32), `pooler_output` its average over the map;
    `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: VanillaNetConfig):
        super().__init__(config)
        self.stem = VanillaNetStem(config)
        self.stages = nn.ModuleList(VanillaNetStage(config, index) for index in range(len(config.strides)))
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
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3))
        )


class VanillaNetForImageClassification(VanillaNetPreTrainedModel):
    """VanillaNet with its classifier, which is trained as two layers like the others."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: VanillaNetConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vanillanet = VanillaNetModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Identity()
        if config.num_labels > 0:
            self.classifier = DeepConvolution(
                config,
                config.hidden_sizes[-1],
                config.num_labels,
                hidden_channels=config.num_labels,
                last_norm=False,
            )
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
        outputs = self.vanillanet(pixel_values, **kwargs)
        pooled = self.dropout(outputs.pooler_output)
        logits = self.classifier(pooled[:, :, None, None]).flatten(1)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class VanillaNetBackbone(StagesBackboneMixin, VanillaNetPreTrainedModel):
    """The stem (stride 4) and the stages (up to stride 32) as feature maps for detectors and segmenters."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: VanillaNetConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = VanillaNetStem(config)
        self.stages = nn.ModuleList(VanillaNetStage(config, index) for index in range(len(config.strides)))
        self.post_init()


__all__ = [
    "VanillaNetBackbone",
    "VanillaNetForImageClassification",
    "VanillaNetModel",
    "VanillaNetPreTrainedModel",
]
