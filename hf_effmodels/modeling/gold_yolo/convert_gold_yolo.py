"""Official Gold-YOLO checkpoints -> ours."""

import re
from collections.abc import Mapping

from ..layers.stored_weights import fold_stored_norm
from .configuration_gold_yolo import GoldYoloConfig

#: The bins' own values (a constant), and profiling counters.
IGNORED = re.compile(r"^detect\.proj$|^detect\.proj_conv\.weight$|(^|\.)total_(ops|params)$")
RESHAPED = re.compile(r"(?!)")

#: Official files are whole pickled models. Of objects of these classes only the tensors are read, none of their code.
PICKLED_MODULES = re.compile(r"(yolov6|gold_yolo|mmcv|addict|torch\.nn)\.[\w.]+")


def _next(match: re.Match) -> str:
    """Blocks after the first one, which has a name of its own, are counted from 0."""
    return f"{match[1]}.blocks.{int(match[2]) + 1}"


#: Applied one after the other; names of modules as well as of their weights.
RULES = (
    # Of all blocks: branches, the folded form, and what wraps a plain convolution.
    (r"\.rbr_dense\b", ".branches.0"),
    (r"\.rbr_1x1\b", ".scale"),
    (r"\.rbr_identity\b", ".skip"),
    (r"\.rbr_reparam\b", ".conv"),
    (r"\.block\.(?=conv\b|bn\b)", "."),
    (r"\.bn\b", ".norm"),
    (r"\.c\b", ".conv"),
    # Backbone.
    (r"^backbone\.stem\b", "stem"),
    (r"^backbone\.ERBlock_2\b", "stages.0"),
    (r"^backbone\.ERBlock_3\b", "stages.1"),
    (r"^backbone\.ERBlock_4\b", "stages.2"),
    (r"^backbone\.ERBlock_5\b", "stages.3"),
    (r"^(stages\.\d)\.0\b", r"\1.down"),
    (r"^(stages\.\d)\.1\b", r"\1.layers"),
    (r"^(stages\.\d)\.2\b", r"\1.pooling"),
    # Neck.
    (r"^neck\.low_IFM\.0\b", "neck.low_fusion.enter"),
    (r"^neck\.low_IFM\.([123])\b", lambda match: f"neck.low_fusion.blocks.{int(match[1]) - 1}"),
    (r"^neck\.low_IFM\.4\b", "neck.low_fusion.leave"),
    (r"^neck\.low_IFM\b", "neck.low_fusion"),
    (r"^neck\.reduce_layer_", "neck.reduce_"),
    (r"^neck\.LAF_(p\d)\b", r"neck.local_\1"),
    (r"^(neck\.local_p\d)\.cv1\b", r"\1.project"),
    (r"^(neck\.local_p\d)\.cv_fuse\b", r"\1.fuse"),
    (r"^neck\.Inject_([pn]\d)\b", r"neck.level_\1.injection"),
    (r"\.global_act\b", ".global_gate"),
    (r"^neck\.Rep_([pn]\d)\b", r"neck.level_\1.layers"),
    (r"^neck\.high_IFM\.transformer_blocks\b", "neck.high_fusion.blocks"),
    (r"\.attn\.to_q\b", ".attention.query"),
    (r"\.attn\.to_k\b", ".attention.key"),
    (r"\.attn\.to_v\b", ".attention.value"),
    (r"\.attn\.proj\.1\b", ".attention.projection"),
    (r"\.attn\b", ".attention"),
    (r"\.mlp\.fc1\b", ".mlp.expand"),
    (r"\.mlp\.dwconv\b", ".mlp.depthwise"),
    (r"\.mlp\.fc2\b", ".mlp.project"),
    (r"^neck\.conv_1x1_n\b", "neck.high_fusion.leave"),
    # Blocks of the stages and of the neck's levels.
    (r"\.layers\.m\.conv1\b", ".layers.blocks.0"),
    (r"(\.layers)\.m\.block\.(\d+)", _next),
    (r"\.layers\.conv1\b", ".layers.blocks.0"),
    (r"(\.layers)\.block\.(\d+)", _next),
    (r"\.layers\.cv1\b", ".layers.enter"),
    (r"\.layers\.cv2\b", ".layers.around"),
    (r"\.layers\.cv3\b", ".layers.leave"),
    # Head.
    (r"^detect\.", "head."),
    (r"^head\.cls_convs\b", "head.class_convs"),
    (r"^head\.reg_convs\b", "head.box_convs"),
    (r"^head\.cls_preds_ab\b", "head.anchor_classes"),
    (r"^head\.reg_preds_ab\b", "head.anchor_boxes"),
    (r"^head\.reg_preds_lrtb\b", "head.direct_boxes"),
    (r"^head\.cls_preds(_af)?\b", "head.classes"),
    (r"^head\.reg_preds(_af)?\b", "head.boxes"),
)

#: Pyramid pooling has two forms with the same names: number of its convolutions -> official name -> ours.
_POOLING = {
    2: {"cv1": "enter", "cv2": "leave"},
    7: {
        **{"cv1": "enter.0", "cv3": "enter.1", "cv4": "enter.2", "cv2": "around"},
        **{"cv5": "fuse.0", "cv6": "fuse.1", "cv7": "leave"},
    },
}

_POOLING_NAME = re.compile(r"^(stages\.3\.pooling)\.(cv\d)\b")


def adapt(state_dict: dict, config: GoldYoloConfig) -> GoldYoloConfig:
    """The configuration of the checkpoint's layout: its head, its bins, and whether it is the deployed form.

    Official deployed forms still have some batch norms; those with constants of their own are folded here.
    """
    convs = {match[2] for name in state_dict if (match := _POOLING_NAME.match(name))}
    for name in list(state_dict):
        if match := _POOLING_NAME.match(name):
            ours = _POOLING.get(len(convs), {}).get(match[2])
            if ours is not None:
                state_dict[f"{match[1]}.{ours}{name[match.end() :]}"] = state_dict.pop(name)
    if "head.anchor_boxes.0.weight" in state_dict:
        config.head_type = "anchor_aided"
    elif "head.direct_boxes.0.weight" in state_dict:
        config.head_type = "distillation"
    else:
        config.head_type = "plain"
    bins = state_dict["head.boxes.0.weight"].shape[0] // 4
    config.reg_max = bins - 1
    if "stem.conv.bias" in state_dict and "stem.norm.weight" not in state_dict:
        config.reparameterized = True
        _fold_own_norms(state_dict, config.injection_batch_norm_eps)
    return config


def _fold_own_norms(weights: dict, eps: float) -> None:
    """Fold the batch norms of the injections and the high-stage fusion, whose eps is another, in place."""
    for name in [name for name in weights if re.search(r"\.(injection|high_fusion)\..*\.norm\.running_var$", name)]:
        norm = name.removesuffix(".running_var")
        fold_stored_norm(weights, norm.removesuffix(".norm") + ".conv", norm, eps)


def settings_of_modules(attributes: Mapping[str, Mapping]) -> dict:
    """Fields of the configuration as the pickled modules have them: constants of the batch norms.

    Args:
        attributes: official name of a module -> its plain attributes.
    """
    fields = {}
    for name, module in (("", "backbone.stem"), ("injection_", "neck.Inject_p4.local_embedding.bn")):
        found = [plain for path, plain in attributes.items() if f"{path}.".startswith(f"{module}.") and "eps" in plain]
        for ours, theirs in (("eps", "eps"), ("momentum", "momentum")):
            if found and isinstance(found[0].get(theirs), float):
                fields[f"{name}batch_norm_{ours}"] = found[0][theirs]
    return fields
