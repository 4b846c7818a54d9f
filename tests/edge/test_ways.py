"""Which way a program is written in each format and number, and what exporters say when they fail; they do not run."""

import json
import sys
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, SamConfig, ViTConfig, ViTForImageClassification, exporters

from hf_effmodels import _kinds, cli, edge, edge_graphs, edge_halves, edge_language, edge_masks, edge_text
from hf_effmodels.collaboration.splitting import split
from hf_effmodels.edge_formats import FORMATS, Format, check_format, check_precision

from ..pipelines.hierarchical_mask_generation.models import build as promptable
from .test_halves import network
from .test_language import of_transformers


@pytest.fixture
def exporting(monkeypatch):
    """Stands for transformers' exporters; what each was given."""
    seen = {}
    layers = [SimpleNamespace(keys=torch.zeros(1, 2, 5, 8), values=torch.zeros(1, 2, 5, 16))]

    def decompose(model, inputs, generation_config, multi_token_decode):
        seen.update(model=model, asked=inputs, settings=generation_config, many=multi_token_decode)
        return {"decode": ("step", {"past_key_values": SimpleNamespace(layers=layers)})}

    class Config:
        def __init__(self, **options):
            seen["options"] = options

    class Exporter:
        def export(self, step, inputs, config):
            seen.update(step=step, inputs=inputs)
            print("a bar of the exporter")
            if error := seen.get("error"):
                raise error
            return SimpleNamespace(save_pretrained=lambda folder: seen.update(folder=folder))

    monkeypatch.setattr("transformers.exporters.utils.decompose_for_generation", decompose)
    for name in ("OnnxConfig", "OpenVINOConfig"):
        monkeypatch.setattr(exporters, name, Config)
    for name in ("OnnxExporter", "OpenVINOExporter"):
        monkeypatch.setattr(exporters, name, Exporter)
    return seen


