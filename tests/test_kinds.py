"""What a folder holds is told by its text as transformers tells it by its classes."""

import json
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
    for text in (
        "",
        "[]",
        "3",
        "{",
        '{"model_type": [1]}',
        '{"architectures": 3}',
        '{"architectures": [[1]]}',
        "[" * 10**5,
    ):
        (tmp_path / "config.json").write_text(text)
        assert _kinds.tasks_of_folder(tmp_path) == [] and _kinds.stated_type(tmp_path) is None
        _kinds.check_head("MODEL", str(tmp_path), "AutoModelForImageClassification")
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(OSError, match="MODEL: .* holds a half of a split model; accepted are whole models"):
        _kinds.check_head("MODEL", str(tmp_path), "AutoModelForImageClassification")
