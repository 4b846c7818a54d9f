"""Configuration of DToP (https://arxiv.org/abs/2308.01045) over SegViT, and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset, Published

#: A ViT-B/16 of 512 pixels as the segmenters have it: no dropout, and no pooler, which nothing would read.
_BASE = {
    "image_size": 512,
    "patch_size": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
}


@strict
class DtopConfig(PreTrainedConfig):
    r"""
    Configuration of a plain vision transformer with segmentation heads at several depths, after which the tokens whose
    class is certain leave. The defaults are the paper's ViT-B without pruning, as it is trained first.

    Args:
        backbone_config: of the ViT.
        drop_path_rate: of the last block; it grows linearly from 0.
        out_indices: blocks (from 0) after which there is a head; the last must be the last block.
        thresholds: one for each head but the last: a token leaves if its highest class score is above it. From 1 on
            none leaves.
        keep_top_k: of each class, so many of the tokens that could leave, those of the highest scores, stay.
        head_hidden_size: width of the heads; None is half of the ViT's.
        head_num_layers, head_num_attention_heads: of each head's decoder, whose feed-forward is 4 times as wide.
        head_dropout: everywhere in the heads, in training.
        class_loss_weight, mask_loss_weight, dice_loss_weight: of each head's three losses.
        absent_class_weight: of the queries of classes that are not in the image, in the loss of the classes.
        auxiliary_loss_weight: of the losses of all heads but the last.
        semantic_loss_ignore_index: label of pixels that belong to no class.
    """

    model_type = "dtop"
    sub_configs = {"backbone_config": ViTConfig}
    sub_configs_defaults = {"backbone_config": SubConfigSpec(config_class=ViTConfig, init_kwargs=_BASE)}

    backbone_config: dict | PreTrainedConfig | None = None
    drop_path_rate: float | int = 0.1
    out_indices: list[int] | tuple[int, ...] = (5, 7, 11)
    thresholds: list[float | int] | tuple[float | int, ...] = (1.0, 1.0)
    keep_top_k: int = 5
    head_hidden_size: int | None = None
    head_num_layers: int = 3
    head_num_attention_heads: int = 6
    head_dropout: float | int = 0.1
    class_loss_weight: float | int = 1.0
    mask_loss_weight: float | int = 20.0
    dice_loss_weight: float | int = 1.0
    absent_class_weight: float | int = 0.1
    auxiliary_loss_weight: float | int = 1.0
    semantic_loss_ignore_index: int = 255
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.out_indices, self.thresholds = list(self.out_indices), [float(t) for t in self.thresholds]
        if isinstance(self.backbone_config, dict):
            self.backbone_config = {"model_type": "vit", **self.backbone_config}
        super().__post_init__(**kwargs)
        if self.head_hidden_size is None:
            self.head_hidden_size = self.backbone_config.hidden_size // 2

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        depth = self.backbone_config.num_hidden_layers
        ascending = sorted(set(self.out_indices)) == self.out_indices
        if not ascending or not self.out_indices or self.out_indices[0] < 0 or self.out_indices[-1] != depth - 1:
            raise ValueError(
                f"out_indices: got {self.out_indices}, accepted are ascending blocks from 0, the last {depth - 1}."
            )
        if len(self.thresholds) != len(self.out_indices) - 1 or not all(t >= 0 for t in self.thresholds):
            raise ValueError(
                f"thresholds: got {self.thresholds}, accepted are {len(self.out_indices) - 1} numbers from 0, one for "
                "each head but the last."
            )
        if self.keep_top_k < 1:
            raise ValueError(f"keep_top_k: got {self.keep_top_k}, accepted are whole numbers from 1.")
        if self.head_hidden_size % self.head_num_attention_heads:
            raise ValueError(
                f"head_num_attention_heads: got {self.head_num_attention_heads}, accepted are divisors of "
                f"head_hidden_size={self.head_hidden_size}."
            )
        if self.backbone_config.hidden_dropout_prob:
            raise ValueError(
                f"backbone_config: got hidden_dropout_prob={self.backbone_config.hidden_dropout_prob}, accepted is 0; "
                "see drop_path_rate."
            )

    @property
    def image_size(self) -> int:
        """Side of the images that the positions are for; other sizes work."""
        return self.backbone_config.image_size

    @property
    def num_channels(self) -> int:
        return self.backbone_config.num_channels

    @property
    def hidden_sizes(self) -> list[int]:
        return [self.backbone_config.hidden_size] * (self.backbone_config.num_hidden_layers + 1)


def _processor(size: int, mean: list[float], std: list[float]) -> dict:
    return {
        "size": {"height": size, "width": size},
        "image_mean": mean,
        "image_std": std,
        "do_reduce_labels": False,
    }


_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_HALF = ([0.5] * 3, [0.5] * 3)


def _large(image_size: int, threshold: float) -> dict:
    return {
        "backbone_config": {
            **_BASE,
            "image_size": image_size,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        "drop_path_rate": 0.3,
        "out_indices": [7, 15, 23],
        "thresholds": [threshold, threshold],
        "head_num_attention_heads": 8,
    }


def _miou(value: float, dataset: str) -> tuple[Published, ...]:
    return (Published("mIoU", value, dataset, "official repository, pruned and fine-tuned"),)


#: Multiply-adds are those without pruning; how many are left depends on the picture (docs/systems/dtop.md has the
#: published means).
PRESETS: dict[str, Preset] = {
    "dtop-base-ade20k": Preset(
        model_type="dtop",
        config={"thresholds": [0.9, 0.9]},
        num_labels=150,
        classes="ade20k",
        image_processor=_processor(512, *_IMAGENET),
        parameters=108.796,
        macs=114532.8,
        published=_miou(49.8, "ADE20K"),
    ),
    "dtop-large-ade20k": Preset(
        model_type="dtop",
        config=_large(640, 0.95),
        num_labels=150,
        classes="ade20k",
        image_processor=_processor(640, *_HALF),
        parameters=344.385,
        macs=627711.7,
        published=_miou(52.8, "ADE20K"),
    ),
    "dtop-large-pascal-context": Preset(
        model_type="dtop",
        config=_large(480, 0.95),
        num_labels=60,
        classes="pascal-context-60",
        image_processor=_processor(480, *_HALF),
        parameters=343.529,
        macs=320487.0,
        published=_miou(62.7, "Pascal Context"),
    ),
    "dtop-large-coco-stuff-10k": Preset(
        model_type="dtop",
        config=_large(512, 0.95),
        num_labels=171,
        classes="coco-stuff",
        image_processor=_processor(512, *_HALF),
        parameters=343.827,
        macs=375556.9,
        published=_miou(47.1, "COCO-Stuff-10K"),
    ),
}
