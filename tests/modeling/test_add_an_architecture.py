"""Who follows docs/how-to/add-an-architecture.md ends with an architecture that keeps every common promise."""

import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.models.auto import configuration_auto, image_processing_auto, modeling_auto

import hf_effmodels
from hf_effmodels import modeling, registry
from hf_effmodels.benchmarking.counting import count_preset
from hf_effmodels.hub.bundle import bundle_code
from hf_effmodels.hub.convert import convert_state_dict

from . import test_vision_common, tiny

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-architecture.md"
FILES = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
VISION = ("AutoModel", "AutoModelForImageClassification", "AutoBackbone")


@pytest.fixture
def plainnet(tmp_path, monkeypatch):
    """The page's architecture in a folder of its own, where the package looks for architectures."""
    for name, text in FILES.findall(PAGE.read_text(encoding="utf-8")):
        (tmp_path / "new" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "new" / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(modeling, "__path__", [*modeling.__path__, str(tmp_path / "new")])
    monkeypatch.setattr(tiny, "__path__", [*tiny.__path__, str(tmp_path / "new" / "tiny")])
    monkeypatch.setattr(registry, "ARCHITECTURES", registry.ARCHITECTURES)
    mappings = [getattr(modeling_auto, name)._model_mapping for name in VISION]
    for mapping in (configuration_auto.CONFIG_MAPPING, image_processing_auto.IMAGE_PROCESSOR_MAPPING, *mappings):
        monkeypatch.setattr(mapping, "_extra_content", mapping._extra_content.copy())
    registry.collect()
    registry.register_with_transformers()
    yield registry.ARCHITECTURES["plainnet"]
    del registry.ARCHITECTURES["plainnet"]
    for mapping in mappings:
        del mapping._model_mapping["plainnet"]
    for name in [name for name in sys.modules if name.endswith("plainnet") or ".plainnet." in name]:
        del sys.modules[name]
    delattr(modeling, "plainnet")


def test_the_page_makes_an_architecture_that_is_everywhere(plainnet, tmp_path):
    assert hf_effmodels.list_models("plain*") == ["plainnet-s"]
    info = hf_effmodels.model_info("plainnet-s")
    assert (info.top1, info.tasks) == (33.3, ("image-classification", "image-feature-extraction"))
    cost = count_preset("plainnet-s")
    assert cost.parameters / 1e6 == pytest.approx(info.parameters, abs=5.01e-4)
    assert cost.macs / 1e6 == pytest.approx(info.macs, abs=5.01e-2)
    assert hf_effmodels.PlainNetConfig is plainnet.config_class

    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("plainnet", num_labels=3)).eval()
    assert type(model) is hf_effmodels.PlainNetForImageClassification
    assert hf_effmodels.create_image_processor("plainnet-s").size["shortest_edge"] == 224
    files = bundle_code([plainnet.configuration_module.__name__, plainnet.modeling_module.__name__])
    assert {"configuration_plainnet.py", "modeling_plainnet.py", "reparameterization.py"} <= files.keys()

    official = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("plainnet.").replace("stem.convolution.conv", "conv1").replace("classifier", "fc")
        name = name.replace("stem.convolution.norm", "bn1").replace("stages", "layers")
        name = (
            re.sub(r"(\d)\.convolution", r"\1.conv", name)
            .replace(".conv.conv", ".conv.0")
            .replace("down.conv", "down.0")
        )
        official[name.replace(".norm", ".1")] = value
    converted, ignored = convert_state_dict(plainnet, model.config, official)
    pixels = torch.randn(1, 3, 32, 32)
    assert not ignored and torch.equal(converted(pixels).logits, model(pixels).logits)


def test_the_pages_architecture_keeps_the_common_promises(plainnet, tmp_path):
    run = 0
    for name, test in vars(test_vision_common).items():
        if name.startswith("test_") and "architecture" in (needed := inspect.signature(test).parameters):
            if needed.keys() <= {"architecture", "tmp_path"}:
                folder = tmp_path / name
                folder.mkdir()
                torch.manual_seed(0)
                test(**{key: {"architecture": plainnet, "tmp_path": folder}[key] for key in needed})
                run += 1
    assert run > 10
