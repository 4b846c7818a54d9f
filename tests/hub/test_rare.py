"""Folders in disorder, processors that do not fit, and what the Hub's client says beside what is expected of it."""

from importlib import import_module
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HTTPError
from transformers import DetrImageProcessorPil

from hf_effmodels.hub import contents, pipelines
from hf_effmodels.hub.pickled_modules import Shell
from hf_effmodels.quantization.twin_uniform import published
from hf_effmodels.registry import ARCHITECTURES

# Each of them has the name of what the package gives.
convert, export, publish = (import_module(f"hf_effmodels.hub.{name}") for name in ("convert", "export", "publish"))


def test_of_a_folder_in_disorder_no_file_may_be_replaced(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "config.json" in contents.own_files(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    assert contents.own_files(tmp_path) == set()
    assert pipelines._own_names(tmp_path) == set()


def test_a_fault_that_is_none_of_the_network_stays_what_it_is(monkeypatch):
    session = SimpleNamespace(timeout="before")
    monkeypatch.setattr(publish, "get_session", lambda: session)
    fault = RuntimeError("a bug")

    def commit():
        with publish.explained("me/model", 7):
            assert session.timeout == 7
            raise fault

    with pytest.raises(RuntimeError) as error:
        commit()
    assert error.value is fault and session.timeout == "before"
    with pytest.raises(ConnectionError), publish.explained("me/model", 7):
        raise RuntimeError("the client's") from HTTPError("no route")
    with pytest.raises(ConnectionError), publish.explained("me/model", 7):
        raise HTTPError("no route")


def test_a_file_of_a_quantisable_network_may_hold_plain_layers(monkeypatch):
    architecture = ARCHITECTURES["tinysam"]
    told = []
    for layers in (None, {"a": 1}):
        monkeypatch.setattr(published, "take_published", lambda *given, layers=layers: told.append(given) or layers)
        monkeypatch.setattr(published, "put_published", lambda model, layers, named: (model, layers))
        put = convert._take_quantized(architecture, "tensors", "attributes")
        assert (put is None) if layers is None else put("model") == ("model", {"a": 1})
    assert told == [("tensors", "attributes")] * 2
    assert convert._take_quantized(ARCHITECTURES["vig"], "tensors", "attributes") is None


def test_a_network_without_pictures_has_the_tokenizer_alone():
    assert convert._processor(SimpleNamespace(image_processor=()), "a-preset", None, "tokenizer") == "tokenizer"


def test_boxes_of_a_detector_of_this_package_need_its_own_image_processor():
    architecture = ARCHITECTURES["gold_yolo"]
    own = [architecture.image_processor_class(backend) for backend in architecture.image_processor]
    for kind in own:
        export._check_processor(architecture, kind())
    with pytest.raises(ValueError) as error:
        export._check_processor(architecture, DetrImageProcessorPil())
    said = str(error.value)
    assert said.startswith("processor: got transformers.") and f"give a {own[0].__name__} of hf_effmodels" in said


def test_an_object_of_an_unknown_class_is_made_of_anything_and_holds_nothing():
    assert vars(Shell(1, 2, name="three")) == {}
