"""Gold-YOLO: forward passes of every size and head, deployment, training, losses, assignment, post-processing."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.modeling.gold_yolo import convert_gold_yolo as conversion
from hf_effmodels.modeling.gold_yolo.assignment_gold_yolo import atss_assignment, task_aligned_assignment
from hf_effmodels.modeling.gold_yolo.boxes_gold_yolo import (
    distances_to_boxes,
    grid_points,
    iou_losses,
    to_corners,
)
from hf_effmodels.modeling.gold_yolo.configuration_gold_yolo import PRESETS, STRIDES, GoldYoloConfig
from hf_effmodels.modeling.gold_yolo.image_processing_gold_yolo import (
    GoldYoloImageProcessorPil,
    letterbox,
    unletterbox_evenly,
)
from hf_effmodels.modeling.gold_yolo.loss_gold_yolo import (
    anchor_box_losses,
    box_losses,
    distribution_focal_loss,
    pad_labels,
    varifocal_loss,
)
from hf_effmodels.modeling.layers.nms import select_detections
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.data import detection_augment as augmentation
from hf_effmodels.training.losses import detection_distillation as distillation
from hf_effmodels.training.optim.detection_schedule import (
    DetectionSchedule,
    norm_weight_bias_groups,
    ramped_decay,
    scaled_weight_decay,
)

from ..golden import inputs, state_dict

SYSTEMS = ("goldyolo",)
_HEADS = {"base": "plain", "distill_ns": "distillation", "fuse_ab": "anchor_aided"}


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    """Where a case's note, or rounding, asks for another one than the rest."""
    if case["variant"] in ("function/letterbox", "function/augment"):
        # OpenCV's 8-bit resampling, warping and colour conversion: a few grey levels of 255 (see the notes).
        if re.search("image|pixels|noise", name) and not re.search("meta|boxes", name):
            return 0.06
        return 1e-5 if case["variant"] == "function/augment" else None
    if case["variant"].endswith("/train") and dtype == "float32":
        # Batch statistics over 3×3 cells of 2 images: rounding grows on the way back.
        return 0.3 if name.startswith("grad") else 1e-2
    return None


def run(case: dict, dtype: torch.dtype) -> dict:
    for kind, runner in RUNNERS.items():
        if re.fullmatch(kind, case["variant"]):
            return runner(case, dtype)
    raise ValueError(f"a case of an unknown kind: {case['variant']}")


# models


def _model(case: dict, dtype: torch.dtype):
    settings = case["config"]
    fields = dict(PRESETS[f"gold-yolo-{settings['size']}"].config)
    for name in ("id2label", "label2id"):
        fields.pop(name)
    fields |= {"num_labels": settings["num_classes"], "head_type": _HEADS[settings["head"]]}
    fields |= {"reg_max": settings["reg_max"], "iou_type": settings.get("iou_type", "giou")}
    fields |= {"drop_path_rate": settings.get("drop_path_rate", 0.1)}
    architecture = ARCHITECTURES["gold_yolo"]
    model, ignored = convert_state_dict(architecture, GoldYoloConfig(**fields), state_dict(case, dtype))
    assert not ignored, "the constants are drawn in no case"
    return model


def _our_name(name: str) -> str:
    """Our name, in the base model, of an official module or weight."""
    ours = official_name(ARCHITECTURES["gold_yolo"], name)
    if match := conversion._POOLING_NAME.match(ours):
        return f"{match[1]}.{_our_name.table[match[2]]}{ours[match.end() :]}"
    return ours


def _find(model, ours: str):
    parent, _, attribute = ours.rpartition(".")
    for prefix in ("", "gold_yolo"):
        try:
            return getattr(model.get_submodule(".".join(filter(None, (prefix, parent)))), attribute)
        except AttributeError:
            continue
    raise AttributeError(ours)


