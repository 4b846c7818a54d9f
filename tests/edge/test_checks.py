"""What holds a program against its model sees each difference; no exporter runs here."""

import copy
import json
import logging
import math
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    DetrImageProcessorPil,
    GenerationConfig,
    LlamaConfig,
    ResNetConfig,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SiglipConfig,
    YolosConfig,
)

import hf_effmodels
from hf_effmodels import (
    edge,
    edge_detection,
    edge_files,
    edge_graphs,
    edge_halves,
    edge_int8,
    edge_language,
    edge_masks,
    edge_text,
    edge_two_towers,
)
from hf_effmodels.cli import main
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.edge_detection import DetectorGraph, Suppression
from hf_effmodels.edge_pictures import find_pictures
from hf_effmodels.edge_sizes import of_one_size
from hf_effmodels.edge_ties import may_be_kept
from hf_effmodels.edge_weights import quantizer_of

from ..modeling.test_light_clip import TEXT, build, processor
from ..pipelines.hierarchical_mask_generation.models import build as promptable
from .test_halves import network
from .test_language import of_transformers, rounded


class Found(nn.Module):
    """A detector that finds two boxes of one class, one above the other, and a faint one of another."""

    def forward(self, pixel_values):
        boxes = torch.tensor([[0.5, 0.5, 0.5, 0.4], [0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.2]])
        chances = torch.tensor([[0.8, 0.1], [0.7, 0.3], [0.2, 0.4]])
        return SimpleNamespace(pred_boxes=boxes[None], logits=chances.logit()[None])


@pytest.mark.parametrize(
    "options, kept",
    [
        ({}, [(0, 0.8, 0)]),
        ({"threshold": 0.3}, [(0, 0.8, 0), (2, 0.4, 1)]),
        ({"nms_threshold": 0.81}, [(0, 0.8, 0), (1, 0.7, 0)]),
        ({"threshold": 0.25, "multi_label": True}, [(0, 0.8, 0), (2, 0.4, 1), (1, 0.3, 1)]),
        # More labels than there are boxes.
        ({"threshold": 0.05, "multi_label": True}, [(0, 0.8, 0), (2, 0.4, 1), (1, 0.3, 1), (2, 0.2, 0)]),
        ({"threshold": 0.3, "max_detections": 1}, [(0, 0.8, 0)]),
        ({"threshold": 0.3, "class_agnostic": True}, [(0, 0.8, 0), (2, 0.4, 1)]),
    ],
)
def test_boxes_are_in_pixels_of_a_picture_that_is_no_square_and_what_is_none_has_no_label(options, kept):
    """The first two boxes overlap by 0.8."""
    boxes, scores, labels = DetectorGraph(Found(), Suppression(**options))(torch.zeros(1, 3, 40, 80))
    corners = torch.tensor([[20, 12, 60, 28], [24, 12, 56, 28], [12, 4, 20, 12.0]])
    count = len(kept)
    torch.testing.assert_close(boxes[0, :count], corners[[number for number, _, _ in kept]])
    assert scores[0, :count].tolist() == pytest.approx([score for _, score, _ in kept])
    assert labels[0, :count].tolist() == [label for _, _, label in kept]
    assert not scores[0, count:].any() and (labels[0, count:] == -1).all()


def test_boxes_of_a_graph_may_differ_in_one_of_twenty():
    boxes = torch.arange(40.0)[None, :, None].repeat(1, 1, 4)
    scores, labels = torch.full((1, 40), 0.5), torch.zeros(1, 40)
    expected = [boxes, scores, labels]
    for off in (2, 3):
        for part, change in ((0, 0.02), (1, 0.02), (2, 1)):
            got = [value.clone() for value in expected]
            got[part][0, :off] += change
            if off == 2:
                edge_detection._check_same(got, expected)
            else:
                with pytest.raises(ValueError, match="of 40 boxes of the model and 40 of the graph in sample 0, 6"):
                    edge_detection._check_same(got, expected)


#: Two boxes that overlap by 0.8 and a third one, with the scores of two classes.
CORNERS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]])
TIED = torch.tensor([[0.7, 0.7 + 2e-7, 0.3], [0.1, 0.1, 0.3 + 1e-7]])
CLEAR = torch.tensor([[0.7, 0.69, 0.3], [0.1, 0.1, 0.29]])


@pytest.mark.parametrize(
    "kept, tied, clear",
    [
        ([(0, 0), (2, 0)], True, True),
        ([(1, 0), (2, 1)], True, False),  # another one of two, and another class
        ([(0, 0), (2, 1)], True, False),
        ([(0, 0), (1, 0), (2, 0)], False, False),  # both that overlap
        ([(2, 0)], False, False),  # none of them
        ([(0, 0)], False, False),  # the third is nowhere, of whichever class it is
        ([(0, 1), (2, 0)], False, False),  # a class that is far off
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_other_boxes_are_taken_where_scores_are_equal_but_for_rounding_and_nowhere_else(kept, tied, clear, full):
    chosen = Suppression(threshold=0.2, **{"max_detections": len(kept)} if full else {})
    for scores, right in ((TIED, tied), (CLEAR, clear)):
        points, labels = (torch.tensor(part) for part in zip(*kept, strict=True))
        found = CORNERS[points], scores[labels, points], labels
        if full and kept == [(0, 0)]:
            right = True  # there is no room for the third
        assert may_be_kept(found, CORNERS, scores, chosen) is right
        far = CORNERS[points] + 1, *found[1:]
        assert not may_be_kept(far, CORNERS, scores, chosen), "boxes that the model has not"
        assert not may_be_kept((found[0], found[1] + 1e-3, labels), CORNERS, scores, chosen), "nor such scores"


def test_boxes_of_several_classes_or_of_none_are_held_to_the_same_rule():
    points, labels = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 1])
    scores = torch.tensor([[0.7, 0.6, 0.1], [0.5, 0.4, 0.3]])
    found = CORNERS[points], scores[labels, points], labels
    several, none = Suppression(threshold=0.2, multi_label=True), Suppression(threshold=0.2, class_agnostic=True)
    assert may_be_kept(found, CORNERS, scores, several)
    assert not may_be_kept([part[::2] for part in found], CORNERS, scores, several), "the second class of the first"
    assert not may_be_kept(found, CORNERS, scores, none), "of one point two"
    assert may_be_kept([part[::2] for part in found], CORNERS, scores, none)
    wrong = CORNERS[points][::2], found[1][::2], torch.tensor([1, 1])
    assert not may_be_kept(wrong, CORNERS, scores, none), "its class is another"


def test_a_graph_with_boxes_that_ties_explain_passes_and_no_other_one():
    expected = [CORNERS[None, [0, 2]], torch.tensor([[0.7, 0.3]]), torch.tensor([[0, 0]])]

    class Graph(SimpleNamespace):
        def __call__(self, pixels):
            return expected

    graph = Graph(suppression=Suppression(threshold=0.2), candidates=lambda pixels: (CORNERS[None], TIED[None]))
    other = [CORNERS[None, [1, 2]], torch.tensor([[0.7, 0.3]]), torch.tensor([[0, 1]])]
    edge_detection._check_graph(other, graph, torch.zeros(1))
    graph.candidates = lambda pixels: (CORNERS[None], CLEAR[None])
    with pytest.raises(ValueError, match="of 2 boxes of the model and 2 of the graph in sample 0, 4 are not those"):
        edge_detection._check_graph(other, graph, torch.zeros(1))


