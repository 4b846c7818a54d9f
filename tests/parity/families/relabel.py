"""ReLabel: labels of crops read from label maps, CutMix of soft labels, the learning rate."""

import torch

from hf_effmodels.training.data.augment import cut_box
from hf_effmodels.training.data.soft_mixing import cutmix_of
from hf_effmodels.training.losses.label_maps import dense_label_map, pooled_targets
from hf_effmodels.training.optim.schedules import cosine_over_warmup_schedule

from .. import golden

SYSTEMS = ("relabel",)


def _classes(config: dict, first: torch.Tensor) -> torch.Tensor:
    ranks, (height, width) = config["top_k"], config["map_size"]
    rank, row, column = (
        torch.arange(n).view(shape) for n, shape in ((ranks, (-1, 1, 1)), (height, (-1, 1)), (width, (-1,)))
    )
    return (first + config["class_stride"] * rank + 5 * (row // 4) + column // 5) % config["num_classes"]


def _pooling(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    count = config["num_classes"]
    scores, classes = values["scores"], _classes(config, values["first_class"].long())
    boxes = [
        [top / height, left / width, top / height + rows / height, left / width + columns / width]
        for (top, left, rows, columns), (height, width) in zip(
            config["boxes_top_left_height_width"], config["image_sizes_height_width"], strict=True
        )
    ]
    dense = dense_label_map(scores, classes, count)
    results = {
        "dense_sums": dense.sum(1),
        "dense_nonzero": (dense != 0).sum()[None],
        "box_yxyx": torch.tensor(boxes, dtype=torch.float64),
    }
    for name, order in (("target", "published"), ("target_axes_exchanged", "row_major")):
        target = pooled_targets(scores, classes, boxes, count, axis_order=order)
        largest = target.topk(8)
        results |= {name: target, f"{name}_top8": largest.values, f"{name}_top8_class": largest.indices}
    logits = values["logits"].requires_grad_()
    loss = -(results["target"] * logits.log_softmax(1)).sum(1).mean()
    loss.backward()
    return results | {"loss": loss[None], "grad_logits": logits.grad}


def _cutmix_targets(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    order = torch.tensor(config["permutation"])
    top, left, bottom, right = config["box"]
    box = (top, bottom, left, right)
    pixels, target, share = cutmix_of(
        values["pixel_values"], values["scores"].softmax(1), order, box, smoothing=config["smoothing"]
    )
    return {"pixel_values": pixels, "lam": torch.tensor([share]), "target": target}


def _cutmix_box(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    rows = []
    for width, height, share, x, y in case["config"]["cases_w_h_lam_cx_cy"]:
        top, bottom, left, right = cut_box(height, width, share, y, x)
        rows.append([left, top, right, bottom, 1 - (bottom - top) * (right - left) / (height * width)])
    return {"box_and_lam": torch.tensor(rows, dtype=torch.float64)}


def _learning_rate(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    assert config["kind"] == "cos"
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config["init"])
    steps = config["iterations_per_epoch"]
    schedule = cosine_over_warmup_schedule(
        optimizer,
        config["warmup_epochs"] * steps,
        config["epochs"] * steps,
        warmup_lr=config["warmup_start"],
        warmup_prefix=True,
    )
    [factor] = schedule.lr_lambdas
    points = [config["init"] * factor(epoch * steps + step) for epoch, step in config["points_epoch_iteration"]]
    return {"lr": torch.tensor(points, dtype=torch.float64)}


_FUNCTIONS = {
    "label_pooling": _pooling,
    "cutmix_targets": _cutmix_targets,
    "cutmix_box": _cutmix_box,
    "learning_rate": _learning_rate,
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _FUNCTIONS[case["variant"]](case, dtype)
