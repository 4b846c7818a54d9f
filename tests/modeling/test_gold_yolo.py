"""What is Gold-YOLO's own: boxes, suppression, letterboxing, heads, official files."""

import logging
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoBackbone,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    pipeline,
)

import hf_effmodels
from hf_effmodels.hub.checkpoints import read_pickled_model
from hf_effmodels.hub.convert import ConversionError, convert, load_checkpoint
from hf_effmodels.modeling.gold_yolo import image_processing_gold_yolo, loss_gold_yolo
from hf_effmodels.modeling.gold_yolo.assignment_gold_yolo import atss_assignment, task_aligned_assignment
from hf_effmodels.modeling.gold_yolo.boxes_gold_yolo import iou_losses
from hf_effmodels.modeling.gold_yolo.configuration_gold_yolo import GoldYoloConfig
from hf_effmodels.modeling.gold_yolo.convert_gold_yolo import PICKLED_MODULES, adapt, settings_of_modules
from hf_effmodels.modeling.gold_yolo.image_processing_gold_yolo import (
    GoldYoloImageProcessorPil,
    letterbox,
    resize_image,
    unletterbox_evenly,
)
from hf_effmodels.modeling.gold_yolo.loss_gold_yolo import box_losses, pad_labels
from hf_effmodels.modeling.gold_yolo.modeling_gold_yolo import (
    GoldYoloBackbone,
    GoldYoloForObjectDetection,
    GoldYoloModel,
    pool,
)
from hf_effmodels.modeling.layers.nms import nms, select_detections
from tests.modeling.tiny.gold_yolo import TINY
from tests.threads import run_together

SMALL = TINY["gold_yolo"]
CONV_SILU = SMALL | {"block_type": "conv_silu", "pyramid_pooling_type": "sppf", "n5_source": "p4"}


def build(cls=GoldYoloForObjectDetection, **fields):
    torch.manual_seed(0)
    model = cls(GoldYoloConfig(**{**SMALL, "num_labels": 3, **fields})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "norm" in name:
                parameter.uniform_(0.5, 1.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        if hasattr(model, "head"):
            for conv in (*model.head.classes, *model.head.boxes, *(model.head.direct_boxes or ())):
                conv.weight.normal_(0, 0.3)
    return model


def labels(*numbers):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "class_labels": torch.randint(3, (number,), generator=generator),
            "boxes": torch.rand(number, 4, generator=generator) * 0.3 + 0.3,
        }
        for number in numbers
    ]


@pytest.mark.parametrize("folded", [False, True])
def test_threads_do_not_see_each_others_images(folded):
    """Boxes and logits, and the maps of the backbone, with images of two sizes."""
    model, backbone = build(), build(GoldYoloBackbone, out_features=["stage3", "p3", "n5"])
    if folded:
        model, backbone = model.reparameterize(), backbone.reparameterize()
    draw = torch.Generator().manual_seed(2)
    inputs = [torch.randn(1, 3, side, 64, generator=draw) for side in (64, 96, 64)]

    def ask(pixels):
        with torch.no_grad():  # a thread has a mode of its own
            outputs = model(pixels)
            return [outputs.logits, outputs.pred_boxes, *backbone(pixels).feature_maps]

    alone = [ask(pixels) for pixels in inputs]
    for shared in (model, backbone):
        together = run_together(shared, [lambda pixels=pixels: ask(pixels) for pixels in inputs])
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    "fields", [{}, {"head_type": "anchor_aided"}, {"stage_type": "rep", "reg_max": 0, "head_type": "plain"}, CONV_SILU]
)
def test_folded_detectors_give_the_same_boxes_and_are_saved_as_they_are(fields, tmp_path):
    model = build(**fields)
    pixels = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected = model(pixels)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.reparameterize().modules())
        model.reparameterize().save_pretrained(tmp_path)
        for folded in (model, AutoModelForObjectDetection.from_pretrained(tmp_path)):
            outputs = folded(pixels)
            assert torch.allclose(outputs.logits, expected.logits, atol=1e-5)
            assert torch.allclose(outputs.pred_boxes, expected.pred_boxes, atol=1e-5)


def test_the_loss_is_the_same_in_training_and_evaluation_where_nothing_depends_on_it():
    model = build(head_type="anchor_aided", drop_path_rate=0.0)
    pixels, truth = torch.rand(2, 3, 64, 64), labels(2, 1)
    evaluated = model(pixels, labels=truth)
    shared = model(pixels, labels=truth, share=lambda own: 2 * own)  # where other processes have as much again
    torch.testing.assert_close(shared.loss, evaluated.loss / 2)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    trained = model(pixels, labels=truth)
    assert trained.loss.item() == pytest.approx(evaluated.loss.item(), rel=1e-6)
    assert sum(trained.loss_dict.values()).item() == pytest.approx(trained.loss.item(), rel=1e-6)
    assert {"loss_class", "loss_box", "loss_distribution", "loss_box_anchors"} <= trained.loss_dict.keys()


def test_the_stock_example_finds_logits_and_boxes_at_its_positions():
    outputs = build()(torch.rand(1, 3, 64, 64), labels=labels(1))
    assert list(outputs.keys())[:4] == ["loss", "loss_dict", "logits", "pred_boxes"]


@pytest.mark.parametrize("name, weight", [("class", 3.0), ("box", 0.5), ("distribution", 2.0)])
def test_weights_of_the_losses_scale_their_part(name, weight):
    pixels, truth = torch.rand(1, 3, 64, 64), labels(2)
    plain, weighted = (
        build(**{f"{name}_loss_weight": w})(pixels, labels=truth).loss_dict[f"loss_{name}"].item()
        for w in (1.0, weight)
    )
    assert weighted == pytest.approx(weight * plain, rel=1e-5)


def test_the_plain_loss_of_a_box_is_one_less_its_overlap():
    # 2 × 1 of 4 × 3 + 4 × 2 - 2 are shared; boxes apart share nothing.
    predicted, true = torch.tensor([[0.0, 0, 4, 3], [0, 0, 1, 1]]), torch.tensor([[2.0, 2, 6, 4], [2, 2, 3, 3]])
    torch.testing.assert_close(iou_losses(predicted, true, "iou"), torch.tensor([1 - 2 / 18, 1.0]))


