"""BiMLP (https://arxiv.org/abs/2212.14158): a binary vision MLP; its tokens are waves with amplitude and phase.

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

from ..layers.backbone import StagesBackboneMixin
from ..layers.batch_norm import BatchNormMixin
from ..layers.binary import BinaryConv2d, ChannelAffine, FoldableNorm
from ..layers.deployment import DeploymentMixin
from ..layers.drop_path import DropPath
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from .configuration_bimlp import BiMlpConfig


def _binary_conv(
    config: BiMlpConfig, in_channels: int, out_channels: int, kernel_size: tuple[int, int] = (1, 1), groups: int = 1
) -> BinaryConv2d:
    """A binary convolution with "same" padding and no bias. With one input channel per group its weights stay real."""
    return BinaryConv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=tuple(size // 2 for size in kernel_size),
        groups=groups,
        bias=False,
        weights="fixed" if config.reparameterized else "scaled",
        activations=config.activation_binarizer,
    )


def _norm(config: BiMlpConfig, channels: int) -> FoldableNorm:
    return FoldableNorm(channels, config.batch_norm_eps, config.batch_norm_momentum, config.reparameterized)


class BiMlpGroupNorm(nn.Module):
    """A group norm with one group, under the name of the batch norm in its place."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.norm(hidden_states)


def _stage_norm(config: BiMlpConfig, channels: int) -> nn.Module:
    if config.stage_norm == "group":
        return BiMlpGroupNorm(channels, config.batch_norm_eps)
    return _norm(config, channels)


