"""What is told of an export, and what it leaves as it was; no exporter runs."""

import copy
import json
import logging
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, GenerationConfig

import hf_effmodels
from hf_effmodels import edge, edge_detection, edge_halves, edge_language, edge_masks, edge_two_towers
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.edge_detection import DetectorGraph, Suppression, load_detector
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.test_light_clip import TEXT, build, processor
from ..modeling.tiny import tiny_config
from ..pipelines.hierarchical_mask_generation.models import build as promptable
from .test_halves import network
from .test_language import of_transformers

BYTES = {"model": 7, "detector": 9, "head": 5, "tail": 3, "image": 2, "text": 4, "encoder": 6, "decoder": 8}


def tiny_model(model_type: str, auto_class: str, **fields):
    torch.manual_seed(0)
    architecture = ARCHITECTURES[model_type]
    return architecture.model_class(auto_class)(tiny_config(architecture, **fields)).eval()


@pytest.fixture
def exporters(monkeypatch):
    """In the place of what writes programs: each is a file of `BYTES`, and of each there is a warning. What was
    written, by its name."""
    written = {}

    def put(folder, name, module):
        (folder / f"{name}.onnx").write_bytes(b"x" * BYTES[name])
        logging.getLogger("torch.onnx").warning("odd %s", name)
        written[name] = module

    for module in (edge, edge_language):
        monkeypatch.setattr(module, "as_one_file", lambda folder: None)
    for module in (edge, edge_language, edge_masks, edge_two_towers):
        monkeypatch.setattr(module, "_difference", lambda *_: 0.0)
    monkeypatch.setattr(edge_halves, "_compared", lambda *_: (0.0, 0.0))
    for module, name, given in (
        (edge, "load", None),
        (edge_language, "load_language_model", None),
        (edge_halves, "load_halves", (None, None)),
        (edge_two_towers, "load_two_towers", None),
        (edge_masks, "load_promptable", None),
        (edge_detection, "load_graph", lambda **_: None),
        (edge_detection, "_check_same", None),
        (edge_detection, "_check_at_a_threshold_that_keeps_some", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, given=given: given)
    monkeypatch.setattr(edge, "_write", lambda model, pixels, chosen, folder, *_: put(folder, "model", model))
    monkeypatch.setattr(
        edge_language, "_write", lambda model, chosen, options, precision, folder: put(folder, "model", model) or []
    )
    for module in (edge_halves, edge_masks, edge_two_towers):
        monkeypatch.setattr(module, "_write", lambda part, example, file, *_: put(file.parent, file.stem, part))
    monkeypatch.setattr(
        torch.onnx,
        "export",
        lambda graph, *_, **__: SimpleNamespace(save=lambda file: put(file.parent, file.stem, graph)),
    )
    return written


def _classifier(folder):
    return edge.export(tiny_model("vanillanet", "AutoModelForImageClassification"), folder, "onnx", image_size=64)


def _detector(folder, model=None, **options):
    given = {"processor": hf_effmodels.create_image_processor("gold-yolo-n", image_size=64), **options}
    model = tiny_model("gold_yolo", "AutoModelForObjectDetection") if model is None else model
    return edge_detection.export_detector(model, folder, **given)


def _halves(folder):
    return edge_halves.export_halves(*split(network(), "stages.0"), folder)


def _two_towers(folder, **options):
    model = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1})
    return edge_two_towers.export_two_towers(model, folder, **options)


def _language(folder):
    return edge_language.export_language_model(of_transformers(99), folder)


def _promptable(folder):
    return edge_masks.export_promptable(tiny_model("tinysam", "AutoModel"), folder)


@pytest.mark.parametrize(
    "export, names, counted",
    [
        (_classifier, ["model"], 7),
        (_detector, ["detector"], 9),
        (_halves, ["head", "tail"], 8),
        (_two_towers, ["image", "text"], (2, 4)),
        (_language, ["model"], 7),
        (_promptable, ["encoder", "decoder"], (6, 8)),
    ],
)
def test_a_report_has_the_bytes_of_the_program_and_what_its_exporters_warned(
    export, names, counted, exporters, tmp_path
):
    report = export(tmp_path / "out")
    assert report.bytes == counted and report.warnings == tuple(f"odd {name}" for name in names)
    assert report.folder == str(tmp_path / "out") and report.format == "onnx"


