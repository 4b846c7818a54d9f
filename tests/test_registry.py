"""Entries are collected from their folders and registered lazily with transformers' Auto mappings."""

import copy
import logging
import pickle
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoImageProcessor, AutoModel, CLIPProcessor, SamProcessor
from transformers.models.auto import configuration_auto, image_processing_auto, modeling_auto, processing_auto

import hf_effmodels
from hf_effmodels import pipelines, registry
from hf_effmodels._imports import LazyContent, Placeholder, register_lazily
from hf_effmodels.architecture import METRICS, TASKS, Preset, Published
from hf_effmodels.collaboration import codecs
from hf_effmodels.registry import ARCHITECTURES, PIPELINES, TASK_PIPELINES, public_class_names

GHOSTNET, PANGU, ADEM = (ARCHITECTURES[name].config_class for name in ("ghostnet", "pangu_pi", "adem_vl"))
MAPPINGS = {
    "configuration": (configuration_auto.CONFIG_MAPPING, "pangu_pi", PANGU),
    "model": (modeling_auto.MODEL_MAPPING, PANGU, hf_effmodels.PanguPiModel),
    "head": (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, PANGU, hf_effmodels.PanguPiForCausalLM),
    "image processor": (image_processing_auto.IMAGE_PROCESSOR_MAPPING, GHOSTNET, dict),
    "processor": (processing_auto.PROCESSOR_MAPPING, ADEM, hf_effmodels.AdemVLProcessor),
}


@pytest.mark.parametrize("name", MAPPINGS)
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda mapping: pickle.loads(pickle.dumps(mapping))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_of_an_auto_mapping_hold_our_classes(name, duplicate):
    mapping, key, expected = MAPPINGS[name]
    again = duplicate(mapping)
    assert key in again and len(again) == len(mapping)
    if expected is dict:
        assert again[key] == mapping[key] and again[key]["pil"].__name__ == "ConvNextImageProcessorPil"
    else:
        assert again[key] is expected and mapping[key] is expected
    assert not any(isinstance(value, Placeholder) for value in again._extra_content.values())
    if name == "image processor":
        assert all(isinstance(c, type) for value in again._extra_content.values() for c in value.values())


@pytest.mark.parametrize("name", MAPPINGS)
def test_whatever_reads_an_auto_mapping_sees_our_classes(name):
    content, key = MAPPINGS[name][0]._extra_content, MAPPINGS[name][1]
    value = content[key]
    assert key in content and key in list(content) and key in content.keys()
    assert dict(content)[key] == {**content}[key] == dict(content.items())[key] == content.get(key) == value
    assert value in list(content.values())
    assert content.get("nothing", 5) == 5
    with pytest.raises(KeyError):
        _ = content["nothing"]


@pytest.fixture
def lazy(tmp_path, monkeypatch):
    """Content with a placeholder for a class in a module that is not imported yet."""
    (tmp_path / "late_module.py").write_text("class Late: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield LazyContent(early=1, late=Placeholder("late_module", "Late"), both={"a": Placeholder("late_module", "Late")})
    sys.modules.pop("late_module", None)


def test_nothing_is_imported_before_it_is_read(lazy):
    again = [copy.copy(lazy), lazy.copy(), copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy)), lazy | {"more": 2}]
    assert "late" in lazy and len(lazy) == 3 and lazy["early"] == 1
    assert "late_module" not in sys.modules
    for content in [lazy, *again]:
        assert content["late"].__name__ == "Late"
        assert content["both"] == {"a": content["late"]}
        assert content.pop("late").__name__ == "Late" and "late" not in content
    assert lazy.copy().data["both"]["a"] == Placeholder("late_module", "Late")


