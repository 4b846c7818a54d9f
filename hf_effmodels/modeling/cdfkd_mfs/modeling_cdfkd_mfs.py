"""The networks of CDFKD-MFS (https://arxiv.org/abs/2205.11845): a trunk, and for each teacher a head of its own.

Shapes are (batch, channels, height, width) throughout, of heads (batch, heads, ...).
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoBackbone
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
from ..layers.initialization import StockPartsMixin, init_like_torch
from ..layers.pixels import PixelsMixin, check_pixels
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, norm_scale_and_shift
from .configuration_cdfkd_mfs import CdfkdMfsConfig


@dataclass
class CdfkdMfsModelOutput(BaseModelOutputWithPoolingAndNoAttention):
    """
    Args:
        last_hidden_state: the trunk's last map.
        pooler_output: (batch, width), the mean of the heads' features.
        head_features: (batch, heads, width), what the classifier of each head sees.
    """

    head_features: torch.FloatTensor | None = None


@dataclass
class CdfkdMfsClassifierOutput(ImageClassifierOutputWithNoAttention):
    """
    Args:
        logits: (batch, labels), of the heads together.
        head_logits: (batch, heads, labels).
        head_features: (batch, heads, width).
    """

    head_logits: torch.FloatTensor | None = None
    head_features: torch.FloatTensor | None = None


def _conv(config: CdfkdMfsConfig) -> partial:
    """Constructor of the network's convolutions with their batch norms."""
    return partial(
        ConvNorm, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum, folded=config.reparameterized
    )


