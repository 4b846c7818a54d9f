"""ViG and Pyramid ViG (Vision GNN, https://arxiv.org/abs/2206.00272): an image as a graph of patches.

A block joins each node with its nearest neighbours in feature space and convolves along these edges (Grapher), then
mixes the channels (feed-forward). Maps are (batch, channels, height, width); the same values as nodes of a graph are
(batch, height · width, channels).
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
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..layers.backbone import StagesBackboneMixin
from ..layers.batch_norm import BatchNormMixin
from ..layers.drop_path import DropPath
from ..layers.pixels import PixelsMixin
from ..layers.reparameterization import ConvNorm, ReparameterizationMixin, norm_scale_and_shift
from .configuration_vig import PyramidVigConfig, VigConfig
from .graph_convolutions import ACTIVATIONS, GRAPH_CONVOLUTIONS, GinConv
from .knn_graph import KnnGraph
from .position_encodings import (
    interpolate_position_embedding,
    interpolate_relative_position,
    pooled,
    relative_position_bias,
)

logger = logging.get_logger(__name__)


@dataclass
class VigModelOutput(BaseModelOutputWithPoolingAndNoAttention):
    """Adds the graphs: for each block the indices (batch, nodes, k) of every node's neighbours, nearest first.

    Nodes are counted row by row on the map of the block; the neighbours are nodes of that map pooled by the stage's
    `config.reduction_ratios`, also row by row.
    """

    graph: tuple[torch.Tensor, ...] | None = None


@dataclass
class VigClassifierOutput(ImageClassifierOutputWithNoAttention):
    """Adds the graphs, as in `VigModelOutput`."""

    graph: tuple[torch.Tensor, ...] | None = None


def _conv(config: VigConfig) -> partial:
    return partial(
        ConvNorm,
        bias=True,
        eps=config.batch_norm_eps,
        momentum=config.batch_norm_momentum,
        folded=config.reparameterized,
    )


class VigStem(nn.Module):
    """3×3 convolutions of stride 2 down to the nodes and one more, then the learned position embedding."""

    def __init__(self, config: VigConfig):
        super().__init__()
        conv, size = _conv(config), config.hidden_sizes[0]
        halvings = config.stem_stride.bit_length() - 1
        widths = [config.num_channels] + [size // 2**power for power in reversed(range(halvings))]
        self.layers = nn.ModuleList(conv(*shape, 3, stride=2) for shape in zip(widths[:-1], widths[1:], strict=True))
        self.layers.append(conv(size, size, 3))
        self.activation = ACTIVATIONS[config.hidden_act]
        self.position_embedding = nn.Parameter(torch.zeros(1, size, *config.grid(0)))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden_states = pixel_values
        for layer in self.layers[:-1]:
            hidden_states = self.activation(layer(hidden_states))
        hidden_states = self.layers[-1](hidden_states)
        return hidden_states + interpolate_position_embedding(self.position_embedding, *hidden_states.shape[-2:])


class Grapher(nn.Module):
    """1×1 convolution, graph, graph convolution to twice the channels, 1×1 convolution back; residual (equation 7).

    Args:
        block: neighbours, dilation and drop-path rate, see `VigConfig.blocks`.
        reduction: the nodes at the other end of the edges are those of the map pooled by this factor.
    """

    def __init__(self, config: VigConfig, channels: int, block: dict, reduction: int):
        super().__init__()
        conv = _conv(config)
        self.reduction = reduction
        self.project_in = conv(channels, channels)
        self.graph = KnnGraph(block["num_neighbors"], block["dilation"], config.random_dilation_rate)
        self.convolution = GRAPH_CONVOLUTIONS[config.graph_convolution](
            channels,
            2 * channels,
            groups=config.num_groups,
            activation=config.hidden_act,
            eps=config.batch_norm_eps,
            momentum=config.batch_norm_momentum,
            folded=config.reparameterized,
        )
        self.project_out = conv(2 * channels, channels)
        self.drop_path = DropPath(block["drop_path_rate"])

    def forward(self, hidden_states: torch.Tensor, relative_position: torch.Tensor | None) -> torch.Tensor:
        residual, (height, width) = hidden_states, hidden_states.shape[-2:]
        hidden_states = self.project_in(hidden_states)
        nodes = keys = hidden_states.flatten(2).transpose(1, 2)
        if self.reduction > 1:
            window = min(self.reduction, height), min(self.reduction, width)
            keys = F.avg_pool2d(hidden_states, window, window).flatten(2).transpose(1, 2)
        neighbors = self.graph(nodes, keys, relative_position)
        hidden_states = self.convolution(nodes, keys, neighbors, (height, width))
        return residual + self.drop_path(self.project_out(hidden_states))


class VigFeedForward(nn.Module):
    """Two 1×1 convolutions with an activation between; residual (equation 8)."""

    def __init__(self, config: VigConfig, channels: int, drop_path_rate: float):
        super().__init__()
        conv = _conv(config)
        self.expand = conv(channels, config.mlp_ratio * channels)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.reduce = conv(config.mlp_ratio * channels, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.drop_path(self.reduce(self.activation(self.expand(hidden_states))))


class VigBlock(GradientCheckpointingLayer):
    """Grapher and feed-forward."""

    def __init__(self, config: VigConfig, channels: int, block: dict, reduction: int):
        super().__init__()
        self.grapher = Grapher(config, channels, block, reduction)
        self.feed_forward = VigFeedForward(config, channels, block["drop_path_rate"])

    def forward(self, hidden_states: torch.Tensor, relative_position: torch.Tensor | None) -> torch.Tensor:
        return self.feed_forward(self.grapher(hidden_states, relative_position))


class VigStage(nn.Module):
    """The blocks of one size, behind a strided 3×3 convolution if the stage before has another."""

    def __init__(self, config: VigConfig, index: int):
        super().__init__()
        channels, self.reduction = config.hidden_sizes[index + 1], config.reduction_ratios[index]
        self.downsample = None
        if config.stage_strides[index] > 1:
            self.downsample = _conv(config)(config.hidden_sizes[index], channels, 3, stride=2)
        table = None
        if config.relative_position:
            # A constant, but one that checkpoints keep; the official code keeps one for each block.
            self.grid, self.channels = config.grid(index + 1), channels
            keys = pooled(self.grid[0], self.reduction) * pooled(self.grid[1], self.reduction)
            tables = (config.depths[index],) if config.relative_position_per_block else ()
            table = torch.zeros(*tables, self.grid[0] * self.grid[1], keys)
        self.register_buffer("relative_position", table)
        self.blocks = nn.ModuleList(
            VigBlock(config, channels, block, self.reduction) for block in config.blocks[index]
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.downsample is not None:
            hidden_states = self.downsample(hidden_states)
        relative_positions = self.relative_positions(*hidden_states.shape[-2:])
        for block, relative_position in zip(self.blocks, relative_positions, strict=True):
            hidden_states = block(hidden_states, relative_position)
        return hidden_states

    def relative_positions(self, height: int, width: int) -> list[torch.Tensor | None]:
        """The bias of the distances for each block, (nodes, keys) of a map of this size."""
        stored = self.relative_position
        if stored is None:
            return [None] * len(self.blocks)
        nodes, keys = height * width, pooled(height, self.reduction) * pooled(width, self.reduction)
        if stored.ndim == 2:
            return [interpolate_relative_position(stored, nodes, keys)] * len(self.blocks)
        return [interpolate_relative_position(table, nodes, keys) for table in stored]


class VigHead(nn.Module):
    """The classifier's hidden layer: linear, batch norm, activation; (batch, channels) -> (batch, hidden size)."""

    def __init__(self, config: VigConfig):
        super().__init__()
        self.linear = nn.Linear(config.hidden_sizes[-1], config.classifier_hidden_size)
        self.norm = None
        if not config.reparameterized:
            self.norm = nn.BatchNorm1d(
                config.classifier_hidden_size, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum
            )
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.linear(hidden_states)
        if self.norm is not None:
            hidden_states = self.norm(hidden_states)
        return self.activation(hidden_states)

    @torch.no_grad()
    def fold(self) -> None:
        if self.norm is None:
            return
        scale, shift = norm_scale_and_shift(self.norm)
        self.linear.bias.copy_(self.linear.bias.double() * scale + shift)
        self.linear.weight.copy_(self.linear.weight.double() * scale[:, None])
        self.norm = None


