"""Configurations of ViG and Pyramid ViG (https://arxiv.org/abs/2206.00272) and their published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, imagenet_top1

GRAPH_CONVOLUTIONS = ("max_relative", "edge", "sage", "gin")
ACTIVATIONS = ("gelu", "relu", "leaky_relu", "hardswish", "silu")


@strict
class VigConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a ViG: patches of an image as the nodes of a graph, whose edges lead to the nearest neighbours in
    feature space and are found anew in each block. The defaults are ViG-Ti, with all nodes at stride 16.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) in pixels of the images whose grid the position encodings are stored
            for; images of any other size work, with interpolated encodings.
        stem_stride: side of a patch in pixels, a power of two from 2: one 3×3 convolution of stride 2 for each factor.
        hidden_sizes: channels of the stem and of each stage, multiples of `num_groups` and of 4.
        depths: blocks of each stage. ViG has no stages; here each is the blocks of one dilation, at the same stride.
        stage_strides: 2 where a 3×3 convolution of stride 2 leads to the stage, 1 where nothing does.
        num_neighbors: edges from each node, in the first and in the last block (linear in between), or one number.
        max_dilation: largest dilation: of the k·d nearest nodes every d-th is a neighbour. d is 1 in the first four
            blocks, 2 in the next four, and so on up to this. Where there are fewer nodes than k·d, d and k shrink.
        reduction_ratios: for each stage, the factor by which the map is average-pooled for the nodes at the other end
            of the edges.
        relative_position: bias the distances by the similarity of the nodes' positions.
        relative_position_per_block: keep a table of this bias for each block, where a checkpoint has different ones;
            otherwise the blocks of a stage share one.
        graph_convolution: "max_relative" (all published weights), "edge", "sage" or "gin".
        num_groups: groups of the graph convolutions' linear layers, the paper's heads of the multi-head update.
        mlp_ratio: expansion of the feed-forward layers.
        hidden_act: activation: "gelu", "relu", "leaky_relu" (slope 0.2), "hardswish" or "silu".
        random_dilation_rate: probability to take, in training, k random ones of the k·d nearest nodes instead of every
            d-th, in all images of the batch the same ones.
        drop_path_rate: largest probability to drop a branch in training; linear over the blocks from 0.
        classifier_hidden_size: width of the classifier's hidden layer; `classifier_dropout` follows it, in training.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "vig"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    stem_stride: int = 16
    hidden_sizes: list[int] | tuple[int, ...] = (192, 192, 192, 192)
    depths: list[int] | tuple[int, ...] = (4, 4, 4)
    stage_strides: list[int] | tuple[int, ...] = (1, 1, 1)
    num_neighbors: int | list[int] | tuple[int, int] = (9, 18)
    max_dilation: int = 10
    reduction_ratios: list[int] | tuple[int, ...] = (1, 1, 1)
    relative_position: bool = False
    relative_position_per_block: bool = False
    graph_convolution: str = "max_relative"
    num_groups: int = 4
    mlp_ratio: int = 4
    hidden_act: str = "gelu"
    random_dilation_rate: float | int = 0.0
    drop_path_rate: float | int = 0.0
    classifier_hidden_size: int = 1024
    classifier_dropout: float | int = 0.0
    reparameterized: bool = False
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        for name in ("hidden_sizes", "depths", "stage_strides", "reduction_ratios"):
            setattr(self, name, list(getattr(self, name)))
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("num_channels", "max_dilation", "num_groups", "mlp_ratio", "classifier_hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if self.stem_stride < 2 or self.stem_stride & (self.stem_stride - 1):
            raise ValueError(f"stem_stride: got {self.stem_stride}, accepted are powers of two from 2.")
        stages = len(self.depths)
        for name, length in (("hidden_sizes", stages + 1), ("stage_strides", stages), ("reduction_ratios", stages)):
            if len(getattr(self, name)) != length:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, accepted are {length} numbers for the {stages} stages of "
                    f"depths={self.depths}{' and the stem' if length > stages else ''}."
                )
        for name in ("depths", "reduction_ratios"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if any(size % self.num_groups or size % 4 or size < 4 for size in self.hidden_sizes):
            raise ValueError(
                f"hidden_sizes: got {self.hidden_sizes}, accepted are multiples of num_groups={self.num_groups} and 4."
            )
        if self.hidden_sizes[0] * 2 % self.stem_stride:
            raise ValueError(
                f"hidden_sizes: got {self.hidden_sizes[0]} for the stem, accepted are multiples of half of "
                f"stem_stride={self.stem_stride}: the stem starts with so many times fewer channels."
            )
        for index, stride in enumerate(self.stage_strides):
            same = self.hidden_sizes[index] == self.hidden_sizes[index + 1]
            if stride not in (1, 2) or (stride == 1 and not same):
                raise ValueError(
                    f"stage_strides: got {self.stage_strides}, accepted are 2, and 1 for a stage of the same hidden "
                    f"size as what is before it (hidden_sizes={self.hidden_sizes})."
                )
        if min(self._neighbors_range()) < 1:
            raise ValueError(f"num_neighbors: got {self.num_neighbors}, accepted are one or two numbers from 1.")
        for name, accepted in (("graph_convolution", GRAPH_CONVOLUTIONS), ("hidden_act", ACTIVATIONS)):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, accepted are {', '.join(map(repr, accepted))}."
                )
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: got {self.drop_path_rate}, accepted are numbers from 0 to below 1.")
        if not 0 <= self.random_dilation_rate <= 1:
            raise ValueError(f"random_dilation_rate: got {self.random_dilation_rate}, accepted are numbers 0 to 1.")

    def _neighbors_range(self) -> tuple[int, int]:
        if isinstance(self.num_neighbors, int):
            return self.num_neighbors, self.num_neighbors
        return tuple(self.num_neighbors) if len(self.num_neighbors) == 2 else (0, 0)

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)

    @property
    def blocks(self) -> list[list[dict]]:
        """Neighbours k, dilation d and drop-path rate of each block, stage by stage (section 3.2 and table 1)."""
        total = sum(self.depths)
        first, last = self._neighbors_range()
        blocks = iter(
            {
                "num_neighbors": first + (last - first) * index // max(total - 1, 1),
                "dilation": min(index // 4 + 1, self.max_dilation),
                "drop_path_rate": self.drop_path_rate * index / max(total - 1, 1),
            }
            for index in range(total)
        )
        return [[next(blocks) for _ in range(depth)] for depth in self.depths]

    def grid(self, index: int) -> tuple[int, int]:
        """Height and width of the map of `stage_names[index]` for images of `image_size`."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        for _ in range(self.stem_stride.bit_length() - 1 + self.stage_strides[:index].count(2)):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