@pytest.mark.parametrize("numbers", [(2, 0, 1), (0, 0), (1, 2), (1,)])
def test_labels_of_a_batch_are_corners_in_pixels_filled_up_to_the_most(numbers):
    """Of inputs that are wider than high; images with none among them."""
    labels = [
        {
            "class_labels": torch.arange(number) + 3,
            "boxes": torch.tensor([[0.5, 0.25, 0.5, 0.5], [0.125, 0.5, 0.25, 0.25]])[:number].double(),
        }
        for number in numbers
    ]
    classes, boxes, is_box = pad_labels(labels, 96, 64, torch.zeros(1))
    most = max(numbers)
    corners = [[24.0, 0, 72, 32], [0, 24, 24, 40]]
    assert boxes.dtype == torch.float32 and boxes.shape == (len(numbers), most, 4)
    for index, number in enumerate(numbers):
        assert classes[index].tolist() == [*range(3, 3 + number), *[-1] * (most - number)]
        assert boxes[index].tolist() == corners[:number] + [[0.0] * 4] * (most - number)
        assert is_box[index].tolist() == [True] * number + [False] * (most - number)


@pytest.mark.parametrize("assigner", ["tal", "atss"])
def test_images_without_objects_push_all_scores_down(assigner):
    model = build()
    outputs = model(torch.rand(1, 3, 64, 64), labels=labels(0), assigner=assigner)
    assert outputs.loss_dict["loss_box"] == 0 and outputs.loss_dict["loss_distribution"] == 0
    p = outputs.logits.sigmoid()
    # No box: every target is 0, the weight 0.75 p², and nothing to divide by.
    expected = (0.75 * p**2 * -torch.log(1 - p)).sum()
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_more_than_a_hundred_boxes_are_assigned_as_few_are():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 84, 3, generator=generator)
    regression = torch.rand(2, 84, 4, generator=generator) * 3
    config = GoldYoloConfig(**{**SMALL, "head_type": "plain", "reg_max": 0}, num_labels=3)
    sizes, few = [(8, 8), (4, 4), (2, 2)], labels(3, 5)
    many = [few[0], {n: v.repeat(25, *(1,) * (v.ndim - 1)) for n, v in few[1].items()}]
    alone = [box_losses(logits[i : i + 1], regression[i : i + 1], [many[i]], sizes, config) for i in range(2)]
    both = box_losses(logits, regression, many, sizes, config).assignment
    for index, single in enumerate(alone):
        assert torch.equal(both.scores[index], single.assignment.scores[0])
        assert torch.equal(both.foreground[index], single.assignment.foreground[0])


@pytest.mark.parametrize("rows", [1, 101], ids=["few", "many"])
@pytest.mark.parametrize(
    "options",
    [{}, {"alpha": 2.0}, {"beta": 1.0}, {"alpha": 3.0, "beta": 0.5}, {"topk": 1}, {"eps": 0.1}],
    ids=["default", "alpha", "beta", "both", "topk", "eps"],
)
def test_points_are_aligned_by_the_options_however_many_boxes_an_image_has(options, rows):
    """One box of 100×100 pixels, and two points in it whose boxes cover a half and a quarter of it."""
    overlaps, scores = [0.5, 0.25], [0.4, 0.9]
    predicted = torch.tensor([[0.0, 0, 50, 100], [50, 50, 100, 100]]).expand(2, 2, 4)
    # What fills the rows up does not count, whatever it looks like.
    labels, boxes = torch.full((2, rows), -1), torch.tensor([0.0, 0, 50, 100]).repeat(2, rows, 1)
    labels[:, 0], boxes[:, 0] = 0, torch.tensor([0.0, 0, 100, 100])
    points, is_box = torch.tensor([[25.0, 50], [75, 75]]), torch.arange(rows).expand(2, -1) == 0
    given = torch.tensor(scores)[:, None].expand(2, 2, 1)
    found = task_aligned_assignment(given, predicted, points, labels, boxes, is_box, **options)
    alpha, beta, eps = (options.get(name, usual) for name, usual in (("alpha", 1), ("beta", 6), ("eps", 1e-9)))
    alignment = [score**alpha * overlap**beta for score, overlap in zip(scores, overlaps, strict=True)]
    best = alignment.index(max(alignment))
    chosen = [best] if options.get("topk") == 1 else [0, 1]
    wanted = max(overlaps[point] for point in chosen)
    expected = [alignment[point] * wanted / (max(alignment) + eps) * (point in chosen) for point in (0, 1)]
    for image in (0, 1):
        assert found.scores[image, :, 0].tolist() == pytest.approx(expected, rel=1e-4)
        assert found.foreground[image].tolist() == [point in chosen for point in (0, 1)]


@pytest.mark.parametrize(
    "branch, assigner, expected",
    [
        ("box_losses", "tal", {"topk": 4, "alpha": 0.5, "beta": 2.5}),
        ("box_losses", "atss", {"topk": 6}),
        ("anchor_box_losses", "tal", {"topk": 5, "alpha": 0.5, "beta": 2.5}),
    ],
)
def test_both_branches_assign_boxes_by_the_options_of_the_configuration(branch, assigner, expected, monkeypatch):
    """And those of the image that the maps are of, which is wider than high."""
    seen, truth = {}, labels(2)

    def look(*given, **options):
        seen.update(options)
        boxes = given[4] if assigner == "tal" else given[5]
        centres, sizes = truth[0]["boxes"].split(2, 1)
        corners = torch.cat([centres - sizes / 2, centres + sizes / 2], 1) * torch.tensor([96.0, 64, 96, 64])
        torch.testing.assert_close(boxes[0], corners)
        raise InterruptedError

    monkeypatch.setattr(loss_gold_yolo, "task_aligned_assignment" if assigner == "tal" else "atss_assignment", look)
    options = {"assigner_topk": 4, "anchor_assigner_topk": 5, "assigner_alpha": 0.5, "assigner_beta": 2.5}
    options |= {"atss_topk": 6}
    config = GoldYoloConfig(**{**SMALL, "head_type": "anchor_aided", "reg_max": 0, **options}, num_labels=3)
    cells = 126 * (len(config.anchors[0]) if branch == "anchor_box_losses" else 1)
    options = {"assigner": assigner} if branch == "box_losses" else {}
    with pytest.raises(InterruptedError):
        getattr(loss_gold_yolo, branch)(
            torch.zeros(1, cells, 3), torch.ones(1, cells, 4), truth, [(8, 12), (4, 6), (2, 3)], config, **options
        )
    assert seen == expected


