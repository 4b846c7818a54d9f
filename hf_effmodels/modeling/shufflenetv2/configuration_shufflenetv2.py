"""Configuration of ShuffleNetV2 (https://arxiv.org/abs/1807.11164) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, Published


@strict
class ShuffleNetV2Config(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a ShuffleNetV2. The defaults are those of 1.0×.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any other size works.
        depths: units of each stage; the first of them halves the map.
        hidden_sizes: channels after the stem and after each stage; those of the stages are even.
        final_size: channels of the last 1×1 convolution, which are pooled.
        reparameterized: the batch norms are folded for deployment (see `reparameterize()`).
        classifier_dropout: dropout before the classifier, in training.
        batch_norm_eps, batch_norm_momentum: of every batch norm.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default).
    """

    model_type = "shufflenetv2"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    depths: list[int] | tuple[int, ...] = (4, 8, 4)
    hidden_sizes: list[int] | tuple[int, ...] = (24, 116, 232, 464)
    final_size: int = 1024
    reparameterized: bool = False
    classifier_dropout: float | int = 0.0
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.depths, self.hidden_sizes = list(self.depths), list(self.hidden_sizes)
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name in ("num_channels", "final_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths: got {self.depths}, accepted are whole numbers from 1.")
        sizes = self.hidden_sizes
        if len(sizes) != len(self.depths) + 1 or min(sizes) < 1 or any(size % 2 for size in sizes[1:]):
            raise ValueError(
                f"hidden_sizes: got {sizes}, accepted are {len(self.depths) + 1} whole numbers from 1, one for the "
                "stem and an even one for each of the stages."
            )
        if not 0 <= self.classifier_dropout < 1:
            raise ValueError(
                f"classifier_dropout: got {self.classifier_dropout}, accepted are numbers from 0 below 1."
            )

    @property
    def num_hidden_layers(self) -> int:
        return len(self.depths)


def _preset(
    sizes: list[int],
    final_size: int,
    crop_pct: float,
    parameters: tuple[float, float],
    macs: float,
    accuracies: tuple[float, float],
    file: str,
) -> Preset:
    """`parameters` (as trained and folded) and `macs` in millions; `accuracies`: top-1 and top-5."""
    return Preset(
        model_type="shufflenetv2",
        config={"hidden_sizes": [24, *sizes], "final_size": final_size},
        num_labels=1000,
        classes="imagenet-1k",
        image_processor={
            "size": {"shortest_edge": 224},
            "crop_pct": crop_pct,
            "resample": 2,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=parameters[0],
        macs=macs,
        folded_parameters=parameters[1],
        folded_macs=macs,
        published=tuple(
            Published(metric, value, "ImageNet-1k", "torchvision")
            for metric, value in zip(("top-1", "top-5"), accuracies, strict=True)
        ),
        weights=f"https://download.pytorch.org/models/{file}.pth",
        weights_license="bsd-3-clause",
    )


#: Published variants, with torchvision's weights: 0.5× and 1.0× are ported from another training, 1.5× and 2.0×
#: trained by torchvision's later recipe. The paper's top-1: 60.3, 69.4, 72.6 and 74.9 per cent.
PRESETS: dict[str, Preset] = {
    "shufflenetv2-0.5x": _preset(
        [48, 96, 192], 1024, 0.875, (1.367, 1.363), 40.5, (60.552, 81.746), "shufflenetv2_x0.5-f707e7126e"
    ),
    "shufflenetv2-1.0x": _preset(
        [116, 232, 464], 1024, 0.875, (2.279, 2.271), 144.9, (69.362, 88.316), "shufflenetv2_x1-5666bf0f80"
    ),
    "shufflenetv2-1.5x": _preset(
        [176, 352, 704], 1024, 0.965, (3.504, 3.492), 295.8, (72.996, 91.086), "shufflenetv2_x1_5-3c479a10"
    ),
    "shufflenetv2-2.0x": _preset(
        [244, 488, 976], 2048, 0.965, (7.394, 7.377), 583.3, (76.230, 93.006), "shufflenetv2_x2_0-8be3c8ee"
    ),
}