@strict
class PyramidVigConfig(VigConfig):
    r"""Configuration of a Pyramid ViG, with stages at strides 4, 8, 16 and 32. The defaults are Pyramid ViG-Ti.

    See `VigConfig`.
    """

    model_type = "pyramidvig"

    stem_stride: int = 4
    hidden_sizes: list[int] | tuple[int, ...] = (48, 48, 96, 240, 384)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    stage_strides: list[int] | tuple[int, ...] = (1, 2, 2, 2)
    num_neighbors: int | list[int] | tuple[int, int] = 9
    max_dilation: int = 5
    reduction_ratios: list[int] | tuple[int, ...] = (4, 2, 1, 1)
    relative_position: bool = True


# Not ImageNet's mean and deviation, although the official defaults name them: the official presets say 0.5.
_IMAGES = {"size": {"shortest_edge": 224}, "crop_pct": 0.9, "resample": 3}
_IMAGES |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_RELEASES = "https://github.com/huawei-noah/Efficient-AI-Backbones/releases/tag/"


def _vig(size: int, stages: int, top1: float, **published) -> Preset:
    config = {"hidden_sizes": (size,) * (stages + 1), "depths": (4,) * stages}
    config |= {"stage_strides": (1,) * stages, "reduction_ratios": (1,) * stages}
    return _preset("vig", config, _IMAGES, top1, weights=_RELEASES + "vig", **published)


def _pyramid_vig(sizes: tuple[int, ...], third: int, top1: float, *, crop_pct: float = 0.9, **published) -> Preset:
    config = {"hidden_sizes": (sizes[0], *sizes), "depths": (2, 2, third, 2)}
    processor = _IMAGES | {"crop_pct": crop_pct}
    return _preset("pyramidvig", config, processor, top1, weights=_RELEASES + "pyramid-vig", **published)


def _preset(model_type: str, config: dict, image_processor: dict, top1: float, **published) -> Preset:
    return Preset(
        model_type=model_type,
        config=config,
        num_labels=1000,
        classes="imagenet-1k",
        image_processor=image_processor,
        published=imagenet_top1(top1, "paper"),
        weights_license="apache-2.0",
        **published,
    )


#: Published variants. Parameters and MACs (convolutions, linear layers and distances, one 224×224 image) in millions,
#: as trained and folded. top1: ImageNet-1k, per cent.
PRESETS: dict[str, Preset] = {
    "vig-ti": _vig(
        192,
        3,
        parameters=7.185,
        macs=1300.9,
        folded_parameters=7.140,
        folded_macs=1300.9,
        top1=73.9,
    ),
    "vig-s": _vig(
        320,
        4,
        parameters=22.748,
        macs=4516.7,
        folded_parameters=22.652,
        folded_macs=4516.7,
        top1=80.4,
    ),
    "vig-b": _vig(
        640,
        4,
        parameters=86.842,
        macs=17642.6,
        folded_parameters=86.652,
        folded_macs=17642.6,
        top1=82.3,
    ),
    "pyramidvig-ti": _pyramid_vig(
        (48, 96, 240, 384),
        6,
        parameters=10.714,
        macs=1699.6,
        folded_parameters=10.666,
        folded_macs=1699.6,
        top1=78.5,
    ),
    "pyramidvig-s": _pyramid_vig(
        (80, 160, 400, 640),
        6,
        parameters=27.252,
        macs=4548.1,
        folded_parameters=27.172,
        folded_macs=4548.1,
        top1=82.1,
    ),
    "pyramidvig-m": _pyramid_vig(
        (96, 192, 384, 768),
        16,
        parameters=49.526,
        macs=8845.1,
        folded_parameters=49.372,
        folded_macs=8845.1,
        top1=83.1,
    ),
    "pyramidvig-b": _pyramid_vig(
        (128, 256, 512, 1024),
        18,
        crop_pct=0.95,
        parameters=92.980,
        macs=16803.5,
        folded_parameters=92.757,
        folded_macs=16803.5,
        top1=83.7,
    ),
}