@pytest.mark.parametrize("assigner", ["tal", "atss"])
def test_points_on_the_edge_of_a_box_are_not_in_it(assigner):
    box, strides = torch.tensor([[[8.0, 8, 56, 56]]]), torch.full((25, 1), 16.0)
    rows = torch.arange(0.0, 65, 12)[:5] + 8  # 8, 20, 32, 44 and 56
    points = torch.stack([rows.repeat(5), rows.repeat_interleave(5)], -1)
    predicted, given = box.expand(1, 25, 4), (torch.zeros(1, 1, dtype=torch.long), box, torch.ones(1, 1).bool())
    if assigner == "tal":
        found = task_aligned_assignment(torch.full((1, 25, 2), 0.5), predicted, points, *given, topk=25)
    else:  # anchors of 1 × 1 pixels overlap alike inside of the box, and by a quarter at its corners
        found = atss_assignment(predicted, points, strides / 80, [25], *given, 2, topk=25)
    inner = torch.zeros(5, 5, dtype=torch.bool)
    inner[1:4, 1:4] = True
    assert torch.equal(found.foreground[0], inner.flatten())


def test_a_loss_is_divided_by_any_sum_of_scores_but_none():
    for normalizer, expected in ((0.5, 6.0), (4.0, 0.75), (0.0, 3.0)):
        assert loss_gold_yolo.divided(torch.tensor(3.0), torch.tensor(normalizer)).item() == expected


@torch.no_grad()
@pytest.mark.parametrize("head_type", ["plain", "distillation", "anchor_aided"])
def test_every_part_of_the_loss_is_divided_by_the_scores_of_all_processes(head_type):
    """Where the other processes have as much in the mean as makes it twice one's own, each part is a half."""
    torch.manual_seed(0)
    config, truth = GoldYoloConfig(**{**SMALL, "head_type": head_type}, num_labels=3), labels(2, 3)
    logits, regression = torch.randn(2, 84, 3), torch.rand(2, 84, 4 * (config.reg_max + 1 if config.reg_max else 1))
    of_anchors, sums = {}, []
    if head_type == "anchor_aided":
        of_anchors = {"anchor_logits": torch.randn(2, 3 * 84, 3), "anchor_boxes": torch.rand(2, 3 * 84, 4) + 0.5}

    def share(own):
        sums.append(own)
        return 2 * own

    given = logits, regression, truth, [(8, 8), (4, 4), (2, 2)], config
    alone, parts = loss_gold_yolo.gold_yolo_object_detection_loss(*given, **of_anchors)
    total, shared = loss_gold_yolo.gold_yolo_object_detection_loss(*given, **of_anchors, share=share)
    assert len(sums) == (2 if of_anchors else 1) and all(own > 0 for own in sums)
    assert shared.keys() == parts.keys() and all(part > 0 for part in parts.values())
    for name, part in parts.items():
        torch.testing.assert_close(shared[name], part / 2)
    torch.testing.assert_close(total, alone / 2)


def test_wrong_inputs_are_named():
    model = build()
    with pytest.raises(ValueError, match="pixel_values: got images of 100×64, accepted are sides .* multiples of 32"):
        model(torch.rand(1, 3, 100, 64))
    with pytest.raises(ValueError, match="pixel_values: got images of 64×100, accepted are sides .* multiples of 32"):
        model(torch.rand(1, 3, 64, 100))
    for height, width in ((72, 64), (64, 72), (80, 80), (64, 48)):  # multiples of 8 or 16
        with pytest.raises(ValueError, match=f"pixel_values: got images of {height}×{width}, accepted are sides"):
            model(torch.rand(1, 3, height, width))
    with pytest.raises(ValueError, match="pixel_values: got None, expected a tensor"):
        model(None)
    with pytest.raises(ValueError, match=r"pixel_values: got shape \(3, 100, 64\), expected \(batch, 3"):
        model(torch.rand(3, 100, 64))
    truth = labels(2)
    truth[0]["class_labels"][1] = 3
    with pytest.raises(ValueError, match="class_labels of image 0 go from .* to 3, accepted are .* 0 to 2"):
        model(torch.rand(1, 3, 64, 64), labels=truth)
    truth[0]["class_labels"][1] = -1
    with pytest.raises(ValueError, match="class_labels of image 0 go from -1 to"):
        model(torch.rand(1, 3, 64, 64), labels=truth)
    with pytest.raises(ValueError, match="labels: got 2 for 1 images, accepted is one dictionary for each"):
        model(torch.rand(1, 3, 64, 64), labels=labels(1, 1))
    with pytest.raises(ValueError, match="kind: got 'eiou', accepted are 'iou', 'giou', 'diou', 'ciou' and 'siou'"):
        iou_losses(torch.rand(1, 4), torch.rand(1, 4), "eiou")
    with pytest.raises(ValueError, match="assigner: got 'simota', accepted are 'tal' and 'atss'"):
        model(torch.rand(1, 3, 64, 64), labels=labels(1), assigner="simota")
    with pytest.raises(ValueError, match="head_type: got 'dfl', accepted are 'plain', "):
        hf_effmodels.get_config("gold-yolo-n", head_type="dfl")
    with pytest.raises(ValueError, match="reg_max: got 0, but head_type 'distillation'"):
        hf_effmodels.get_config("gold-yolo-n", reg_max=0)


def test_a_head_for_other_classes_starts_anew(tmp_path):
    build().save_pretrained(tmp_path)
    model = AutoModelForObjectDetection.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model.head.classes[1].bias.tolist() == pytest.approx([-np.log(99)] * 5)
    assert model.config.head_type == "distillation"
    assert not model.head.classes[1].weight.any()
    assert torch.equal(model.head.boxes[0].weight, build().head.boxes[0].weight)


def test_what_only_the_training_needs_is_there_only_then():
    pixels = torch.rand(2, 3, 64, 64)
    for head_type, names in (
        ("distillation", ["pred_distribution"]),
        ("anchor_aided", ["anchor_logits", "anchor_boxes"]),
    ):
        model = build(head_type=head_type)
        alone, labelled = model(pixels), model(pixels, labels=labels(1, 1))
        trained = model.train()(pixels)
        for name in names:
            assert getattr(alone, name) is None, name
            assert labelled[name] is not None and trained[name] is not None, name
    assert labelled.anchor_boxes.shape == (2, 3 * (64 + 16 + 4), 4) and labelled.anchor_logits.shape[-1] == 3


@torch.no_grad()
def test_injections_may_be_of_other_widths_than_the_levels():
    model = build(injection_sizes=[6, 10, 4, 12])
    neck = model.gold_yolo.neck
    assert neck.low_fusion.leave.conv.out_channels == 16 and neck.high_fusion.leave.out_channels == 16
    wanted = {"p4": (6, 8), "p3": (10, 4), "n4": (4, 8), "n5": (12, 16)}
    for level, (given, own) in wanted.items():
        injection = getattr(neck, f"level_{level}").injection
        for part in (injection.global_embedding, injection.global_gate):
            assert (part.conv.in_channels, part.conv.out_channels) == (given, own)
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 84, 3)


