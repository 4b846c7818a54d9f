"""Two graphs of a promptable model answer as the model does."""

import copy
import json
import re
from types import SimpleNamespace

import pytest
import torch
from transformers import Sam2Config, SamHQConfig

from hf_effmodels import edge_masks
from hf_effmodels.cli import main
from hf_effmodels.edge_masks import GRAPHS, export_promptable, load_promptable
from hf_effmodels.pipelines import MaskPredictor
from hf_effmodels.pipelines.hierarchical_mask_generation.embedding import embed
from hf_effmodels.pipelines.hierarchical_mask_generation.rounds import Thresholds, segment_everything
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config
from ..pipelines.hierarchical_mask_generation.models import build, picture


@pytest.mark.parametrize(
    "name, backend", [("tinysam", "onnx"), pytest.param("sam", "openvino", marks=pytest.mark.thorough)]
)
def test_exported_graphs_answer_points_boxes_and_masks(name, backend, tmp_path, capsys):
    model, processor = build("sam")
    if name == "tinysam":
        torch.manual_seed(0)
        architecture = ARCHITECTURES["tinysam"]
        model = architecture.model_class("AutoModel")(tiny_config(architecture)).eval().requires_grad_(False)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", backend, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == type(model).__name__ and report["difference"] < 1e-3
    assert report["bytes"] == [sum(f.stat().st_size for f in (tmp_path / "out").glob(f"{g}.*")) for g in GRAPHS]
    exported = load_promptable(tmp_path / "out")
    images = [MaskPredictor(m, processor).encode(picture()) for m in (model, exported)]
    first = images[0].predict(points=[[30, 20]])
    for prompt in (
        {"points": [[30, 20]], "labels": [1]},
        {"points": [[[30, 20], [60, 60]], [[5, 5], [80, 10]]], "labels": [[1, 0], [1, 1]]},
        {"boxes": [10, 5, 80, 66]},
        {"points": [[30, 20]], "boxes": [10, 5, 80, 66], "mask": first.logits[1]},
    ):
        expected, got = (image.predict(**prompt) for image in images)
        scale = expected.logits.std()
        assert (got.logits - expected.logits).abs().max() < 1e-3 * scale
        torch.testing.assert_close(got.scores, expected.scores, atol=1e-3, rtol=1e-3)
    asked = {"image_embeddings": torch.zeros(1, 1, 1, 1), "input_points": torch.zeros(1, 1, 1, 2)}
    with pytest.raises(ValueError, match="multimask_output: got False, it was exported with True"):
        exported(**asked, multimask_output=False)
    # Everything in an image, through the graphs.
    counts = []
    for any_model in (model, exported):
        embedded = embed(any_model, processor, picture())
        result = segment_everything(
            lambda points, e=embedded: e.ask_points(e.to_model(points)),
            embedded.enlarge,
            *embedded.size,
            points_per_side=4,
            thresholds=Thresholds(predicted_iou=0, stability=0),
        )
        counts.append([len(part) for part in result.kept])
    assert counts[0] == counts[1] and counts[0][0] > 0
    picture().save(tmp_path / "a.png")
    told = []
    for folder in ("model", "out"):
        assert main(["predict", str(tmp_path / folder), str(tmp_path / "a.png"), "--points", "2", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] and told[0]["masks"] is not None


def test_what_cannot_be_exported_is_said_before(tmp_path):
    model, _ = build("sam")
    with pytest.raises(ValueError, match="backend: got 'coreml'"):
        export_promptable(model, tmp_path / "a", "coreml")
    with pytest.raises(ValueError, match="model: got Linear"):
        export_promptable(torch.nn.Linear(2, 2), tmp_path / "a")
    with pytest.raises(ValueError, match="has no promptable.json"):
        load_promptable(tmp_path)


@pytest.mark.parametrize("config", [Sam2Config, SamHQConfig])
def test_promptable_models_with_other_parts_are_refused_by_their_type(config, tmp_path, capsys):
    config().save_pretrained(tmp_path / "model")  # refused before there is a network
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--format", "onnx"]) == 2
    said = capsys.readouterr().err
    assert f"MODEL: got {config.model_type}, accepted for two graphs are the types sam and tinysam" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "part, field, value, said",
    [
        (
            "prompt_encoder_config",
            "image_size",
            1024,
            "prompt_encoder_config.image_size: got 1024, the image encoder has ",
        ),
        ("prompt_encoder_config", "image_embedding_size", 9, "prompt_encoder_config.image_embedding_size: got 9, "),
        (
            "prompt_encoder_config",
            "hidden_size",
            8,
            "prompt_encoder_config.hidden_size: got 8, the image encoder has 16",
        ),
        (
            "mask_decoder_config",
            "hidden_size",
            32,
            "mask_decoder_config.hidden_size: got 32, the image encoder has 16",
        ),
        (
            "vision_config",
            "num_pos_feats",
            128,
            "vision_config.num_pos_feats twice: got 256, the image encoder has 16",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_told_before_a_sam_is_read(part, field, value, said, tmp_path, capsys):
    model, processor = build("sam")
    config = copy.deepcopy(model.config)
    setattr(getattr(config, part), field, value)
    model.config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="there are no weights in it"):
        edge_masks.load_source(tmp_path)
    config.architectures = ["SamModel"]
    config.save_pretrained(tmp_path)
    assert main(["export", str(tmp_path), str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert f"MODEL: {said}" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=f"^model: {re.escape(said)}"):
        export_promptable(SimpleNamespace(config=config), tmp_path / "out")


def test_a_sam_that_computes_nothing_is_told_before_the_exporters_are_asked(tmp_path, monkeypatch):
    model = copy.deepcopy(build("sam")[0])
    monkeypatch.setattr(edge_masks, "_write", lambda *_: pytest.fail("too late"))
    model.mask_decoder.iou_token = torch.nn.Embedding(1, 8)
    with pytest.raises(ValueError, match="^model: it makes no masks of random pixels: "):
        export_promptable(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_says_how_to_predict_where_a_processor_lies_beside_the_graphs():
    for has_processor in (True, False):
        said = edge_masks._readme("SamModel", "openvino", 96, 0.00012, has_processor)
        assert ("hf-effmodels predict . photo.jpg --save drawn" in said) == has_processor
        assert "Two openvino graphs" in said and "images of 96 x 96 pixels" in said and "1.2e-04 of their" in said


@torch.no_grad()
@pytest.mark.parametrize("multimask", [True, False])
def test_the_graph_of_prompts_computes_what_the_model_does_with_points_boxes_and_a_mask(multimask):
    model, _ = build("sam")
    generator = torch.Generator().manual_seed(0)
    side, channels = model.config.prompt_encoder_config.image_embedding_size, 16
    embeddings = torch.randn(1, channels, side, side, generator=generator)
    points = 64 * torch.rand(1, 2, 2, 2, generator=generator)
    mask = torch.randn(1, 1, 4 * side, 4 * side, generator=generator)
    none = torch.full((1, 2, 1), -1)
    labels = torch.tensor([[[1, 0], [0, 1]]])
    decoder = edge_masks.PromptDecoder(model, multimask).eval()
    boxes = points.sort(2).values
    for given, pixels, marks in (
        ({"input_points": points, "input_labels": labels}, torch.cat([points, torch.zeros(1, 2, 1, 2)], 2),
         torch.cat([labels, none], 2)),
        ({"input_boxes": boxes.flatten(2)}, boxes, torch.tensor([[[2, 3], [2, 3]]])),
    ):  # fmt: skip
        for has_mask in (0.0, 1.0):
            more = {"input_masks": mask} if has_mask else {}
            expected = model(image_embeddings=embeddings, multimask_output=multimask, **given, **more)
            masks, scores = decoder(embeddings, pixels, marks, mask, torch.tensor([has_mask]))[:2]
            torch.testing.assert_close(masks, expected.pred_masks)
            torch.testing.assert_close(scores, expected.iou_scores)