def test_what_was_in_a_mapping_stays_and_later_registrations_win():
    class Mapping:
        _extra_content = {"theirs": 1}

    register_lazily(Mapping, "ours", Placeholder("collections", "OrderedDict"))
    content = Mapping._extra_content
    register_lazily(Mapping, "more", Placeholder("collections", "Counter"))
    assert Mapping._extra_content is content
    assert {key: getattr(value, "__name__", value) for key, value in content.items()} == {
        "theirs": 1,
        "ours": "OrderedDict",
        "more": "Counter",
    }
    content["ours"] = 5
    assert content["ours"] == 5


def test_a_class_that_a_user_registers_over_ours_is_the_one_that_is_built(monkeypatch):
    from .modeling.tiny import tiny_config

    class Own(hf_effmodels.GhostNetModel):
        pass

    config = tiny_config(ARCHITECTURES["ghostnet"])
    content = modeling_auto.MODEL_MAPPING._extra_content
    monkeypatch.setitem(content.data, GHOSTNET, content.data[GHOSTNET])  # put back afterwards
    AutoModel.register(GHOSTNET, Own, exist_ok=True)
    assert type(AutoModel.from_config(config)) is Own


def test_ours_steps_back_where_transformers_has_taken_the_name(monkeypatch, caplog):
    mapping = configuration_auto.CONFIG_MAPPING
    monkeypatch.setitem(configuration_auto.CONFIG_MAPPING_NAMES, "ghostnet", "BertConfig")
    monkeypatch.setattr(mapping, "_extra_content", {})
    with caplog.at_level(logging.WARNING, logger="hf_effmodels.registry"):
        registry._register_configurations()
    assert set(mapping._extra_content) == ARCHITECTURES.keys() - {"ghostnet"}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "its own called 'ghostnet'" in message and "hf_effmodels.GhostNetModel" in message
    for module, auto, register in (
        (modeling_auto, "MODEL_MAPPING", registry._register_models),
        (image_processing_auto, "IMAGE_PROCESSOR_MAPPING", registry._register_image_processors),
    ):
        monkeypatch.setattr(getattr(module, auto), "_extra_content", {})
        register()
        assert GHOSTNET not in getattr(module, auto)._extra_content
        assert hf_effmodels.VigConfig in getattr(module, auto)._extra_content


def test_processors_and_tables_of_names_step_back_as_well(monkeypatch):
    """Those of our own and those of transformers that ours take."""
    mapping = processing_auto.PROCESSOR_MAPPING
    for taken in ("adem_vl", "light_clip"):
        monkeypatch.setitem(configuration_auto.CONFIG_MAPPING_NAMES, taken, "BertConfig")
    monkeypatch.setattr(mapping, "_extra_content", {})
    registry._register_processors()
    assert hf_effmodels.TinySamConfig in mapping._extra_content
    assert ADEM not in mapping._extra_content and hf_effmodels.LightClipConfig not in mapping._extra_content
    names = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    before = dict(names)
    own = ARCHITECTURES["adem_vl"].auto_classes["AutoModelForImageTextToText"]
    monkeypatch.delitem(names, own)
    table = modeling_auto.MODEL_MAPPING._model_mapping
    monkeypatch.setitem(table, "ghostnet", "TheirModel")
    registry._register_models()
    assert own not in names and table["ghostnet"] == "TheirModel"
    monkeypatch.undo()
    assert names == before


def test_the_auto_classes_know_our_processors(tmp_path):
    config = hf_effmodels.get_config("tinynet-a")
    config.save_pretrained(tmp_path)
    hf_effmodels.create_image_processor("tinynet-a").save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path).size["shortest_edge"] == 192
    assert processing_auto.PROCESSOR_MAPPING[ADEM] is hf_effmodels.AdemVLProcessor
    assert processing_auto.PROCESSOR_MAPPING[hf_effmodels.LightClipConfig] is CLIPProcessor
    assert processing_auto.PROCESSOR_MAPPING[hf_effmodels.TinySamConfig] is SamProcessor
    assert GHOSTNET not in processing_auto.PROCESSOR_MAPPING and PANGU not in processing_auto.PROCESSOR_MAPPING
    assert PANGU not in image_processing_auto.IMAGE_PROCESSOR_MAPPING


