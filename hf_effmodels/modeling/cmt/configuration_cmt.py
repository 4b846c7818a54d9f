"""Configuration of CMT (https://arxiv.org/abs/2107.06263) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, imagenet_top1


@strict
class CmtConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a CMT. The defaults are CMT-S's at 224 pixels.

    Args:
        image_size: side (or height and width) of the images in pixels that the tables of relative positions are for;
            other sizes work, with tables that are resized.
        num_channels: channels of the input images.
        stem_channels: width of the stem's three convolutions.
        embed_dims, depths, num_heads: widths, blocks and attention heads of the stages.
        sr_ratios: how many times fewer rows and columns keys and values have than queries, of each stage.
        mlp_ratio: width of a feed-forward's hidden layer over that of the block.
        head_channels: width of the convolution before the classifier.
        final_norm: `CmtModel` ends with a layer norm, as the encoder of FastMIM does; classifiers and backbones do
            without.
        hidden_act: activation function; the convolution before the classifier has a swish.
        classifier_dropout: dropout before the classifier, in training.
        drop_path_rate: rate of stochastic depth in the last block; linear from 0 in the number of the block.
        layer_norm_eps: of the blocks' norms and the last one; `embedding_norm_eps` of those after the patches.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        initializer_range: standard deviation of the linear layers' truncated normal initialisation.
        reparameterized: the batch norms that follow a convolution are folded (see `reparameterize()`).
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "cmt"

    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3
    stem_channels: int = 32
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (3, 3, 16, 3)
    num_heads: list[int] | tuple[int, ...] = (1, 2, 4, 8)
    sr_ratios: list[int] | tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratio: float | int = 4.0
    head_channels: int = 1280
    final_norm: bool = False
    hidden_act: str = "gelu"
    classifier_dropout: float | int = 0.1
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    embedding_norm_eps: float = 1e-5
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    initializer_range: float = 0.02
    reparameterized: bool = False
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        for name in ("embed_dims", "depths", "num_heads", "sr_ratios"):
            setattr(self, name, list(getattr(self, name)))
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("embed_dims", "num_heads", "sr_ratios"):
            if len(getattr(self, name)) != len(self.depths):
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, accepted are {len(self.depths)} numbers for these depths."
                )
        for name in ("embed_dims", "depths", "num_heads", "sr_ratios"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("num_channels", "stem_channels", "head_channels", "mlp_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        for width, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"num_heads: got {heads}, which does not divide the width {width} of its stage.")
        for name in ("classifier_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to below 1.")

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels after the stem and after each stage."""
        return [self.stem_channels, *self.embed_dims]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


PRESETS: dict[str, Preset] = {
    "cmt-small": Preset(
        model_type="cmt",
        config={},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor={
            "size": {"shortest_edge": 224},
            "crop_pct": 0.875,
            "resample": 3,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=26.256,
        macs=4031.7,
        folded_parameters=26.232,
        folded_macs=4031.7,
        published=imagenet_top1(83.9, "FastMIM's repository, pre-trained by FastMIM"),
        weights="https://github.com/ggjy/FastMIM.pytorch",
    ),
}