@pytest.mark.parametrize(
    "model_type, auto_class, export",
    [
        ("vanillanet", "AutoModelForImageClassification", lambda m, out: edge.export(m, out, "onnx", image_size=64)),
        ("gold_yolo", "AutoModelForObjectDetection", lambda m, out: _detector(out, m)),
        ("tinysam", "AutoModel", edge_masks.export_promptable),
        ("light_clip", "AutoModel", edge_two_towers.export_two_towers),
    ],
)
def test_a_copy_is_folded_and_the_model_and_its_configuration_stay(
    model_type, auto_class, export, exporters, tmp_path
):
    fields = {"text_config": {**TEXT, "num_hidden_layers": 1}} if model_type == "light_clip" else {}
    if model_type == "light_clip":
        fields["vision_config"] = {"model_type": "vanillanet", "hidden_sizes": [8, 12], "strides": [2]}
    model = tiny_model(model_type, auto_class, **fields).bfloat16().float()
    model.config.architectures = ["Before"]
    before = copy.deepcopy(model.state_dict())
    report = export(model, tmp_path / "out")
    assert model.config.architectures == ["Before"] and not getattr(model.config, "reparameterized", False)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert report.folded is hasattr(model, "reparameterize") and report.model == type(model).__name__
    written = next(iter(exporters.values()))
    norms = [module for module in written.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not norms or model_type in ("light_clip", "tinysam"), "what is written is folded"
    if model_type != "vanillanet":  # that of a program is its exporter's
        saved = json.loads((tmp_path / "out" / "config.json").read_text())
        assert saved["architectures"] == [type(model).__name__]
    else:
        assert written.config.architectures == [type(model).__name__] and not written.training
    folded_already = export(model.reparameterize(), tmp_path / "again") if report.folded else report
    assert folded_already.folded is report.folded


def test_a_network_without_a_folded_form_is_not_told_to_be_folded(exporters, tmp_path):
    model = network()
    assert edge.export(model, tmp_path / "out", "onnx", image_size=32).folded is False
    towers = _two_towers(tmp_path / "towers")
    assert towers.folded is getattr(
        build(hf_effmodels.LightClipModel).reparameterize().config, "reparameterized", False
    )


class Compiled(nn.Module):
    """What torch.compile makes of a part, without what it does."""

    def __init__(self, part):
        super().__init__()
        self._orig_mod = part

    def forward(self, *given, **options):
        return self._orig_mod(*given, **options)


class Wrapped(nn.DataParallel):
    """What somebody trained with on several devices."""


@pytest.mark.parametrize("kind", ["classifier", "detector", "two towers"])
def test_a_model_may_come_as_it_was_trained_in_a_wrapper(kind, exporters, tmp_path):
    if kind == "classifier":
        model = tiny_model("vanillanet", "AutoModelForImageClassification").train()
        report = edge.export(Wrapped(model), tmp_path / "out", "onnx", image_size=64)
        assert model.training and not exporters["model"].training
    elif kind == "detector":
        model = tiny_model("gold_yolo", "AutoModelForObjectDetection")
        wrapped = Wrapped(model).eval()
        report = _detector(tmp_path / "out", wrapped)
    else:
        model = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1}).train()
        report = edge_two_towers.export_two_towers(Wrapped(model), tmp_path / "out")
        assert model.training and not any(part.training for part in exporters.values())
    assert report.model == type(model).__name__


