"""Snippets of cards: each name in them is there, each import used, and the commit pinned that was named."""

import ast
import builtins
import re
from types import SimpleNamespace

import pytest
import torch
import transformers

import hf_effmodels
from hf_effmodels.hub.usage import auto_class_of, task_of, usage_section
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config

#: Type of model, class, and channels of its pictures: the pipelines take those of three.
CASES = [(a.model_type, name, 3) for a in ARCHITECTURES.values() for name in sorted(set(a.auto_classes.values()))]
CASES += [(model_type, name, 4) for model_type, name, _ in CASES if model_type in ("ghostnetv3", "gold_yolo")]


def blocks_of(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)


def check_names(source: str) -> None:
    tree, bound, imported = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used <= imported | bound | set(dir(builtins)), f"{used - imported - bound} in:\n{source}"
    # hf_effmodels is imported for what that does.
    assert imported - {"hf_effmodels"} <= used, f"{imported - used} in:\n{source}"


@pytest.mark.parametrize(
    "model_type, class_name, is_own",
    [("gold_yolo", "GoldYoloForObjectDetection", True), ("ghostnetv3", "GhostNetV3ForImageClassification", False)],
)
def test_without_the_package_only_an_image_processor_of_its_own_is_code_to_trust(model_type, class_name, is_own):
    architecture = ARCHITECTURES[model_type]
    text = usage_section(architecture, class_name, tiny_config(architecture), "org/net", "abc123")
    (block,) = (block for block in blocks_of(text) if "import hf_effmodels" not in block)
    (line,) = (line for line in block.splitlines() if line.startswith("processor = "))
    assert ("trust_remote_code=True" in line) is is_own and "revision=revision" in line


@pytest.mark.parametrize("model_type, class_name, channels", CASES)
def test_snippets_import_what_they_use_and_pin_the_commit(model_type, class_name, channels):
    architecture = ARCHITECTURES[model_type]
    if class_name.endswith("ForPreTraining") and model_type != "light_clip":  # around any encoder
        config = SimpleNamespace(num_channels=channels, image_size=32)
    else:
        config = tiny_config(architecture, **({} if channels == 3 else {"num_channels": channels}))
    for processor in (True, False):
        local = usage_section(architecture, class_name, config, has_processor=processor)
        free = usage_section(architecture, class_name, config, "org/net", has_processor=processor)
        pinned = usage_section(architecture, class_name, config, "org/net", "abc123", processor)
        for text in (local, free, pinned):
            for block in blocks_of(text):
                check_names(block)
        assert len(blocks_of(local)) == len(blocks_of(free)) == len(blocks_of(pinned)) > 0
        for block in blocks_of(pinned):
            without = "import hf_effmodels" not in block
            assert 'model_id = "org/net"' in block and "model_info" not in block
            pins = block.count("revision=revision" if without else 'revision="abc123"')
            assert pins == len(re.findall(r"from_pretrained\(|pipeline\(\"", block)), block
            assert ('revision = "abc123"' in block) == without
        for block in blocks_of(free):
            if "import hf_effmodels" in block:
                assert "revision" not in block
            else:
                assert "revision = model_info(model_id).sha" in block and "trust_remote_code=True" in block
        for block in blocks_of(local):
            assert 'model_id = "."' in block and "revision" not in block
        # Nothing is told of code that is not there.
        quiet = usage_section(architecture, class_name, config, has_processor=processor, with_code=False)
        shown = blocks_of(quiet)
        assert all("import hf_effmodels" in block for block in shown) and len(shown) <= len(blocks_of(local))
        if auto_class_of(architecture, class_name) != "AutoBackbone":
            assert "`hub/` holds the same model with its code" in quiet
            assert "With `hf_effmodels` installed, nothing from this repository is executed:\n\n```python" in local
            assert "transformers runs the code of this repository; read it first:\n\n```python" in local
            assert "read it first, and pin the commit that you have read:\n\n```python" in pinned
        # A pipeline that writes texts is for what writes texts, with a tokenizer.
        writes = auto_class_of(architecture, class_name) == "AutoModelForCausalLM" and architecture.takes == "text"
        assert ('pipeline("text-generation"' in local) == (writes and processor)
        # Each snippet has a sentence before it, and that of the feature maps is the last.
        maps = "Feature maps, for a detector or a segmentation head:\n\n```python\nimport hf_effmodels\nimport torch\n"
        for text in (local, pinned, quiet):
            assert (maps in text) == ("AutoBackbone" in architecture.auto_classes)
            assert text.startswith("## Usage\n\n") and "```\n\n```" not in text
            assert ("The snippets run in this folder" in text) == (text is not pinned)