#: Official modules without a module of ours: what stands at their place is the input of another one.
_INPUTS = {
    "neck.low_FAM": ("neck.low_fusion", 0),
    "neck.high_FAM": ("neck.high_fusion", 0),
    "neck.LAF_n4": ("neck.level_n4.injection", 0),
    "neck.LAF_n5": ("neck.level_n5.injection", 0),
    "neck.high_IFM": ("neck.high_fusion.leave", 0),
}
_STAGES = {f"backbone.c{index + 2}": f"stages.{index}" for index in range(4)}


class _Taps(dict):
    """Outputs of our modules by the official names that a case asks for."""

    def __init__(self, model, wanted):
        super().__init__()
        _our_name.table = conversion._POOLING[2 if model.config.pyramid_pooling_type == "sppf" else 7]
        for name in wanted:
            if name in _INPUTS:
                ours, index = _INPUTS[name]
                _find(model, ours).register_forward_pre_hook(self._keep_input(name, index))
                continue
            if not name.startswith(("backbone.", "neck.", "detect.")) or re.fullmatch(r"neck\.\d", name):
                continue
            _find(model, _STAGES.get(name) or _our_name(name)).register_forward_hook(self._keep(name))

    def _keep(self, name: str):
        return lambda module, args, output: self.__setitem__(name, output.detach().clone())

    def _keep_input(self, name: str, index: int):
        return lambda module, args: self.__setitem__(name, args[index].detach().clone())


def _predictions(outputs, pixels) -> torch.Tensor:
    height, width = pixels.shape[-2:]
    boxes = outputs.pred_boxes * outputs.pred_boxes.new_tensor([width, height, width, height])
    return torch.cat([boxes, torch.ones_like(boxes[..., :1]), outputs.logits.sigmoid()], dim=-1)


@torch.no_grad()
def forward(case: dict, dtype: torch.dtype) -> dict:
    model, pixels = _model(case, dtype), inputs(case, dtype)["pixel_values"]
    results = _Taps(model, case["outputs"])
    outputs = model(pixels)
    results["predictions"] = _predictions(outputs, pixels)
    if any(name.startswith("train_outputs.") for name in case["outputs"]):
        training = model.head(outputs.feature_maps, with_training_branches=True)
        results |= {
            "train_outputs.scores": training.logits.sigmoid(),
            "train_outputs.distribution": training.regression,
            "train_outputs.ltrb": training.distances,
            "train_outputs.af_scores": training.logits.sigmoid(),
            "train_outputs.af_distribution": training.regression,
        }
        if training.anchor_logits is not None:
            results["train_outputs.ab_scores"] = training.anchor_logits.sigmoid()
            results["train_outputs.ab_boxes_raw"] = training.anchor_boxes
    return results


@torch.no_grad()
def deploy(case: dict, dtype: torch.dtype) -> dict:
    """The folded model. Where the official one keeps batch norms, ours has none: those weights are compared before."""
    model, pixels = _model(case, dtype), inputs(case, dtype)["pixel_values"]
    unfolded = {name for name in case["outputs"] if re.search(r"Inject|high_IFM|low_IFM\.[04]", name)}
    results = {}
    _our_name.table = conversion._POOLING[2 if model.config.pyramid_pooling_type == "sppf" else 7]
    weights = [name for name in case["outputs"] if name.startswith("deploy_state.")]
    for name in weights:
        if name in unfolded:
            results[name] = _find(model, _our_name(name.removeprefix("deploy_state."))).clone()
    model.reparameterize()
    for name in weights:
        if name not in unfolded:
            results[name] = _find(model, _our_name(name.removeprefix("deploy_state.")))
    taps = _Taps(model, [name for name in case["outputs"] if name not in weights])
    outputs = model(pixels)
    return {**results, **taps, "predictions": _predictions(outputs, pixels)}