def test_only_image_processors_whose_backend_is_installed_are_offered(monkeypatch):
    architecture = ARCHITECTURES["ghostnet"]
    for installed, expected in ((False, {"pil"}), (True, {"pil", "torchvision"})):
        monkeypatch.setattr("transformers.utils.is_torchvision_available", lambda installed=installed: installed)
        assert registry.available_processors(architecture).keys() == expected


def test_the_folders_are_the_only_list():
    for packages, table in (((hf_effmodels.modeling, codecs), ARCHITECTURES), ((pipelines,), PIPELINES)):
        folders = {entry.package for entry in table.values()}
        assert folders <= {f"{package.__name__}.{entry.name}" for entry in table.values() for package in packages}
        for key, entry in table.items():
            assert key == entry.key
            assert {preset.model_type for preset in entry.presets.values()} == {key}
    before = dict(ARCHITECTURES)
    registry.collect()
    assert before == ARCHITECTURES
    assert registry.all_entries() == [*ARCHITECTURES.values(), *PIPELINES.values()]


def test_a_folder_is_found_once_it_is_there_and_may_not_take_a_name(tmp_path, monkeypatch):
    folder = tmp_path / "found_later"
    folder.mkdir()
    (tmp_path / "no_package.py").write_text("ENTRIES = 1\n")
    (folder / "__init__.py").write_text(
        "from hf_effmodels.architecture import Architecture\n"
        "ENTRIES = (Architecture(model_type='found', title='Found', package=__name__, config='C', auto_classes={}, "
        "paper='p', arxiv='1', repository='r'),)\n"
    )
    monkeypatch.setattr(hf_effmodels.modeling, "__path__", [*hf_effmodels.modeling.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "ARCHITECTURES", dict(ARCHITECTURES))
    registry.collect()
    found = registry.ARCHITECTURES["found"]
    assert (found.name, found.takes, found.tasks) == ("found_later", "text", ())
    taken = replace(found, package="elsewhere.taken")
    monkeypatch.setitem(registry.ARCHITECTURES, "found", taken)
    with pytest.raises(ValueError, match="hf_effmodels.modeling.found_later: 'found' is taken by elsewhere.taken"):
        registry.collect()


def test_the_public_classes_of_the_pipelines_are_those_of_their_entries():
    entries = (*PIPELINES.values(), *TASK_PIPELINES.values())
    names = {name for entry in entries for classes in entry.classes.values() for name in classes}
    names |= {entry.pipeline_class for entry in TASK_PIPELINES.values()}
    assert set(pipelines.__all__) == names and names <= set(dir(pipelines))
    for name in names:
        assert getattr(pipelines, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'SamDiffSRPipelines'"):
        _ = pipelines.SamDiffSRPipelines


@pytest.mark.parametrize(
    "model_type, tasks",
    [
        ("ghostnet", ["image-classification", "image-feature-extraction"]),
        (
            "pangu_pi",
            [
                "text-generation",
                "text-classification",
                "token-classification",
                "question-answering",
                "feature-extraction",
            ],
        ),
        ("adem_vl", ["image-text-to-text", "feature-extraction"]),
    ],
)
def test_an_architecture_is_for_what_it_has_heads_for(model_type, tasks):
    assert [task.name for task in ARCHITECTURES[model_type].tasks] == tasks


def test_the_table_of_tasks_speaks_of_what_transformers_has():
    for name, task in TASKS.items():
        assert task.name == name and set(task.metrics) <= METRICS.keys()
        assert task.auto_class is None or hasattr(modeling_auto, task.auto_class)
    heads = {auto for a in ARCHITECTURES.values() for auto in a.auto_classes} - {
        "AutoBackbone",
        "AutoModelForMultimodalLM",  # the same head as AutoModelForImageTextToText
    }
    assert heads <= {task.auto_class for task in TASKS.values()}, "heads that create_model cannot reach"


def test_published_numbers_have_a_metric_a_value_a_data_set_and_a_source():
    numbers = (
        Published("PSNR", 30.99, "Set5", "paper"),
        Published("PSNR", 27.14, "Set14", "README"),
        Published("SSIM", 0.8731, "Set5", "paper"),
    )
    preset = Preset(model_type="x", config={}, parameters=1.0, published=numbers)
    assert str(numbers[0]) == "PSNR 30.99 dB on Set5 (paper)" and str(numbers[2]) == "SSIM 0.8731 on Set5 (paper)"
    assert preset.find("PSNR") is numbers[0] and preset.find("PSNR", "Set14") is numbers[1]
    assert preset.find("SSIM", "Set14") is None and preset.find("mAP") is None
    with pytest.raises(ValueError, match="metric: got 'top1', accepted are top-1"):
        Published("top1", 77.1, "ImageNet-1k", "paper")


def test_public_classes_are_named_once_and_by_the_alphabet():
    names = public_class_names()
    assert names == sorted({*names}) and {"GhostNetConfig", "GhostNetForImageClassification"} <= {*names}


def test_the_trainer_shifts_the_labels_of_whatever_predicts_the_next_token_and_of_nothing_else():
    """For label smoothing it goes by the names of classes; of one that it does not know each token is repeated."""
    known = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    of_next_tokens = {"AutoModelForCausalLM", "AutoModelForImageTextToText"}
    heads = [(auto, name) for entry in ARCHITECTURES.values() for auto, name in entry.auto_classes.items()]
    assert of_next_tokens <= {auto for auto, _ in heads}
    shifted = {name for auto, name in heads if auto in of_next_tokens}
    for _, name in heads:
        assert (name in known) == (name in shifted), name


def test_whatever_is_to_be_known_to_a_library_is_made_known_when_it_is_imported(monkeypatch):
    """Each folder of quantisers, the PEFT methods, and each part of the Auto classes."""
    waiting = []
    monkeypatch.setattr(registry, "when_imported", lambda module, callback: waiting.append((module, callback)))
    registry.register_with_transformers()
    imported = {}
    for module, callback in waiting:
        if isinstance(callback, partial):
            imported.setdefault(module, set()).add(callback.args[0])
    package = Path(hf_effmodels.__file__).parent
    files = [path.relative_to(package.parent) for path in package.glob("quantization/*/quantizer_*.py")]
    assert len(files) > 3
    assert imported == {
        "peft": {"hf_effmodels.adapters"},
        "transformers.quantizers.auto": {".".join(file.with_suffix("").parts) for file in files},
    }
    asked = {module for module, callback in waiting if not isinstance(callback, partial)}
    auto = "transformers.models.auto"
    assert asked == {
        *(f"{auto}.{name}_auto" for name in ("configuration", "modeling", "image_processing", "processing")),
        "transformers.pipelines",
    }


def test_a_task_of_a_users_own_pipeline_stays_theirs(monkeypatch):
    import transformers
    from transformers.pipelines import PIPELINE_REGISTRY

    asked = []
    monkeypatch.setattr(
        PIPELINE_REGISTRY, "register_pipeline", lambda task, pipeline, **how: asked.append((task, pipeline, how))
    )
    registry.register_task_pipelines()
    assert asked == [] and TASK_PIPELINES
    (name, entry) = next(iter(TASK_PIPELINES.items()))
    left = [task for task in PIPELINE_REGISTRY.supported_tasks if task != name]
    monkeypatch.setattr(PIPELINE_REGISTRY, "supported_tasks", left)
    registry.register_task_pipelines()
    how = {"pt_model": getattr(transformers, entry.auto_class), "type": entry.takes}
    assert asked == [(name, getattr(pipelines, entry.pipeline_class), how)]