@torch.no_grad()
def test_heads_of_the_attention_are_as_wide_as_the_configuration_says():
    model = build(attention_ratio=3, num_attention_heads=2, attention_key_size=4, mlp_ratio=0.5)
    block = model.gold_yolo.neck.high_fusion.blocks[0]
    channels = 4 + 8 + 16
    found = [block.attention.query, block.attention.key, block.attention.value, block.attention.projection]
    found = [(part.conv.in_channels, part.conv.out_channels) for part in found]
    assert found == [(channels, 8), (channels, 8), (channels, 24), (24, channels)]
    assert block.mlp.depthwise.out_channels == channels // 2
    assert model(torch.rand(1, 3, 64, 64)).logits.shape == (1, 84, 3)


# pooling and backbone


@pytest.mark.parametrize("size", [(3, 3), (5, 2), (4, 7)])
def test_pooling_for_export_is_adaptive_pooling(size, monkeypatch):
    features = torch.randn(2, 3, 10, 7)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.allclose(pool(features, size), nn.functional.adaptive_avg_pool2d(features, size), atol=1e-6)


def test_the_backbone_gives_stages_and_neck_of_a_detector(tmp_path):
    detector = build()
    detector.save_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 64, 96)
    # AutoBackbone.from_pretrained of transformers 5.23 takes ids of the Hub only.
    backbone = GoldYoloBackbone.from_pretrained(tmp_path, out_features=["stage2", "p3", "n5"])
    assert type(AutoBackbone.from_config(backbone.config)) is GoldYoloBackbone
    with torch.no_grad():
        maps, base = backbone(pixels).feature_maps, detector.gold_yolo(pixels, output_hidden_states=True)
    assert torch.equal(maps[0], base.hidden_states[2])
    assert torch.equal(maps[1], base.feature_maps[0]) and torch.equal(maps[2], base.feature_maps[2])
    assert backbone.channels == [m.shape[1] for m in maps]
    assert GoldYoloBackbone(GoldYoloConfig(**SMALL)).neck is None
    copied = replace(GoldYoloConfig(**SMALL))  # hands on what it has resolved, too
    assert copied.out_features == ["stage4"] and GoldYoloBackbone(copied).neck is None


def test_it_is_a_backbone_of_transformers_detectors():
    backbone = GoldYoloConfig(**SMALL, out_features=["stage2", "stage3", "stage4"])
    sizes = {"encoder_hidden_dim": 16, "d_model": 16, "decoder_ffn_dim": 16, "encoder_ffn_dim": 16, "num_queries": 5}
    config = RTDetrConfig(
        backbone_config=backbone, **sizes, encoder_in_channels=[8, 12, 16], decoder_in_channels=[16] * 3,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, num_denoising=0,
    )  # fmt: skip
    model = RTDetrForObjectDetection(config).eval()
    assert model(torch.rand(1, 3, 64, 64)).pred_boxes.shape == (1, 5, 4)


# suppression


def greedy(boxes, scores, threshold):
    """The definition: take the best box, drop what overlaps it, go on."""
    order, kept = sorted(range(len(boxes)), key=lambda i: -scores[i]), []

    def iou(a, b):
        overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        return overlap / (areas - overlap)

    for index in order:
        if all(iou(boxes[index], boxes[other]) <= threshold for other in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("threshold, spread", [(0.3, 40), (0.6, 15), (0.0, 200)])
def test_suppression_is_greedy_across_blocks(threshold, spread, monkeypatch):
    monkeypatch.setattr("hf_effmodels.modeling.layers.nms.BLOCK", 16)
    generator = torch.Generator().manual_seed(spread)
    corners = torch.rand(120, 2, generator=generator) * spread
    boxes = torch.cat([corners, corners + 5 + torch.rand(120, 2, generator=generator) * 20], dim=1)
    scores = torch.rand(120, generator=generator)
    expected = greedy(boxes.double().tolist(), scores.tolist(), threshold)
    assert nms(boxes, scores, threshold).tolist() == expected
    assert nms(boxes, scores, threshold, 7).tolist() == expected[:7]


def test_every_option_of_the_selection_counts():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.5], [50, 50, 60, 60]])
    scores = torch.tensor([[0.9, 0.6], [0.1, 0.8], [0.3, 0.2]])

    def found(**options):
        _, values, numbers = select_detections(boxes, scores, **{"threshold": 0.25, "iou_threshold": 0.5, **options})
        return [(round(v, 2), n) for v, n in zip(values.tolist(), numbers.tolist(), strict=True)]

    assert found() == [(0.9, 0), (0.8, 1), (0.3, 0)]
    assert found(multi_label=True) == [(0.9, 0), (0.8, 1), (0.3, 0)]
    assert found(multi_label=True, iou_threshold=1.0) == [(0.9, 0), (0.8, 1), (0.6, 1), (0.3, 0)]
    assert found(class_agnostic=True) == [(0.9, 0), (0.3, 0)]
    assert found(classes=[1]) == [(0.8, 1)]
    assert found(max_detections=1) == [(0.9, 0)]
    assert found(max_candidates=2) == [(0.9, 0), (0.8, 1)]
    assert found(threshold=0.85) == [(0.9, 0)]


@pytest.mark.parametrize("side", [640, 1280, 1920, 2560, 4000])
@pytest.mark.parametrize("classes", [(0, 1), (0, 2), (4, 7), (1, 1)])
def test_boxes_of_two_classes_never_meet_however_far_they_are_from_each_other(side, classes):
    """A box at the upper left, and one of the same size `side` pixels further on in both directions."""
    boxes = torch.tensor([[20.0, 20, 100, 100]]) + torch.tensor([[side], [0.0]])
    scores = torch.zeros(2, 80)
    scores[torch.arange(2), torch.tensor(classes)] = torch.tensor([0.9, 0.8])
    found, _, labels = select_detections(boxes, scores, 0.5, 0.5)
    assert torch.equal(found, boxes) and tuple(labels.tolist()) == classes


# image processor


def test_boxes_come_back_from_the_letterbox():
    random = np.random.RandomState(0)
    for _ in range(60):
        height, width = random.randint(8, 900, 2)
        options = {"auto": bool(random.randint(2)), "scale_up": bool(random.randint(2))}
        geometry = letterbox(height, width, (160, 224), **options)
        corners = np.sort(random.rand(2, 2), axis=0) * [width, height]
        boxes = torch.tensor(corners.reshape(1, 4), dtype=torch.float32)
        assert (geometry.inverse(geometry.forward(boxes)) - boxes).abs().max() < 1e-3