def off_at(batch: int, **outputs):
    """A model and a program whose answers to so many pictures differ by a half."""

    def model(pixel_values):
        return {name: value[: len(pixel_values)] for name, value in outputs.items()}

    def program(pixel_values):
        return {name: value + (len(pixel_values) == batch) / 2 for name, value in model(pixel_values).items()}

    return model, program


@pytest.mark.parametrize("batch", [1, 3])
def test_the_largest_difference_of_any_batch_counts_in_the_unit_of_its_output(batch):
    logits, boxes = 4 * torch.randn(3, 5), torch.rand(3, 2, 4)
    model, program = off_at(batch, logits=logits, pred_boxes=boxes)
    sizes = torch.zeros(3, 1), (1, 3)
    found = edge._difference(model, program, *sizes, {"logits": None})
    assert found == pytest.approx(0.5 / logits[:batch].std().item(), rel=1e-5)
    assert edge._difference(model, program, *sizes, {"pred_boxes": 2.0}) == pytest.approx(0.25)


@pytest.mark.parametrize("errors", [[0.5, -0.5], [-0.5, 0.0], [0.5, -0.25], [-0.1, 0.5]])
def test_errors_in_both_directions_do_not_make_up_for_each_other(errors):
    """Nor does the larger number of those that are right."""
    logits, off = torch.randn(3, 40), torch.zeros(3, 40)
    off[1, 3], off[2, 7] = errors
    found = edge._difference(
        lambda pixel_values: {"logits": logits[: len(pixel_values)]},
        lambda pixel_values: {"logits": (logits + off)[: len(pixel_values)]},
        torch.zeros(3, 1),
        (1, 3),
        {"logits": None},
    )
    assert found == pytest.approx(0.5 / logits.std().item(), rel=1e-5)


def test_a_text_graph_ends_where_the_model_takes_the_end_to_be():
    """Of old configurations the end is the largest id, whatever they say."""
    for end, expected in ((5, 5), (2, 19)):
        text = SimpleNamespace(max_position_embeddings=8, vocab_size=20, eos_token_id=end)
        config = SimpleNamespace(vision_config=SimpleNamespace(num_channels=3), text_config=text)
        ids = edge_two_towers._inputs(config, (4, 4))["text"]
        assert [(row == expected).nonzero()[0].item() for row in ids] == [7, 4, 1]
        first, again = (edge_two_towers._inputs(config, (4, 6)) for _ in "ab")
        assert first["image"].shape == (3, 3, 4, 6)
        assert all(torch.equal(first[name], again[name]) for name in ("image", "text")), "the same each time"


@pytest.mark.parametrize("difference", [0.5, float("nan")])
def test_a_program_that_differs_is_not_written(difference, tmp_path, monkeypatch):
    head, tail = split(network(), "stages.0")
    for module in (edge_two_towers, edge_language, edge_masks):
        monkeypatch.setattr(module, "_difference", lambda *_: difference)
    monkeypatch.setattr(edge_halves, "_compared", lambda *_: (difference, 0.0))
    for module, name, instead in (
        (edge_two_towers, "_write", None),
        (edge_two_towers, "load_two_towers", None),
        (edge_halves, "_write", None),
        (edge_halves, "load_halves", (None, None)),
        (edge_language, "_write", []),
        (edge_language, "as_one_file", None),
        (edge_language, "load_language_model", None),
        (edge_masks, "_write", None),
        (edge_masks, "load_promptable", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, instead=instead: instead)
    clip = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1})
    for export, given, options in (
        (edge_two_towers.export_two_towers, (clip,), {"processor": processor(), "image_size": 64}),
        (edge_halves.export_halves, (head, tail), {}),
        (edge_language.export_language_model, (of_transformers(99),), {}),
        (edge_masks.export_promptable, (promptable("sam")[0],), {}),
    ):
        with pytest.raises(ValueError, match="differ from PyTorch's by .*, accepted is tolerance=0.00"):
            export(*given, tmp_path / "out", "onnx", **options)
        assert not (tmp_path / "out").exists()
    if difference == 0.5:  # which may be accepted; what is beside the graphs is for their size
        report = edge_two_towers.export_two_towers(
            clip, tmp_path / "out", processor=processor(), image_size=64, tolerance=0.5
        )
        assert report.max_length == clip.config.text_config.max_position_embeddings != 77
        beside = AutoProcessor.from_pretrained(tmp_path / "out").image_processor
        assert beside.crop_size["height"] == 64


def test_the_largest_difference_of_masks_or_scores_counts():
    masks, scores = torch.randn(1, 2, 3, 4, 4), torch.rand(1, 2, 3)
    model = lambda **_: SimpleNamespace(pred_masks=masks, iou_scores=scores)  # noqa: E731
    prompts = (None, torch.rand(1, 3, 4, 2), torch.ones(1, 3, 4, dtype=torch.long), torch.zeros(1, 1, 4, 4))

    class Exported:
        off = 0.0

        def get_image_embeddings(self, pixels):
            return None

        def __call__(self, **_):
            return SimpleNamespace(pred_masks=masks, iou_scores=scores + self.off)

    exported = Exported()
    assert edge_masks._difference(exported, model, None, prompts, True) == 0
    exported.off = 2e-3
    found = edge_masks._difference(exported, model, None, prompts, True)
    assert found == pytest.approx(2e-3 / scores.std().item(), rel=1e-3)
    exported.off = float("nan")
    assert math.isnan(edge_masks._difference(exported, model, None, prompts, True))


def test_pictures_to_calibrate_on_are_enough_and_of_the_programs_size(tmp_path):
    pictures = [Image.new("RGB", (20, 20), (number, 0, 0)) for number in range(8)]
    prepare = edge_int8.prepare
    own = hf_effmodels.create_image_processor("ghostnet-1.0x", image_size=48)
    assert len(prepare(pictures, own, 3, (48, 48)).all) == 8
    with pytest.raises(ValueError, match="calibration: got 7 pictures, accepted are 8 or more"):
        prepare(pictures[:7], own, 3, (48, 48))
    with pytest.raises(ValueError, match=r"got \(32, 32\), but the processor makes pictures of \(48, 48\)"):
        prepare(pictures, own, 3, (32, 32))
    with pytest.raises(ValueError, match="processor: got None"):
        prepare(pictures, None, 3, (48, 48))


def test_one_picture_of_another_size_than_the_programs_is_enough_to_refuse_them(monkeypatch):
    """Processors that keep the shape of a picture make those of some pictures fit, and others not."""
    monkeypatch.setattr(
        "hf_effmodels.training.tasks.image_classification.transforms.EvaluationTransform",
        lambda processor: lambda image: torch.zeros(3, image.height, image.width),
    )
    pictures = [Image.new("RGB", (20, 30))] * 8
    assert [one.shape for one in edge_int8.prepare(pictures, "any", 3, (30, 20)).all] == [(1, 3, 30, 20)] * 8
    with pytest.raises(ValueError, match=r"^image_size: got \(30, 20\), but the processor makes pictures of"):
        edge_int8.prepare([*pictures, Image.new("RGB", (20, 31))], "any", 3, (30, 20))


