"""What holds a program against its model sees each difference; no exporter runs here."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoProcessor

import hf_effmodels
from hf_effmodels import edge, edge_detection, edge_halves, edge_int8, edge_language, edge_masks, edge_two_towers
from hf_effmodels.cli import main
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.edge_detection import DetectorGraph, Suppression

from ..modeling.test_light_clip import TEXT, build, processor
from ..pipelines.hierarchical_mask_generation.models import build as promptable
from .test_halves import network
from .test_language import of_transformers


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
                with pytest.raises(RuntimeError, match="of 40 boxes of the model and 40 of the graph in sample 0, 6"):
                    edge_detection._check_same(got, expected)


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


def test_a_text_graph_ends_where_the_model_takes_the_end_to_be():
    """Of old configurations the end is the largest id, whatever they say."""
    for end, expected in ((5, 5), (2, 19)):
        text = SimpleNamespace(max_position_embeddings=8, vocab_size=20, eos_token_id=end)
        config = SimpleNamespace(vision_config=SimpleNamespace(num_channels=3), text_config=text)
        ids = edge_two_towers._inputs(config, (4, 4))["text"]
        assert [(row == expected).nonzero()[0].item() for row in ids] == [7, 4, 1]


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
        edge_two_towers.export_two_towers(clip, tmp_path / "out", processor=processor(), image_size=64, tolerance=0.5)
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