class BiMlpBias(nn.Module):
    """Adds a learnt bias per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.bias[:, None, None]


class BiMlpRPReLU(nn.Module):
    """A PReLU with a slope per channel between two learnt biases (ReActNet)."""

    def __init__(self, channels: int):
        super().__init__()
        self.move1 = BiMlpBias(channels)
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.move2 = BiMlpBias(channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.move2(F.prelu(self.move1(hidden_states), self.slope))


def _quarter(hidden_states: torch.Tensor) -> torch.Tensor:
    """Averages of four neighbouring channels: a quarter of the channels."""
    x = hidden_states
    return (x[:, 0::4] + x[:, 1::4] + x[:, 2::4] + x[:, 3::4]) / 4


class BiMlpMlp(nn.Module):
    """Two binary 1×1 convolutions with the universal shortcut: channels are repeated, or averaged by fours."""

    def __init__(self, config: BiMlpConfig, in_channels: int, hidden_channels: int, out_channels: int):
        super().__init__()
        self.expands = hidden_channels // in_channels == 4
        self.repeats = out_channels // hidden_channels == 12
        self.norm0, self.act1 = _norm(config, hidden_channels), BiMlpRPReLU(hidden_channels)
        self.move1 = BiMlpBias(in_channels)
        self.fc1 = _binary_conv(config, in_channels, hidden_channels)
        self.norm1, self.act2 = _norm(config, hidden_channels), BiMlpRPReLU(hidden_channels)
        self.move2 = BiMlpBias(hidden_channels)
        self.fc2 = _binary_conv(config, hidden_channels, out_channels)
        self.norm2, self.act3 = _norm(config, out_channels), BiMlpRPReLU(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        shortcut = hidden_states.repeat(1, 4, 1, 1) if self.expands else _quarter(hidden_states)
        shortcut = self.act1(self.norm0(shortcut))
        hidden_states = self.act2(self.norm1(self.fc1(self.move1(hidden_states))) + shortcut)
        shortcut = hidden_states.repeat(1, 12, 1, 1) if self.repeats else _quarter(hidden_states)
        return self.act3(self.norm2(self.fc2(self.move2(hidden_states))) + shortcut)


class BiMlpTokenMixing(nn.Module):
    """PATM: waves of amplitude and phase are mixed along rows and columns by binary grouped convolutions; the two and
    the channels' own branch are weighted by softmax and summed up."""

    def __init__(self, config: BiMlpConfig, channels: int):
        super().__init__()
        for conv, norm, act, move in (
            ("theta_h_conv", "theta_h_bn", "theta_h_act", "move_thetah"),
            ("theta_w_conv", "theta_w_bn", "theta_w_act", "move_thetaw"),
            ("fc_h", "fc_h_bn", "fc_h_act", "move_fch"),
            ("fc_w", "fc_w_bn", "fc_w_act", "move_fcw"),
            ("fc_c", "norm_c", "act_c", "move_fcc"),
            ("proj", "norm_proj", "act_proj", "move_proj"),
        ):
            setattr(self, conv, _binary_conv(config, channels, channels))
            setattr(self, norm, _norm(config, channels))
            setattr(self, act, BiMlpRPReLU(channels))
            setattr(self, move, BiMlpBias(channels))
        for side, kernel_size in (("h", (1, 7)), ("w", (7, 1))):
            setattr(self, f"move_tfc{side}", BiMlpBias(2 * channels))
            setattr(self, f"tfc_{side}", _binary_conv(config, 2 * channels, channels, kernel_size, channels))
            setattr(self, f"norm_{side}", _norm(config, channels))
            setattr(self, f"act_{side}", BiMlpRPReLU(channels))
        self.reweight = BiMlpMlp(config, channels, channels // 4, 3 * channels)

    @staticmethod
    def _branch(hidden_states: torch.Tensor, move, conv, norm, act) -> torch.Tensor:
        moved = move(hidden_states)
        return act(norm(conv(moved)) + moved)

    @staticmethod
    def _mix(amplitude: torch.Tensor, phase: torch.Tensor, move, conv, norm, act) -> torch.Tensor:
        wave = move(torch.cat([amplitude * phase.cos(), amplitude * phase.sin()], 1))
        # The shortcut adds neighbouring channels, as the convolution's groups do: two cosines, or two sines.
        return act(norm(conv(wave)) + (wave[:, 0::2] + wave[:, 1::2]) / 2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x, branch = hidden_states, self._branch
        phase_h = branch(x, self.move_thetah, self.theta_h_conv, self.theta_h_bn, self.theta_h_act)
        phase_w = branch(x, self.move_thetaw, self.theta_w_conv, self.theta_w_bn, self.theta_w_act)
        rows = branch(x, self.move_fch, self.fc_h, self.fc_h_bn, self.fc_h_act)
        columns = branch(x, self.move_fcw, self.fc_w, self.fc_w_bn, self.fc_w_act)
        rows = self._mix(rows, phase_h, self.move_tfch, self.tfc_h, self.norm_h, self.act_h)
        columns = self._mix(columns, phase_w, self.move_tfcw, self.tfc_w, self.norm_w, self.act_w)
        channels = branch(x, self.move_fcc, self.fc_c, self.norm_c, self.act_c)
        pooled = (rows + columns + channels + x).mean((2, 3), keepdim=True)
        weights = self.reweight(pooled).unflatten(1, (-1, 3)).softmax(2)
        mixed = rows * weights[:, :, 0] + columns * weights[:, :, 1] + channels * weights[:, :, 2] + x
        return branch(mixed, self.move_proj, self.proj, self.norm_proj, self.act_proj)


class BiMlpBlock(GradientCheckpointingLayer):
    """Token mixing, then the channel MLP beside two depthwise convolutions, weighted by two learnt numbers."""

    def __init__(self, config: BiMlpConfig, channels: int):
        super().__init__()
        self.norm1, self.attn = _stage_norm(config, channels), BiMlpTokenMixing(config, channels)
        self.norm2 = _stage_norm(config, channels)
        self.mlp = BiMlpMlp(config, channels, config.mlp_ratio * channels, channels)
        for number, side, kernel_size in ((1, "h", (1, 7)), (2, "w", (7, 1))):
            setattr(self, f"move_{side}", BiMlpBias(channels))
            setattr(self, f"sfc_{side}", _binary_conv(config, channels, channels, kernel_size, channels))
            setattr(self, f"norm_{side}", _norm(config, channels))
            setattr(self, f"act{number}", BiMlpRPReLU(channels))
        self.weight = nn.Parameter(torch.zeros(2))
        self.drop_path = DropPath(config.drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.drop_path(self.attn(self.norm1(hidden_states)))
        normed = self.norm2(hidden_states)
        rows, columns = self.move_h(normed), self.move_w(normed)
        rows = self.act1(self.norm_h(self.sfc_h(rows)) + rows)
        columns = self.act2(self.norm_w(self.sfc_w(columns)) + columns)
        first, second = self.weight[0], self.weight[1]
        mixed = first * rows + second * columns + (1 - first - second) * self.mlp(normed)
        return hidden_states + self.drop_path(mixed)


class BiMlpStem(nn.Module):
    """A real 7×7 convolution with stride 4 and padding 2, norm, RPReLU."""

    def __init__(self, config: BiMlpConfig):
        super().__init__()
        width = config.hidden_sizes[0]
        self.projection = nn.Conv2d(config.num_channels, width, 7, stride=4, padding=2)
        self.norm, self.act = _stage_norm(config, width), BiMlpRPReLU(width)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if min(pixel_values.shape[2:]) < 3:
            raise ValueError(
                f"pixel_values: got shape {tuple(pixel_values.shape)}, accepted are 3 pixels a side or more."
            )
        return self.act(self.norm(self.projection(pixel_values)))


class BiMlpDownsample(nn.Module):
    """A real 1×1 convolution, norm, RPReLU, and the mean of four max poolings with kernels 2, 3, 5, 7 and stride 2.

    Their padding is TensorFlow's "same": ⌈n/2⌉ rows come out, the smaller half of the padding stands first.
    """

    def __init__(self, config: BiMlpConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.projection = nn.Conv2d(in_channels, out_channels, 1)
        self.norm, self.act = _stage_norm(config, out_channels), BiMlpRPReLU(out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.act(self.norm(self.projection(hidden_states)))
        height, width = hidden_states.shape[-2:]
        pooled = 0
        for size in (2, 3, 5, 7):
            below, right = (max((-(-n // 2) - 1) * 2 + size - n, 0) for n in (height, width))
            padding = (right // 2, right - right // 2, below // 2, below - below // 2)
            pooled = pooled + F.max_pool2d(F.pad(hidden_states, padding, value=float("-inf")), size, stride=2)
        return pooled / 4


class BiMlpStage(nn.Module):
    """Downsampling (not in the first stage) and blocks of one width."""

    def __init__(self, config: BiMlpConfig, index: int):
        super().__init__()
        in_channels, out_channels = config.hidden_sizes[index : index + 2]
        self.downsample = BiMlpDownsample(config, in_channels, out_channels) if index else None
        self.blocks = nn.ModuleList(BiMlpBlock(config, out_channels) for _ in range(config.depths[index]))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.downsample is not None:
            hidden_states = self.downsample(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class BiMlpPreTrainedModel(PixelsMixin, DeploymentMixin, BatchNormMixin, PreTrainedModel):
    """What all BiMLPs share: configuration, initialisation, folding."""

    config: BiMlpConfig
    base_model_prefix = "bimlp"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["BiMlpBlock"]
    _can_record_outputs = {"hidden_states": BiMlpStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init_like_torch(module)
        elif isinstance(module, BiMlpBias):
            init.zeros_(module.bias)
        elif isinstance(module, BiMlpRPReLU):
            init.constant_(module.slope, 0.25)
        elif isinstance(module, BiMlpBlock):
            init.zeros_(module.weight)
        elif isinstance(module, ChannelAffine):
            init.ones_(module.scale)
            init.zeros_(module.shift)
        else:
            super()._init_weights(module)


class BiMlpModel(BiMlpPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the normalised output of the last stage, `pooler_output` its average over the map;
    `hidden_states` are the outputs of the stem and of each stage.
    """

    def __init__(self, config: BiMlpConfig):
        super().__init__(config)
        self.stem = BiMlpStem(config)
        self.stages = nn.ModuleList(BiMlpStage(config, index) for index in range(len(config.depths)))
        self.norm = _stage_norm(config, config.hidden_sizes[-1])
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
        hidden_states = self.norm(hidden_states)
        pooled = hidden_states.mean((2, 3))
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden_states, pooler_output=pooled)


class BiMlpForImageClassification(BiMlpPreTrainedModel):
    """BiMLP with its real linear classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: BiMlpConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bimlp = BiMlpModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Identity()
        if config.num_labels > 0:
            self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
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
        outputs = self.bimlp(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class BiMlpBackbone(StagesBackboneMixin, BiMlpPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    Strides: 4 ("stem", "stage1"), 8, 16, 32.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(bimlp\.)?norm\.", r"^classifier\."]

    def __init__(self, config: BiMlpConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = BiMlpStem(config)
        self.stages = nn.ModuleList(BiMlpStage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = [
    "BiMlpBackbone",
    "BiMlpForImageClassification",
    "BiMlpModel",
    "BiMlpPreTrainedModel",
]