def test_every_option_of_the_detections_reaches_their_selection(monkeypatch):
    asked = []

    def select(boxes, scores, threshold, iou_threshold, **how):
        asked.append({"threshold": threshold, "nms_threshold": iou_threshold, **how})
        return boxes[:1], scores[:1, 0], torch.zeros(1, dtype=torch.long)

    monkeypatch.setattr(image_processing_gold_yolo, "select_detections", select)
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64})
    outputs = {"logits": torch.zeros(1, 84, 3), "pred_boxes": torch.full((1, 84, 4), 0.5)}
    plain = {"threshold": 0.5, "nms_threshold": 0.45, "multi_label": False, "max_detections": 300}
    plain |= {"class_agnostic": False, "classes": None, "max_candidates": 30000}
    other = {"threshold": 0.25, "nms_threshold": 0.75, "multi_label": True, "max_detections": 7}
    other |= {"class_agnostic": True, "classes": [2], "max_candidates": 9}
    for given in ({}, *({name: value} for name, value in other.items()), other):
        processor.post_process_object_detection(outputs, **given)
        assert asked.pop() == plain | given


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"letterbox_auto": True}, (64, 32)),
        ({"letterbox_auto": True, "size_divisor": 8}, (64, 24)),
        ({"letterbox_auto": True, "size_divisor": 8, "scale_up": False}, (40, 16)),
        ({"letterbox_auto": True, "size_divisor": 16, "longest_edge": 48}, (48, 32)),
        ({"size_divisor": 8}, (64, 64)),
    ],
)
@pytest.mark.parametrize("at_the_call", [True, False])
def test_what_an_image_is_padded_to_is_what_the_call_says_or_the_processor(options, size, at_the_call):
    """One of 40 × 15 pixels within 64 × 64: enlarged to 64 × 24."""
    square = {"size": {"height": 64, "width": 64}}
    processor = GoldYoloImageProcessorPil(**square, **({} if at_the_call else options))
    given = options if at_the_call else {}
    found = processor(np.zeros((40, 15, 3), np.uint8), return_tensors="pt", **given)["pixel_values"]
    assert tuple(found.shape[-2:]) == size


@pytest.mark.parametrize("stated", [None, 7.0])
@pytest.mark.parametrize(("size", "scaled"), [((500, 3), (64, 1)), ((3, 500), (1, 64)), ((20, 30), (43, 64))])
def test_areas_are_scaled_by_both_sides_which_rounding_makes_unequal(size, scaled, stated):
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64})
    row = {"bbox": [0.5, 1.0, 2.0, 1.5], "category_id": 0} | ({} if stated is None else {"area": stated})
    truth = {"image_id": 1, "annotations": [row]}
    label = processor(np.zeros((*size, 3), np.uint8), annotations=truth, return_tensors="pt")["labels"][0]
    assert (label["area"].dtype, label["iscrowd"].tolist()) == (torch.float32, [0])
    expected = (3.0 if stated is None else stated) * scaled[0] / size[0] * scaled[1] / size[1]
    assert label["area"].tolist() == pytest.approx([expected])


