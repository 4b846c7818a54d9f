"""Configuration of DeViT (https://arxiv.org/abs/2309.05015) and its variants."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset

PART_TYPES = ("vit", "deit", "cct")
_KEYS = ("hidden_size", "head_dim", "num_heads", "intermediate_sizes")


def part_sizes(hidden_size: int, depth: int, heads: int, mlp_ratio: int = 4) -> dict[str, Any]:
    """The sizes of a part that nothing is pruned from, as `DeViTConfig.parts` lists them."""
    return {
        "hidden_size": hidden_size,
        "head_dim": hidden_size // heads,
        "num_heads": [heads] * depth,
        "intermediate_sizes": [mlp_ratio * hidden_size] * depth,
    }


@strict
class DeViTConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a DeViT: parts of one kind, and the fusion of their tokens. With one part and no
    `fusion_hidden_size` it is a plain vision transformer with its classifier: what a device trains before the fusion.

    Args:
        part_type: "vit" (class token), "deit" (class and distillation token, two classifiers whose mean counts) or
            "cct" (convolutional tokenizer, attention pooling over the sequence).
        parts: of each part the width `hidden_size`, the width of a head `head_dim`, and for each block the heads
            `num_heads` and the neurons of the MLP `intermediate_sizes`: pruned blocks have fewer of these. By default
            one part of DeiT-S's size.
        class_groups: numbers of the classes that each part was trained on, None if that is not known. Kept for
            `collaboration`; the network does not read it.
        fusion_hidden_size: width between the two linear layers of the fusion, the teacher's; None for one layer.
        image_size: side of the images in pixels; positions are interpolated for other ones.
        num_channels: channels of the input images.
        patch_size: side of a patch ("vit", "deit").
        tokenizer_kernel_size, num_tokenizer_layers: convolutions of the tokenizer ("cct").
        qkv_bias: bias of queries, keys and values.
        hidden_act: activation function of the MLPs.
        attention_dropout: dropout of attention weights, in training.
        drop_path_rate: stochastic depth of the last block of each part, linear from 0.
        layer_norm_eps: of every layer norm.
        initializer_range: standard deviation of the truncated normal initialisation.
        out_features, out_indices: which of "stem", "stage1", ... the backbone returns (the last by default), a stage
            for each block of the deepest part.
    """

    model_type = "devit"

    part_type: str = "vit"
    parts: list[dict] | tuple[dict, ...] | None = None
    class_groups: list[list[int]] | None = None
    fusion_hidden_size: int | None = None
    image_size: int = 224
    num_channels: int = 3
    patch_size: int = 16
    tokenizer_kernel_size: int = 3
    num_tokenizer_layers: int = 1
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    attention_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        parts = [part_sizes(384, 12, 6)] if self.parts is None else self.parts
        self.parts = [{key: list(v) if isinstance(v, tuple) else v for key, v in part.items()} for part in parts]
        kwargs.pop("stage_names", None)  # of a file: the parts say them
        self.set_stages(kwargs.pop("out_features", None), kwargs.pop("out_indices", None))
        super().__post_init__(**kwargs)

    def set_stages(self, out_features: list[str] | None = None, out_indices: list[int] | None = None) -> None:
        """Name the stages after `parts`, and choose those that a backbone returns."""
        depth = max((len(part.get("num_heads") or ()) for part in self.parts), default=0)
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, depth + 1)]
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)

    def validate_architecture(self):
        if self.part_type not in PART_TYPES:
            raise ValueError(f"part_type: got {self.part_type!r}, accepted are {', '.join(map(repr, PART_TYPES))}.")
        if not self.parts:
            raise ValueError("parts: got none, accepted are 1 and more.")
        for number, part in enumerate(self.parts):
            if sorted(part) != sorted(_KEYS):
                raise ValueError(
                    f"parts: part {number} has {', '.join(sorted(part))}, accepted are {', '.join(_KEYS)}."
                )
            if not part["num_heads"] or len(part["num_heads"]) != len(part["intermediate_sizes"]):
                raise ValueError(
                    f"parts: part {number} has num_heads of {len(part['num_heads'])} blocks and intermediate_sizes of "
                    f"{len(part['intermediate_sizes'])}, accepted are as many, 1 and more."
                )
            sizes = [part["hidden_size"], part["head_dim"], *part["num_heads"], *part["intermediate_sizes"]]
            if min(sizes) < 1:
                raise ValueError(f"parts: part {number} has a size {min(sizes)}, accepted are whole numbers from 1.")
        if self.class_groups is not None and len(self.class_groups) != len(self.parts):
            raise ValueError(
                f"class_groups: got {len(self.class_groups)} groups for {len(self.parts)} parts, accepted are as many."
            )
        for name in ("image_size", "num_channels", "patch_size", "tokenizer_kernel_size", "num_tokenizer_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if self.fusion_hidden_size is not None and self.fusion_hidden_size < 1:
            raise ValueError(
                f"fusion_hidden_size: got {self.fusion_hidden_size}, accepted are numbers from 1 and none."
            )
        if self.part_type != "cct" and self.image_size < self.patch_size:
            raise ValueError(f"patch_size: got {self.patch_size}, more than the image's {self.image_size} pixels.")
        for name in ("attention_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are numbers from 0 to below 1.")

    @property
    def num_tokens(self) -> int:
        """Tokens that a part sends to the fusion: 2 with a distillation token."""
        return 2 if self.part_type == "deit" else 1

    @property
    def hidden_size(self) -> int:
        """Width of the parts' tokens side by side."""
        return sum(part["hidden_size"] for part in self.parts)

    @property
    def num_hidden_layers(self) -> int:
        return sum(len(part["num_heads"]) for part in self.parts)


_CCT = {"layer_norm_eps": 1e-5, "qkv_bias": False, "tokenizer_kernel_size": 3, "num_tokenizer_layers": 1}
_SIZES = {
    "vit": part_sizes(384, 12, 6),
    "deit": part_sizes(384, 12, 6),
    "cct": part_sizes(256, 7, 4, mlp_ratio=2),
}


def _preset(
    part_type: str, parameters: float, macs: float, num_labels: int, *, parts: int = 1, fusion: int | None = None
) -> Preset:
    """Parameters and multiply-adds in millions, with nothing pruned; `fusion`: width of the teacher's tokens."""
    size = 32 if part_type == "cct" else 224
    return Preset(
        model_type="devit",
        config={
            "part_type": part_type,
            "parts": [_SIZES[part_type]] * parts,
            "fusion_hidden_size": fusion,
            "image_size": size,
            **(_CCT if part_type == "cct" else {}),
        },
        num_labels=num_labels,
        classes="imagenet-1k" if num_labels == 1000 else None,
        image_processor={
            "size": {"shortest_edge": size},
            "crop_pct": 1.0 if size == 32 else 0.875,
            "resample": 3,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        parameters=parameters,
        macs=macs,
    )


#: The official networks before anything is pruned: a sub-model for a quarter of the classes, and four of them fused
#: into the width of their teacher (ViT-L/16, DeiT-B). The abstract is all of the paper that could be read: it states
#: no accuracy of a network by itself.
PRESETS: dict[str, Preset] = {
    "devit-s": _preset("vit", 21.675, 4598.5, 25),
    "devit-4s": _preset("vit", 88.339, 18395.7, 100, parts=4, fusion=1024),
    "dedeit-s": _preset("deit", 21.859, 4623.6, 250),
    "dedeit-4s": _preset("deit", 90.565, 18497.4, 1000, parts=4, fusion=768),
    "decct-7-3x1": _preset("cct", 3.764, 1181.6, 25),
    "decct-4x7-3x1": _preset("cct", 16.182, 4727.6, 100, parts=4, fusion=1024),
}
