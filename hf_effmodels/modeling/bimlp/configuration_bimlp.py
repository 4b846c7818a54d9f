"""Configuration of BiMLP (https://arxiv.org/abs/2212.14158) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, imagenet_top1

STAGE_NORMS = ("batch", "group")
ACTIVATIONS = ("ternary", "sign")


@strict
class BiMlpConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a BiMLP. The defaults are BiMLP-S's.

    Args:
        num_channels: channels of the input images.
        image_size: side of the images in pixels the model is meant for; any size from 32 works.
        hidden_sizes: channels of each stage, multiples of 4.
        depths: blocks of each stage.
        mlp_ratio: width of the channel MLP over that of the block; always 4.
        stage_norm: "batch" or "group" (one group) for the norms between the blocks' parts; those inside are batch
            norms.
        activation_binarizer: "ternary" (values -1, 0, 1: the released code) or "sign" (the paper).
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        drop_path_rate: rate of stochastic depth in every block.
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm; the group norms have the same eps.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "bimlp"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    hidden_sizes: list[int] | tuple[int, ...] = (64, 64, 128, 320, 512)
    depths: list[int] | tuple[int, ...] = (2, 2, 4, 2)
    mlp_ratio: int = 4
    stage_norm: str = "batch"
    activation_binarizer: str = "ternary"
    reparameterized: bool = False
    drop_path_rate: float | int = 0.0
    classifier_dropout: float | int = 0.0
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name, accepted in (("stage_norm", STAGE_NORMS), ("activation_binarizer", ACTIVATIONS)):
            if getattr(self, name) not in accepted:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, accepted are {', '.join(map(repr, accepted))}."
                )
        if self.num_channels < 1:
            raise ValueError(f"num_channels: got {self.num_channels}, accepted are whole numbers from 1.")
        if self.mlp_ratio != 4:
            raise ValueError(f"mlp_ratio: got {self.mlp_ratio}, accepted is 4: the shortcuts tile and average by it.")
        if min(self.depths, default=0) < 1:
            raise ValueError(f"depths: got {self.depths}, accepted are whole numbers from 1.")
        if len(self.hidden_sizes) != len(self.depths) + 1 or self.hidden_sizes[0] != self.hidden_sizes[1]:
            raise ValueError(
                f"hidden_sizes: got {self.hidden_sizes}, accepted are {len(self.depths) + 1} numbers for these "
                "depths, the stem's and the first stage's being the same."
            )
        if any(size < 4 or size % 4 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes: got {self.hidden_sizes}, accepted are multiples of 4.")
        for name in ("classifier_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to below 1.")

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


_IMAGENET = {
    "num_labels": 1000,
    "classes": "imagenet-1k",
    "image_processor": {
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "resample": 2,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
}

#: Published variants. Parameters and MACs (one image of 224 pixels) in millions.
PRESETS: dict[str, Preset] = {
    "bimlp-s": Preset(
        model_type="bimlp",
        config={},
        parameters=15.840,
        macs=2361.8,
        folded_parameters=15.840,
        folded_macs=2361.8,
        published=imagenet_top1(70.0, "paper, quoted from memory"),
        **_IMAGENET,
    ),
    "bimlp-m": Preset(
        model_type="bimlp",
        config={"depths": [2, 3, 10, 3], "stage_norm": "group"},
        parameters=29.687,
        macs=4429.3,
        folded_parameters=29.687,
        folded_macs=4429.3,
        published=(*imagenet_top1(71.56, "official repository"), *imagenet_top1(72.7, "paper, quoted from memory")),
        **_IMAGENET,
    ),
}
