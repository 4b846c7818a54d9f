"""Configuration of TinyViT (https://arxiv.org/abs/2207.10666) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, Published


@strict
class TinyVitConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a TinyViT. The defaults are TinyViT-5M's at 224 pixels.

    Args:
        image_size: side (or height and width) of the images in pixels the model is meant for; any size from 32 works.
        num_channels: channels of the input images.
        embed_dims: widths of the stages; the stem has the first one.
        depths: blocks of each stage. Those of the first stage are inverted residuals without attention.
        num_heads: attention heads of each stage from the second on.
        window_sizes: sides of the attention windows of each stage from the second on.
        mlp_ratio: width of an MLP's hidden layer over that of the block.
        mbconv_expand_ratio: width of an inverted residual's hidden layer over that of the block.
        local_conv_size: kernel of the depthwise convolution between attention and MLP, odd.
        downsample_strides: of the downsampling before each stage from the second on. The image encoders of MobileSAM
            and TinySAM have (2, 2, 1).
        hidden_act: activation function.
        hidden_dropout_prob: dropout in the MLPs.
        drop_path_rate: rate of stochastic depth in the last block; linear from 0 in the number of the block.
        layer_norm_eps, batch_norm_eps, batch_norm_momentum: of every layer norm and batch norm.
        initializer_range: standard deviation of the linear layers' truncated normal initialisation.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "tinyvit"

    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3
    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 14, 7)
    mlp_ratio: float | int = 4.0
    mbconv_expand_ratio: float | int = 4.0
    local_conv_size: int = 3
    downsample_strides: list[int] | tuple[int, ...] = (2, 2, 2)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-5
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    initializer_range: float = 0.02
    reparameterized: bool = False
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        for name in ("embed_dims", "depths", "num_heads", "window_sizes", "downsample_strides"):
            setattr(self, name, list(getattr(self, name)))
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        stages = len(self.depths)
        for name, length in (
            ("embed_dims", stages),
            ("num_heads", stages - 1),
            ("window_sizes", stages - 1),
            ("downsample_strides", stages - 1),
        ):
            if len(getattr(self, name)) != length:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are {length} numbers for these depths.")
        for name in ("embed_dims", "depths", "num_heads", "window_sizes"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        for name in ("num_channels", "mlp_ratio", "mbconv_expand_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")
        if self.embed_dims[0] % 2:
            raise ValueError(f"embed_dims: got {self.embed_dims}, the first must be even: the stem halves it.")
        for width, heads in zip(self.embed_dims[1:], self.num_heads, strict=True):
            if width % heads:
                raise ValueError(f"num_heads: got {heads}, which does not divide the width {width} of its stage.")
        if not {1, 2} >= set(self.downsample_strides):
            raise ValueError(f"downsample_strides: got {self.downsample_strides}, accepted are 1 and 2.")
        if self.local_conv_size < 1 or self.local_conv_size % 2 == 0:
            raise ValueError(f"local_conv_size: got {self.local_conv_size}, accepted are odd numbers.")
        for name in ("hidden_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to below 1.")

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels after the stem and after each stage."""
        return [self.embed_dims[0], *self.embed_dims]

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


#: The official repository's results, ImageNet-1k: top-1, top-5.
_SOURCE = "official repository"
_NARROW = {"num_heads": [4, 5, 10], "embed_dims": [64, 128, 160, 320]}
_MEDIUM = {"num_heads": [4, 8, 14], "embed_dims": [64, 128, 256, 448]}
_WIDE = {"num_heads": [6, 12, 18], "embed_dims": [96, 192, 384, 576]}
_WINDOWS = {224: [7, 14, 7], 384: [12, 24, 12], 512: [16, 32, 16]}


def _preset(
    file: str,
    shape: dict,
    parameters: tuple[float, float],
    macs: float,
    accuracy: tuple[float, float] | None,
    *,
    size: int = 224,
    num_labels: int = 1000,
    drop_path_rate: float = 0.0,
) -> Preset:
    """`parameters` (as trained and folded) and `macs` in millions; `accuracy`: top-1 and top-5 in per cent."""
    return Preset(
        model_type="tinyvit",
        config={**shape, "window_sizes": _WINDOWS[size], "image_size": size, "drop_path_rate": drop_path_rate},
        num_labels=num_labels,
        classes="imagenet-1k" if num_labels == 1000 else None,
        # At 224 pixels the shorter side becomes 256 and the centre is cut out; larger ones are squashed to a square.
        # Both is what ConvNeXT's image processor does.
        image_processor={
            "size": {"shortest_edge": size},
            "crop_pct": 0.875,
            "resample": 3,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=parameters[0],
        macs=macs,
        folded_parameters=parameters[1],
        folded_macs=macs,
        published=()
        if accuracy is None
        else tuple(
            Published(metric, value, "ImageNet-1k", _SOURCE)
            for metric, value in zip(("top-1", "top-5"), accuracy, strict=True)
        ),
        weights=f"https://github.com/wkcn/TinyViT-model-zoo/releases/download/checkpoints/tiny_vit_{file}.pth",
        weights_license="mit",
        timm=f"tiny_vit_{file.partition('_')[0]}_{size}.{_timm_tag(file)}",
    )


def _timm_tag(file: str) -> str:
    """What timm says of the weights' training."""
    if "22kto1k" in file:
        return "dist_in22k_ft_in1k"
    return "dist_in22k" if "22k" in file else "in1k"


#: Published variants. Parameters and MACs (convolutions and matrix products, one image of the variant's size) in
#: millions. `-22k-distilled`: the classifier of ImageNet-22k's 21841 classes; `-22kto1k`: fine-tuned from it.
PRESETS: dict[str, Preset] = {
    "tinyvit-5m": _preset("5m_1k", _NARROW, (5.393, 5.388), 1255.2, (79.1, 94.8)),
    "tinyvit-11m": _preset("11m_1k", _MEDIUM, (10.997, 10.991), 2016.0, (81.5, 95.8), drop_path_rate=0.1),
    "tinyvit-21m": _preset("21m_1k", _WIDE, (21.199, 21.189), 4250.3, (83.1, 96.5), drop_path_rate=0.2),
    "tinyvit-5m-22kto1k": _preset("5m_22kto1k_distill", _NARROW, (5.393, 5.388), 1255.2, (80.7, 95.6)),
    "tinyvit-11m-22kto1k": _preset("11m_22kto1k_distill", _MEDIUM, (10.997, 10.991), 2016.0, (83.2, 96.5)),
    "tinyvit-21m-22kto1k": _preset(
        "21m_22kto1k_distill", _WIDE, (21.199, 21.189), 4250.3, (84.8, 97.3), drop_path_rate=0.1
    ),
    "tinyvit-21m-384": _preset(
        "21m_22kto1k_384_distill", _WIDE, (21.230, 21.221), 13697.9, (86.2, 97.8), size=384, drop_path_rate=0.1
    ),
    "tinyvit-21m-512": _preset(
        "21m_22kto1k_512_distill", _WIDE, (21.268, 21.259), 26883.6, (86.5, 97.9), size=512, drop_path_rate=0.1
    ),
    "tinyvit-5m-22k": _preset("5m_22k_distill", _NARROW, (12.083, 12.078), 1261.8, None, num_labels=21841),
    "tinyvit-11m-22k": _preset("11m_22k_distill", _MEDIUM, (20.355, 20.348), 2025.4, None, num_labels=21841),
    "tinyvit-21m-22k": _preset(
        "21m_22k_distill", _WIDE, (33.224, 33.215), 4262.3, None, num_labels=21841, drop_path_rate=0.1
    ),
}