class CdfkdMfsNorm(nn.Module):
    """A batch norm with no convolution before it; once folded, a factor and a summand for each channel."""

    def __init__(self, config: CdfkdMfsConfig, channels: int):
        super().__init__()
        self.norm = self.scale = None
        if config.reparameterized:
            self.scale = nn.Conv2d(channels, channels, 1, groups=channels)
        else:
            self.norm = nn.BatchNorm2d(channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.scale(hidden_states) if self.norm is None else self.norm(hidden_states)

    def fold(self) -> None:
        if self.norm is None:
            return
        scale, shift = norm_scale_and_shift(self.norm)
        like, channels = self.norm.weight, len(scale)
        self.scale = nn.Conv2d(channels, channels, 1, groups=channels, device=like.device, dtype=like.dtype)
        self.scale.weight.copy_(scale[:, None, None, None])
        self.scale.bias.copy_(shift)
        self.norm = None


class CdfkdMfsStem(nn.Module):
    """A 3×3 convolution, or a 7×7 one and a max-pooling; the wide ResNet's has neither batch norm nor ReLU."""

    def __init__(self, config: CdfkdMfsConfig):
        super().__init__()
        sizes = {"kernel_size": 3} if config.stem == "cifar" else {"kernel_size": 7, "stride": 2, "padding": 3}
        channels = config.num_channels, config.hidden_sizes[0]
        self.is_plain = config.trunk == "wide_resnet"
        self.pools = config.stem == "imagenet"
        if self.is_plain:
            self.convolution = nn.Conv2d(*channels, bias=False, **{"padding": 1, **sizes})
        else:
            self.convolution = _conv(config)(*channels, **sizes)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden_states = self.convolution(pixel_values)
        if not self.is_plain:
            hidden_states = hidden_states.relu()
        return F.max_pool2d(hidden_states, 3, stride=2, padding=1) if self.pools else hidden_states


class CdfkdMfsResNetBlock(GradientCheckpointingLayer):
    """Two 3×3 convolutions and a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, config: CdfkdMfsConfig, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        conv = _conv(config)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride)
        self.conv2 = conv(out_channels, out_channels, 3)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = conv(in_channels, out_channels, 1, stride=stride) if changes else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        residual = hidden_states if self.shortcut is None else self.shortcut(hidden_states)
        return (self.conv2(self.conv1(hidden_states).relu()) + residual).relu()


class CdfkdMfsWideBlock(GradientCheckpointingLayer):
    """Batch norm, ReLU and convolution twice, and a shortcut; a 1×1 shortcut begins after the first ReLU."""

    def __init__(self, config: CdfkdMfsConfig, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.norm = CdfkdMfsNorm(config, in_channels)
        self.conv1 = _conv(config)(in_channels, out_channels, 3, stride=stride)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        activated = self.norm(hidden_states).relu()
        residual = hidden_states if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.conv1(activated).relu()) + residual


_BLOCKS = {"resnet": CdfkdMfsResNetBlock, "wide_resnet": CdfkdMfsWideBlock}


class CdfkdMfsStage(nn.Module):
    """Blocks of one width; the first halves the map in all stages but the first."""

    def __init__(self, config: CdfkdMfsConfig, index: int):
        super().__init__()
        before, size = config.hidden_sizes[index : index + 2]
        depth = config.depths[index]
        if config.sharing == "last_block" and index == len(config.depths) - 1:
            depth -= 1  # each head has its own
        self.blocks = nn.ModuleList(
            _BLOCKS[config.trunk](config, size if number else before, size, 1 if number or not index else 2)
            for number in range(depth)
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


class CdfkdMfsEncoder(nn.Module):
    """Two depthwise separable convolutions, the first of which halves the map, as in Be Your Own Teacher
    (https://arxiv.org/abs/1905.08094); a batch norm after each pair only."""

    def __init__(self, config: CdfkdMfsConfig, in_channels: int, out_channels: int):
        super().__init__()
        depthwise = partial(nn.Conv2d, in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.reduce_depthwise = depthwise(stride=2)
        self.reduce = _conv(config)(in_channels, in_channels)
        self.project_depthwise = depthwise()
        self.project = _conv(config)(in_channels, out_channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.reduce(self.reduce_depthwise(hidden_states)).relu()
        return self.project(self.project_depthwise(hidden_states)).relu()


class CdfkdMfsClassifier(nn.ModuleList):
    """A linear layer for each head: (batch, heads, width) -> (batch, heads, labels)."""

    def __init__(self, config: CdfkdMfsConfig, size: int):
        heads = range(config.num_heads)
        super().__init__(nn.Linear(size, config.num_labels) if config.num_labels else nn.Identity() for _ in heads)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(features[:, index]) for index, head in enumerate(self)], dim=1)


class CdfkdMfsAttention(nn.Module):
    """How much each head counts for an image: (batch, heads, width) -> (batch, heads), summing to 1.

    The paper's abstract speaks of such a module, for when some real images are there; its equations are not known
    here, and the release lacks it. This one is this package's: softmax over h of q(mean f) · k(f_h) / √d. The query
    begins at zero, so that all heads count alike.
    """

    def __init__(self, size: int, attention_size: int):
        super().__init__()
        self.query = nn.Linear(size, attention_size)
        self.key = nn.Linear(size, attention_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        query, keys = self.query(features.mean(1)), self.key(features)
        return ((keys @ query[:, :, None])[..., 0] / math.sqrt(query.shape[1])).softmax(-1)


class CdfkdMfsPreTrainedModel(StockPartsMixin, PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all of these networks share: configuration, initialisation, folding."""

    config: CdfkdMfsConfig
    base_model_prefix = "cdfkd_mfs"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["CdfkdMfsResNetBlock", "CdfkdMfsWideBlock", "CdfkdMfsEncoder"]
    _can_record_outputs = {"hidden_states": CdfkdMfsStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        aggregation = getattr(self, "aggregation", None)
        if aggregation is not None and module is aggregation.query:
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            init_like_torch(module)
        else:
            super()._init_weights(module)

    def check_reparameterizable(self) -> None:
        if self.config.trunk == "backbone":
            raise ValueError("reparameterize: it folds this package's own trunks; config.trunk is 'backbone'.")


class CdfkdMfsModel(CdfkdMfsPreTrainedModel):
    """Trunk and heads without the classifiers. `hidden_states` are the outputs of the stem and of each stage (none of
    them of a foreign backbone)."""

    def __init__(self, config: CdfkdMfsConfig):
        super().__init__(config)
        self.backbone = self.stem = self.stages = self.encoders = self.branches = self.norm = None
        if config.trunk == "backbone":
            self.backbone = AutoBackbone.from_config(config.backbone_config)
            sizes = list(self.backbone.channels)
        else:
            sizes = config.hidden_sizes[1:]
            self.stem = CdfkdMfsStem(config)
            self.stages = nn.ModuleList(CdfkdMfsStage(config, index) for index in range(len(sizes)))
        heads = range(config.num_heads)
        self.num_features = sizes[-1]
        if config.sharing == "multi_level":
            # A level takes the trunk's map beside the level below, and gives what is as wide as the next one's.
            levels = [
                (size * (2 if index else 1), sizes[min(index + 1, len(sizes) - 1)]) for index, size in enumerate(sizes)
            ]
            self.encoders = nn.ModuleList(
                nn.ModuleList(CdfkdMfsEncoder(config, *level) for _ in heads) for level in levels
            )
        elif config.sharing == "last_block":
            self.branches = nn.ModuleList(CdfkdMfsResNetBlock(config, sizes[-1], sizes[-1]) for _ in heads)
        elif config.trunk == "wide_resnet":
            self.norm = CdfkdMfsNorm(config, sizes[-1])
        self.post_init()

    def trunk(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """The map of each stage."""
        if self.backbone is not None:
            check_pixels(pixel_values, self.config.num_channels)
            return list(self.backbone(pixel_values).feature_maps)
        hidden_states, maps = self.stem(self.prepare_pixels(pixel_values)), []
        for stage in self.stages:
            hidden_states = stage(hidden_states)
            maps.append(hidden_states)
        return maps

    def features_of(self, head: int, maps: list[torch.Tensor]) -> torch.Tensor:
        """(batch, width): what the classifier of a head sees, of the trunk's maps."""
        if self.encoders is not None:
            gathered = self.encoders[0][head](maps[0])
            for level, shared in zip(self.encoders[1:], maps[1:], strict=True):
                gathered = level[head](torch.cat([shared, _fit(gathered, shared)], dim=1))
        elif self.branches is not None:
            gathered = self.branches[head](maps[-1])
        else:
            gathered = maps[-1] if self.norm is None else self.norm(maps[-1]).relu()
        return gathered.mean((2, 3))

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> CdfkdMfsModelOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
        """
        maps = self.trunk(pixel_values)
        features = torch.stack([self.features_of(head, maps) for head in range(self.config.num_heads)], dim=1)
        return CdfkdMfsModelOutput(last_hidden_state=maps[-1], pooler_output=features.mean(1), head_features=features)


def _fit(gathered: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """What was gathered, of the size of the trunk's next map: that may have rounded down, a level rounds up."""
    (height, width), sizes = shared.shape[2:], gathered.shape[2:]
    if not (0 <= sizes[0] - height <= 1 and 0 <= sizes[1] - width <= 1):
        raise ValueError(
            f"backbone_config: a map of {height}×{width} follows one that was halved to {sizes[0]}×{sizes[1]}; "
            "accepted as out_features are stages each of which halves the map."
        )
    return gathered[:, :, :height, :width]


class CdfkdMfsForImageClassification(CdfkdMfsPreTrainedModel):
    """A linear classifier on the features of each head; the logits are the mean over the heads, or a weighted one."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False

    def __init__(self, config: CdfkdMfsConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.cdfkd_mfs = CdfkdMfsModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = CdfkdMfsClassifier(config, self.cdfkd_mfs.num_features)
        self.aggregation = None
        if config.aggregation == "attention":
            self.aggregation = CdfkdMfsAttention(self.cdfkd_mfs.num_features, config.attention_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CdfkdMfsClassifierOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or multi-hot rows (batch, num_labels), or values for a regression; which
                of them is decided by `config.problem_type`. The loss is returned with them, of the logits together.
        """
        outputs = self.cdfkd_mfs(pixel_values, **kwargs)
        features = outputs.head_features
        head_logits = self.classifier(self.dropout(features))
        if self.aggregation is None:
            logits = head_logits.mean(1)
        else:
            logits = (self.aggregation(features)[:, :, None] * head_logits).sum(1)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return CdfkdMfsClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            head_logits=head_logits,
            head_features=features,
        )


class CdfkdMfsBackbone(StagesBackboneMixin, CdfkdMfsPreTrainedModel):
    """The trunk's stages as feature maps for detectors and segmenters."""

    _keys_to_ignore_on_load_unexpected = [r"^(cdfkd_mfs\.)?(encoders|branches|norm|classifier|aggregation)\."]

    def __init__(self, config: CdfkdMfsConfig):
        super().__init__(config)
        if config.trunk == "backbone":
            raise ValueError(
                "trunk: 'backbone' is a backbone itself, AutoBackbone makes it of config.backbone_config."
            )
        self.num_features = config.hidden_sizes
        self.stem = CdfkdMfsStem(config)
        self.stages = nn.ModuleList(CdfkdMfsStage(config, index) for index in range(len(config.depths)))
        self.post_init()


__all__ = ["CdfkdMfsBackbone", "CdfkdMfsForImageClassification", "CdfkdMfsModel", "CdfkdMfsPreTrainedModel"]