@pytest.mark.parametrize("how", [{}, {"do_resize": False}, {"letterbox_auto": True}, {"longest_edge": 64}])
@pytest.mark.parametrize("relative", [True, False])
def test_boxes_of_an_image_that_is_not_padded_are_in_its_own_pixels(how, relative):
    """Of 32 × 64 pixels within 96 × 128: twice as large, or as it is."""
    processor = GoldYoloImageProcessorPil(
        size={"height": 96, "width": 128}, do_pad=False, do_convert_annotations=relative, **how
    )
    truth = {"annotations": [{"bbox": [8.0, 4.0, 16.0, 12.0], "category_id": 1}]}
    features = processor(np.zeros((32, 64, 3), np.uint8), annotations=truth, return_tensors="pt")
    scale = 1 if {"do_resize", "longest_edge"} & how.keys() else 2
    assert features["pixel_values"].shape == (1, 3, 32 * scale, 64 * scale)
    label = features["labels"][0]
    corners = torch.tensor([[8.0, 4.0, 24.0, 16.0]])
    centres = torch.tensor([[16 / 64, 10 / 32, 16 / 64, 12 / 32]])
    torch.testing.assert_close(label["boxes"], centres if relative else corners * scale)
    assert label["size"].tolist() == [32 * scale, 64 * scale]
    points = sum(32 * scale // s * 64 * scale // s for s in (8, 16, 32))
    logits, boxes = torch.full((1, points, 3), -9.0), torch.full((1, points, 4), 0.1)
    logits[0, 3, 1], boxes[0, 3] = 4.0, centres[0]
    (found,) = processor.post_process_object_detection({"logits": logits, "pred_boxes": boxes}, 0.5, [(32, 64)])
    torch.testing.assert_close(found["boxes"], corners)


@pytest.mark.parametrize("options", [{}, {"scale_up": False}, {"letterbox_auto": True}, {"longest_edge": 90}])
def test_true_boxes_given_as_predictions_are_found_where_they_are(options):
    processor = GoldYoloImageProcessorPil(size={"height": 96, "width": 128}, **options)
    bbox = [7.0, 3.0, 20.0, 11.0]
    truth = {"image_id": 9, "annotations": [{"bbox": bbox, "category_id": 1}]}
    features = processor(np.zeros((20, 50, 3), np.uint8), annotations=truth, return_tensors="pt")
    label, size = features["labels"][0], features["pixel_values"].shape[-2:]
    assert (tuple(size) == (96, 128)) == ("letterbox_auto" not in options)  # else the least of multiples of 32
    assert tuple(label["size"].tolist()) == tuple(size) and label["orig_size"].tolist() == [20, 50]
    points = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
    logits = torch.full((1, points, 3), -9.0)
    logits[0, 5, 1] = 4.0
    boxes = torch.full((1, points, 4), 0.1)
    boxes[0, 5] = label["boxes"][0]
    outputs = {"logits": logits, "pred_boxes": boxes}
    (found,) = processor.post_process_object_detection(outputs, 0.5, [(20, 50)])
    expected = torch.tensor([[7.0, 3.0, 27.0, 14.0]])
    assert found["labels"].tolist() == [1] and (found["boxes"] - expected).abs().max() < 1e-3
    (relative,) = processor.post_process_object_detection(outputs, 0.5)
    assert relative["boxes"].max() <= 1


@pytest.mark.parametrize(
    "size, options, scaled, padding",
    [
        # The scale 40 / 100; of what is left to 64 pixels one half lies before the image.
        ((100, 50), {"longest_edge": 40}, (40, 20), (12, 22)),
        ((50, 100), {"longest_edge": 64}, (32, 64), (16, 0)),
        ((30, 20), {"longest_edge": 60}, (60, 40), (2, 12)),
        ((30, 20), {"longest_edge": 60, "scale_up": False}, (30, 20), (17, 22)),
        ((30, 20), {"scale_up": False}, (30, 20), (17, 22)),
        ((30, 20), {}, (64, 43), (0, 10)),
        ((20, 30), {}, (43, 64), (10, 0)),
        # The least multiples of 16 that hold 30 × 20 are 32 × 32.
        ((30, 20), {"scale_up": False, "auto": True, "divisor": 16}, (30, 20), (1, 6)),
        ((500, 1), {}, (64, 1), (0, 31)),  # one pixel is left, at least
        ((1, 500), {}, (1, 64), (31, 0)),
        ((500, 1), {"longest_edge": 64}, (64, 1), (0, 31)),
        ((1, 500), {"longest_edge": 64}, (1, 64), (31, 0)),
    ],
)
def test_an_image_is_scaled_and_put_in_the_middle(size, options, scaled, padding):
    found = letterbox(*size, (64, 64), **options)
    assert ((found.height, found.width), (found.top, found.left)) == (scaled, padding)
    out = (32, 32) if options.get("auto") else (64, 64)
    assert (found.out_height, found.out_width) == out
    assert (found.scale_y, found.scale_x) == (scaled[0] / size[0], scaled[1] / size[1])


def test_images_shrink_by_averages_of_the_area_where_that_is_asked_for():
    picture = torch.arange(24.0).view(1, 4, 6)
    assert resize_image(picture, 4, 6) is picture
    # 4 × 6 to 2 × 4: each new column covers one and a half of the old ones.
    across = torch.tensor([[2, 1, 0, 0, 0, 0], [0, 1, 2, 0, 0, 0], [0, 0, 0, 2, 1, 0], [0, 0, 0, 0, 1, 2]]) / 3
    down = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]) / 2
    torch.testing.assert_close(resize_image(picture, 2, 4, by_area=True)[0], down @ picture[0] @ across.T)
    # Larger in one direction: as without it.
    for size in ((8, 4), (2, 9)):
        expected = nn.functional.interpolate(picture[None], size=size, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(resize_image(picture, *size, by_area=True), expected)
        torch.testing.assert_close(resize_image(picture, *size), expected)
    bytes_ = (picture * 10).to(torch.uint8)
    found = resize_image(bytes_, 2, 4, by_area=True)
    assert found.dtype == torch.uint8
    assert torch.equal(found[0], (down @ bytes_[0].float() @ across.T).round().to(torch.uint8))


def test_pixels_are_what_the_options_say():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    plain = torch.from_numpy(pixels).permute(2, 0, 1)
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 96})

    def found(image=pixels, **options):
        return processor(image, return_tensors="pt", **options)["pixel_values"][0]

    # Not resized: the image itself, in the middle of grey.
    inner = (slice(None), slice(22, 42), slice(33, 63))
    image = found(do_resize=False)
    assert image.shape == (3, 64, 96)
    torch.testing.assert_close(image[inner], plain / 255)
    image[inner] = 114 / 255
    torch.testing.assert_close(image, torch.full_like(image, 114 / 255))
    assert torch.equal(found(do_resize=False, do_rescale=False)[inner], plain.float())
    assert found(do_resize=False, do_rescale=False).dtype == torch.float32
    assert found(do_resize=False, do_rescale=False)[0, 0, 0] == 114
    assert found(do_resize=False, do_rescale=False, pad_value=7)[0, 0, 0] == 7
    # Of an image that is rescaled already the padding is, too.
    done = found(np.float32(pixels) / 255, do_resize=False, do_rescale=False)
    torch.testing.assert_close(done, found(do_resize=False))
    assert found(do_resize=False, do_pad=False).shape == (3, 20, 30)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    normal = found(do_resize=False, do_normalize=True, image_mean=mean, image_std=std)
    for channel in range(3):
        expected = (plain[channel] / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(normal[inner][channel], expected)
    large = np.zeros((64, 97, 3), np.uint8)
    assert found(large[:, 1:], do_resize=False).shape == (3, 64, 96)
    for wrong in (large, np.zeros((65, 96, 3), np.uint8)):
        with pytest.raises(ValueError, match="do_resize: got False, but an image of .* is larger than size 64×96"):
            found(wrong, do_resize=False)
    with pytest.raises(ValueError, match="longest_edge: got 97, which makes an image of 20×30 one of 64×97, larger"):
        found(longest_edge=97)
    with pytest.raises(ValueError, match="longest_edge: got 65, .* one of 65×43, larger than size 64×96"):
        found(pixels.transpose(1, 0, 2), longest_edge=65)
    with pytest.raises(ValueError, match="size: got .*accepted are height and width in pixels"):
        found(size={"shortest_edge": 64})
    outputs = {"logits": torch.zeros(2, 1, 3), "pred_boxes": torch.zeros(2, 1, 4)}
    with pytest.raises(ValueError, match="target_sizes: got 1 for 2 images, accepted is one for each image"):
        processor.post_process_object_detection(outputs, target_sizes=[(20, 30)])


@pytest.mark.parametrize("number", [1, 2])
def test_several_images_are_padded_to_one_size_where_one_alone_is_to_its_rectangle(number):
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64}, letterbox_auto=True)
    wide = np.zeros((32, 64, 3), np.uint8)
    pixels = processor([wide, wide.transpose(1, 0, 2)][:number], return_tensors="pt").pixel_values
    assert pixels.shape == ((1, 3, 32, 64) if number == 1 else (2, 3, 64, 64))


def test_boxes_of_each_image_come_back_to_its_own_size():
    """A wide image has grey above and below, a high one on both sides, one of twice the size is reduced."""
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64})
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25]]]).expand(3, 1, 4)  # of 64×64 pixels the corners 16, 24, 48, 40
    outputs = {"logits": torch.full((3, 1, 2), 5.0), "pred_boxes": boxes}
    found = processor.post_process_object_detection(outputs, target_sizes=[(32, 64), (64, 32), (128, 128)])
    assert [one["boxes"].tolist() for one in found] == [[[16, 8, 48, 24]], [[0, 24, 32, 40]], [[32, 48, 96, 80]]]
    # What is said to reach beyond an image ends with it.
    outputs["pred_boxes"] = torch.tensor([[[0.5, 0.5, 2.0, 2.0]]]).expand(3, 1, 4)
    found = processor.post_process_object_detection(outputs, target_sizes=[(32, 64), (64, 32), (128, 128)])
    assert [one["boxes"].tolist() for one in found] == [[[0, 0, 64, 32]], [[0, 0, 32, 64]], [[0, 0, 128, 128]]]


