"""What a folder holds is told by its text as transformers tells it by its classes."""

import json
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec

import pytest
from transformers import LlamaConfig, SamConfig, ViTConfig
from transformers.models.auto import modeling_auto

from hf_effmodels import _kinds
from hf_effmodels.architecture import TASKS
from hf_effmodels.prediction.predictor import Source, _own_tasks
from hf_effmodels.registry import ARCHITECTURES

from .modeling.tiny import tiny_config


@pytest.mark.parametrize("auto_class", sorted({task.auto_class for task in TASKS.values()} - {None}))
def test_the_source_shows_the_classes_behind_an_auto_class(auto_class):
    shown = _kinds._classes_behind(auto_class)
    real = getattr(modeling_auto, auto_class)._model_mapping._model_mapping
    # Keys that are names of classes are there for the Trainer, see `registry`.
    real = {key: (names,) if isinstance(names, str) else tuple(names) for key, names in real.items() if key != names}
    assert shown == real and shown


def test_a_type_that_transformers_has_too_is_known_by_the_classes_of_both(monkeypatch):
    """As where a later transformers brings a network of its own under a name of ours."""
    ours = replace(ARCHITECTURES["ghostnet"], model_type="vit")
    monkeypatch.setattr(_kinds, "ARCHITECTURES", {"ghostnet": ours})
    monkeypatch.setattr(_kinds, "_classes_behind", _kinds._classes_behind.__wrapped__)
    for name in ("ViTForImageClassification", "GhostNetForImageClassification"):
        assert _kinds.tasks_in({"model_type": "vit", "architectures": [name]}) == ["image-classification"]


#: Those that are made of any encoder have no tiny configuration of their own.
WHOLE = [a for a in ARCHITECTURES.values() if find_spec(f"{tiny_config.__module__}.{a.name}")]


@pytest.mark.parametrize("architecture", WHOLE, ids=lambda a: a.model_type)
def test_a_configuration_tells_the_tasks_that_transformers_finds(architecture, tmp_path):
    config = tiny_config(architecture)
    for name in architecture.auto_classes.values():
        config.architectures = [name]
        config.save_pretrained(tmp_path)
        assert _kinds.tasks_of_folder(tmp_path) == _own_tasks(Source(str(tmp_path)))
    config.architectures = [architecture.auto_classes[architecture.tasks[0].auto_class]]
    config.save_pretrained(tmp_path)
    assert architecture.tasks[0].name in _kinds.tasks_of_folder(tmp_path)