def _fix_size(pixel_values: torch.Tensor) -> None:
    """Exported programs are for images of one size, on which the numbers of nodes and neighbours and the encodings
    depend; the batch may be of any size."""
    sizes = pixel_values.shape[-2:]
    symbolic = any(isinstance(size, torch.SymInt) for size in sizes)
    # Fixes a symbolic size to that of the sample.
    height, width = map(int, sizes)
    if symbolic:
        logger.warning_once(
            f"pixel_values: the exported program takes images of {height}×{width} pixels only, in batches of any "
            "size: a ViG's graph and position encodings depend on the size of the images."
        )


class VigPreTrainedModel(PixelsMixin, ReparameterizationMixin, BatchNormMixin, PreTrainedModel):
    """What all ViGs share: configuration, initialisation, folding."""

    config: VigConfig
    base_model_prefix = "vig"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # A map in this format is its list of nodes: nothing has to be transposed.
    channels_last_on_cpu = True
    _no_split_modules = ["VigBlock"]
    _can_record_outputs = {"hidden_states": VigStage, "graph": KnnGraph}

    def prepare_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        pixel_values = super().prepare_pixels(pixel_values)
        if torch.compiler.is_exporting():
            _fix_size(pixel_values)
        return pixel_values

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # Kaiming normal with a gain of √2, biases zero (official code).
            init.kaiming_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, VigStem):
            init.zeros_(module.position_embedding)
        elif isinstance(module, GinConv):
            init.zeros_(module.eps)
        elif isinstance(module, VigStage):
            if module.relative_position is not None:
                bias = relative_position_bias(module.channels, *module.grid, module.reduction)
                init.copy_(module.relative_position, bias)
        else:
            super()._init_weights(module)


