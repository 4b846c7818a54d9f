"""Gold-YOLO (https://arxiv.org/abs/2309.11331): a convolutional detector whose neck gathers the features of all
levels, fuses them, and distributes the result to each level.

Shapes are (batch, channels, height, width) throughout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.batch_norm import BatchNormMixin
from ..layers.drop_path import DropPath
from ..layers.in_place import add, may_overwrite, multiply
from ..layers.initialization import init_like_torch
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, RepConvNorm
from .boxes_gold_yolo import distances_to_boxes, expected_distances, grid_points, to_centres
from .configuration_gold_yolo import NECK_NAMES, STRIDES, GoldYoloConfig
from .loss_gold_yolo import Share, gold_yolo_object_detection_loss

#: Logit of all scores before anything is learned: a probability of 0.01.
PRIOR_LOGIT = -math.log(99)


def pool(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Adaptive average pooling to (height, width), in operations that every export format has.

    Where the sizes divide it is a plain pooling; elsewhere cells average rows and columns that overlap, which is a
    product with two small matrices.
    """
    height, width = features.shape[-2:]
    if (height, width) == tuple(size):
        return features
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(features, (height // size[0], width // size[1]))
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(features, tuple(size))
    rows, columns = _averages(height, size[0], features), _averages(width, size[1], features)
    return rows @ features @ columns.T


def _averages(length: int, size: int, like: torch.Tensor) -> torch.Tensor:
    """The matrix (size, length) that averages `length` values into `size` cells as adaptive pooling does."""
    rows = []
    for cell in range(size):
        start, end = cell * length // size, -(-(cell + 1) * length // size)
        rows.append([1 / (end - start) if start <= index < end else 0.0 for index in range(length)])
    return torch.tensor(rows, dtype=like.dtype, device=like.device)


def resize(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear interpolation to (height, width)."""
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


class GoldYoloConv(ConvNorm):
    """Convolution, batch norm, activation."""

    def __init__(
        self,
        config: GoldYoloConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        activation: str | None,
        bias: bool = False,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            bias=bias,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            folded=config.reparameterized,
        )
        self.activation = activation

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = super().forward(hidden_states)
        if self.activation == "silu":
            return F.silu(hidden_states, inplace=may_overwrite())
        return F.relu(hidden_states, inplace=may_overwrite())


class GoldYoloRepBlock(RepConvNorm):
    """RepVGG's block: 3×3, 1×1 and identity branches, ReLU."""

    def __init__(self, config: GoldYoloConfig, in_channels: int, out_channels: int, *, stride: int = 1):
        super().__init__(
            in_channels,
            out_channels,
            3,
            stride=stride,
            num_branches=1,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            folded=config.reparameterized,
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(hidden_states), inplace=may_overwrite())


def make_block(config: GoldYoloConfig, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """The network's basic block. That of `conv_silu` has a bias before its batch norm."""
    if config.block_type == "repvgg":
        return GoldYoloRepBlock(config, in_channels, out_channels, stride=stride)
    return GoldYoloConv(config, in_channels, out_channels, 3, stride=stride, activation="silu", bias=True)


def _outer_activation(config: GoldYoloConfig) -> str:
    """Of the convolutions around blocks: that of the blocks."""
    return "relu" if config.block_type == "repvgg" else "silu"


class GoldYoloBlocks(nn.Module):
    """Blocks one after the other, all of the same width."""

    def __init__(self, config: GoldYoloConfig, channels: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(make_block(config, channels, channels) for _ in range(depth))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class GoldYoloBottleneck(nn.Module):
    """Two blocks and α times the input."""

    def __init__(self, config: GoldYoloConfig, channels: int):
        super().__init__()
        self.conv1 = make_block(config, channels, channels)
        self.conv2 = make_block(config, channels, channels)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return add(self.conv2(self.conv1(hidden_states)), self.alpha * hidden_states)


class GoldYoloCspBlocks(nn.Module):
    """Bottlenecks on a part of the channels beside a way around them (BepC3); a bottleneck is two of
    `depth` blocks."""

    def __init__(self, config: GoldYoloConfig, channels: int, depth: int):
        super().__init__()
        hidden, activation = int(channels * config.csp_ratio), _outer_activation(config)
        self.enter = GoldYoloConv(config, channels, hidden, activation=activation)
        self.around = GoldYoloConv(config, channels, hidden, activation=activation)
        self.leave = GoldYoloConv(config, 2 * hidden, channels, activation=activation)
        self.blocks = nn.ModuleList(GoldYoloBottleneck(config, hidden) for _ in range(depth // 2))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        around = self.around(hidden_states)
        hidden_states = self.enter(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.leave(torch.cat([hidden_states, around], dim=1))


def make_blocks(config: GoldYoloConfig, channels: int, depth: int) -> nn.Module:
    """What a stage, or an injection, is followed by."""
    return (GoldYoloBlocks if config.stage_type == "rep" else GoldYoloCspBlocks)(config, channels, depth)


def _pyramid(hidden_states: torch.Tensor) -> torch.Tensor:
    """The map beside its maxima over 5×5, 9×9 and 13×13 cells, as three 5×5 poolings in a row."""
    maps = [hidden_states]
    for _ in range(3):
        maps.append(F.max_pool2d(maps[-1], 5, stride=1, padding=2))
    return torch.cat(maps, dim=1)


class GoldYoloPyramidPooling(nn.Module):
    """Pyramid pooling on half of the channels (SPPF)."""

    def __init__(self, config: GoldYoloConfig, channels: int):
        super().__init__()
        activation = _outer_activation(config)
        self.enter = GoldYoloConv(config, channels, channels // 2, activation=activation)
        self.leave = GoldYoloConv(config, 4 * (channels // 2), channels, activation=activation)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.leave(_pyramid(self.enter(hidden_states)))


class GoldYoloCspPyramidPooling(nn.Module):
    """Pyramid pooling between convolutions, beside a way around it (SimCSPSPPF)."""

    def __init__(self, config: GoldYoloConfig, channels: int):
        super().__init__()
        hidden, activation = channels // 2, _outer_activation(config)

        def conv(in_channels: int, out_channels: int, kernel_size: int = 1) -> GoldYoloConv:
            return GoldYoloConv(config, in_channels, out_channels, kernel_size, activation=activation)

        self.enter = nn.ModuleList([conv(channels, hidden), conv(hidden, hidden, 3), conv(hidden, hidden)])
        self.around = conv(channels, hidden)
        self.fuse = nn.ModuleList([conv(4 * hidden, hidden), conv(hidden, hidden, 3)])
        self.leave = conv(2 * hidden, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        around = self.around(hidden_states)
        for conv in self.enter:
            hidden_states = conv(hidden_states)
        hidden_states = _pyramid(hidden_states)
        for conv in self.fuse:
            hidden_states = conv(hidden_states)
        return self.leave(torch.cat([around, hidden_states], dim=1))


class GoldYoloStage(GradientCheckpointingLayer):
    """A block that halves the map, and blocks; the last stage ends with pyramid pooling."""

    def __init__(self, config: GoldYoloConfig, index: int):
        super().__init__()
        before, channels = config.hidden_sizes[index : index + 2]
        self.down = make_block(config, before, channels, stride=2)
        self.layers = make_blocks(config, channels, config.depths[index])
        self.pooling = None
        if index == config.num_stages - 1:
            kind = config.pyramid_pooling_type
            pooling = GoldYoloCspPyramidPooling if kind == "csp_sppf" else GoldYoloPyramidPooling
            self.pooling = pooling(config, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.layers(self.down(hidden_states))
        return hidden_states if self.pooling is None else self.pooling(hidden_states)


class GoldYoloLowFusion(nn.Module):
    """Low-stage fusion: a 1×1 convolution, blocks, and a 1×1 convolution to what is injected into p4 and p3."""

    def __init__(self, config: GoldYoloConfig):
        super().__init__()
        size = config.low_fusion_size
        self.enter = GoldYoloConv(config, sum(config.hidden_sizes[1:]), size, activation="silu")
        self.blocks = nn.ModuleList(make_block(config, size, size) for _ in range(config.low_fusion_depth))
        self.leave = GoldYoloConv(config, size, sum(config.injection_sizes[:2]), activation="silu")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.enter(hidden_states)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.leave(hidden_states)


class GoldYoloPlainConv(ConvNorm):
    """1×1 convolution and batch norm of the injections and the high-stage fusion, with their own constants.

    `conv_starts`, `norm_starts`: how their weights start where that is not as usual, see `_init_weights`.
    """

    def __init__(
        self,
        config: GoldYoloConfig,
        in_channels: int,
        out_channels: int,
        *,
        conv_starts: str | None = None,
        norm_starts: float | None = None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            eps=config.injection_batch_norm_eps,
            momentum=config.injection_batch_norm_momentum,
            folded=config.reparameterized,
        )
        self.conv.initialization = conv_starts
        if self.norm is not None:
            self.norm.initialization = norm_starts


class GoldYoloAttention(nn.Module):
    """Attention between all positions. The scores are not divided by the square root of the key size."""

    def __init__(self, config: GoldYoloConfig, channels: int):
        super().__init__()
        self.num_heads, self.key_size = config.num_attention_heads, config.attention_key_size
        self.value_size = int(config.attention_ratio * self.key_size)
        keys, values = self.num_heads * self.key_size, self.num_heads * self.value_size
        self.query = GoldYoloPlainConv(config, channels, keys)
        self.key = GoldYoloPlainConv(config, channels, keys)
        self.value = GoldYoloPlainConv(config, channels, values)
        # The attention begins as nothing beside the identity.
        self.projection = GoldYoloPlainConv(config, values, channels, norm_starts=0.0)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = hidden_states.shape
        query = self.query(hidden_states).reshape(batch, self.num_heads, self.key_size, -1).transpose(2, 3)
        key = self.key(hidden_states).reshape(batch, self.num_heads, self.key_size, -1)
        value = self.value(hidden_states).reshape(batch, self.num_heads, self.value_size, -1).transpose(2, 3)
        attended = (query @ key).softmax(-1) @ value
        attended = attended.transpose(2, 3).reshape(batch, -1, height, width)
        return self.projection(F.relu6(attended))


class GoldYoloMlp(nn.Module):
    """1×1 convolution, depthwise 3×3 convolution, ReLU6, 1×1 convolution."""

    def __init__(self, config: GoldYoloConfig, channels: int):
        super().__init__()
        hidden = int(channels * config.mlp_ratio)
        self.expand = GoldYoloPlainConv(config, channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.project = GoldYoloPlainConv(config, hidden, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.project(F.relu6(self.depthwise(self.expand(hidden_states))))


class GoldYoloAttentionBlock(nn.Module):
    """Attention and a feed-forward part, each beside the identity."""

    def __init__(self, config: GoldYoloConfig, channels: int, drop_path_rate: float):
        super().__init__()
        self.attention = GoldYoloAttention(config, channels)
        self.mlp = GoldYoloMlp(config, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.drop_path(self.attention(hidden_states))
        return hidden_states + self.drop_path(self.mlp(hidden_states))


class GoldYoloHighFusion(nn.Module):
    """High-stage fusion: attention blocks, and a 1×1 convolution to what is injected into n4 and n5."""

    def __init__(self, config: GoldYoloConfig):
        super().__init__()
        p4, p3 = config.neck_hidden_sizes[:2]
        channels, count = p3 + p4 + config.hidden_sizes[-1], config.num_attention_blocks
        rates = [config.drop_path_rate * index / max(count - 1, 1) for index in range(count)]
        self.blocks = nn.ModuleList(GoldYoloAttentionBlock(config, channels, rate) for rate in rates)
        self.leave = nn.Conv2d(channels, sum(config.injection_sizes[2:]), 1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.leave(hidden_states)


class GoldYoloLocalFusion(nn.Module):
    """Local fusion of a level with its neighbours: the lower one pooled, its own projected, the higher one resized."""

    def __init__(self, config: GoldYoloConfig, low: int, own: int, channels: int):
        super().__init__()
        self.project = GoldYoloConv(config, own, channels, activation="relu")
        self.fuse = GoldYoloConv(config, low + 2 * channels, channels, activation="relu")

    def forward(self, low: torch.Tensor, own: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        size = own.shape[-2:]
        return self.fuse(torch.cat([pool(low, size), self.project(own), resize(high, size)], dim=1))


class GoldYoloInjection(nn.Module):
    """Global features injected into a level: l · hsigmoid(a) + g, with l of the level, a and g of the global
    features."""

    def __init__(self, config: GoldYoloConfig, in_channels: int, global_channels: int, out_channels: int):
        super().__init__()
        self.local_embedding = GoldYoloPlainConv(config, in_channels, out_channels, conv_starts="fan_out")
        self.global_embedding = GoldYoloPlainConv(config, global_channels, out_channels, conv_starts="fan_out")
        self.global_gate = GoldYoloPlainConv(config, global_channels, out_channels, conv_starts="fan_out")

    def forward(self, local: torch.Tensor, global_features: torch.Tensor) -> torch.Tensor:
        local = self.local_embedding(local)
        size = local.shape[-2:]
        gate = F.relu6(self.global_gate(global_features) + 3) / 6
        return add(multiply(local, resize(gate, size)), resize(self.global_embedding(global_features), size))


class GoldYoloInjectionLevel(GradientCheckpointingLayer):
    """An injection and the blocks after it."""

    def __init__(self, config: GoldYoloConfig, in_channels: int, index: int):
        super().__init__()
        channels = config.neck_hidden_sizes[index]
        self.injection = GoldYoloInjection(config, in_channels, config.injection_sizes[index], channels)
        self.layers = make_blocks(config, channels, config.neck_depth)

    def forward(self, local: torch.Tensor, global_features: torch.Tensor) -> torch.Tensor:
        return self.layers(self.injection(local, global_features))


class GoldYoloNeck(nn.Module):
    """Gather and distribute (section 3 of the paper): c2, c3, c4, c5 -> p3, n4, n5 at strides 8, 16, 32."""

    def __init__(self, config: GoldYoloConfig):
        super().__init__()
        _, c2, c3, c4, c5 = config.hidden_sizes
        p4, p3, n4, _ = config.neck_hidden_sizes
        self.low_fusion = GoldYoloLowFusion(config)
        self.reduce_c5 = GoldYoloConv(config, c5, p4, activation="relu")
        self.local_p4 = GoldYoloLocalFusion(config, c3, c4, p4)
        self.level_p4 = GoldYoloInjectionLevel(config, p4, 0)
        self.reduce_p4 = GoldYoloConv(config, p4, p3, activation="relu")
        self.local_p3 = GoldYoloLocalFusion(config, c2, c3, p3)
        self.level_p3 = GoldYoloInjectionLevel(config, p3, 1)
        self.high_fusion = GoldYoloHighFusion(config)
        self.level_n4 = GoldYoloInjectionLevel(config, 2 * p3, 2)
        self.level_n5 = GoldYoloInjectionLevel(config, (n4 if config.n5_source == "n4" else p4) + p4, 3)
        self.n5_takes_n4 = config.n5_source == "n4"
        self.injection_sizes = config.injection_sizes

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        c2, c3, c4, c5 = maps
        size = c4.shape[-2:]
        gathered = torch.cat([pool(c2, size), pool(c3, size), c4, resize(c5, size)], dim=1)
        for_p4, for_p3 = self.low_fusion(gathered).split(self.injection_sizes[:2], dim=1)

        half_c5 = self.reduce_c5(c5)
        p4 = self.level_p4(self.local_p4(c3, c4, half_c5), for_p4)
        half_p4 = self.reduce_p4(p4)
        p3 = self.level_p3(self.local_p3(c2, c3, half_p4), for_p3)

        # Stride 64, where it is rounded up.
        size = [math.ceil(length / 2) for length in c5.shape[-2:]]
        gathered = torch.cat([pool(p3, size), pool(p4, size), pool(c5, size)], dim=1)
        for_n4, for_n5 = self.high_fusion(gathered).split(self.injection_sizes[2:], dim=1)

        n4 = self.level_n4(torch.cat([pool(p3, half_p4.shape[-2:]), half_p4], dim=1), for_n4)
        below = n4 if self.n5_takes_n4 else p4
        n5 = self.level_n5(torch.cat([pool(below, half_c5.shape[-2:]), half_c5], dim=1), for_n5)
        return p3, n4, n5


@dataclass
class GoldYoloPredictions(ModelOutput):
    """What the head says of each point of the three maps, level after level and row by row.

    Attributes:
        logits: of the classes, (batch, points, classes).
        distances: of the box's sides (left, top, right, bottom) from the point, in cells, (batch, points, 4).
        regression: what the training learns the box by: logits of the sides' distributions, (batch, points,
            4·(reg_max + 1)), or `distances`. Of the distillation head only where it was asked for.
        anchor_logits, anchor_boxes: of the anchor-based branch where it was asked for, (batch, anchors·points, ...):
            a whole map of each anchor after the other within a level; boxes are the centre's offset from the point and
            the size, in cells.
    """

    logits: torch.Tensor | None = None
    distances: torch.Tensor | None = None
    regression: torch.Tensor | None = None
    anchor_logits: torch.Tensor | None = None
    anchor_boxes: torch.Tensor | None = None


class GoldYoloHead(nn.Module):
    """Classes and boxes of each point of the maps p3, n4, n5 (decoupled, anchor-free)."""

    def __init__(self, config: GoldYoloConfig):
        super().__init__()
        sizes, labels = config.level_sizes, config.num_labels
        self.has_bins = config.reg_max > 0
        self.anchors = config.anchors

        def predictors(channels: int, bias: float) -> nn.ModuleList:
            convs = nn.ModuleList(nn.Conv2d(size, channels, 1) for size in sizes)
            for conv in convs:
                conv.initialization = bias  # the weights start at zero, see `_init_weights`
            return convs

        def convs(kernel_size: int) -> nn.ModuleList:
            return nn.ModuleList(GoldYoloConv(config, size, size, kernel_size, activation="silu") for size in sizes)

        self.stems, self.class_convs, self.box_convs = convs(1), convs(3), convs(3)
        self.classes = predictors(labels, PRIOR_LOGIT)
        self.boxes = predictors(4 * (config.reg_max + 1), 1.0)
        self.direct_boxes = predictors(4, 1.0) if config.head_type == "distillation" else None
        self.anchor_classes = self.anchor_boxes = None
        if config.head_type == "anchor_aided":
            self.anchor_classes = predictors(len(self.anchors[0]) * labels, PRIOR_LOGIT)
            self.anchor_boxes = predictors(len(self.anchors[0]) * 4, 1.0)

    def forward(self, maps: Sequence[torch.Tensor], with_training_branches: bool = False) -> GoldYoloPredictions:
        """`with_training_branches`: also compute what only the training needs."""
        with_bins = self.direct_boxes is None or with_training_branches
        logits, regression, direct, anchor_logits, anchor_boxes = [], [], [], [], []
        for level, features in enumerate(maps):
            features = self.stems[level](features)
            of_class, of_box = self.class_convs[level](features), self.box_convs[level](features)
            logits.append(_rows(self.classes[level](of_class)))
            if with_bins:
                regression.append(_rows(self.boxes[level](of_box)))
            if self.direct_boxes is not None:
                direct.append(_rows(self.direct_boxes[level](of_box)))
            if self.anchor_boxes is not None and with_training_branches:
                anchor_logits.append(_rows(self.anchor_classes[level](of_class), len(self.anchors[level])))
                boxes = _rows(self.anchor_boxes[level](of_box), len(self.anchors[level]))
                anchor_boxes.append(self._anchor_sizes(boxes, level))
        regression = torch.cat(regression, dim=1) if regression else None
        if direct:
            distances = torch.cat(direct, dim=1)
        else:
            distances = expected_distances(regression) if self.has_bins else regression
        return GoldYoloPredictions(
            logits=torch.cat(logits, dim=1),
            distances=distances,
            regression=regression,
            anchor_logits=torch.cat(anchor_logits, dim=1) if anchor_logits else None,
            anchor_boxes=torch.cat(anchor_boxes, dim=1) if anchor_boxes else None,
        )

    def _anchor_sizes(self, boxes: torch.Tensor, level: int) -> torch.Tensor:
        """Sizes (2σ(z))² · anchor in cells; offsets as they are."""
        anchors = boxes.new_tensor(self.anchors[level]) / STRIDES[level]
        anchors = anchors.repeat_interleave(boxes.shape[1] // len(anchors), dim=0)
        offsets, sizes = boxes.split(2, dim=-1)
        return torch.cat([offsets, (2 * sizes.sigmoid()) ** 2 * anchors], dim=-1)


def _rows(maps: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """(batch, groups·channels, height, width) -> (batch, groups·height·width, channels), a whole map per group."""
    if groups == 1:
        return maps.flatten(2).transpose(1, 2)
    return maps.unflatten(1, (groups, -1)).flatten(3).transpose(2, 3).flatten(1, 2)


@dataclass
class GoldYoloModelOutput(ModelOutput):
    """Attributes:
    last_hidden_state: n5, the neck's map at stride 32.
    feature_maps: p3, n4, n5 at strides 8, 16, 32.
    hidden_states: of the stem and the stages, where they were asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    feature_maps: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class GoldYoloObjectDetectionOutput(ModelOutput):
    """Attributes:
    loss: the total, where labels were given; `loss_dict` its parts, with their weights.
    logits: of the classes, before the sigmoid, (batch, points, classes).
    pred_boxes: (centre x, centre y, width, height) relative to the network's input, (batch, points, 4).
    pred_distances: distances of the boxes' sides from the points, in cells, (batch, points, 4).
    pred_distribution, anchor_logits, anchor_boxes: what only the training needs, see `GoldYoloPredictions`; in
        training, and where labels were given.
    feature_maps: p3, n4, n5, what the head detects on.
    hidden_states: of the stem and the stages, where they were asked for.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None
    pred_distances: torch.Tensor | None = None
    pred_distribution: torch.Tensor | None = None
    anchor_logits: torch.Tensor | None = None
    anchor_boxes: torch.Tensor | None = None
    feature_maps: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class GoldYoloPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all Gold-YOLOs share: configuration, initialisation, folding."""

    config: GoldYoloConfig
    base_model_prefix = "gold_yolo"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["GoldYoloStage", "GoldYoloInjectionLevel"]
    _can_record_outputs = {"hidden_states": GoldYoloStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        start = getattr(module, "initialization", None)
        if start == "fan_out":
            if module.bias is not None:  # of a folded one
                init_like_torch(module)
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif start is not None:
            super()._init_weights(module)
            init.zeros_(module.weight)
            init.constant_(module.bias, start)
        elif isinstance(module, nn.Conv2d):
            init_like_torch(module)
        elif isinstance(module, GoldYoloBottleneck):
            init.ones_(module.alpha)
        else:
            super()._init_weights(module)


class GoldYoloModel(GoldYoloPreTrainedModel):
    """Backbone and neck."""

    def __init__(self, config: GoldYoloConfig):
        super().__init__(config)
        self.stem = make_block(config, config.num_channels, config.hidden_sizes[0], stride=2)
        self.stages = nn.ModuleList(GoldYoloStage(config, index) for index in range(config.num_stages))
        self.neck = GoldYoloNeck(config)
        self.post_init()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> GoldYoloModelOutput:
        """
        Args:
            pixel_values: images in [0, 1], (batch, num_channels, height, width).
        """
        hidden_states = self.stem(self.prepare_pixels(pixel_values))
        maps = []
        for stage in self.stages:
            hidden_states = stage(hidden_states)
            maps.append(hidden_states)
        maps = self.neck(maps)
        return GoldYoloModelOutput(last_hidden_state=maps[-1], feature_maps=maps)


class GoldYoloForObjectDetection(GoldYoloPreTrainedModel):
    """The detector. Its boxes overlap: `post_process_object_detection` of the image processor keeps the best ones."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: GoldYoloConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.gold_yolo = GoldYoloModel(config)
        self.head = GoldYoloHead(config)
        # transformers would take DETR's, by the end of the class's name.
        self.loss_function = gold_yolo_object_detection_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: Sequence[dict] | None = None,
        assigner: str = "tal",
        share: Share = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GoldYoloObjectDetectionOutput:
        """
        Args:
            pixel_values: images in [0, 1], (batch, num_channels, height, width); sides are multiples of 32.
            labels: for each image a dictionary of `class_labels` (n,) and `boxes` (n, 4), centres relative to the
                network's input. The loss is returned with them.
            assigner: how boxes are assigned to points for the loss, "tal" or, at the beginning of a training, "atss".
            share: of a batch that is one of several processes': see `loss_gold_yolo.Share`.
        """
        _check_sides(pixel_values)
        if labels is not None:
            _check_labels(labels, len(pixel_values), self.config.num_labels)
        outputs = self.gold_yolo(pixel_values, **kwargs)
        predictions = self.head(outputs.feature_maps, with_training_branches=self.training or labels is not None)
        sizes = [tuple(features.shape[-2:]) for features in outputs.feature_maps]
        loss = loss_dict = None
        if labels is not None:
            loss, loss_dict = self.loss_function(
                predictions.logits,
                predictions.regression,
                labels,
                sizes,
                self.config,
                direct_regression=predictions.distances if self.head.direct_boxes is not None else None,
                anchor_logits=predictions.anchor_logits,
                anchor_boxes=predictions.anchor_boxes,
                assigner=assigner,
                share=share,
            )
        points, strides = grid_points(sizes, STRIDES, predictions.distances)
        height, width = pixel_values.shape[-2:]
        scale = strides / predictions.distances.new_tensor([width, height, width, height])
        return GoldYoloObjectDetectionOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=predictions.logits,
            pred_boxes=to_centres(distances_to_boxes(predictions.distances, points)) * scale,
            pred_distances=predictions.distances,
            pred_distribution=predictions.regression,
            anchor_logits=predictions.anchor_logits,
            anchor_boxes=predictions.anchor_boxes,
            feature_maps=outputs.feature_maps,
            hidden_states=outputs.hidden_states,
        )


def _check_sides(pixel_values: torch.Tensor) -> None:
    if pixel_values is not None and pixel_values.ndim == 4:
        height, width = pixel_values.shape[-2:]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise ValueError(
                f"pixel_values: got images of {height}×{width}, accepted are sides that are multiples of "
                f"{STRIDES[-1]}: the image processor pads to them."
            )


def _check_labels(labels: Sequence[dict], batch: int, classes: int) -> None:
    if len(labels) != batch:
        raise ValueError(f"labels: got {len(labels)} for {batch} images, accepted is one dictionary for each.")
    for index, label in enumerate(labels):
        numbers = label["class_labels"]
        if len(numbers) and not (0 <= int(numbers.min()) and int(numbers.max()) < classes):
            raise ValueError(
                f"labels: class_labels of image {index} go from {int(numbers.min())} to {int(numbers.max())}, "
                f"accepted are the numbers from 0 to {classes - 1}, as config.num_labels is {classes}."
            )


class GoldYoloBackbone(BackboneMixin, GoldYoloPreTrainedModel):
    """The stem (stride 2), the stages (strides 4 to 32) and, where one of them is asked for, the neck's maps p3, n4
    and n5 as feature maps for detectors and segmenters."""

    has_attentions = False
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^(gold_yolo\.)?neck\."]

    def __init__(self, config: GoldYoloConfig):
        super().__init__(config)
        self.num_features = [*config.hidden_sizes, *config.level_sizes]
        self.stem = make_block(config, config.num_channels, config.hidden_sizes[0], stride=2)
        self.stages = nn.ModuleList(GoldYoloStage(config, index) for index in range(config.num_stages))
        self.neck = GoldYoloNeck(config) if set(self.out_features) & set(NECK_NAMES) else None
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        """
        Args:
            pixel_values: images in [0, 1], (batch, num_channels, height, width).
        """
        hidden_states = [self.stem(self.prepare_pixels(pixel_values))]
        for stage in self.stages:
            hidden_states.append(stage(hidden_states[-1]))
        if self.neck is not None:
            hidden_states += self.neck(hidden_states[1:])
        feature_maps = tuple(hidden_states[self.stage_names.index(name)] for name in self.out_features)
        return BackboneOutput(feature_maps=feature_maps, hidden_states=tuple(hidden_states))


__all__ = [
    "GoldYoloBackbone",
    "GoldYoloForObjectDetection",
    "GoldYoloModel",
    "GoldYoloPreTrainedModel",
]
