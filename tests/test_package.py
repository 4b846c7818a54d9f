"""Importing the package, its presets and its public names."""

import subprocess
import sys
from pathlib import Path

import pytest

import hf_effmodels
from hf_effmodels.registry import ARCHITECTURES, public_class_names


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light():
    heavy = ("datasets", "diffusers", "peft", "accelerate", "evaluate", "matplotlib", "onnx", "transformers.trainer")
    heavy += ("transformers.modeling_utils", "transformers.models.auto", "hf_effmodels.training")
    heavy += ("torch", "transformers", "huggingface_hub", "numpy", "hf_effmodels.modeling.ghostnet.modeling_ghostnet")
    loaded = run(f"import sys, hf_effmodels; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        # modeling_layers imports the Auto classes half-way through its own import.
        "import hf_effmodels; import transformers.modeling_layers",
        pytest.param(
            "from transformers import AutoModelForImageClassification; import hf_effmodels",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_registration_does_not_depend_on_the_order_of_imports(imports):
    code = f"""
{imports}
from transformers import AutoBackbone, AutoConfig, AutoModelForImageClassification
config = AutoConfig.for_model("ghostnetv3", width_multiplier=0.5)
print(*(type(auto.from_config(config)).__name__ for auto in (AutoModelForImageClassification, AutoBackbone)))
"""
    assert run(code) == "GhostNetV3ForImageClassification GhostNetV3Backbone"


def test_presets_are_listed_in_natural_order_by_pattern_and_task():
    names = hf_effmodels.list_models("ghostnetv3*")
    assert names == ["ghostnetv3-0.5x", "ghostnetv3-1.0x", "ghostnetv3-1.3x", "ghostnetv3-1.6x"]
    assert set(names) <= set(hf_effmodels.list_models(task="image-classification"))
    with pytest.raises(ValueError, match="task: got 'segmentation', accepted are 'image-classification'"):
        hf_effmodels.list_models(task="segmentation")


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ValueError, match="unknown preset 'ghostnetv3-1x'; nearest: ghostnetv3-1"):
        hf_effmodels.create_model("ghostnetv3-1x")
    with pytest.raises(ValueError, match="GhostNetV3Config has no field 'num_chanels'; did you mean num_channels"):
        hf_effmodels.get_config("ghostnetv3-1.0x", num_chanels=1)


def test_bad_values_are_refused_by_name():
    with pytest.raises(ValueError, match="width_multiplier: got -1.0"):
        hf_effmodels.get_config("ghostnet-1.0x", width_multiplier=-1.0)
    with pytest.raises(ValueError, match="task: ghostnet-1.0x has no head for 'text-generation'"):
        hf_effmodels.create_model("ghostnet-1.0x", task="text-generation")


def test_classes_are_public_names_of_the_package():
    for name in public_class_names():
        assert getattr(hf_effmodels, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'GhostNetV9Model'"):
        _ = hf_effmodels.GhostNetV9Model
    # Typing the name and a class through the table give the same object: it is loaded once.
    assert hf_effmodels.GhostNetV3Config is ARCHITECTURES["ghostnetv3"].config_class


class Unread(pytest.File):
    """A file of tests that is not imported."""

    def collect(self):
        return []


class FoundFiles:
    """A plugin that notes the files in which pytest would look for tests, and looks into none."""

    def __init__(self):
        self.paths = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path, parent):
        self.paths.add(module_path)
        return Unread.from_parent(parent, path=module_path)


def test_every_folder_of_tests_is_collected(capsys):
    root = Path(__file__).parent.parent
    found = FoundFiles()
    pytest.main(["-p", "no:xdist", "-p", "no:cacheprovider", "--collect-only", "-q", str(root)], plugins=[found])
    written = set((root / "tests").rglob("test_*.py"))
    assert {
        path for path in found.paths if path.is_relative_to(root / "tests") and path.name.startswith("test_")
    } == written


def test_root_links_are_for_people_only():
    """At the repository root `modeling` and `pipelines` lead into the package; nothing imports them."""
    assert run("import sys, hf_effmodels; print({'modeling', 'pipelines'} & sys.modules.keys())") == "set()"