def test_a_language_model_of_packed_weights_is_refused(tmp_path):
    model = of_transformers(99)
    model.config.quantization_config = {"quant_method": "some"}
    with pytest.raises(ValueError, match=r"source: LlamaForCausalLM is quantised \(some\); .* name the one"):
        edge_language.export_language_model(model, tmp_path / "out")


@pytest.mark.parametrize(
    "method, words",
    [
        ("gptq", "name the one it was made of, whose weights --precision int8 and --precision int4 round"),
        ("compressed-tensors", "name the one it was made of"),
        ("bitnet", "`hf-effmodels predict` and `chat` run it as it is"),
    ],
)
def test_a_quantised_folder_is_refused_before_its_weights_and_their_packages_are_looked_for(
    method, words, tmp_path, capsys
):
    config = of_transformers(99).config
    config.architectures, config.quantization_config = ["LlamaForCausalLM"], {"quant_method": method, "bits": 4}
    config.save_pretrained(tmp_path / "packed")
    assert main(["export", str(tmp_path / "packed"), str(tmp_path / "out"), "--format", "onnx"]) == 2
    said = capsys.readouterr().err
    assert f"MODEL: {tmp_path / 'packed'} is quantised ({method}); " in said and words in said


def test_a_format_that_a_kind_has_not_is_told_before_its_packages_are_asked_for(tmp_path, capsys):
    of_transformers(99).save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "executorch"]) == 2
    assert "--format: got 'executorch', accepted of text-generation are onnx and openvino" in capsys.readouterr().err


# `export` with a stand-in for the exported program


class StandIn:
    """Answers in the place of an exported program: as the model does, and off by shares of the deviation."""

    def __init__(self, model, share: float = 0.0, wrong: int = 0):
        self.model, self.share, self.wrong, self.asked = model, share, wrong, []

    def __call__(self, pixel_values):
        with torch.no_grad():
            logits = self.model(pixel_values=pixel_values).logits
        self.asked.append(tuple(pixel_values.shape))
        if self.wrong:  # pictures that get another class
            self.wrong -= 1
            logits = -logits
        return _Answer(logits=logits + self.share * logits.std())


class _Answer(dict):
    logits = property(lambda self: self["logits"])


@pytest.fixture
def stand_in(monkeypatch):
    """`export` writes nothing and loads what stands in for its program."""

    def use(model, **how):
        program = StandIn(model, **how)
        for module, name, given in (
            (edge, "_write", None),
            (edge, "as_one_file", None),
            (edge, "halve", None),
            (edge, "load", program),
            (edge_int8, "quantizer", None),
        ):
            monkeypatch.setattr(module, name, lambda *_, given=given: given)
        return program

    return use


def pictures(count: int = 8) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(count)]


def classifier():
    return network(), hf_effmodels.create_image_processor("ghostnet-1.0x", image_size=32)


@pytest.mark.parametrize(
    "options, share, goes",
    [
        ({}, 0.9e-4, True),
        ({}, 1.2e-4, False),
        ({"tolerance": 0.3}, 0.2, True),
        ({"precision": "float16"}, 1.9e-2, True),
        ({"precision": "fp16"}, 2.2e-2, False),
        ({"precision": "int8", "calibration": pictures()}, 5.0, True),  # judged by its classes alone
    ],
)
def test_a_program_may_differ_as_much_as_its_numbers_allow(options, share, goes, stand_in, tmp_path):
    model, own = classifier()
    program = stand_in(model, share=share)
    if not goes:
        with pytest.raises(ValueError, match="onnx: the exported program's outputs differ from PyTorch's by .*e-0"):
            edge.export(model, tmp_path / "out", "onnx", processor=own, **options)
        assert not (tmp_path / "out").exists()
        return
    report = edge.export(model, tmp_path / "out", "onnx", processor=own, **options)
    assert report.difference == pytest.approx(share, rel=0.05) and report.image_size == (32, 32)
    assert program.asked[-2:] == [(1, 3, 32, 32), (3, 3, 32, 32)] and report.batches == (1, 3)
    assert (report.format, report.model, report.folded) == ("onnx", "ResNetForImageClassification", False)
    told = (tmp_path / "out" / "README.md").read_text()
    assert ("Its outputs differ from PyTorch's by" in told) == (report.precision != "int8")
    assert f"({report.precision})" in told and "32 x 32 pixels" in told
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size == own.size and "AutoImageProcessor" in told
    if not options:
        edge.export(model, tmp_path / "alone", "onnx", image_size=32)
        assert "AutoImageProcessor" not in (tmp_path / "alone" / "README.md").read_text()


@pytest.mark.parametrize(
    "precision, wrong, least, share", [("int8", 1, 0.5, 0.5), ("int8", 1, 0.51, 0.5), ("float16", 0, 0.9, 1.0)]
)
def test_pictures_that_get_another_class_are_counted(precision, wrong, least, share, stand_in, tmp_path, monkeypatch):
    """Of eight pictures two check integers, one at a time, and all eight half precision."""
    model, own = classifier()
    monkeypatch.setattr(edge_int8, "_BATCH", 1)
    program = stand_in(model, wrong=wrong)
    options = {"processor": own, "precision": precision, "calibration": pictures(), "min_agreement": least}
    if share < least:
        with pytest.raises(ValueError, match="precision: of 2 pictures 50 % get the class .* min_agreement"):
            edge.export(model, tmp_path / "out", "onnx", **options)
        return
    report = edge.export(model, tmp_path / "out", "onnx", **options)
    assert report.agreement == share and len(program.asked) == (8 if precision == "float16" else 2) + 2
    assert f"pictures {100 * share:.0f} % get the class" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "own, asked, expected",
    [
        (
            {"size": {"shortest_edge": 40}, "crop_size": {"height": 24, "width": 32}, "do_center_crop": True},
            None,
            (24, 32),
        ),
        ({"size": {"height": 24, "width": 40}, "do_center_crop": False}, None, (24, 40)),
        ({"size": {"shortest_edge": 40}, "do_center_crop": False}, 48, (48, 48)),
        ({"size": {"height": 24, "width": 40}, "do_center_crop": False}, (32, 48), (32, 48)),
        (None, 40, (40, 40)),
        (None, None, (32, 32)),  # the configuration's
    ],
)
def test_images_are_as_large_as_asked_or_as_the_processor_or_the_model_makes_them(
    own, asked, expected, stand_in, tmp_path
):
    model = network()
    program = stand_in(model)
    beside = None if own is None else CLIPImageProcessorPil(**own)
    report = edge.export(model, tmp_path / "out", "onnx", processor=beside, image_size=asked)
    assert report.image_size == expected and program.asked[-1] == (3, 3, *expected)
    if own is not None:
        saved = AutoImageProcessor.from_pretrained(tmp_path / "out")
        assert (saved.size != beside.size) == (asked is not None), "made for the size that was asked for"