def test_a_class_behind_several_auto_classes_is_that_of_the_main_head():
    for architecture in ARCHITECTURES.values():
        main = architecture.tasks[0]
        assert task_of(architecture, architecture.auto_classes[main.auto_class]) == main
    ghostnet = ARCHITECTURES["ghostnetv3"]
    assert auto_class_of(ghostnet, "GhostNetV3Backbone") == "AutoBackbone"
    assert task_of(ghostnet, "GhostNetV3Backbone") is None


#: Of each kind of head one: (type, Auto class, channels); with other channels than three no processor is asked.
HEADS = [
    ("vanillanet", "AutoModelForImageClassification", 3),
    ("vanillanet", "AutoModelForImageClassification", 4),
    ("vanillanet", "AutoModel", 3),
    ("vanillanet", "AutoModel", 1),
    ("ghostnet", "AutoBackbone", 2),
    ("gold_yolo", "AutoModelForObjectDetection", 3),
    ("gold_yolo", "AutoModelForObjectDetection", 4),
    ("dtop", "AutoModelForSemanticSegmentation", 3),
    *(("pangu_pi", auto_class, None) for auto_class in sorted(ARCHITECTURES["pangu_pi"].auto_classes)),
]


@pytest.mark.parametrize("model_type, auto_class, channels", HEADS)
def test_snippets_run_and_show_what_the_head_gives(model_type, auto_class, channels, monkeypatch):
    """Those without a pipeline: a model that is there stands in for the one that would be loaded."""
    architecture, shown = ARCHITECTURES[model_type], []
    names = {"id2label": {0: "cat", 1: "dog", 2: "owl"}}
    config = tiny_config(architecture, **names, **({} if channels in (3, None) else {"num_channels": channels}))
    torch.manual_seed(0)
    model = architecture.model_class(auto_class)(config).eval()

    class Processor:
        def __call__(self, image, return_tensors):
            assert (image.size, return_tensors) == ((320, 240), "pt")
            return {"pixel_values": torch.randn(1, 3, config.image_size, config.image_size)}

        def post_process_object_detection(self, outputs, threshold, sizes):
            assert outputs.pred_boxes.shape[-1] == 4 and sizes == [(240, 320)]
            return [("boxes above", threshold)]

    def load(made):
        return classmethod(lambda cls, model_id, **options: made)

    class_name = architecture.auto_classes[auto_class]
    monkeypatch.setattr(getattr(transformers, auto_class), "from_pretrained", load(model))
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", load(Processor()))
    if (backbone := architecture.auto_classes.get("AutoBackbone")) is not None:
        kind, fields = getattr(hf_effmodels, backbone), {"num_channels": config.num_channels}

        def load_backbone(cls, model_id, out_features):
            return kind(tiny_config(architecture, out_features=out_features, **fields)).eval()

        monkeypatch.setattr(kind, "from_pretrained", classmethod(load_backbone))
    text = usage_section(architecture, class_name, config, has_processor=False)
    for block in blocks_of(text):
        if "pipeline(" not in block:
            exec(compile(block, "README.md", "exec"), {"print": lambda *given: shown.append(given)})
    classes = {*names["id2label"].values()}
    *of_head, last = shown
    if backbone is None:
        of_head = shown
    else:
        (maps,) = last
        assert len(maps) == 2 and {len(shape) for shape in maps} == {4}, "the last two stages"
    # With three channels the package has a pipeline for all but texts.
    assert len(of_head) == (0 if auto_class == "AutoBackbone" else 1 if channels == 3 else 2)
    for given in of_head:
        if auto_class == "AutoModelForImageClassification":
            assert {*given} <= classes and len(given) == 1
        elif auto_class == "AutoModelForSemanticSegmentation":
            (found,) = given
            assert found and {*found} <= classes
        elif auto_class == "AutoModelForObjectDetection":
            assert given == (("boxes above", 0.4),) if channels == 3 else [len(shape) for shape in given] == [3, 3]
        elif auto_class == "AutoModelForCausalLM":
            assert given[0].shape == (1, 23), "three tokens and twenty more"
        else:
            (shape,) = given
            (task,) = (task for task in architecture.tasks if task.auto_class == auto_class)
            expected = {
                "text-classification": (1, 3),
                "token-classification": (1, 3, 3),
                "question-answering": (1, 3),
                "feature-extraction": (1, 3, getattr(config, "hidden_size", None)),
            }
            assert shape == expected.get(task.name, shape) and shape[0] == 1 and len(shape) > 1