def test_stock_models_and_their_own_code_are_told_and_what_is_wrong_is_left_to_its_reader(tmp_path):
    for config, name, task in (
        (ViTConfig(), "ViTForImageClassification", "image-classification"),
        (LlamaConfig(), "LlamaForCausalLM", "text-generation"),
        (SamConfig(), "SamModel", "mask-generation"),
    ):
        config.architectures = [name]
        config.save_pretrained(tmp_path)
        assert task in _kinds.tasks_of_folder(tmp_path) == _own_tasks(Source(str(tmp_path)))
    own = {"model_type": "own", "architectures": ["OwnNet"], "auto_map": {"AutoModelForCausalLM": "own.OwnNet"}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    assert _kinds.tasks_of_folder(tmp_path) == ["text-generation"]
    _kinds.check_head("MODEL", str(tmp_path), "AutoModelForCausalLM")
    with pytest.raises(OSError, match="is a own, for which there is no AutoModelForImageClassification"):
        _kinds.check_head("MODEL", str(tmp_path), "AutoModelForImageClassification")
    for text, words in (
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("[" * 10**5, "is not valid JSON"),
        ("[]", "holds no mapping of settings"),
        ("3", "holds no mapping of settings"),
        ('{"model_type": [1]}', None),
        ('{"model_type": 3, "architectures": 3}', None),
        ('{"pretrained_cfg": {}, "architectures": [[1]]}', None),
    ):
        (tmp_path / "config.json").write_text(text)
        assert _kinds.tasks_of_folder(tmp_path) == [] and _kinds.stated_type(tmp_path) is None
        told = nullcontext() if words is None else pytest.raises(OSError, match=f"^MODEL: .*config.json {words}")
        with told:
            _kinds.check_head("MODEL", str(tmp_path), "AutoModelForImageClassification")
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(OSError, match="MODEL: .* holds a half of a split model; accepted are whole models"):
        _kinds.check_head("MODEL", str(tmp_path), "AutoModelForImageClassification")


WEIGHTLESS = {"config.json": {"model_type": "vit"}, "export.json": {"export_format": "onnx"}}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model_index.json": {}}, "holds a pipeline of diffusers; accepted are models of transformers."),
        ({"adapter_config.json": {}}, "holds an adapter; merge it into its model, and name the folder of the whole."),
        ({"tokenizer.json": {}}, "is no model's folder: it has no config.json."),
        ({"config.json": {"hidden_size": 8}}, "holds no model of transformers: its config.json states no model_type."),
        ({"config.json": {"model_type": "foonet"}}, "is a foonet, for which there is no AutoModelForImage.*tion or "),
        (WEIGHTLESS, "holds an exported program, no weights; name the model that it was made of."),
        ({**WEIGHTLESS, "model.safetensors": {}}, None),
        ({**WEIGHTLESS, "pytorch_model.bin": {}}, None),
        ({**WEIGHTLESS, "pytorch_model-00001-of-00002.bin": {}}, None),
        ({"config.json": {"model_type": "llama"}}, None),
    ],
)
def test_a_folder_without_a_whole_model_of_a_kind_is_called_by_its_name(files, words, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    kinds = ("AutoModelForImageClassification", "AutoModelForCausalLM")
    if words is None:
        return _kinds.check_head("MODEL", str(tmp_path), *kinds)
    with pytest.raises(OSError, match=f"^MODEL: {tmp_path} {words}"):
        _kinds.check_head("MODEL", str(tmp_path), *kinds)
    if "export.json" in files:
        _kinds.check_head("MODEL", str(tmp_path), *kinds, weights=False)


def test_pipelines_and_what_takes_images_are_told_by_their_files(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    _kinds.check_pipeline("--encoder", str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(OSError, match="^--encoder: .* is a gpt2 of transformers; accepted are pipelines of diffusers"):
        _kinds.check_pipeline("--encoder", str(tmp_path))
    with pytest.raises(OSError, match=r"^--models: .* is a gpt2 without an image processor \(preprocessor_config"):
        _kinds.check_takes_images("--models", str(tmp_path))
    (tmp_path / "preprocessor_config.json").touch()
    _kinds.check_takes_images("--models", str(tmp_path))
    (tmp_path / "model_index.json").touch()
    _kinds.check_pipeline("--encoder", str(tmp_path))


@pytest.mark.parametrize(
    ("model_type", "files", "takes"),
    [
        ("timm_wrapper", [], True),
        ("vit", [], False),
        ("vit", ["preprocessor_config.json"], True),
        ("clip", ["processor_config.json"], True),
        (None, [], True),
    ],
)
def test_settings_of_images_lie_in_either_file_and_those_of_timm_in_the_configuration(
    model_type, files, takes, tmp_path
):
    (tmp_path / "config.json").write_text(json.dumps({} if model_type is None else {"model_type": model_type}))
    for name in files:
        (tmp_path / name).write_text("{}")
    if takes:
        _kinds.check_takes_images("--models", str(tmp_path))
    else:
        with pytest.raises(OSError, match="^--models: .* is a vit without an image processor"):
            _kinds.check_takes_images("--models", str(tmp_path))


@pytest.mark.parametrize(
    ("model_type", "saved", "accepted"),
    [
        ("llama", "LlamaForCausalLM", True),
        ("llama", "LlamaModel", True),  # without its head, which is tied or missed later
        ("llama", "LlamaForSequenceClassification", False),
        ("bert", "BertLMHeadModel", True),
        ("bert", "BertForMaskedLM", False),
        ("bert", "BertModel", False),
        ("pangu_pi", "PanguPiForCausalLM", True),
        ("llama", None, True),
    ],
)
def test_an_encoder_without_a_head_goes_on_with_no_text_and_a_decoder_does(model_type, saved, accepted):
    """A BERT has a causal head, too, that its weights were never trained with."""
    config = {"model_type": model_type, "architectures": None if saved is None else [saved]}
    if accepted:
        _kinds.check_generates("MODEL", "out", config)
    else:
        with pytest.raises(
            ValueError, match=f"^MODEL: out is a {model_type} for .*, accepted are causal language mod"
        ):
            _kinds.check_generates("MODEL", "out", config)