@pytest.mark.parametrize(
    "made, options",
    [
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 40}, "do_center_crop": False}),
        (CLIPImageProcessorPil, {"do_resize": False, "do_center_crop": False}),
        (DetrImageProcessorPil, {"size": {"shortest_edge": 40, "longest_edge": 60}}),
    ],
)
def test_pictures_that_keep_their_shapes_are_none_for_a_program_unless_a_side_is_given(
    made, options, stand_in, tmp_path
):
    model, beside = network(), made(**options)
    size = dict(beside.size)
    stand_in(model)
    with pytest.raises(
        ValueError, match=rf"^image_size: none is given, but .*{made.__name__}. keeps the shapes of pict"
    ):
        edge.export(model, tmp_path / "out", "onnx", processor=beside)
    assert not (tmp_path / "out").exists()
    edge.export(model, tmp_path / "out", "onnx", processor=beside, image_size=48)
    saved = AutoImageProcessor.from_pretrained(tmp_path / "out")
    for width, height in ((40, 60), (90, 30)):
        found = saved(Image.new("RGB", (width, height)), return_tensors="pt")
        assert set(found) == {"pixel_values"} and found.pixel_values.shape == (1, 3, 48, 48)
    assert dict(beside.size) == size, "the caller's own stays as it is"


def test_a_mask_of_what_is_filled_up_is_nothing_that_a_program_may_miss():
    """DETR's is told of by it, other models are not."""

    class Detector(torch.nn.Module):
        def forward(self, pixel_values, pixel_mask=None):
            pass

    filling = DetrImageProcessorPil(
        size={"longest_edge": 48, "shortest_edge": 48}, pad_size={"height": 48, "width": 48}
    )
    with pytest.raises(ValueError, match="image_size: none is given, but .*DetrImageProcessorPil. keeps the shapes"):
        of_one_size(Detector(), filling, None, 3)
    size, processor = of_one_size(network(), filling, None, 3)
    assert size == (48, 48) and processor is filling
    square = DetrImageProcessorPil(size={"height": 48, "width": 48})
    size, processor = of_one_size(Detector(), square, None, 3)
    assert size == (48, 48) and set(processor(Image.new("RGB", (40, 60)), return_tensors="pt")) == {"pixel_values"}
    assert square.do_pad


class Filling:
    """A processor that fills pictures up to whole tiles of 32."""

    def __init__(self):
        self.size, self.do_resize, self.do_pad = {"height": 32, "width": 32}, False, True

    def __call__(self, image, return_tensors):
        sides = list(self.size.values()) if self.do_resize else image.size[::-1]
        sides = [-(-side // 32) * 32 if self.do_pad else side for side in sides]
        return {"pixel_values": torch.zeros(1, 3, *sides)}


def test_what_fills_pictures_up_makes_them_of_a_size_in_between_too():
    own = Filling()
    size, processor = of_one_size(network(), own, (48, 80), 3)
    assert size == (48, 80) and (processor.size, processor.do_resize) == ({"height": 48, "width": 80}, True)
    assert tuple(processor(Image.new("RGB", (10, 70)), return_tensors="pt")["pixel_values"].shape) == (1, 3, 48, 80)
    assert (own.size, own.do_resize, own.do_pad) == ({"height": 32, "width": 32}, False, True), "a copy is changed"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_agreement": -0.1}, "min_agreement: got -0.1, accepted are shares from 0 to 1"),
        ({"min_agreement": 1.1}, "min_agreement: got 1.1, accepted are shares from 0 to 1"),
        (
            {"precision": "int4"},
            "precision: got 'int4', which goes with language models, not with image-classification",
        ),
        ({"precision": "int8"}, "calibration: int8 is calibrated on pictures; give a folder of them"),
        ({"calibration": []}, "calibration: pictures go with precision='int8' and precision='float16'"),
        ({"precision": "int8", "calibration": "nowhere"}, "calibration: there is no folder 'nowhere'"),
        ({"precision": "int8", "calibration": pictures(7)}, "calibration: got 7 pictures, accepted are 8 or more"),
        ({"precision": "int5"}, "precision: got 'int5', accepted are 'float32', 'float16', 'int8', 'int4', 'fp32'"),
    ],
)
def test_classifiers_are_not_exported_in_numbers_they_do_not_have(options, message, tmp_path):
    model, own = classifier()
    with pytest.raises((ValueError, OSError), match=message):
        edge.export(model, tmp_path / "out", "onnx", processor=own, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"precision": "int8", "calibration": []},
            "precision: got 'int8', which goes with classifiers, not with im",
        ),
        (
            {"precision": "float16", "calibration": []},
            "calibration: pictures are compared by their classes, which ima",
        ),
    ],
)
def test_segmenters_have_no_classes_to_be_judged_by(options, message, tmp_path):
    sizes = {"depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 8], "patch_sizes": [7, 3], "strides": [4, 2]}
    sizes |= {"num_attention_heads": [1, 1], "mlp_ratios": [1, 1], "decoder_hidden_size": 8, "num_encoder_blocks": 2}
    model = SegformerForSemanticSegmentation(SegformerConfig(**sizes)).eval()
    with pytest.raises(ValueError, match=message):
        edge.export(model, tmp_path / "out", "onnx", image_size=32, **options)


@pytest.mark.parametrize("whose, model_off", [("the exported program's", 0.0), ("the model's own", float("nan"))])
def test_answers_that_are_no_numbers_are_told_apart(whose, model_off):
    def answers(off):
        return lambda pixel_values: {"logits": torch.arange(6.0).view(2, 3) + off}

    with pytest.raises(ValueError, match=f"source: {whose} logits are not finite for random images; nothing was writ"):
        edge._difference(answers(model_off), answers(float("inf")), torch.zeros(2, 1), (2,), {"logits": None})


def test_presets_are_exported_by_their_kind(tmp_path):
    for preset, kind in (
        ("ghostnet-1.0x", "image-classification"),
        ("gold-yolo-n", "object-detection"),
        ("dtop-base-ade20k", "image-segmentation"),
    ):
        assert edge.check_preset(preset) == kind
    with pytest.raises(ValueError, match="source: got tinysam, which finds masks by prompts: edge_masks"):
        edge.load_source("tinysam")
    with pytest.raises(ValueError, match="pangu-pi-1b is neither a classifier of images nor a detector"):
        edge.check_preset("pangu-pi-1b")
    promptable("sam")[0].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="source: got .*, which finds masks by prompts: edge_masks.export_promptable"):
        edge.load_source(str(tmp_path))
    model, own = edge.load_source("ghostnet-0.5x")
    assert model.config.width_multiplier == 0.5 and own.size
    mine = object()
    assert edge.load_source("ghostnet-0.5x", mine)[1] is mine


