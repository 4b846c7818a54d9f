"""Configuration of Gold-YOLO (https://arxiv.org/abs/2309.11331) and its published variants."""

import math

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

from ...architecture import Preset, Published

#: What the maps of the three detection levels are called, beside the stages of the backbone, and their strides.
NECK_NAMES = ("p3", "n4", "n5")
STRIDES = (8, 16, 32)

#: Width and height in pixels of the anchor boxes of the anchor-aided head, a row per level.
ANCHORS = (
    ((10, 13), (19, 19), (33, 23)),
    ((30, 61), (59, 59), (59, 119)),
    ((116, 90), (185, 185), (373, 326)),
)


@strict
class GoldYoloConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a Gold-YOLO detector: a convolutional backbone, a gather-and-distribute neck, an anchor-free head.
    The defaults are those of Gold-YOLO-N, without its distillation branch.

    Args:
        num_channels: channels of the input images.
        image_size: side (or height and width) of the images in pixels the model is meant for; any multiple of 32
            works.
        hidden_sizes: channels after the stem and after each of the four stages, each of which halves the map.
        depths: blocks of each stage after the one that halves; where `stage_type` is "csp", half of them (rounded
            down) are bottlenecks.
        block_type: "repvgg" (3×3, 1×1 and identity branches, ReLU; one convolution once folded) or "conv_silu"
            (a 3×3 convolution with a bias and a batch norm, SiLU).
        stage_type: "rep" (blocks one after the other) or "csp" (bottlenecks on `csp_ratio` of the channels).
        csp_ratio: width of the bottlenecks over that of the stage.
        pyramid_pooling_type: end of the last stage, "csp_sppf" or "sppf" (three chained poolings, with or without a
            second way around them).
        neck_hidden_sizes: channels of the neck's maps p4, p3, n4 and n5.
        neck_depth: blocks after each of the four injections.
        injection_sizes: channels of the global features injected into p4, p3, n4, n5; `neck_hidden_sizes` by default.
        low_fusion_size, low_fusion_depth: channels and blocks of the low-stage fusion.
        num_attention_blocks, num_attention_heads, attention_key_size: of the high-stage fusion, which is attention
            (without the division by the square root of the key size).
        attention_ratio: size of a head's values over that of its keys.
        mlp_ratio: hidden channels of the high-stage fusion's feed-forward part over its channels.
        drop_path_rate: rate of stochastic depth in the last block of the high-stage fusion; linear from 0.
        n5_source: which map is pooled into n5, "n4" or, in Gold-YOLO-L, "p4".
        head_type: "plain"; "distillation", which learns the box a second time, without bins, and predicts by that
            branch; "anchor_aided", with a branch of anchor boxes in training only.
        reg_max: the sides of a box are distributions over 0, ..., reg_max strides; 0 predicts them directly.
        anchors: (width, height) in pixels of the anchor-aided head's anchor boxes, a row per level.
        reparameterized: branches and batch norms are folded for deployment (see `reparameterize()`).
        batch_norm_eps, batch_norm_momentum: of every batch norm but those of the injections and the high-stage fusion,
        injection_batch_norm_eps, injection_batch_norm_momentum: of those.
        assigner_topk, assigner_alpha, assigner_beta: task-aligned assignment of boxes: candidates per box, exponents
            of the score and of the IoU.
        anchor_assigner_topk: candidates per box of the anchor-aided branch.
        atss_topk: candidates per box and level of the ATSS assignment, which training can begin with.
        iou_type: "giou", "siou", "ciou" or "diou".
        class_loss_weight, box_loss_weight, distribution_loss_weight: of the varifocal, IoU and distribution focal
            loss.
        out_features, out_indices: which of "stem", "stage1", ..., "stage4", "p3", "n4", "n5" the backbone returns (the
            last stage by default); the neck is built where one of its maps is asked for.
    """

    model_type = "gold_yolo"

    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 640
    hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: list[int] | tuple[int, ...] = (2, 4, 6, 2)
    block_type: str = "repvgg"
    stage_type: str = "rep"
    csp_ratio: float | int = 0.5
    pyramid_pooling_type: str = "csp_sppf"
    neck_hidden_sizes: list[int] | tuple[int, ...] = (64, 32, 64, 128)
    neck_depth: int = 4
    injection_sizes: list[int] | tuple[int, ...] | None = None
    low_fusion_size: int = 96
    low_fusion_depth: int = 3
    num_attention_blocks: int = 2
    num_attention_heads: int = 4
    attention_key_size: int = 8
    attention_ratio: float | int = 2
    mlp_ratio: float | int = 1
    drop_path_rate: float | int = 0.1
    n5_source: str = "n4"
    head_type: str = "plain"
    reg_max: int = 16
    anchors: list | tuple = ANCHORS
    reparameterized: bool = False
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.03
    injection_batch_norm_eps: float = 1e-5
    injection_batch_norm_momentum: float = 0.1
    assigner_topk: int = 13
    assigner_alpha: float | int = 1.0
    assigner_beta: float | int = 6.0
    anchor_assigner_topk: int = 26
    atss_topk: int = 9
    iou_type: str = "giou"
    class_loss_weight: float | int = 1.0
    box_loss_weight: float | int = 2.5
    distribution_loss_weight: float | int = 0.5
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.hidden_sizes, self.depths = list(self.hidden_sizes), list(self.depths)
        self.neck_hidden_sizes = list(self.neck_hidden_sizes)
        self.injection_sizes = list(self.injection_sizes or self.neck_hidden_sizes)
        self.anchors = [[list(anchor) for anchor in level] for level in self.anchors]
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.hidden_sizes))] + [*NECK_NAMES]
        out_indices, out_features = kwargs.pop("out_indices", None), kwargs.pop("out_features", None)
        if out_indices is None and out_features is None:
            out_features = [self.stage_names[len(self.hidden_sizes) - 1]]
        self.set_output_features_output_indices(out_indices=out_indices, out_features=out_features)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        for name, accepted in (
            ("block_type", ("repvgg", "conv_silu")),
            ("stage_type", ("rep", "csp")),
            ("pyramid_pooling_type", ("csp_sppf", "sppf")),
            ("n5_source", ("n4", "p4")),
            ("head_type", ("plain", "distillation", "anchor_aided")),
            ("iou_type", ("giou", "siou", "ciou", "diou")),
        ):
            if getattr(self, name) not in accepted:
                given = getattr(self, name)
                raise ValueError(f"{name}: got {given!r}, accepted are {', '.join(map(repr, accepted))}.")
        for name, length in (("hidden_sizes", 5), ("depths", 4), ("neck_hidden_sizes", 4), ("injection_sizes", 4)):
            value = getattr(self, name)
            if len(value) != length or min(value) < 1:
                raise ValueError(f"{name}: got {value}, accepted are {length} whole numbers from 1.")
        for name in (
            *("num_channels", "neck_depth", "low_fusion_size", "low_fusion_depth", "num_attention_blocks"),
            *("num_attention_heads", "attention_key_size", "assigner_topk", "anchor_assigner_topk", "atss_topk"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are whole numbers from 1.")
        if self.reg_max < 0:
            raise ValueError(f"reg_max: got {self.reg_max}, accepted are whole numbers from 0.")
        if self.head_type == "distillation" and not self.reg_max:
            raise ValueError("reg_max: got 0, but head_type 'distillation' needs the distributions: from 1.")
        if self.stage_type == "csp" and min(*self.depths, self.neck_depth) < 2:
            raise ValueError(
                f"depths: got {self.depths} and neck_depth {self.neck_depth}, with stage_type 'csp' whole "
                "numbers from 2 are accepted: half of them are bottlenecks."
            )
        if len({len(level) for level in self.anchors}) != 1 or len(self.anchors) != len(STRIDES):
            raise ValueError(f"anchors: got {self.anchors}, accepted are {len(STRIDES)} rows of equally many pairs.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: got {self.drop_path_rate}, accepted are numbers from 0 to below 1.")
        for name in ("csp_ratio", "attention_ratio", "mlp_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, accepted are positive numbers.")

    @property
    def num_stages(self) -> int:
        """Stages of the backbone, the stem apart."""
        return len(self.hidden_sizes) - 1

    @property
    def num_hidden_layers(self) -> int:
        return self.num_stages

    @property
    def level_sizes(self) -> list[int]:
        """Channels of p3, n4 and n5, which the head detects on."""
        return self.neck_hidden_sizes[1:]


#: The 80 classes of COCO, in the order of the published heads.
COCO_CLASSES = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee "
    "skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass "
    "cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink "
    "refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
ID2LABEL = {index: name.replace("_", " ") for index, name in enumerate(COCO_CLASSES.split())}


def scaled_config(depth: float, width: float, **fields) -> dict:
    """Sizes and depths of a variant by its multiples (YOLOv6's rule): widths are rounded up to multiples of 8, depths
    to the nearest whole number (halves to the even one), from 1."""

    def widths(*sizes: int) -> list[int]:
        return [math.ceil(size * width / 8) * 8 for size in sizes]

    return {
        "hidden_sizes": widths(64, 128, 256, 512, 1024),
        "depths": [max(round(count * depth), 1) for count in (6, 12, 18, 6)],
        "neck_hidden_sizes": widths(256, 128, 256, 512),
        "neck_depth": max(round(12 * depth), 1),
        **fields,
    }


def _preset(
    config: dict, parameters: tuple[float, float], macs: tuple[float, float], mean_ap: float, file: str
) -> Preset:
    return Preset(
        model_type="gold_yolo",
        config={**config, "id2label": ID2LABEL, "label2id": {label: index for index, label in ID2LABEL.items()}},
        num_labels=80,
        image_processor={"size": {"height": 640, "width": 640}},
        parameters=parameters[0],
        macs=macs[0],
        folded_parameters=parameters[1],
        folded_macs=macs[1],
        published=(Published("mAP", mean_ap, "COCO val2017", "official repository"),),
        # The files lie on services that have no address to download from directly; the repository links them.
        weights=f"https://github.com/huawei-noah/Efficient-Computing/tree/master/Detection/Gold-YOLO#{file}",
        weights_license="gpl-3.0",
        weights_license_note="the official code is GPL-3.0 and its weights come with it; so are converted ones",
    )


#: Published variants, with the heads of the published files. Parameters and MACs (convolutions, 640×640) in millions.
PRESETS: dict[str, Preset] = {
    "gold-yolo-n": _preset(
        scaled_config(0.33, 0.25, head_type="distillation", iou_type="siou"),
        (6.078, 5.634), (6624.1, 6050.7), 39.9, "gold_n_dist.pt",
    ),
    "gold-yolo-s": _preset(
        scaled_config(0.33, 0.5, low_fusion_size=128, head_type="distillation"),
        (23.205, 21.538), (25203.0, 23017.4), 46.4, "gold_s_pre_dist.pt",
    ),
    "gold-yolo-m": _preset(
        scaled_config(
            0.6, 0.75, stage_type="csp", csp_ratio=2 / 3, pyramid_pooling_type="sppf", low_fusion_size=192
        ),
        (44.327, 41.319), (47530.1, 43720.8), 51.1, "gold_m_pre_dist.pt",
    ),
    "gold-yolo-l": _preset(
        scaled_config(
            1.0, 1.0, block_type="conv_silu", stage_type="csp", csp_ratio=0.5, pyramid_pooling_type="sppf",
            low_fusion_size=192, num_attention_blocks=3, num_attention_heads=8, n5_source="p4",
        ),
        (75.115, 75.048), (75842.1, 75842.1), 53.3, "gold_l_pre_dist.pt",
    ),
}  # fmt: skip