@pytest.mark.parametrize("points, expected", [(84, [16.0, 8, 48, 24]), (42, [16.0, 12, 48, 20])])
def test_boxes_come_back_from_the_rectangle_or_the_square_that_the_network_saw(points, expected):
    """The rectangle of a wide image is 32 × 64 pixels, of 42 points; in a batch it was filled up to 64 × 64."""
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64}, letterbox_auto=True)
    logits, boxes = torch.full((1, points, 2), -9.0), torch.full((1, points, 4), 0.1)
    logits[0, 7, 1], boxes[0, 7] = 5.0, torch.tensor([0.5, 0.5, 0.5, 0.25])
    (found,) = processor.post_process_object_detection(
        {"logits": logits, "pred_boxes": boxes}, target_sizes=[(32, 64)]
    )
    assert found["boxes"].tolist() == [expected] and found["labels"].tolist() == [1]


def test_detections_are_kept_by_default_as_documented():
    """Above a score of 0.5, one class each, the best 300, and none that a better one overlaps by more than 0.45."""
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64})

    def found(scores, boxes, **options):
        outputs = {"logits": torch.tensor([scores]).logit(), "pred_boxes": torch.tensor([boxes])}
        (kept,) = processor.post_process_object_detection(outputs, **options)
        return [round(score, 2) for score in kept["scores"].tolist()]

    left, near, same = [0.25, 0.5, 0.2, 0.2], [0.31, 0.5, 0.2, 0.2], [0.335, 0.5, 0.2, 0.2]
    # Shifted by 0.06 of 0.2 they share 14 of 26 parts, 0.54; by 0.085 11.5 of 28.5, 0.40.
    assert found([[0.9], [0.8]], [left, near]) == [0.9]
    assert found([[0.9], [0.8]], [left, same]) == [0.9, 0.8]
    assert found([[0.9], [0.8]], [left, near], nms_threshold=0.6) == [0.9, 0.8]
    assert found([[0.9, 0.1], [0.1, 0.8]], [left, near]) == [0.9, 0.8]
    assert found([[0.9, 0.1], [0.1, 0.8]], [left, near], class_agnostic=True) == [0.9]
    assert found([[0.51], [0.49]], [left, same]) == [0.51]
    assert found([[0.9, 0.8]], [left]) == [0.9] and found([[0.9, 0.8]], [left], multi_label=True) == [0.9, 0.8]
    many = [[0.002 * i + 0.001, 0.5, 0.001, 0.001] for i in range(301)]
    assert len(found([[0.9]] * 301, many)) == 300 and len(found([[0.9]] * 301, many, max_detections=301)) == 301