@pytest.mark.parametrize("name, task", [("SiglipModel", "zero-shot-image-classification"), ("Siglip2", None)])
def test_a_model_that_was_saved_for_another_task_is_not_taken_for_a_classifier_that_lacks_weights(
    name, task, tmp_path, capsys, monkeypatch
):
    """Its type has a classifier, too; of a class that nobody knows its weights say what it is."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "architectures": [name]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    if task is None:
        with pytest.raises(OSError, match="model.safetensors is truncated or no safetensors file"):
            edge.load_source(str(tmp_path))
        return
    said = f"{tmp_path} is a {name}, saved for {task}; accepted are models for image-classification"
    with pytest.raises(OSError, match=f"^source: {said}, object-detection, image-segmentation; of two towers CLIP"):
        edge.load_source(str(tmp_path))
    for words in (["split", str(tmp_path), "--list"], ["measure-split", str(tmp_path)]):
        assert main(words) == 2 and f"MODEL: {said}." in capsys.readouterr().err


def test_the_kind_of_a_folder_is_that_of_the_class_it_names_or_of_the_heads_there_are():
    detector, segmenter, both = YolosConfig(), SegformerConfig(), ResNetConfig()
    for config, names, kind in (
        (detector, ["YolosForObjectDetection"], "object-detection"),
        (detector, None, "object-detection"),
        (detector, ["YolosModel"], "image-classification"),
        (segmenter, ["SegformerForSemanticSegmentation"], "image-segmentation"),
        (segmenter, ["SegformerForImageClassification"], "image-classification"),
        (segmenter, None, "image-segmentation"),
        (both, None, "image-classification"),
    ):
        config.architectures = names
        assert edge.kind_of_folder(config) == kind, names


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": -0.1}, r"threshold: got -0.1, accepted is \[0, 1\]"),
        ({"threshold": 1.1}, r"threshold: got 1.1, accepted is \[0, 1\]"),
        ({"nms_threshold": 1.1}, r"nms_threshold: got 1.1, accepted is \[0, 1\]"),
        ({"max_detections": 0}, "max_detections: got 0, accepted are 1 to 10000"),
        ({"max_detections": 10001}, "max_detections: got 10001, accepted are 1 to 10000"),
        ({"multi_label": True, "class_agnostic": True}, "multi_label: got True with class_agnostic"),
    ],
)
def test_suppression_is_by_shares_and_of_a_number_of_boxes(options, message):
    with pytest.raises(ValueError, match=message):
        Suppression(**options)
    for ends in ({"threshold": 0, "nms_threshold": 1, "max_detections": 1}, {"threshold": 1, "max_detections": 10000}):
        Suppression(**ends)
    usual = Suppression()  # as `export --help` says
    assert (usual.threshold, usual.nms_threshold, usual.max_detections) == (0.4, 0.45, 300)
    assert not usual.multi_label and not usual.class_agnostic


def test_packages_that_are_missing_are_named_for_graphs(monkeypatch, tmp_path):
    monkeypatch.setitem(edge_graphs.PACKAGES, "onnx", ("onnx", "no_such", "nor_this"))
    head, tail = split(network(), "stages.0")
    for call in (
        lambda: edge_halves.export_halves(head, tail, tmp_path / "out"),
        lambda: edge_masks.export_promptable(promptable("sam")[0], tmp_path / "out"),
        lambda: edge_two_towers.export_two_towers("nowhere", tmp_path / "out"),
    ):
        with pytest.raises(ImportError, match="'onnx' needs no_such and nor_this: pip install no_such nor_this"):
            call()


def test_halves_are_of_one_network_and_give_numbers(tmp_path, monkeypatch):
    model, own = network(), hf_effmodels.create_image_processor("ghostnet-1.0x", image_size=32)
    head, tail = split(model, "stages.0", processor=own)
    other = split(network(), "stages.1")[1]
    with pytest.raises(ValueError, match="tail: it was cut after .*stages.1 of another network than"):
        edge_halves.export_halves(head, other, tmp_path / "out")
    torch.manual_seed(8)
    alike = network()  # cut at the same place, and yet of other weights
    with torch.no_grad():
        alike.classifier[1].bias += 1
    with pytest.raises(ValueError, match="tail: it was cut after .*stages.0 of another network than the head"):
        edge_halves.export_halves(head, split(alike, "stages.0")[1], tmp_path / "out")
    with pytest.raises(ValueError, match="format: got 'executorch', accepted of halves are 'onnx', 'openvino'"):
        edge_halves.export_halves(head, tail, tmp_path / "out", "executorch")
    with torch.no_grad():
        model.classifier[1].bias[0] = float("nan")
    monkeypatch.setattr(edge_halves, "_write", lambda *_: None)
    monkeypatch.setattr(edge_halves, "load_halves", lambda _: (None, lambda sent, shape: torch.zeros(shape[0], 5)))
    with pytest.raises(ValueError, match="head: of random images the logits are not finite; nothing was written"):
        edge_halves.export_halves(head, tail, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(edge_halves, "_compared", lambda *_: (0.5, 0.25))
    report = edge_halves.export_halves(head, tail, tmp_path / "out", image_size=48, tolerance=0.5)
    assert (report.difference, report.other_numbers, report.graphs) == (0.5, 0.25, ("head", "tail"))
    assert report.image_size == (48, 48) and (tmp_path / "out" / "preprocessor_config.json").exists()
    told = json.loads((tmp_path / "out" / "halves.json").read_text())
    assert told["image_size"] == [48, 48] and told["shape"] == [1, 8, 12, 12] and told["widths"] == []


class Wrapped:
    """A language model in the place of its exported program."""

    def __init__(self, model, keeps: bool):
        self.model, self.config, self.device, self.dtype = model, model.config, model.device, model.dtype
        kwargs = ["input_ids", *(["logits_to_keep"] if keeps else [])]
        self.runners = {"forward": SimpleNamespace(metadata=SimpleNamespace(kwargs=kwargs))}

    def __call__(self, **inputs):
        with torch.no_grad():
            return self.model(**inputs, use_cache=True)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_program_of_a_language_model_is_asked_as_the_model_is(keeps):
    """Rows that are filled up in front, tokens after others, and the last of them alone."""
    model = of_transformers(99)
    program = edge_language.LanguageProgram(Wrapped(model, keeps), [[[2, 8], [2, 8]]] * 2)
    ids, mask = torch.randint(2, 99, (2, 7), generator=torch.Generator().manual_seed(1)), torch.ones(2, 7).long()
    mask[1, :3] = 0
    positions = torch.tensor([[*range(7)], [0, 0, 0, 0, 1, 2, 3]])
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=positions).logits
    seen = mask.bool()
    torch.testing.assert_close(program(ids, mask).logits[seen], expected[seen])
    first = program(ids[:, :4], mask[:, :4])
    rest = program(ids[:, 4:], mask, past_key_values=first.past_key_values)
    torch.testing.assert_close(rest.logits, expected[:, 4:])
    last = program(ids, mask, logits_to_keep=2).logits
    assert last.shape[1] == (2 if keeps else 7)
    torch.testing.assert_close(last[:, -2:], expected[:, -2:])
    with torch.no_grad():
        torch.testing.assert_close(program(ids).logits, model(ids).logits)


def test_rows_of_a_language_program_count_their_places_from_their_first_token():
    """Also where positions are absolute, after what was kept, and where nothing is said of a mask."""
    given = []

    def program(**inputs):
        given.append(inputs["position_ids"].tolist())
        return SimpleNamespace(logits=torch.zeros(2, 1, 9), past_key_values=None)

    program.config, program.runners = of_transformers(99).config, {}
    program.device, program.dtype = torch.device("cpu"), torch.float32
    model = edge_language.LanguageProgram(program, [[[2, 8], [2, 8]]] * 2)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    model(torch.ones(2, 4, dtype=torch.long), mask)
    kept = SimpleNamespace(get_seq_length=lambda: 3)
    model(torch.ones(2, 1, dtype=torch.long), mask, past_key_values=kept)
    model(torch.ones(2, 2, dtype=torch.long), past_key_values=kept)
    assert given == [[[0, 0, 0, 1], [0, 1, 2, 3]], [[1], [3]], [[3, 4], [3, 4]]]


def test_onnx_runtime_keeps_what_it_was_told_but_for_the_passes_that_lay_out_pictures():
    extended = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    own = onnxruntime.SessionOptions()
    own.intra_op_num_threads = 3
    assert edge_language._without_layouts(own) is own and own.intra_op_num_threads == 3
    assert own.graph_optimization_level == edge_language._without_layouts(None).graph_optimization_level == extended


def test_options_of_a_users_own_go_before_those_of_the_format(tmp_path, monkeypatch):
    given = []

    def told(folder, **options):
        given.append(options)
        return SimpleNamespace(config=None)

    monkeypatch.setattr("transformers.exporters.ExportedModel.from_pretrained", told)
    (tmp_path / "export.json").write_text(json.dumps({"export_format": "openvino"}))
    edge.load(tmp_path)
    edge.load(tmp_path, config={"INFERENCE_PRECISION_HINT": "bf16"}, revision="v1")
    assert given[0] == {"config": {"INFERENCE_PRECISION_HINT": "f32"}}
    assert given[1] == {"config": {"INFERENCE_PRECISION_HINT": "bf16"}, "revision": "v1"}


def test_a_processor_that_is_given_goes_before_the_sources_own(tmp_path):
    model, own = classifier()
    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    other = hf_effmodels.create_image_processor("ghostnetv3-0.5x", image_size=77)
    for source in (str(tmp_path), tmp_path, "ghostnetv3-0.5x", model):
        assert edge.load_source(source, other)[1] is other
    assert edge.load_source(str(tmp_path))[1].to_dict() == own.to_dict()


def test_a_language_model_that_is_exported_stays_as_it_is_and_rows_are_no_longer_than_it_takes(tmp_path, monkeypatch):
    model = of_transformers(99).bfloat16().train()
    lengths = []
    for name, value in (("_write", []), ("as_one_file", None), ("_difference", 0.0), ("load_language_model", None)):
        monkeypatch.setattr(edge_language, name, lambda *_, value=value: value)
    said = edge_text.Comparison(77, 3.25, 3.0, 1.0, 1.0)
    monkeypatch.setattr(edge_language, "compare", lambda *_: said)
    monkeypatch.setattr(
        edge_language,
        "read_text",
        lambda calibration, tokenizer, longest: lengths.append(longest) or SimpleNamespace(name="a text"),
    )
    model.config.max_position_embeddings = 37
    model.generation_config = GenerationConfig(max_new_tokens=17, eos_token_id=5)
    edge_language.export_language_model(model, tmp_path / "out", calibration=["text"], tokenizer=None)
    assert lengths == [37] and model.training and model.dtype == torch.bfloat16
    beside = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (beside.max_new_tokens, beside.eos_token_id) == (17, 5)


def test_what_a_language_program_says_of_a_text_is_judged_and_told(tmp_path, monkeypatch):
    model = of_transformers(99)
    for name, given in (("_write", [[[2, 8], [2, 8]]] * 2), ("as_one_file", None), ("_difference", 0.3)):
        monkeypatch.setattr(edge_language, name, lambda *_, given=given: given)
    monkeypatch.setattr(edge_language, "load_language_model", lambda _: None)

    def tokenizer(text, verbose):
        return {"input_ids": [ord(letter) % 99 for letter in text]}

    tokenizer.save_pretrained = lambda folder: (folder / "tokenizer.json").write_text("{}")
    for precision, agreement, least, accepted in (
        ("int8", 0.9, None, True),
        ("int8", 0.89, None, False),
        ("int4", 0.75, None, True),
        ("int4", 0.74, None, False),
        ("int8", 0.6, 0.6, True),
        ("int8", 0.6, 0.61, False),
        ("int4", 0.6, 0, True),  # none is asked for
        ("int8", 0.0, 0, True),
        ("float16", 0.9, None, True),
        ("float16", 0.89, None, False),
    ):
        said = edge_text.Comparison(77, 3.25, 3.0, agreement, 0.5)
        monkeypatch.setattr(edge_language, "compare", lambda *_, said=said: said)
        options = {
            "tokenizer": tokenizer,
            "precision": precision,
            "min_agreement": least,
            "calibration": ["text " * 30],
            "tolerance": 0.3,
        }
        folder = tmp_path / f"{precision}-{agreement}-{least}"
        if accepted:
            report = edge_language.export_language_model(model, folder, **options)
            assert (report.agreement, report.tokens, report.text) == (agreement, 77, "the text")
            readme = (folder / "README.md").read_text()
            assert "On 77 tokens of the text its perplexity is 3.25,\nPyTorch's 3" in readme
            assert f"at {100 * agreement:.1f} % of the places" in readme and "the first 50 % of the tokens" in readme
            assert 'AutoTokenizer.from_pretrained(".")' in readme and (folder / "tokenizer.json").exists()
            assert json.loads((folder / "config.json").read_text())["architectures"] == [type(model).__name__]
            assert (folder / "generation_config.json").exists()
            assert json.loads((folder / "language_model.json").read_text())["precision"] == precision
        else:
            with pytest.raises(ValueError, match=rf"at {100 * agreement:.0f} % of 77 places .* min_agreement"):
                edge_language.export_language_model(model, folder, **options)
            assert not folder.exists()
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"min_agreement: got {wrong}, accepted are shares from 0 to 1"):
            edge_language.export_language_model(model, tmp_path / "out", min_agreement=wrong)
    with pytest.raises(ValueError, match="onnx: the program's logits differ from PyTorch's by 3.0e-01"):
        edge_language.export_language_model(model, tmp_path / "out")
    plain = edge_language.export_language_model(model, tmp_path / "plain", tolerance=0.3)
    readme = (tmp_path / "plain" / "README.md").read_text()
    assert plain.text is None and "# of the model's tokenizer, which is not here" in readme


def test_logits_that_are_no_numbers_are_not_compared():
    model = of_transformers(99)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    program = edge_language.LanguageProgram(Wrapped(model, True), [[[2, 8], [2, 8]]] * 2)
    whole = of_transformers(99)
    own = edge_language.LanguageProgram(Wrapped(whole, True), [[[2, 8], [2, 8]]] * 2)
    for asked, told in ((model, program), (whole, program), (model, own)):
        with pytest.raises(ValueError, match="source: logits are not finite for random tokens; nothing was written"):
            edge_language._difference(asked, told)
    with pytest.raises(ValueError, match="the exported program's logits of a text are not finite"):
        edge_text.compare(of_transformers(99), program, edge_text.Text("a text", [torch.tensor([[1, 2, 3]])]))
    half = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1})
    nothing = SimpleNamespace(vectors=lambda name, values: torch.full((len(values), 2), float("nan")))
    halves = dict.fromkeys(("image", "text"), lambda values: torch.zeros(len(values), 2))
    with pytest.raises(ValueError, match="source: the image half gives what is no number for random input"):
        edge_two_towers._difference(nothing, halves, edge_two_towers._inputs(half.config, (8, 8)))


def test_prompts_are_told_to_the_graph_as_points_and_the_corners_of_boxes(tmp_path, monkeypatch):
    """Points without a box have one more that is none; a lone prompt is asked twice, and answered once."""
    asked = {}

    def decoder(**given):
        asked.update(given)
        count = given["input_points"].shape[1]
        return torch.arange(float(count))[None, :, None], torch.arange(float(count))[None]

    graphs = {"encoder": lambda pixel_values: [pixel_values.mean((2, 3))], "decoder": decoder}
    monkeypatch.setattr(edge_masks, "load_graph", lambda folder, name, backend: graphs[name])
    facts = {"backend": "onnx", "image_size": 64, "embedding_size": 4, "multimask": True}
    (tmp_path / "promptable.json").write_text(json.dumps(facts))
    model = edge_masks.load_promptable(tmp_path)
    assert (model.image_size, model.multimask_output) == (64, True)
    assert model.get_image_embeddings(torch.ones(1, 2, 3, 3)).tolist() == [[1, 1]]
    embeddings, points = torch.zeros(1, 2, 4, 4), torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    found = model(image_embeddings=embeddings, input_points=points)
    assert asked["input_points"].tolist() == [[[[1, 2], [0, 0]], [[3, 4], [0, 0]]]]
    assert asked["input_labels"].tolist() == [[[1, -1], [1, -1]]] and asked["has_mask"].tolist() == [0]
    assert asked["input_masks"].shape == (1, 1, 16, 16) and found.iou_scores.tolist() == [[0, 1]]
    alone = model(
        image_embeddings=embeddings, input_points=points[:, :1], input_labels=torch.tensor([[[0]]]),
        input_boxes=torch.tensor([[[5, 6, 7, 8]]]), input_masks=torch.full((1, 1, 16, 16), 2.0),
    )  # fmt: skip
    assert asked["input_points"].tolist() == [[[[1, 2], [5, 6], [7, 8]]] * 2]
    assert asked["input_labels"].tolist() == [[[0, 2, 3]] * 2] and alone.iou_scores.tolist() == [[0]]
    assert asked["has_mask"].tolist() == [1] and asked["input_masks"].unique().tolist() == [2]
    model(image_embeddings=embeddings, input_boxes=torch.tensor([[[5, 6, 7, 8], [1, 2, 3, 4]]]))
    assert asked["input_labels"].tolist() == [[[2, 3]] * 2]
    with pytest.raises(ValueError, match="input_points: got None, and input_boxes: got None; one"):
        model(image_embeddings=embeddings)
    for exported in (True, False):
        (tmp_path / "promptable.json").write_text(json.dumps({**facts, "multimask": exported}))
        of_either = edge_masks.load_promptable(tmp_path)
        of_either(image_embeddings=embeddings, input_points=points, multimask_output=exported)
        with pytest.raises(ValueError, match=f"multimask_output: got {not exported}, it was exported with {exported}"):
            of_either(image_embeddings=embeddings, input_points=points, multimask_output=not exported)
    with pytest.raises(ValueError, match="model: it is in training mode; call model.eval"):
        edge_masks.export_promptable(copy.deepcopy(promptable("sam")[0]).train(), tmp_path / "out")


def _program(folder, weights: int):
    """An ONNX program x -> x · W with its weights in a file beside it."""
    w = np.arange(weights, dtype=np.float32)[:, None]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, weights])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1])],
        [onnx.numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    beside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    onnx.save(model, folder / "model.onnx", **beside)


def test_weights_go_into_the_program_unless_it_would_be_too_large(tmp_path, monkeypatch):
    _program(tmp_path, 40)
    program, weights = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    whole = program.stat().st_size + weights.stat().st_size
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("read")
    assert edge_files.size_of(tmp_path) == whole and weights.stat().st_size >= 160
    monkeypatch.setattr(edge_files, "_ONE_FILE", whole - 1)
    edge_files.as_one_file(tmp_path)
    assert program.stat().st_size + weights.stat().st_size == whole, "it is left in two"
    monkeypatch.setattr(edge_files, "_ONE_FILE", whole)
    edge_files.as_one_file(tmp_path)
    assert weights.stat().st_size == 0 and program.stat().st_size > 160
    weights.unlink()
    before = program.stat().st_mtime_ns
    edge_files.as_one_file(tmp_path)
    assert program.stat().st_mtime_ns == before and not weights.exists(), "one that is a file already stays as it is"


@pytest.mark.parametrize("bits, precision", [(8, "int8"), (4, "int4")])
def test_weights_of_a_program_are_rounded_in_blocks(bits, precision, tmp_path, monkeypatch):
    """x · W of 64 inputs and 3 outputs: each column in two blocks of 32 to the nearest of 2^bits levels."""
    w = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 3])],
        [onnx.numpy_helper.from_array(w.T.contiguous().numpy(), "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    # ONNX Runtime's module sets up logging where nobody has, and when it is imported.
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", raising=False)
    monkeypatch.delattr("onnxruntime.quantization.matmul_nbits_quantizer", raising=False)
    monkeypatch.setattr(logging.root, "handlers", [])
    level, handlers = logging.root.level, logging.root.handlers[:]
    made = onnx_ir.to_proto(quantizer_of(precision).quantize(onnx_ir.from_proto(model), None, None))
    assert (logging.root.level, logging.root.handlers) == (level, handlers)
    (node,) = made.graph.node
    settings = {a.name: a.i for a in node.attribute}
    assert node.op_type == "MatMulNBits" and (settings["bits"], settings["block_size"]) == (bits, 32)
    assert settings.get("accuracy_level", 0) == (4 if bits == 8 else 0), "of 8 bits what is multiplied is rounded, too"
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": np.eye(64, dtype=np.float32)})
    torch.testing.assert_close(torch.from_numpy(got.T), rounded(w, bits), rtol=0, atol=2e-2 if bits == 8 else 1e-5)


def test_pictures_are_found_in_folders_below_by_their_endings(tmp_path):
    (tmp_path / "below").mkdir()
    for number, picture in enumerate(pictures(7)):
        picture.save(tmp_path / ("below" if number % 2 else ".") / f"{number}.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match=f"calibration: {tmp_path} has 7 pictures, accepted are 8 or more"):
        find_pictures(tmp_path)
    (tmp_path / "z.jpg").write_bytes(b"damaged")
    found = find_pictures(str(tmp_path))
    assert found == sorted([*tmp_path.glob("*.PNG"), *tmp_path.glob("*/*.PNG"), tmp_path / "z.jpg"])
    with pytest.raises(OSError, match=f"calibration: {tmp_path / 'z.jpg'}: the file is not"):
        edge_int8.prepare(found, classifier()[1], 3, (32, 32))


def test_two_towers_are_read_with_their_processor(tmp_path):
    model = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1})
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    loaded, both = edge_two_towers.load_source(str(tmp_path))
    assert type(loaded) is type(model) and both.tokenizer and both.image_processor
    assert edge_two_towers.load_source(tmp_path, both)[1] is both
    assert edge_two_towers.load_source(model, both) == (model, both)


@pytest.mark.parametrize(
    "config, names, is_one",
    [
        (LlamaConfig, None, True),
        (LlamaConfig, [], True),
        (LlamaConfig, ["LlamaForCausalLM"], True),
        (LlamaConfig, ["LlamaForSequenceClassification"], False),
        (LlamaConfig, ["LlamaModel"], False),
        (ResNetConfig, None, False),
    ],
)
def test_a_language_model_is_one_by_its_type_and_by_the_class_that_it_names(config, names, is_one):
    assert edge_language.is_language_model(config(architectures=names)) == is_one


def test_two_towers_are_those_of_clip_and_of_lightclip():
    light = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1}).config
    for config, is_one in ((CLIPConfig(), True), (light, True), (SiglipConfig(), False), (ResNetConfig(), False)):
        assert edge_two_towers.is_two_towers(config) == is_one, config.model_type
    assert not edge_two_towers.is_two_towers(None)


@pytest.mark.parametrize("has_processor", [True, False])
def test_a_readme_tells_to_load_a_processor_where_there_is_one(has_processor, tmp_path):
    """And its lines of Python import what they use."""
    edge_files.write_readme(tmp_path, "Net", "onnx", "float32", (48, 32), "It is right.", has_processor)
    program = (tmp_path / "README.md").read_text()
    towers = edge_two_towers._readme("Clip", "openvino", (48, 32), 1.25e-5, has_processor)
    for text, kind in ((program, "AutoImageProcessor"), (towers, "AutoProcessor")):
        code = text.partition("```python\n")[2].partition("```")[0]
        compile(code, "README.md", "exec")
        assert ("hf-effmodels predict . photo.jpg" in text) == (kind in code) == has_processor
        assert "48 x 32 pixels" in text and "\n\n\n" not in text
        assert (f"from transformers import {kind}\n" in code) == (f'{kind}.from_pretrained(".")' in code)
    assert "It is right.\n\n" in program and ("preprocessor_config.json" in program) == has_processor
    assert 'edge.load(".")' in program and 'load_two_towers(".")' in towers and "1.3e-05 at most" in towers


@pytest.mark.parametrize(
    "row, place, errors, counts",
    [
        (1, 2, (0.5, 0.0), True),
        (1, 2, (0.5, -0.5), True),
        (0, 9, (-0.5, 0.25), True),
        (2, 7, (0.0, -0.5), True),
        (0, 1, (0.5, 0.5), False),
    ],
)
def test_one_logit_of_a_language_program_that_is_off_is_enough_wherever_a_text_stands(row, place, errors, counts):
    """In what is read first as in what follows; what stands before a text's beginning says nothing."""
    table, asked = torch.randn(50, 6, generator=torch.Generator().manual_seed(3)), []

    class Model:
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=50))

        def forward(self, input_ids, attention_mask, position_ids):
            asked.append((input_ids, attention_mask.bool(), position_ids))
            return SimpleNamespace(logits=table[input_ids])

        __call__ = forward

    def program(ids, mask, past_key_values=0):
        logits = table[ids].clone()
        if len(ids) == 3 and past_key_values <= place < past_key_values + ids.shape[1]:
            logits[row, place - past_key_values, :2] += torch.tensor(errors)
        return SimpleNamespace(logits=logits, past_key_values=past_key_values + ids.shape[1])

    found = edge_language._difference(Model(), program)
    (alone, _, _), (ids, mask, positions) = asked
    assert (len(alone), ids.shape, mask.sum().item()) == (1, (3, 10), 28)
    assert positions[0].tolist() == [0, 0, *range(8)] and positions[1].tolist() == [*range(10)]
    assert found == pytest.approx(0.5 / table[ids][mask].std().item() if counts else 0.0, rel=1e-4)