def _labels(values: dict, settings: dict, boxes_like: torch.Tensor) -> list[dict]:
    """Labels as our models take them: the first `num_gts[i]` rows of image i."""
    boxes = torch.cat([values["gt_centers"], values["gt_sizes"]], dim=-1).to(boxes_like)
    return [
        {"class_labels": values["gt_labels"][index, :number], "boxes": boxes[index, :number]}
        for index, number in enumerate(settings["num_gts"])
    ]


def train(case: dict, dtype: torch.dtype) -> dict:
    model, values, settings = _model(case, dtype), inputs(case, dtype), case["config"]
    labels = _labels(values, settings, values["pixel_values"])
    model.train()
    kept = {}
    outputs = model(values["pixel_values"], labels=labels)
    outputs.loss.backward()
    parts = outputs.loss_dict
    official = {"loss_cls": "loss_class", "loss_iou": "loss_box", "loss_dfl": "loss_distribution"}
    results = {name: sum(v for n, v in parts.items() if n.startswith(ours)) for name, ours in official.items()}
    results["loss"] = outputs.loss
    results["loss_anchor_based"] = sum(v for n, v in parts.items() if n.endswith("_anchors"))
    results["loss_anchor_free"] = sum(v for n, v in parts.items() if not n.endswith("_anchors"))
    results["scores"] = outputs.logits.sigmoid()
    results |= {f"neck.{index}": features for index, features in enumerate(outputs.feature_maps)}
    sizes = [features.shape[-2:] for features in outputs.feature_maps]
    losses = box_losses(outputs.logits, outputs.pred_distribution, labels, sizes, model.config)
    results["num_foreground"] = losses.assignment.foreground.sum(-1)
    _our_name.table = conversion._POOLING[7]
    norms = []
    for name in case["state_dict"]:
        if name.startswith("detect.proj"):
            continue
        weight = _find(model, _our_name(name))
        if f"grad.{name}" in case["outputs"]:
            results[f"grad.{name}"] = weight.grad
        if f"after.{name}" in case["outputs"]:
            results[f"after.{name}"] = weight
        if getattr(weight, "grad", None) is not None:
            norms.append(weight.grad.norm())
    results["grad_norm_per_parameter"] = torch.stack(norms)
    results["grad_norm"] = torch.stack(norms).norm()
    return {**results, **kept}


# functions