@pytest.mark.parametrize("kind", ["classifier", "detector", "two towers"])
def test_parts_of_a_model_that_were_compiled_are_written_as_they_were_before(kind, exporters, tmp_path):
    if kind == "two towers":
        model = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1})
        model.text_model.encoder = Compiled(model.text_model.encoder)
        edge_two_towers.export_two_towers(model, tmp_path / "out")
    else:
        of = ("vanillanet", "ImageClassification") if kind == "classifier" else ("gold_yolo", "ObjectDetection")
        model = tiny_model(of[0], f"AutoModelFor{of[1]}")
        name = next(name for name, _ in model.named_children())
        setattr(model, name, Compiled(getattr(model, name)))
        if kind == "classifier":
            edge.export(model, tmp_path / "out", "onnx", image_size=64)
        else:
            _detector(tmp_path / "out", model)
    assert any("_orig_mod" in name for name in model.state_dict()), "the model stays compiled"
    assert not any("_orig_mod" in name for part in exporters.values() for name in part.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_what_was_saved_in_half_precision_is_exported_in_whole(kind, dtype, exporters, tmp_path, monkeypatch):
    """Runtimes of CPUs have no operators of others; half precision is asked for by its own name."""
    seen = []
    if kind == "classifier":
        written = edge._write
        monkeypatch.setattr(edge, "_write", lambda *given: seen.append(given[1].dtype) or written(*given))
        model = tiny_model("vanillanet", "AutoModelForImageClassification").to(dtype)
        model.config.dtype = dtype  # as of a folder
        edge.export(model, tmp_path / "out", "onnx", image_size=64)
        config = exporters["model"].config
        assert seen == [torch.float32]
    else:
        model = tiny_model("gold_yolo", "AutoModelForObjectDetection").to(dtype)
        model.config.dtype = dtype
        _detector(tmp_path / "out", model)
        config = AutoConfig.from_pretrained(tmp_path / "out")
    (program,) = exporters.values()
    assert {value.dtype for value in program.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert config.dtype in (None, torch.float32) and model.dtype == dtype == model.config.dtype


def test_two_towers_in_half_precision_are_written_in_whole_and_scaled_as_they_are(exporters, tmp_path):
    model = build(hf_effmodels.LightClipModel, text_config={**TEXT, "num_hidden_layers": 1}).bfloat16()
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
    given = processor()
    before = given.image_processor.to_dict()
    report = edge_two_towers.export_two_towers(model, tmp_path / "out", processor=given, image_size=64)
    assert model.dtype == torch.bfloat16 and given.image_processor.to_dict() == before
    assert {value.dtype for value in exporters["image"].parameters()} == {torch.float32}
    told = json.loads((tmp_path / "out" / "two_towers.json").read_text())
    assert told["logit_scale"] == pytest.approx(7.389056, rel=1e-4) and told["image_size"] == [64, 64]
    assert report.image_size == (64, 64) and report.batches == (1, 3)


def test_a_half_in_half_precision_is_written_in_whole():
    head, tail = split(network(), "stages.0")
    head.network.bfloat16()
    written = edge_halves._Head(head, None)
    assert {value.dtype for value in written.network.parameters()} == {torch.float32}
    assert torch.bfloat16 in {value.dtype for value in head.network.parameters()}, "the half stays as it is"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_of_a_network_in_half_precision_are_compared_in_whole(dtype, exporters, tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(edge_halves, "_compared", lambda own, server, *given: compared.extend(given) or (0.0, 0.0))
    halves = split(network().to(dtype), "stages.0")
    edge_halves.export_halves(*halves, tmp_path / "out")
    head, tail, pixels, _ = compared
    with torch.no_grad():
        assert tail(head(pixels), tuple(pixels.shape)).dtype == torch.float32 == pixels.dtype
    assert json.loads((tmp_path / "out" / "halves.json").read_text())["facts"]["dtype"] == "float32"
    for half in halves:
        assert half.facts.dtype == str(dtype).removeprefix("torch.")
        assert {value.dtype for value in half.network.parameters() if value.is_floating_point()} == {dtype}


def test_a_language_program_generates_by_the_models_own_settings(monkeypatch, tmp_path):
    config = of_transformers(99).config
    config.architectures = ["LlamaForCausalLM"]
    program = SimpleNamespace(config=config, runners={}, device=torch.device("cpu"), dtype=torch.float32)
    given = []
    monkeypatch.setattr(
        "transformers.exporters.ExportedModel.from_pretrained",
        lambda folder, **options: given.append(options) or program,
    )
    GenerationConfig(max_new_tokens=17, eos_token_id=5).save_pretrained(tmp_path)
    (tmp_path / "language_model.json").write_text('{"past": [], "precision": "float32"}')
    (tmp_path / "export.json").write_text('{"export_format": "openvino"}')
    model = edge_language.load_language_model(tmp_path, revision="v1")
    assert (model.generation_config.max_new_tokens, model.generation_config.eos_token_id) == (17, 5)
    assert type(model).__name__ == "LlamaForCausalLM" and not model.training
    assert given == [{"config": {"INFERENCE_PRECISION_HINT": "f32"}, "revision": "v1"}]
    edge_language.load_language_model(tmp_path, config={"INFERENCE_PRECISION_HINT": "bf16"})
    assert given[1] == {"config": {"INFERENCE_PRECISION_HINT": "bf16"}}, "one's own go before those of the format"
    (tmp_path / "export.json").write_text('{"export_format": "onnx"}')
    edge_language.load_language_model(tmp_path)
    assert given[2].keys() == {"session_options"}


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_need_a_tokenizer_to_be_judged(precision, exporters, tmp_path):
    with pytest.raises(ValueError, match="^tokenizer: got None, but what is read of a text are its tokens"):
        edge_language.export_language_model(of_transformers(99), tmp_path / "out", precision=precision)
    assert not (tmp_path / "out").exists()


# detectors


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("asked", [None, (96, 64)])
def test_a_detectors_folder_says_what_it_keeps_and_prepares_images_of_its_size(
    format, asked, exporters, tmp_path, monkeypatch
):
    turned = []
    monkeypatch.setattr(edge_detection, "to_openvino", lambda folder, name: turned.append(name))
    own = hf_effmodels.create_image_processor("gold-yolo-n", image_size=64)
    chosen = Suppression(threshold=0.25, nms_threshold=0.5, max_detections=9, class_agnostic=True)
    report = _detector(tmp_path / "out", format=format, processor=own, suppression=chosen, image_size=asked)
    size = (64, 64) if asked is None else asked
    assert report.image_size == size and report.format == format and turned == ["detector"] * (format == "openvino")
    assert [getattr(report, name) for name in vars(chosen)] == [0.25, 0.5, 9, False, True]
    beside = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert (beside.size["height"], beside.size["width"]) == size and own.size["height"] == 64
    facts = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert facts == {"format": format, **vars(chosen)}
    told = (tmp_path / "out" / "README.md").read_text()
    assert f"An {format} graph" in told and f"images of {size[0]} x {size[1]} pixels" in told
    assert "above 0.25" in told and "from 0.5 on" in told and "\n9 at most" in told


def test_a_detectors_folder_is_read_as_it_says(tmp_path, monkeypatch):
    """Also where its processor would pad a single picture to less than the graph takes."""
    model = tiny_model("gold_yolo", "AutoModelForObjectDetection", id2label={0: "cat", 1: "dog"})
    model.config.save_pretrained(tmp_path)
    own = hf_effmodels.create_image_processor("gold-yolo-n", image_size=64)
    own.letterbox_auto = True
    own.save_pretrained(tmp_path)
    chosen = Suppression(threshold=0.25, nms_threshold=0.5, max_detections=9, multi_label=True)
    (tmp_path / "detector.json").write_text(json.dumps({"format": "openvino", **vars(chosen)}))
    asked, shapes = [], []

    def run(pixel_values):
        shapes.append((tuple(pixel_values.shape), pixel_values.dtype))
        count = len(pixel_values)
        return [
            torch.tensor([[[0.0, 0, 32, 32]]]).repeat(count, 1, 1),
            torch.full((count, 1), 0.5),
            torch.ones(count, 1).long(),
        ]

    monkeypatch.setattr(edge_detection, "load_graph", lambda *given: asked.append(given) or run)
    detect = load_detector(str(tmp_path))
    assert asked == [(tmp_path, "detector", "openvino")] and detect.suppression == chosen
    assert detect.config.id2label == {0: "cat", 1: "dog"}
    picture = Image.new("RGB", (80, 20))
    alone = detect(picture)
    assert [found["label"] for found in alone] == ["dog"] and detect((picture, picture)) == [alone, alone]
    picture.save(tmp_path / "a.png")
    assert detect(str(tmp_path / "a.png")) == alone
    assert shapes[0] == ((1, 3, 64, 64), torch.float32) and shapes[1][0] == (2, 3, 64, 64)
    detect.run(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    assert shapes[-1][1] == torch.float32


def test_a_box_of_a_negative_side_overlaps_nothing_in_the_graph_either(monkeypatch):
    """ONNX takes two corners in any order: given as they are such a box would suppress others. It is told as it is."""
    seen = []

    def kept(boxes, scores, *_):
        seen.append(boxes)
        return scores

    monkeypatch.setattr(edge_detection, "kept_scores", kept)

    class Found(nn.Module):
        def forward(self, pixel_values):
            boxes = torch.tensor([[0.5, 0.5, 0.5, 0.4], [0.5, 0.5, -0.4, 0.4], [0.5, 0.5, 0.2, -0.4]])
            return SimpleNamespace(pred_boxes=boxes[None], logits=torch.tensor([[[2.0], [1.0], [0.0]]]))

    boxes, scores, _ = DetectorGraph(Found(), Suppression())(torch.zeros(1, 3, 40, 80))
    torch.testing.assert_close(seen[0][0], torch.tensor([[20.0, 12, 60, 28], [56, 12, 56, 28], [32, 28, 48, 28]]))
    torch.testing.assert_close(boxes[0], torch.tensor([[20.0, 12, 60, 28], [56, 12, 24, 28], [32, 28, 48, 12]]))
    assert scores[0].tolist() == pytest.approx([0.880797, 0.731059, 0.5])


@pytest.mark.parametrize("options", [{"class_agnostic": True, "threshold": 0.15}])
def test_boxes_of_all_classes_together_have_their_own_likeliest_class(options):
    """Of a batch each picture its own; the third box is of another class than the first."""

    class Found(nn.Module):
        def forward(self, pixel_values):
            boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]]).repeat(2, 1, 1)
            chances = torch.tensor([[0.8, 0.1, 0.2], [0.2, 0.3, 0.7], [0.2, 0.6, 0.1]])
            return SimpleNamespace(pred_boxes=boxes, logits=torch.stack([chances, chances.flip(0)]).logit())

    boxes, scores, labels = DetectorGraph(Found(), Suppression(**options))(torch.zeros(2, 3, 10, 10))
    assert labels.tolist() == [[0, 2, 1], [0, 2, 1]]
    assert scores[0].tolist() == pytest.approx([0.8, 0.7, 0.6])
    centres = (boxes[..., :2] + boxes[..., 2:]).mean(-1) / 2
    torch.testing.assert_close(centres, torch.tensor([[2.0, 5, 8], [8, 5, 2]]))


def test_a_score_at_the_threshold_is_not_kept():
    boxes, scores = torch.tensor([[[0.0, 0, 1, 1], [5, 5, 6, 6]]]), torch.tensor([[[0.5, 0.625]]])
    assert edge_detection.kept_scores(boxes, scores, 9, 0.5, 0.5).tolist() == [[[0, 0.625]]]
    assert edge_detection.kept_scores(boxes, scores, 9, 0.5, 0.4375).tolist() == [[[0.5, 0.625]]]


# sizes, precisions and what is read of a folder


@pytest.mark.parametrize("asked, expected", [(None, (32, 32)), (48, (48, 48)), ((64, 32), (64, 32))])
def test_halves_and_towers_are_for_images_of_the_size_that_is_asked_for(asked, expected, exporters, tmp_path):
    """Also of images that are no squares, height before width."""
    report = edge_halves.export_halves(*split(network(), "stages.0"), tmp_path / "halves", image_size=asked)
    facts = json.loads((tmp_path / "halves" / "halves.json").read_text())
    sides = [side // 4 for side in expected]  # the stem has strides of two twice
    assert report.image_size == expected and facts["image_size"] == [*expected]
    assert facts["shape"] == [1, 8, *sides] and (report.model, report.batches) == (
        "ResNetForImageClassification",
        (1, 3),
    )
    told = (tmp_path / "halves" / "README.md").read_text()
    assert f"images of {expected[0]} x {expected[1]} pixels" in told and "cut after `resnet.encoder.stages.0`" in told
    towers = _two_towers(tmp_path / "towers", image_size=asked)
    facts = json.loads((tmp_path / "towers" / "two_towers.json").read_text())
    assert towers.image_size == expected and facts["image_size"] == [*expected]


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_pictures_are_made_of_the_size_that_is_asked_for_and_the_processor_stays(precision, monkeypatch, tmp_path):
    shapes = []

    def program(pixel_values):
        shapes.append(tuple(pixel_values.shape[1:]))
        return model(pixel_values=pixel_values)

    model = tiny_model("vanillanet", "AutoModelForImageClassification")
    for module, name, given in (
        (edge, "_write", None),
        (edge, "as_one_file", None),
        (edge, "halve", None),
        (edge, "load", program),
        (edge.edge_int8, "quantizer", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, given=given: given)
    own = hf_effmodels.create_image_processor("vanillanet-5", image_size=32)
    pictures = [Image.new("RGB", (80, 70), (20 * number, 0, 0)) for number in range(8)]
    report = edge.export(
        model, tmp_path / "out", "onnx", processor=own, image_size=64, precision=precision, calibration=pictures
    )
    assert report.image_size == (64, 64) and {*shapes} == {(3, 64, 64)} and report.agreement == 1
    beside = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert beside.size["shortest_edge"] == 64 and own.size["shortest_edge"] == 32


def test_a_language_model_is_read_in_float32_with_the_tokenizer_that_is_there_or_given(tmp_path):
    of_transformers(99).bfloat16().save_pretrained(tmp_path)
    model, tokenizer = edge_language._load_source(str(tmp_path), None)
    assert model.dtype == torch.float32 and tokenizer is None and not model.training
    mine = object()
    assert edge_language._load_source(tmp_path, mine)[1] is mine
    assert edge_language._load_source(model, mine) == (model, mine)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_promptable_model_is_read_in_float32_whatever_it_is_stored_in(dtype, tmp_path):
    model, own = promptable("sam")
    copy.deepcopy(model).to(dtype).save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    found, processor_of_it = edge_masks.load_source(str(tmp_path))
    assert found.dtype == torch.float32 and not found.training
    assert processor_of_it.image_processor.size == own.size


@pytest.mark.parametrize("multimask", [True, False])
def test_masks_are_compared_as_they_were_exported_one_or_several(multimask):
    asked = []

    def model(**given):
        asked.append(given)
        return SimpleNamespace(pred_masks=torch.randn(1, 2, 3, 4, 4), iou_scores=torch.rand(1, 2, 3))

    class Exported:
        def get_image_embeddings(self, pixels):
            return pixels

        def __call__(self, **given):
            return SimpleNamespace(pred_masks=torch.zeros(1, 2, 3, 4, 4), iou_scores=torch.zeros(1, 2, 3))

    prompts = (None, 64 * torch.rand(1, 3, 4, 2), torch.full((1, 3, 4), 3), torch.ones(1, 1, 4, 4))
    assert edge_masks._difference(Exported(), model, torch.zeros(1, 3, 8, 8), prompts, multimask) > 0
    assert [given["multimask_output"] for given in asked] == [multimask] * 3
    points, boxes, masked = asked
    assert points["input_labels"].max() <= 1 and "input_masks" in masked and "input_masks" not in points
    corners = boxes["input_boxes"].sort(-1).values
    assert torch.equal(corners, boxes["input_boxes"]) and "input_points" not in boxes


@pytest.mark.parametrize("channels", [1, 4])
def test_a_promptable_model_is_exported_for_images_of_its_channels(channels, exporters, tmp_path):
    architecture = ARCHITECTURES["tinysam"]
    plain = tiny_config(architecture).to_dict()
    config = architecture.config_class(
        **plain | {"vision_config": plain["vision_config"] | {"num_channels": channels}}
    )
    torch.manual_seed(0)
    report = edge_masks.export_promptable(architecture.model_class("AutoModel")(config).eval(), tmp_path / "out")
    assert report.image_size == config.vision_config.image_size and report.folded
    with torch.no_grad():
        assert exporters["encoder"](torch.zeros(1, channels, report.image_size, report.image_size)).ndim == 4


def test_boxes_that_only_a_higher_threshold_tells_apart_end_in_a_line_that_says_so(exporters, tmp_path, monkeypatch):
    def differ(*_):
        raise ValueError("export: other boxes.")

    monkeypatch.setattr(edge_detection, "_check_graph", differ)
    with pytest.raises(ValueError, match="^export: other boxes. .*: take a higher one than threshold=0.001.$"):
        _detector(tmp_path / "out", suppression=edge_detection.Suppression(threshold=0.001))
    assert not any(tmp_path.iterdir())