@pytest.mark.parametrize(
    "format, precision, dtype, bits",
    [
        ("onnx", "float32", torch.float32, None),
        ("onnx", "float16", torch.float16, None),
        ("onnx", "int8", torch.float32, 8),
        ("onnx", "int4", torch.float32, 4),
        ("openvino", "float16", torch.float32, None),
    ],
)
def test_a_language_model_is_exported_in_its_numbers(exporting, tmp_path, capsys, format, precision, dtype, bits):
    model = of_transformers(99)
    past = edge_language._write(model, FORMATS[format], {"own": 1}, precision, tmp_path)
    assert past == [[[2, 8], [2, 16]]], "heads and channels of what a layer keeps, of keys and of values"
    assert exporting["model"].dtype == dtype and model.dtype == torch.float32
    quantizer = exporting["options"].pop("quantizer")
    assert exporting["options"] == {"dynamic": True, "own": 1} and getattr(quantizer, "bits", None) == bits
    assert exporting["folder"] == tmp_path and exporting["step"] == "step" and exporting["many"] is True
    assert exporting["asked"]["input_ids"].shape == (2, 5)
    assert exporting["asked"]["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1] * 5]
    assert exporting["settings"].do_sample is False and exporting["settings"].eos_token_id is None
    # A size of its own for the logits that are kept: more than there are tokens.
    assert exporting["inputs"]["logits_to_keep"].tolist() == [0, 1, 1]
    assert capsys.readouterr().out == ""


def _chain(*errors):
    for error, cause in zip(errors, errors[1:], strict=False):
        error.__cause__ = cause
    return errors[0]


@pytest.mark.parametrize(
    "error, said",
    [
        (_chain(RuntimeError("Failed to export"), ValueError("the first thing.\nand a page")), "the first thing."),
        (_chain(RuntimeError("Failed to export"), KeyError("word")), "Failed to export"),
        (RuntimeError(""), "RuntimeError"),
        (RuntimeError("long" * 100), "long" * 75),
    ],
)
def test_what_an_exporter_says_is_told_by_what_went_wrong_first(exporting, tmp_path, error, said):
    exporting["error"] = error
    with pytest.raises(ValueError) as told:
        edge_language._write(of_transformers(99), FORMATS["onnx"], {}, "float32", tmp_path)
    assert str(told.value) == f"source: LlamaForCausalLM cannot be exported: {said}"
    assert "folder" not in exporting


@pytest.mark.parametrize("error", [ImportError("onnxscript is missing"), MemoryError("no room")])
def test_a_missing_package_and_missing_memory_are_not_the_models_fault(exporting, tmp_path, error):
    exporting["error"] = error
    with pytest.raises(type(error), match=str(error)):
        edge_language._write(of_transformers(99), FORMATS["onnx"], {}, "float32", tmp_path)


@pytest.mark.parametrize(
    "format, precision, steps",
    [
        ("onnx", "float32", ["one file"]),
        ("onnx", "float16", ["one file"]),
        ("openvino", "float32", []),
        ("openvino", "float16", ["halve openvino"]),
    ],
)
def test_half_precision_of_onnx_is_the_models_own_and_of_openvino_the_weights(
    monkeypatch, tmp_path, format, precision, steps
):
    done = []
    for name, given in (("_write", []), ("load_language_model", None), ("_difference", 1e-2)):
        monkeypatch.setattr(edge_language, name, lambda *_, given=given: given)
    monkeypatch.setattr(edge_language, "as_one_file", lambda folder: done.append("one file"))
    monkeypatch.setattr(edge_language, "halve", lambda folder, format: done.append(f"halve {format}"))
    how = {"tolerance": 0.1} if precision == "float32" else {}  # in half precision two hundredths are accepted
    report = edge_language.export_language_model(
        of_transformers(99), tmp_path / "out", format, precision=precision, **how
    )
    assert done == steps and (report.format, report.precision, report.difference) == (format, precision, 1e-2)


def test_a_model_that_counts_by_the_mask_is_not_told_the_places():
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    asked = []

    class Counting(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, past_key_values=None):
            asked.append(input_ids.shape)
            places = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            return super().forward(
                input_ids, attention_mask=attention_mask, past_key_values=past_key_values, position_ids=places
            )

    model = Counting(config).eval()

    def program(ids, mask, past_key_values=None):
        return model(ids, attention_mask=mask, past_key_values=past_key_values)

    assert edge_language._difference(model, program) < 1e-4 and len(asked) == 6


def test_each_graph_of_halves_and_of_promptable_models_is_turned_into_openvinos(monkeypatch, tmp_path):
    turned = []
    for module, loader in ((edge_halves, "load_halves"), (edge_masks, "load_promptable")):
        monkeypatch.setattr(module, "check_packages", lambda backend: turned.append(backend))
        monkeypatch.setattr(module, "_write", lambda *_: None)
        monkeypatch.setattr(module, "to_openvino", lambda folder, name: turned.append(name))
        monkeypatch.setattr(module, loader, lambda folder: (None, None))
    monkeypatch.setattr(edge_halves, "_compared", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(edge_masks, "_difference", lambda *_: 0.0)
    head, tail = split(network(), "stages.0")
    edge_halves.export_halves(head, tail, tmp_path / "halves", "openvino")
    edge_masks.export_promptable(promptable("sam")[0], tmp_path / "masks", "openvino")
    assert turned == ["openvino", "head", "tail", "openvino", "encoder", "decoder"]
    edge_halves.export_halves(head, tail, tmp_path / "plain", "onnx")
    edge_masks.export_promptable(promptable("sam")[0], tmp_path / "plain-masks", "onnx")
    assert turned[6:] == ["onnx", "onnx"]
    for name, backend in (("masks", "openvino"), ("plain-masks", "onnx")):
        assert json.loads((tmp_path / name / edge_masks.FACTS).read_text())["backend"] == backend


def test_a_graph_runs_on_either_backend_with_the_same_numbers(tmp_path):
    """By hand: x + 2 y and x, in single precision."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in ("x", "y", "sum", "same")]
    nodes = [
        helper.make_node("Add", ["y", "y"], ["twice"]),
        helper.make_node("Add", ["x", "twice"], ["sum"]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "g.onnx")
    (tmp_path / "g.onnx.data").touch()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 1e-7]]).T  # not in one piece
    y = torch.tensor([[0.5, 0.25, 1.0], [3.0, 2.0, 1.0]])
    for backend in ("onnx", "openvino"):
        if backend == "openvino":
            edge_graphs.to_openvino(tmp_path, "g")
            assert {path.name for path in tmp_path.iterdir()} == {"g.xml", "g.bin"}
        run = edge_graphs.load_graph(tmp_path, "g", backend)
        first, second = run(x=x, y=y)
        assert torch.equal(first, x + 2 * y) and torch.equal(second, x) and second.dtype == torch.float32
        again = run(x=x + 1, y=y)
        assert torch.equal(second, x), f"{again} does not write into what was given before"


def test_a_graph_that_cannot_be_read_is_named_and_a_missing_package_is_told_as_it_is(monkeypatch, tmp_path):
    facts = {"at": "x"}
    content = {"facts": facts, "image_size": [4, 6], "shape": [1, 2, 2, 2], "between": [], "widths": [], "format": "x"}
    half = edge_halves._Exported(tmp_path, content, nn.Identity())

    def failing(error):
        def fail(folder, name, backend):
            assert (folder, name, backend) == (tmp_path, "tail", "x")
            raise error

        return fail

    for error, kind, message in (
        (ImportError("No module named 'openvino'"), ImportError, "^No module named 'openvino'$"),
        (RuntimeError("bad\nhere"), ValueError, "^folder: .* has no graph tail to be read .RuntimeError: bad.[.]$"),
    ):
        monkeypatch.setattr(edge_halves, "load_graph", failing(error))
        with pytest.raises(kind, match=message):
            half._load("tail")
    half._check_size("pixel_values", (7, 3, 4, 6))
    for shape in ((7, 3, 6, 4), (3, 4, 6), (1, 7, 3, 4, 6)):
        with pytest.raises(ValueError, match="^pixel_values: got .*, exported for images of .4, 6. pixels.$"):
            half._check_size("pixel_values", shape)


def tiny_vit():
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    return ViTForImageClassification(config).eval()


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (RuntimeError("odd"), RuntimeError, "^odd$"),
        (
            RuntimeError("Constraints violated (batch)! and more"),
            ValueError,
            "^source: ViTForImageClassification cannot be exported with a free batch size, which its own code fixes.$",
        ),
    ],
)
def test_what_an_exporter_says_of_a_classifier_is_its_own_unless_the_batch_is_fixed(
    monkeypatch, tmp_path, error, kind, message
):
    def write(*_):
        raise error

    monkeypatch.setattr(edge, "_write", write)
    with pytest.raises(kind, match=message):
        edge.export(tiny_vit(), tmp_path / "out", "onnx")
    assert not any(tmp_path.iterdir())


def test_texts_of_others_need_the_library_of_data_sets(monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'datasets'")

    monkeypatch.setattr("hf_effmodels.training.data.text.documents.load_evaluation_texts", missing)
    with pytest.raises(ImportError, match="^No module named 'datasets'. --calibrate needs an extra: pip install 'hf_"):
        edge_text.read_text("wiki.txt", lambda text, verbose: {"input_ids": [1]}, 8)


# The command


def _arguments(**changed):
    plain = {"preset": "a/b", "folder": "out", "format": "onnx", "checkpoint": None, "image_size": None}
    plain |= {"precision": "float32", "calibrate": None, "min_agreement": None, "nms": False}
    plain |= dict.fromkeys(("threshold", "nms_threshold", "max_detections"))
    return SimpleNamespace(**plain | changed)


def test_halves_of_a_folder_are_exported_as_they_lie_there_and_in_no_other_numbers(monkeypatch, tmp_path):
    for half in ("head", "tail"):
        (tmp_path / half).mkdir()
        (tmp_path / half / "split.json").write_text("{}")
    for name in ("SplitHead", "SplitTail"):
        monkeypatch.setattr(
            f"hf_effmodels.collaboration.splitting.{name}.from_pretrained", lambda folder, name=name: (name, folder)
        )
    halves = ("SplitHead", str(tmp_path / "head")), ("SplitTail", str(tmp_path / "tail"))
    assert cli._halves(_arguments(preset=str(tmp_path))) == halves
    for option, value in (("precision", "float16"), ("calibrate", "x"), ("nms", True), ("max_detections", 3)):
        with pytest.raises(
            ValueError, match=f"^--{option.replace('_', '-')}: got {value!r}, which halves are not exp"
        ):
            cli._halves(_arguments(preset=str(tmp_path), **{option: value}))
    given = []
    monkeypatch.setattr("hf_effmodels.edge_halves.export_halves", lambda *a, **k: given.append((a, k)) or {"a": 1})
    for argv, size in ((["--image-size", "96"], 96), ([], None)):
        assert cli.main(["export", str(tmp_path), str(tmp_path / "out"), "--format", "onnx", *argv]) == 0
        assert given.pop() == ((*halves, str(tmp_path / "out"), "onnx"), {"image_size": size})
    (tmp_path / "tail" / "split.json").unlink()
    assert cli._halves_in(str(tmp_path)) is None
    assert cli._halves(_arguments(preset=str(tmp_path), checkpoint="a.pth")) is None


def test_promptable_models_of_the_hub_have_two_formats_and_one_size(monkeypatch):
    monkeypatch.setattr("hf_effmodels.edge_masks.load_source", lambda name: pytest.fail("it is downloaded"))
    for changed, message in (
        (
            {"format": "executorch"},
            "--format: got 'executorch', accepted of models that find .* are onnx and openvino.",
        ),
        ({"image_size": 64}, "--image-size: got 64, but models that find masks by prompts have one size"),
        ({"precision": "int8"}, "--precision: got 'int8', which models that find masks by prompts are not exported"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            cli._export_promptable(_arguments(**changed))


def test_a_share_of_equal_answers_needs_pictures_of_segmenters_too(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("create_model", "create_image_processor"):
        monkeypatch.setattr(cli, name, lambda preset: preset)
    monkeypatch.setattr(edge, "export", lambda *_, **__: pytest.fail("it is exported"))
    assert cli.main(["export", "gold-yolo-n", "out", "--format", "onnx", "--min-agreement", "0.5"]) == 2
    assert "error: --min-agreement goes with --calibrate." in capsys.readouterr().err


def test_a_table_of_transformers_that_cannot_be_read_says_nothing(monkeypatch):
    assert _kinds.has_head("vit", "AutoModelForNothing") is None
    assert _kinds.has_head("vit", "AutoModelForImageClassification") is True
    assert _kinds.has_head("llama", "AutoModelForImageClassification") is False
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    assert "image-classification" in _kinds.tasks_in(config)
    monkeypatch.setattr(_kinds, "_classes_behind", lambda auto_class: None)
    assert _kinds.tasks_in(config) == []


def test_a_configuration_of_another_kind_is_no_promptable_model():
    assert edge_masks.is_promptable(SamConfig()) and not edge_masks.is_promptable(ViTConfig())


def test_a_graph_keeps_its_numbers_where_it_becomes_openvinos(tmp_path, monkeypatch):
    saved = []
    openvino = SimpleNamespace(convert_model=str, save_model=lambda *given, **how: saved.append((given, how)))
    monkeypatch.setitem(sys.modules, "openvino", openvino)
    (tmp_path / "g.onnx").touch()
    edge_graphs.to_openvino(tmp_path, "g")
    assert saved == [((str(tmp_path / "g.onnx"), tmp_path / "g.xml"), {"compress_to_fp16": False})]
    assert not list(tmp_path.iterdir())


#: Of the documentation: which numbers each format has.
IN = {
    "onnx": ["float32", "float16", "int8", "int4"],
    "openvino": ["float32", "float16"],
    "executorch": ["float32"],
}


@pytest.mark.parametrize("format", IN)
def test_each_format_has_its_numbers_by_either_name_and_names_them_for_others(format):
    short = {"fp32": "float32", "fp16": "float16"}
    for name in ("float32", "fp32", "float16", "fp16", "int8", "int4"):
        full = short.get(name, name)
        if full in IN[format]:
            assert check_precision(name, format) == full
            continue
        with pytest.raises(ValueError) as told:
            check_precision(name, format)
        accepted = f"accepted with format={format!r} are {', '.join(IN[format])}."
        assert str(told.value) == f"precision: got {name!r}, {accepted}"
    with pytest.raises(ValueError, match="accepted are 'float32', 'float16', 'int8', 'int4', 'fp32', 'fp16'.$"):
        check_precision("bfloat16", format)


def test_all_packages_that_a_format_lacks_are_named_and_none_that_is_there(monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", Format("E", "C", ("no_one", "json", "no_other"), {}))
    with pytest.raises(ImportError) as told:
        check_format("onnx")
    assert str(told.value) == "format 'onnx' needs no_one and no_other: pip install no_one no_other"
    monkeypatch.setitem(FORMATS, "onnx", Format("E", "C", ("json",), {}))
    assert check_format("onnx") is FORMATS["onnx"]