class VigModel(VigPreTrainedModel):
    """The network without its classifier.

    `last_hidden_state` is the output of the last stage, `pooler_output` its average over the map; `hidden_states` are
    the outputs of the stem and of each stage. With `output_graph=True`, `graph` has the edges of each block.
    """

    def __init__(self, config: VigConfig):
        super().__init__(config)
        self.stem = VigStem(config)
        self.stages = nn.ModuleList(VigStage(config, index) for index in range(len(config.depths)))
        self.post_init()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> VigModelOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            output_graph: return the edges of each block, see `VigModelOutput`.
        """
        hidden_states = self.stem(self.prepare_pixels(pixel_values))
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        return VigModelOutput(last_hidden_state=hidden_states, pooler_output=hidden_states.mean((2, 3)))


class VigForImageClassification(VigPreTrainedModel):
    """ViG with its two-layer classifier on the pooled features."""

    # Without this the Trainer would believe that the loss is already divided by the accumulated batch.
    accepts_loss_kwargs = False
    model_class = VigModel

    def __init__(self, config: VigConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, self.model_class(config))
        self.head = VigHead(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Identity()
        if config.num_labels > 0:
            self.classifier = nn.Linear(config.classifier_hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> VigClassifierOutput:
        """
        Args:
            pixel_values: normalised images, (batch, num_channels, height, width).
            labels: class indices (batch,), or multi-hot rows (batch, num_labels), or values for a regression; which
                of them is decided by `config.problem_type`. The loss is returned with them.
            output_graph: return the edges of each block, see `VigModelOutput`.
        """
        outputs = self.base_model(pixel_values, **kwargs)
        logits = self.classifier(self.dropout(self.head(outputs.pooler_output)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return VigClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, graph=outputs.graph)


class VigBackbone(StagesBackboneMixin, VigPreTrainedModel):
    """The stages as feature maps for detectors and segmenters.

    ViG: all at stride 16. Pyramid ViG: "stem" and "stage1" at stride 4, then 8, 16 and 32.
    """

    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^classifier\."]

    def __init__(self, config: VigConfig):
        super().__init__(config)
        self.num_features = config.hidden_sizes
        self.stem = VigStem(config)
        self.stages = nn.ModuleList(VigStage(config, index) for index in range(len(config.depths)))
        self.post_init()


class PyramidVigPreTrainedModel(VigPreTrainedModel):
    config: PyramidVigConfig
    base_model_prefix = "pyramidvig"


class PyramidVigModel(PyramidVigPreTrainedModel, VigModel):
    """Pyramid ViG without its classifier. See `VigModel`."""


class PyramidVigForImageClassification(PyramidVigPreTrainedModel, VigForImageClassification):
    """Pyramid ViG with its classifier. See `VigForImageClassification`."""

    model_class = PyramidVigModel


class PyramidVigBackbone(PyramidVigPreTrainedModel, VigBackbone):
    """Pyramid ViG's feature maps. See `VigBackbone`."""


__all__ = [
    "PyramidVigBackbone",
    "PyramidVigForImageClassification",
    "PyramidVigModel",
    "PyramidVigPreTrainedModel",
    "VigBackbone",
    "VigForImageClassification",
    "VigModel",
    "VigPreTrainedModel",
]