@pytest.mark.parametrize("half", ["image", "text"])
@pytest.mark.parametrize("errors", [(0.25, -0.25), (-0.25, 0.0), (0.125, -0.25)])
def test_one_number_of_a_vector_that_is_off_is_enough_in_either_tower(half, errors):
    inputs = {"image": torch.randn(3, 4), "text": torch.randn(3, 9)}

    def vectors(name, given):
        found = given[:, :4].clone()
        if name == half and len(given) == 3:
            found[1, 2], found[2, 0] = found[1, 2] + errors[0], found[2, 0] + errors[1]
        return found

    halves = {name: lambda given: given[:, :4] for name in inputs}
    found = edge_two_towers._difference(SimpleNamespace(vectors=vectors), halves, inputs)
    assert found == pytest.approx(0.25, rel=1e-5)


def test_a_detector_tells_the_boxes_of_each_picture_in_its_own_pixels():
    """Best first, at most to its edges, and none where the graph has none."""
    detect = object.__new__(edge_detection.ExportedDetector)
    detect.config = SimpleNamespace(id2label={0: "cat", 1: "dog"})
    sizes = []

    class Processor:
        def __call__(self, images, return_tensors):
            sizes.append([image.size for image in images])
            return {"pixel_values": torch.zeros(len(images), 3, 10, 10)}

        def geometry(self, height, width):
            scale = torch.tensor([width, height, width, height]) / 10
            return SimpleNamespace(inverse=lambda boxes: boxes * scale)

    detect.image_processor = Processor()
    boxes = torch.tensor([[1.0, 2, 5, 6], [-1, 0, 12, 10], [3, 3, 4, 4]]).repeat(3, 1, 1)
    scores = torch.tensor([[0.75, 0.5, 0.0], [0.0, 0.0, 0.0], [0.75, 0.5, 0.25]])
    detect._run = lambda pixel_values: [boxes, scores, torch.tensor([[0, 1, -1], [-1, -1, -1], [1, 1, 0]])]
    pictures = [Image.new("RGB", size) for size in ((100, 50), (30, 30), (20, 90))]
    first, second, third = detect(pictures)
    assert sizes == [[(100, 50), (30, 30), (20, 90)]] and second == []
    assert first == [
        {"score": 0.75, "label": "cat", "box": {"xmin": 10, "ymin": 10, "xmax": 50, "ymax": 30}},
        {"score": 0.5, "label": "dog", "box": {"xmin": 0, "ymin": 0, "xmax": 100, "ymax": 50}},
    ]
    assert [(one["label"], [*one["box"].values()]) for one in third] == [
        ("dog", [2, 18, 10, 54]),
        ("dog", [0, 0, 20, 90]),
        ("cat", [6, 27, 8, 36]),
    ]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("other", [0, 4])
def test_the_share_of_equal_answers_is_of_all_pictures_however_many_are_asked_at_a_time(count, other):
    """One of them, the last, gets another class."""
    pictures = [torch.full((1, 1, 1, 1), 1 + number % 3) for number in range(count)]
    asked = []

    def model(pixel_values):
        asked.append(len(pixel_values))
        return SimpleNamespace(logits=torch.eye(5)[pixel_values.flatten().long()])

    def program(pixel_values):
        logits = model(pixel_values).logits.clone()
        if sum(asked) == 2 * count:
            logits[-1] = torch.eye(5)[other]
        return SimpleNamespace(logits=logits)

    model.device, model.dtype = "cpu", torch.float32
    share = edge_int8.agreement(model, program, edge_int8.Calibration([torch.ones(1, 1, 1, 1)] * 50, pictures))
    assert share == pytest.approx((count - 1) / count)