def test_annotations_are_cleaned_or_refused_by_their_row():
    processor = GoldYoloImageProcessorPil(size={"height": 64, "width": 64})
    image = np.zeros((32, 32, 3), np.uint8)

    def label(*items):
        truth = {"image_id": 4, "annotations": [{"category_id": 0, **item} for item in items]}
        return processor(image, annotations=truth, return_tensors="pt")["labels"][0]

    found = label(
        {"bbox": [-5, -5, 15, 15]},
        {"bbox": [3, 3, 0, 9]},
        {"bbox": [40, 2, 5, 5]},
        {"bbox": [1, 1, 5, 5], "iscrowd": 1},
    )
    assert found["boxes"].tolist() == [pytest.approx([5 / 32, 5 / 32, 10 / 32, 10 / 32])]
    assert label()["boxes"].shape == (0, 4)
    for item, message in (
        ({"bbox": [1, 2, 3]}, "image 4, row 0: bbox is"),
        ({"bbox": [1, 2, 3, float("nan")]}, "row 0: bbox is"),
        ({"bbox": [1, 2, 3, 4], "category_id": -1}, "row 0: category_id is -1"),
        ({"bbox": [1, 2, 3, "4"]}, "row 0: bbox is"),
        ({"bbox": [1, 2, 3, 4], "category_id": 0.5}, "row 0: category_id is 0.5"),
        ({}, "row 0: bbox is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            label(item)
    for wrong in ({"image_id": 4}, {"annotations": None}, [[]]):
        with pytest.raises(ValueError, match="annotations: that of image 0 is .*accepted is a dictionary"):
            processor(image, annotations=wrong)
    # What an annotation says of its area wins over its box's, in pixels of the network's input: 2 × 2 as many.
    assert label({"bbox": [1, 1, 5, 5], "area": 3.0})["area"].tolist() == [12.0]
    assert label({"bbox": [1, 1, 5, 4]})["area"].tolist() == [80.0]
    corners = processor(
        image, annotations={"annotations": [{"bbox": [1, 2, 5, 4], "category_id": 2}]}, do_convert_annotations=False
    )["labels"][0]
    assert corners["boxes"].tolist() == [[2, 4, 12, 12]] and corners["class_labels"].tolist() == [2]
    assert corners["image_id"].tolist() == [0]
    with pytest.raises(ValueError, match="annotations: got 2 for 1 images"):
        processor(image, annotations=[{"annotations": []}] * 2)


def test_the_pipeline_takes_any_images_without_a_warning(tmp_path, caplog):
    model = build(id2label={0: "one", 1: "two", 2: "three"}, label2id={"one": 0, "two": 1, "three": 2})
    model.save_pretrained(tmp_path)
    GoldYoloImageProcessorPil(size={"height": 96, "width": 64}).save_pretrained(tmp_path)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is GoldYoloImageProcessorPil
    for name in ("transformers", "transformers.pipelines.base"):
        logging.getLogger(name).addHandler(caplog.handler)
    detect = pipeline("object-detection", model=str(tmp_path))
    images = [Image.new(mode, size) for mode, size in (("RGB", (50, 37)), ("L", (20, 90)), ("RGBA", (64, 64)))]
    alone = [detect(image, threshold=0.01) for image in images]
    for together, single in zip(detect(images, threshold=0.01, batch_size=3), alone, strict=True):
        assert [d["label"] for d in together] == [d["label"] for d in single]
        assert [d["score"] for d in together] == pytest.approx([d["score"] for d in single], abs=1e-5)
    assert {d["label"] for found in alone for d in found} <= {"one", "two", "three"} and any(alone)
    assert all(0 <= d["box"]["xmin"] <= 50 and d["box"]["ymax"] <= 37 for d in alone[0])
    with ThreadPoolExecutor(4) as pool_:
        assert list(pool_.map(lambda i: detect(images[i % 3], threshold=0.01), range(12))) == alone * 4
    for name in ("transformers", "transformers.pipelines.base"):
        logging.getLogger(name).removeHandler(caplog.handler)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


# official files


@pytest.fixture
def official_classes(monkeypatch):
    """Classes as the official files name them; what they would do when they are made is seen."""
    touched = []
    package = types.ModuleType("yolov6")
    module = types.ModuleType("yolov6.layers")

    def restore(self, state):
        touched.append(1)
        self.__dict__.update(state)

    for name in ("Model", "Part"):
        setattr(module, name, type(name, (nn.Module,), {"__module__": "yolov6.layers", "__setstate__": restore}))
    monkeypatch.setitem(sys.modules, "yolov6", package)
    monkeypatch.setitem(sys.modules, "yolov6.layers", module)
    return module, touched


def as_official(model, module, official_names):
    """A pickled module with the given names and values, as the official training saves it."""
    root = module.Model()
    for name, value in official_names.items():
        *path, last = name.split(".")
        part = root
        for step in path:
            if step not in part._modules:
                part.add_module(step, module.Part())
            part = part._modules[step]
        if last.startswith(("running", "num_batches")):
            part.register_buffer(last, value)
        else:
            part.register_parameter(last, nn.Parameter(value, requires_grad=False))
        if last == "running_var":
            part.eps = 0.002 if "Inject" in name or "high_IFM" in name else 0.003
            part.momentum = 0.5
    return root


def test_pickled_official_models_convert_without_running_their_code(official_classes, tmp_path):
    from tests.parity import golden
    from tests.parity.test_parity import FAMILIES

    module, touched = official_classes
    cases = __import__("pathlib").Path(FAMILIES["goldyolo"].__file__).parent.parent / "cases" / "goldyolo"
    case = golden.load(cases / "deploy_n_distill.json")
    weights = {name: value.half() for name, value in golden.state_dict(case, torch.float32).items()}
    average = {name: value * 2 for name, value in weights.items()}
    content = {"model": as_official(None, module, average), "ema": as_official(None, module, weights), "epoch": 3}
    torch.save(content, tmp_path / "official.pt")
    touched.clear()
    model, report = load_checkpoint("gold-yolo-n", tmp_path / "official.pt")
    assert not touched and report.entry == "ema" and report.converted == len(weights)
    assert model.gold_yolo.stem.branches[0].conv.weight.dtype == torch.float32
    expected = weights["backbone.stem.rbr_dense.conv.weight"].float()
    assert torch.equal(model.gold_yolo.stem.branches[0].conv.weight, expected)
    assert (model.config.batch_norm_eps, model.config.injection_batch_norm_eps) == (0.003, 0.002)
    with pytest.raises(ConversionError, match="It fits 'gold-yolo-n'"):
        load_checkpoint("gold-yolo-s", tmp_path / "official.pt")
    convert("gold-yolo-n", tmp_path / "official.pt", tmp_path / "out")
    assert "\nlicense: gpl-3.0\n" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "stem, folded",
    [
        (["branches.0.conv.weight", "scale.conv.weight"], False),
        (["conv.weight", "conv.bias"], True),
        # A convolution with a bias and SiLU has one before its norm, too.
        (["conv.weight", "conv.bias", "norm.weight"], False),
    ],
)
@pytest.mark.parametrize(
    "branch, head", [("anchor_boxes", "anchor_aided"), ("direct_boxes", "distillation"), ("", "plain")]
)
def test_a_file_tells_its_head_its_bins_and_whether_it_is_folded(stem, folded, branch, head):
    weights = {f"stem.{name}": torch.zeros(1) for name in stem} | {"head.boxes.0.weight": torch.zeros(20, 8, 1, 1)}
    weights |= {f"head.{branch}.0.weight": torch.zeros(1)} if branch else {}
    config = adapt(weights, GoldYoloConfig())
    assert (config.reparameterized, config.head_type, config.reg_max) == (folded, head, 4)


def test_constants_of_the_norms_are_read_where_the_modules_have_them():
    """The first of a place that has any; others stay as they are."""
    modules = {
        "backbone.stem": {"training": True},
        "backbone.stem.rbr_dense.bn": {"eps": 0.003, "momentum": 0.5},
        "backbone.stem.rbr_1x1.bn": {"eps": 0.9, "momentum": 0.9},
        "backbone.stemmed.bn": {"eps": 0.8, "momentum": 0.8},
        "neck.Inject_p4.local_embedding.bn": {"eps": 0.002, "momentum": None},
    }
    expected = {"batch_norm_eps": 0.003, "batch_norm_momentum": 0.5, "injection_batch_norm_eps": 0.002}
    assert settings_of_modules(modules) == expected
    assert settings_of_modules({"backbone.stem": {}}) == {}


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    assert read_pickled_model(tmp_path / "evil.pt", PICKLED_MODULES) is None
    with pytest.raises(ValueError, match="would run code .*print"):
        load_checkpoint("gold-yolo-n", tmp_path / "evil.pt")


def test_model_and_backbone_agree_on_their_maps():
    model = build(GoldYoloModel)
    outputs = model(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[-2:]) for m in outputs.feature_maps] == [(8, 8), (4, 4), (2, 2)]
    assert outputs.last_hidden_state is outputs.feature_maps[-1]


def test_even_padding_is_taken_off_both_sides_and_boxes_end_with_the_image():
    """An image 20 high and 40 wide, one and a half times as large in a square of 64: 2 pixels at the left and right,
    17 above and below."""
    boxes = torch.tensor([[2 + 1.5 * 4, 17 + 1.5 * 6, 2 + 1.5 * 30, 17 + 1.5 * 19], [0.0, 0.0, 64.0, 64.0]])
    found = unletterbox_evenly(boxes, (20, 40), (64, 64), 1.5)
    torch.testing.assert_close(found, torch.tensor([[4.0, 6.0, 30.0, 19.0], [0.0, 0.0, 40.0, 20.0]]))
    wide = unletterbox_evenly(torch.tensor([[10.0, 3.0, 11.0, 5.0]]), (10, 20), (24, 44), 2.0)
    torch.testing.assert_close(wide, torch.tensor([[4.0, 0.5, 4.5, 1.5]]))
    halves = unletterbox_evenly(torch.tensor([[10.5, 3.5, 11.5, 5.5]]), (10, 20), (25, 45), 2.0)
    torch.testing.assert_close(halves, torch.tensor([[4.0, 0.5, 4.5, 1.5]]))