def _sizes(image_size) -> list[tuple[int, int]]:
    height, width = image_size
    return [(height // stride, width // stride) for stride in STRIDES]


def _loss_config(settings: dict, **fields) -> GoldYoloConfig:
    weights = settings.get("loss_weights", {"cls": 1.0, "iou": 2.5, "dfl": 0.5})
    return GoldYoloConfig(
        num_labels=settings["num_classes"],
        iou_type=settings["iou_type"],
        reg_max=settings.get("reg_max", 16),
        class_loss_weight=weights["cls"],
        box_loss_weight=weights["iou"],
        distribution_loss_weight=weights["dfl"],
        **fields,
    )


def _foreground(assignment, strides, regression_grads: dict) -> dict:
    index = assignment.foreground.flatten().nonzero()[:, 0]
    results = {
        "foreground_index": index,
        "foreground_labels": assignment.labels.flatten()[index],
        "foreground_scores": assignment.scores.sum(-1).flatten()[index],
        "foreground_boxes": (assignment.boxes / strides).flatten(0, 1)[index],
    }
    return results | {f"foreground_{n}": grad.flatten(0, 1)[index] for n, grad in regression_grads.items()}


def loss_base(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    logits, regression = values["cls_logits"].requires_grad_(), values["reg"].requires_grad_()
    sizes = _sizes(settings["image_size"])
    warm_up = settings["epoch"] < settings["atss_warmup_epoch"]
    labels = _labels(values, settings, regression)
    config = _loss_config(settings)
    losses = box_losses(logits, regression, labels, sizes, config, assigner="atss" if warm_up else "tal")
    losses.total().backward()
    assignment = losses.assignment
    _, strides = grid_points(sizes, STRIDES, regression)
    foreground = assignment.foreground
    return {
        "loss": losses.total(),
        "loss_cls": losses.loss_class,
        "loss_iou": losses.loss_box,
        "loss_dfl": losses.loss_distribution if losses.loss_distribution is not None else torch.zeros(()),
        "grad_cls_logits": logits.grad,
        "grad_reg": regression.grad,
        "fg_mask": foreground,
        "target_labels": assignment.labels,
        "target_scores": assignment.scores,
        "target_boxes_stride_units": assignment.boxes / strides,
        "num_foreground": foreground.sum(-1),
        **_foreground(assignment, strides, {"grad_reg": regression.grad}),
    }


def loss_anchor_aided(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    names = ("cls_logits", "offsets", "sizes")
    logits, offsets, sizes = (values[name].requires_grad_() for name in names)
    maps = _sizes(settings["image_size"])
    config = _loss_config(settings, anchor_assigner_topk=settings["topk"])
    labels = _labels(values, settings, offsets)
    losses = anchor_box_losses(logits, torch.cat([offsets, sizes], dim=-1), labels, maps, config)
    losses.total().backward()
    grads = {"grad_sizes": sizes.grad, "grad_offsets": offsets.grad}
    return {
        "loss": losses.total(),
        "loss_cls": losses.loss_class,
        "loss_iou": losses.loss_box,
        "grad_cls_logits": logits.grad,
        **grads,
        "fg_mask": losses.assignment.foreground,
        "target_scores": losses.assignment.scores,
        **_foreground(losses.assignment, grid_points(maps, STRIDES, offsets, 3)[1], grads),
    }


def assigners(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    height, width = settings["image_size"]
    sizes = _sizes(settings["image_size"])
    points, strides = grid_points(sizes, STRIDES, values["ltrb"])
    half = strides * settings["atss"]["grid_cell_size"] / 2
    predicted = distances_to_boxes(values["ltrb"], points) * strides
    labels = _labels(values, settings, predicted)
    classes, boxes, is_box = pad_labels(labels, width, height, predicted)
    count = settings["num_classes"]
    found = {
        "tal": task_aligned_assignment(
            values["cls_logits"].sigmoid(), predicted, points * strides, classes, boxes, is_box, **settings["tal"]
        ),
        "atss": atss_assignment(
            predicted, points * strides, strides, [h * w for h, w in sizes], classes, boxes, is_box, count,
            topk=settings["atss"]["topk"], side=settings["atss"]["grid_cell_size"],
        ),
    }  # fmt: skip
    pixels = points * strides
    anchors = torch.cat([pixels - half, pixels + half], dim=-1)
    results = {"anchors": anchors, "anchor_points": pixels, "stride": strides}
    for name, assignment in found.items():
        foreground = assignment.foreground
        labels = assignment.labels
        results |= {
            f"{name}_fg_mask": foreground,
            f"{name}_labels": labels,
            f"{name}_boxes": assignment.boxes,
            f"{name}_scores": assignment.scores,
            f"{name}_num_foreground": foreground.sum(-1),
        }
        results |= {f"{name}_{n}": v for n, v in _foreground(assignment, torch.ones(1, dtype=dtype), {}).items()}
    return results


def iou(case: dict, dtype: torch.dtype) -> dict:
    values, results = inputs(case, dtype), {}
    target = to_corners(torch.cat([values["c2"], values["s2"]], dim=-1))
    for kind in ("giou", "siou", "ciou", "diou"):
        predicted = to_corners(torch.cat([values["c1"], values["s1"]], dim=-1)).requires_grad_()
        losses = iou_losses(predicted, target, kind, eps=case["config"]["eps"])
        losses.sum().backward()
        results |= {kind: losses[:, None], f"{kind}_grad_box1": predicted.grad}
    return results


def varifocal_dfl(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    logits, bins = values["cls_logits"].requires_grad_(), values["dist_logits"].requires_grad_()
    label = values["label"]
    varifocal = varifocal_loss(logits, values["gt_scores"] * label, label, settings["alpha"], settings["gamma"])
    distribution = distribution_focal_loss(bins, values["ltrb_target"])
    (varifocal + distribution.sum()).backward()
    return {
        "varifocal_sum": varifocal,
        "grad_cls_logits": logits.grad,
        "dfl": distribution[:, None],
        "grad_dist_logits": bins.grad,
    }


def loss_distill(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    names = [n for n in values if n in ("cls_logits", "distribution", "ltrb") or n.startswith("student_neck")]
    given = {name: values[name].requires_grad_() for name in names}
    logits, bins, direct = given["cls_logits"], given["distribution"], given.get("ltrb")
    sizes = _sizes(settings["image_size"])
    labels = _labels(values, settings, bins)
    config = _loss_config(settings)
    losses = box_losses(logits, bins, labels, sizes, config, direct_regression=direct)
    foreground, weights = losses.assignment.foreground, settings["distill_weight"]
    decay = DetectionSchedule(epochs=settings["max_epoch"], steps_per_epoch=1).factor(settings["epoch"])
    temperature = settings["temperature"]
    of_class = distillation.class_score_distillation(logits, values["teacher_cls_logits"], temperature)
    of_box = distillation.distribution_distillation(
        bins[foreground].unflatten(-1, (4, -1)),
        values["teacher_distribution"][foreground].unflatten(-1, (4, -1)),
        losses.assignment.scores.sum(-1)[foreground],
        temperature,
    )
    cwd = torch.zeros((), dtype=dtype)
    if settings["distill_feat"]:
        maps = [[values[f"{who}_neck_{level}"] for level in range(3)] for who in ("student", "teacher")]
        cwd = distillation.channel_wise_distillation(*maps)
    weighted = settings["loss_weights"]
    parts = {
        "loss_cls": losses.loss_class + weighted["cls"] * of_class * decay * weights["class"],
        "loss_iou": losses.loss_box,
        "loss_dfl": losses.loss_distribution + weighted["dfl"] * of_box * decay * weights["dfl"],
        "loss_cwd": weighted["cwd"] * cwd * decay,
    }
    loss = sum(parts.values())
    loss.backward()
    index = foreground.flatten().nonzero()[:, 0]
    results = {"loss": loss, **parts, "foreground_index": index}
    results |= {f"grad_{name}": value.grad for name, value in given.items()}
    for name in ("distribution", "ltrb"):
        if name in given:
            results[f"foreground_grad_{name}"] = given[name].grad.flatten(0, 1)[index]
    return results


def nms(case: dict, dtype: torch.dtype) -> dict:
    values, results = inputs(case, dtype), {}
    boxes = to_corners(torch.cat([values["centers"], values["sizes"]], dim=-1))
    names = {"conf_thres": "threshold", "iou_thres": "iou_threshold", "multi_label": "multi_label"}
    names |= {"max_det": "max_detections", "agnostic": "class_agnostic", "classes": "classes"}
    for kind, settings in case["config"].items():
        options = {names[name]: value for name, value in settings.items()}
        found = [select_detections(b, s**6, **options) for b, s in zip(boxes, values["scores"], strict=True)]
        results[f"{kind}_count"] = [len(scores) for _, scores, _ in found]
        for index, (corners, scores, labels) in enumerate(found):
            rows = torch.cat([corners, scores[:, None], labels[:, None].to(dtype)], dim=-1)
            results[f"{kind}_detections_{index}"] = rows
    return results


#: Sizes (height, width) whose geometry the case has, and for each the target and whether the rectangle is minimal.
_GEOMETRIES = ((480, 640), (640, 480), (375, 500), (1080, 1920), (427, 640), (33, 100))
_TARGETS = (((640, 640), False), ((640, 640), True), ((480, 640), True))


def _letterboxed(image: torch.Tensor, size, **options) -> tuple[torch.Tensor, object]:
    geometry = letterbox(*image.shape[-2:], tuple(size), **options)
    processor = GoldYoloImageProcessorPil(
        size={"height": size[0], "width": size[1]},
        letterbox_auto=options.get("auto", False),
        longest_edge=options.get("longest_edge"),
        shrink_by_area="longest_edge" in options,
    )
    return processor(image, input_data_format="channels_first", return_tensors="pt")["pixel_values"][0], geometry


def letterboxes(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    rows = []
    for height, width in _GEOMETRIES:
        for size, auto in _TARGETS:
            g = letterbox(height, width, size, auto=auto)
            pads = (g.out_width - g.width) / 2, (g.out_height - g.height) / 2
            rows.append([height, width, *size, auto, g.ratio, *pads, g.left, g.top, g.out_height, g.out_width])
    noise = values["noise"].to(torch.uint8).permute(2, 0, 1)
    results = {"geometry": rows, "noise_letterboxed": _letterboxed(noise, settings["noise_target"])[0].flip(0)}
    probes = torch.tensor(settings["probe_boxes"], dtype=torch.float64)
    for index, file in enumerate(settings["images"], 1):
        image = torch.from_numpy(np.array(_picture(case, file).convert("RGB"))).permute(2, 0, 1)
        size = tuple(image.shape[-2:])
        pixels, g = _letterboxed(image, (640, 640), auto=True)
        name = f"image{index}_inference"
        pads = (g.out_width - g.width) / 2, (g.out_height - g.height) / 2
        results |= {f"{name}_pixels": pixels, f"{name}_meta": [*size, g.ratio, *pads]}
        results[f"{name}_boxes"] = unletterbox_evenly(probes, size, (g.out_height, g.out_width), g.ratio)
        pixels, g = _letterboxed(image, (416, 416))
        pads = (g.out_width - g.width) / 2, (g.out_height - g.height) / 2
        results |= {f"image{index}_416_pixels": pixels}
        results |= {f"image{index}_416_meta": [g.ratio, *pads, g.out_height, g.out_width]}
        for edge in settings["test_load_sizes"]:
            pixels, g = _letterboxed(image, (640, 640), longest_edge=edge)
            name = f"image{index}_eval{edge}"
            meta = [*size, g.height, g.width, 1.0, g.left, g.top, g.scale_y, g.scale_x]
            boxes = g.inverse(probes).minimum(probes.new_tensor([size[1], size[0]] * 2)).clamp(min=0)
            results |= {f"{name}_pixels": pixels, f"{name}_meta": meta, f"{name}_boxes": boxes}
    return results


def _picture(case: dict, name: str) -> Image.Image:
    """A picture of the cases: beside them, or in the folder of pictures that comes with them."""
    folder = Path(case["path"]).resolve().parent
    for place in (folder, folder.parent, *(parent / "data" / "images" for parent in folder.parents)):
        if (place / name).is_file():
            return Image.open(place / name)
    pytest.skip(f"the picture {name} is not there")


def augment(case: dict, dtype: torch.dtype) -> dict:
    values, settings = inputs(case, dtype), case["config"]
    # The arrays are taken as BGR; ours are RGB.
    images = [values[f"image{index}"].numpy().astype(np.uint8)[..., ::-1] for index in range(4)]
    rows = []
    for index, image in enumerate(images):
        height, width = image.shape[:2]
        centres, sizes = values[f"centers{index}"].double(), values[f"sizes{index}"].double()
        corners = to_corners(torch.cat([centres, sizes], dim=-1)) * torch.tensor([width, height, width, height])
        corners = corners.float().double().numpy()
        rows.append(np.concatenate([values[f"labels{index}"].numpy()[:, None], corners], axis=1))
    side, draws = settings["img_size"], settings["draws"]
    centre = (draws["mosaic centre y"], draws["mosaic centre x"])
    canvas, boxes = augmentation.mosaic(images, rows, side, centre)
    matrix = augmentation.affine_matrix(
        canvas.shape[:2], (side, side), angle=draws["angle"], scale=draws["scale"],
        shear=(draws["shear x"], draws["shear y"]), translation=(draws["translate x"], draws["translate y"]),
    )  # fmt: skip
    image = augmentation.warp(canvas, matrix, (side, side))
    boxes = augmentation.warp_boxes(boxes, matrix, (side, side), draws["scale"])
    factors = [draw * gain + 1 for draw, gain in zip(settings["hsv_draws"], settings["hsv_gains"], strict=True)]
    coloured = augmentation.change_colours(images[0], factors)
    mixed = augmentation.mixup(images[0], images[0][::-1], settings["mixup_ratio"])

    def channels_first(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) / 255

    return {
        "image": channels_first(image),
        "labels_xyxy": boxes,
        "num_labels": [len(boxes)],
        "hsv_image0": channels_first(coloured),
        "mixup_image0": channels_first(mixed),
    }


def schedule(case: dict, dtype: torch.dtype) -> dict:
    settings = case["config"]
    found = DetectionSchedule(
        epochs=settings["epochs"],
        steps_per_epoch=settings["steps_per_epoch"],
        learning_rate=settings["lr0"] * settings["batch_size"] / (settings["world_size"] * settings["bs_per_gpu"]),
        final_factor=settings["lrf"],
        warmup_epochs=settings["warmup_epochs"],
        warmup_bias_learning_rate=settings["warmup_bias_lr"],
        momentum=settings["momentum"],
        warmup_momentum=settings["warmup_momentum"],
        batch_size=settings["batch_size"],
    )
    total = settings["epochs"] * settings["steps_per_epoch"]
    # The steps that the case has rows of: every 37th until the warm-up is over, and the first of each seventh epoch.
    steps = sorted({*range(0, found.warmup_steps + 100, 37), *range(0, total, 7 * settings["steps_per_epoch"])})
    spe = settings["steps_per_epoch"]
    rows = [[step, step // spe, *found.learning_rates(step), found.momentum_at(step)] for step in steps]
    decay = scaled_weight_decay(settings["weight_decay"], settings["batch_size"])
    preset = PRESETS["gold-yolo-n"].config
    fields = {name: value for name, value in preset.items() if not name.endswith(("id", "label"))}
    with torch.device("meta"):
        model = ARCHITECTURES["gold_yolo"].model_class("AutoModelForObjectDetection")(
            GoldYoloConfig(**{**fields, "head_type": "plain"}, num_labels=80)
        )
    groups = norm_weight_bias_groups(model, decay)
    # The official head's constant of the bins is a weight by its name; ours has none.
    counts = [len(group["params"]) for group in groups]
    updates = found.updates(total)
    numbers = (1, 10, 100, 1000, 2000, 10000, 100000)
    return {
        "lr": rows,
        "group_sizes": [counts[0], counts[1] + 1, counts[2]],
        "group_weight_decay": [group["weight_decay"] for group in groups],
        "ema_decay": [[number, ramped_decay(number)] for number in numbers],
        "optimizer_updates_in_first_200_steps": updates[:200],
        "updates_total": [sum(updates)],
    }


RUNNERS = {
    r"gold_yolo-\w/\w+/deploy": deploy,
    r"gold_yolo-\w/\w+/train": train,
    r"gold_yolo-\w/\w+": forward,
    r"loss/base": loss_base,
    r"loss/anchor_aided": loss_anchor_aided,
    r"loss/distill_\w+": loss_distill,
    r"function/nms": nms,
    r"function/letterbox": letterboxes,
    r"function/augment": augment,
    r"function/schedule": schedule,
    r"function/assigners": assigners,
    r"function/iou_losses": iou,
    r"function/varifocal_dfl": varifocal_dfl,
}
