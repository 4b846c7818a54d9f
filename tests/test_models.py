"""Presets by name: what is known of them, and what is built from them."""

import itertools
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

import hf_effmodels
from hf_effmodels import models
from hf_effmodels.architecture import TASKS, Architecture
from hf_effmodels.models import (
    check_source,
    find_preset,
    is_pipeline,
    names_in_source,
    sized_processor,
    tasks_in_source,
)
from hf_effmodels.registry import ARCHITECTURES, all_entries, find

IMAGES = [name for a in ARCHITECTURES.values() if a.image_processor for name in a.presets]
PAGES = Path(__file__).parent.parent / "docs" / "systems"


def square(config) -> int:
    """Side of the images that a configuration is for."""
    return config.vision_config.image_size if hasattr(config, "vision_config") else config.image_size


@pytest.mark.parametrize(
    "pattern, names",
    [
        (
            "vanillanet-*",
            [*(f"vanillanet-{n}" for n in range(5, 14)), "vanillanet-13-1.5x", "vanillanet-13-1.5x-ada-pool"],
        ),
        ("ghostnet-*", ["ghostnet-0.5x", "ghostnet-1.0x", "ghostnet-1.3x"]),
        (
            "pangu-pi-*",
            [f"pangu-pi-{n}" for n in ("1b", "1b-pro", "1.5b-pro", "7b", "15m", "60m", "160m")],
        ),
        ("adem_vl-*", ["adem_vl-7b-caption", "adem_vl-7b-instruction", "adem_vl-7b-scienceqa", "adem_vl-13b"]),
        ("*-x4", ["sam-diffsr-x4", "srdiff-x4"]),
        ("nothing*", []),
    ],
)
def test_presets_stand_in_natural_order(pattern, names):
    assert hf_effmodels.list_models(pattern) == names


def test_a_preset_is_listed_for_each_of_its_tasks():
    for name in hf_effmodels.list_models():
        tasks = hf_effmodels.model_info(name).tasks
        assert tasks == tuple(task.name for task in find(name)[0].tasks)
        for task in tasks:
            assert name in hf_effmodels.list_models(task=task)
    language = {*hf_effmodels.list_models("pangu-pi-*"), "parameternet-moe-1b"}
    assert set(hf_effmodels.list_models(task="text-generation")) == language
    assert not language & set(hf_effmodels.list_models(task="image-feature-extraction"))
    assert language <= set(hf_effmodels.list_models(task="feature-extraction"))
    assert hf_effmodels.list_models(task="super-resolution") == ["sam-diffsr-x4", "srdiff-x4"]
    with pytest.raises(ValueError, match="task: got 'fill-mask', accepted are 'image-classification', "):
        hf_effmodels.list_models(task="fill-mask")


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.model_type)
def test_every_head_of_an_architecture_can_be_created(architecture):
    name = min(architecture.presets, key=lambda name: architecture.presets[name].parameters)
    expected = {task.name: architecture.auto_classes[task.auto_class] for task in architecture.tasks}
    with torch.device("meta"):
        built = {task: type(hf_effmodels.create_model(name, task=task)).__name__ for task in expected}
        first = hf_effmodels.create_model(name)
    assert built == expected
    assert type(first).__name__ == expected[architecture.tasks[0].name] and not first.training
    accepted = ", ".join(map(repr, expected))
    with pytest.raises(ValueError, match=f"task: {name} has no head for 'text-to-speech', accepted are {accepted}"):
        hf_effmodels.create_model(name, task="text-to-speech")


#: Parts that have a size of their own -> what they are called in the model.
PARTS = {"encoder": "encoder", "image tower": "vision_model", "text tower": "text_model"}
#: To find how wide their encoders are they run them: tests/modeling tells these presets' depths and widths.
RUN_FIRST = ("spark", "fastmim")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.thorough] * (a.model_type in RUN_FIRST))
        for a in ARCHITECTURES.values()
        for name in a.presets
        if ".modeling." in a.package
    ],
)
def test_each_preset_has_as_many_parameters_as_it_says(name):
    preset = find_preset(name)[1]
    with torch.device("meta"):
        model = hf_effmodels.create_model(name)
    # The largest say hundredths of a million only.
    digits = 3 if preset.parameters < 5e3 else 1
    assert round(model.num_parameters() / 1e6, digits) == pytest.approx(preset.parameters, abs=0.6 * 10**-digits)
    for part, millions in preset.part_parameters.items():
        counted = sum(p.numel() for p in getattr(model, PARTS[part]).parameters())
        assert round(counted / 1e6, 3) == millions, part


def test_a_pipeline_has_one_task():
    small = {"encoder": {"hidden_size": 8, "num_blocks": 3, "growth": 4}}
    small["unet"] = {"hidden_size": 8, "condition_channels": 8, "num_conditions": 1}
    pipe = hf_effmodels.create_model("srdiff-x4", task="super-resolution", **small)
    assert type(pipe).__name__ == "SamDiffSRPipeline" and pipe.unet.config.hidden_size == 8
    with pytest.raises(ValueError, match="task: srdiff-x4 has no head for 'image-classification'"):
        hf_effmodels.create_model("srdiff-x4", task="image-classification", **small)
    with pytest.raises(ValueError, match="preset 'srdiff-x4' is a diffusers pipeline"):
        find_preset("srdiff-x4")


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_processor_makes_images_of_the_size_the_configuration_is_for(name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8))
    pixels = hf_effmodels.create_image_processor(name)(image, return_tensors="pt").pixel_values
    side = square(hf_effmodels.get_config(name))
    assert pixels.shape == (1, 3, side, side)


@pytest.mark.parametrize(
    "name, size", [("ghostnet-1.0x", {"shortest_edge": 64}), ("adem_vl-7b-caption", {"height": 64, "width": 64})]
)
def test_another_image_size_is_given_in_the_form_of_the_preset(name, size):
    processor = hf_effmodels.create_image_processor(name, image_size=64)
    assert {key: value for key, value in dict(processor.size).items() if value is not None} == size
    pixels = processor(Image.new("RGB", (200, 100)), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 64, 64)
    again = hf_effmodels.create_image_processor(name)  # the preset itself is as it was
    assert 64 not in dict(again.size).values()
    changed = hf_effmodels.create_image_processor(name, image_size=64, image_mean=[0.1, 0.2, 0.3])
    assert tuple(changed.image_mean) == (0.1, 0.2, 0.3) != tuple(processor.image_mean)
    for wrong in (0, -3, 64.0, "64", True, (64, 64)):
        with pytest.raises(ValueError, match="image_size: got .* accepted are whole numbers from 1"):
            hf_effmodels.create_image_processor(name, image_size=wrong)


def test_a_crop_follows_the_image_size(monkeypatch):
    presets = ARCHITECTURES["adem_vl"].configuration_module.PRESETS
    preset = presets["adem_vl-13b"]
    crop = {**preset.image_processor, "size": {"shortest_edge": 224}, "do_center_crop": True}
    crop["crop_size"] = {"height": 224, "width": 224}
    monkeypatch.setitem(presets, "adem_vl-13b", replace(preset, image_processor=crop))
    processor = hf_effmodels.create_image_processor("adem_vl-13b", image_size=48)
    assert processor(Image.new("RGB", (200, 100)), return_tensors="pt").pixel_values.shape == (1, 3, 48, 48)


def test_a_copy_for_images_of_another_shape_knows_height_from_width():
    processor = hf_effmodels.create_image_processor("simmim-vit-base")
    found = sized_processor(processor, (48, 64))
    assert dict(found.size) == {"height": 48, "width": 64} != dict(processor.size)
    assert dict(sized_processor(processor, 32).size) == {"height": 32, "width": 32}


def test_a_copy_for_another_size_keeps_the_form_of_each_size_and_squares_stay_squares():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 200, "width": 200})
    found = sized_processor(processor, 32)
    sizes = [
        {key: value for key, value in dict(s).items() if value is not None} for s in (found.size, found.crop_size)
    ]
    assert sizes == [{"shortest_edge": 32}, {"height": 32, "width": 32}]
    assert sized_processor(processor, (32, 32)).to_dict() == found.to_dict()
    assert processor.size["shortest_edge"] == 224 and processor.crop_size["height"] == 200
    with pytest.raises(ValueError, match="^image_size: got 48×64, but the size of CLIPImageProcessorPil is that of"):
        sized_processor(processor, (48, 64))


#: Means and deviations of data sets: ImageNet's, those of torchvision's examples, CIFAR's own, CLIP's.
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
CIFAR_10 = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
CIFAR_100 = ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@pytest.mark.parametrize(
    "pattern, crop, resample, statistics",
    [
        ("adabin-*-cifar10", 1.0, 2, IMAGENET),
        ("adabin-resnet[13]?", 0.875, 2, IMAGENET),
        ("addernet-*-cifar10", 1.0, 2, CIFAR_10),
        ("addernet-resnet[15]?", 0.875, 2, IMAGENET),
        *((name, 0.875, 2, IMAGENET) for name in ("bimlp-*", "ofa-*", "parameternet-?00m", "ghostnet-*")),
        *((name, 0.875, 2, IMAGENET) for name in ("shufflenetv2-0.5x", "shufflenetv2-1.0x")),
        # The weights of torchvision that are newer were evaluated at 224 of 232 pixels.
        *((name, 0.965, 2, IMAGENET) for name in ("shufflenetv2-1.5x", "shufflenetv2-2.0x")),
        *(
            (name, 0.875, 3, IMAGENET)
            for name in ("ghostnetv[23]*", "cmt-*", "tinynet-*", "tinyvit-*", "vanillanet-*")
        ),
        *((name, 0.875, 3, IMAGENET) for name in ("devit-*", "dedeit-*")),
        ("decct-*", 1.0, 3, IMAGENET),
        # torchvision's ResNets and timm's RegNet, behind the codecs.
        ("entropic-student-resnet*", 0.875, 2, IMAGENET),
        ("entropic-student-regnety-*", 0.875, 3, IMAGENET),
        ("mahppo-*", 1.0, 2, HALF),
        *((name, 1.0, 3, CIFAR_100) for name in ("*resnet8x*", "*wrn4x*")),
        *((name, 1.0, 3, IMAGENET) for name in ("mhresnet18", "mhresnet34", "resnet18-224", "resnet34-224")),
        *((name, 0.9, 3, HALF) for name in ("vig-*", "pyramidvig-ti", "pyramidvig-[sm]")),
        ("pyramidvig-b", 0.95, 3, HALF),
        *((name, None, 3, IMAGENET) for name in ("fastmim-*", "localmim-*", "simmim-*", "spark-*")),
        *((name, None, 3, IMAGENET) for name in ("adem_vl-7b-scienceqa", "adem_vl-7b-instruction", "adem_vl-13b")),
        *((name, None, 3, CLIP) for name in ("adem_vl-7b-caption", "light_clip-*")),
        ("dtop-base-*", None, 2, IMAGENET),
        ("dtop-large-*", None, 2, HALF),
        *((name, None, 2, IMAGENET) for name in ("tinysam", "mobilesam")),
    ],
)
def test_the_numbers_of_the_image_processor_are_those_the_preset_was_evaluated_with(
    pattern, crop, resample, statistics
):
    """From the official repositories' evaluation scripts."""
    names = hf_effmodels.list_models(pattern)
    assert names
    for name in names:
        processor = hf_effmodels.create_image_processor(name)
        assert (getattr(processor, "crop_pct", None), processor.resample) == (crop, resample), name
        for found, expected in zip((processor.image_mean, processor.image_std), statistics, strict=True):
            assert list(found) == pytest.approx(expected, rel=1e-9), name


def test_a_setting_that_an_image_processor_does_not_have_is_refused():
    """It would keep it, and do nothing with it."""
    with pytest.raises(ValueError, match="has no field 'image_meen'; accepted are .*image_mean"):
        hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_meen=[0.5])


def test_models_of_text_have_no_image_processor():
    with pytest.raises(ValueError, match="pangu-pi-1b .* takes no images"):
        hf_effmodels.create_image_processor("pangu-pi-1b")


def test_what_transformers_itself_takes_goes_through_to_the_configuration():
    config = hf_effmodels.get_config("ghostnet-1.0x", out_indices=[1, 2], output_hidden_states=True, return_dict=False)
    assert list(config.out_indices) == [1, 2] and list(config.out_features) == ["stage1", "stage2"]
    assert config.output_hidden_states is True and config.return_dict is False
    by_name = hf_effmodels.get_config("ghostnet-1.0x", out_features=["stage2"], name_or_path="mine")
    assert list(by_name.out_indices) == [2] and by_name.name_or_path == "mine"


def test_labels_belong_to_the_preset():
    for entry in ARCHITECTURES.values():
        for name, preset in entry.presets.items():
            of = ("ImageClassification", "ObjectDetection", "SemanticSegmentation")
            classifies = bool({f"AutoModelFor{head}" for head in of} & entry.auto_classes.keys())
            assert (preset.num_labels is not None) == classifies
            # Two is what transformers gives a configuration that says nothing.
            assert hf_effmodels.get_config(name).num_labels == (preset.num_labels or 2)
    for name, number in {"ghostnet-1.0x": 1000, "vig-s": 1000, "adem_vl-13b": 2, "pangu-pi-1b": 2}.items():
        assert hf_effmodels.get_config(name).num_labels == number


def test_labels_are_those_that_are_given():
    names = {0: "cat", 1: "dog", 2: "bird"}
    config = hf_effmodels.get_config("ghostnet-0.5x", id2label=names)
    assert config.id2label == names and config.num_labels == 3
    assert config.label2id == {"cat": 0, "dog": 1, "bird": 2}
    # Keys are strings where they come from JSON.
    config = hf_effmodels.get_config("ghostnet-0.5x", id2label={"0": "cat", "1": "dog"})
    assert config.id2label == {0: "cat", 1: "dog"} and config.label2id == {"cat": 0, "dog": 1}
    config = hf_effmodels.get_config("ghostnet-0.5x", id2label=names, label2id={"cat": 0, "dog": 1, "birdie": 2})
    assert config.label2id["birdie"] == 2
    assert hf_effmodels.get_config("ghostnet-0.5x", num_labels=7).num_labels == 7
    # No default beside a mapping of the user's.
    assert hf_effmodels.get_config("ghostnet-0.5x", label2id={"cat": 0, "dog": 1}).num_labels != 1000


@pytest.mark.parametrize(
    "labels, message",
    [
        ({"num_labels": 0}, "num_labels: got 0, accepted are whole numbers from 1 to 1000000"),
        ({"num_labels": -1}, "num_labels: got -1"),
        ({"num_labels": 2.5}, "num_labels: got 2.5"),
        ({"num_labels": True}, "num_labels: got True"),
        ({"num_labels": "ten"}, "num_labels: got 'ten'"),
        ({"num_labels": 1_000_000_000}, "num_labels: got 1000000000"),
        ({"num_labels": float("inf")}, "num_labels: got inf"),
        ({"id2label": ["cat", "dog"]}, r"id2label: got \['cat', 'dog'\], accepted is a mapping of the numbers from 0"),
        ({"id2label": {"one": "cat"}}, "id2label: got .*'one'"),
        ({"id2label": {1: "cat", 2: "dog"}}, "id2label: got .* accepted is a mapping of the numbers from 0"),
        ({"id2label": {}}, "id2label: got {}"),
        ({"id2label": {0: "cat", 1: "dog"}, "num_labels": 3}, "num_labels: got 3, but id2label has 2"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        hf_effmodels.get_config("ghostnet-0.5x", **labels)


@pytest.mark.parametrize("name", [None, 5, [], {"a": 1}, "", "ghostnet 1.0x", "x" * 10_000, "ghostnet*", "../x"])
def test_what_is_no_preset_is_refused_by_every_function(name):
    for function in (
        hf_effmodels.model_info,
        hf_effmodels.get_config,
        hf_effmodels.create_model,
        hf_effmodels.create_image_processor,
    ):
        with pytest.raises(ValueError, match="unknown preset"):
            function(name)


def test_a_pattern_is_a_text():
    assert hf_effmodels.list_models("[") == [] == hf_effmodels.list_models("")
    for wrong in (None, 5, ["ghostnet*"]):
        with pytest.raises(ValueError, match="pattern: got .*accepted is a shell pattern"):
            hf_effmodels.list_models(wrong)
    for wrong in (5, [], ""):
        with pytest.raises(ValueError, match="task: got "):
            hf_effmodels.list_models(task=wrong)


def test_overrides_reach_the_configuration_and_win_over_the_preset():
    config = hf_effmodels.get_config("ghostnet-0.5x", width_multiplier=0.7, image_size=96, out_features=["stage2"])
    assert (config.width_multiplier, config.image_size, config.out_features) == (0.7, 96, ["stage2"])
    assert hf_effmodels.get_config("ghostnet-0.5x").width_multiplier == 0.5
    with pytest.raises(ValueError, match="GhostNetConfig has no field 'zzz'; accepted are .*width_multiplier"):
        hf_effmodels.get_config("ghostnet-0.5x", zzz=1)
    with pytest.raises(ValueError, match="Field 'width_multiplier' .*str"):
        hf_effmodels.get_config("ghostnet-0.5x", width_multiplier="wide")


@pytest.mark.parametrize("entry", all_entries(), ids=lambda entry: entry.key)
def test_the_page_of_a_system_has_the_published_number_and_the_sizes_of_each_preset(entry):
    rows = [line for line in (PAGES / f"{entry.name}.md").read_text().splitlines() if line.startswith("| `")]
    for name, preset in entry.presets.items():
        row = next(line for line in rows if line.startswith(f"| `{name}`"))
        dataset = preset.published[0].dataset if preset.published else None
        for number in preset.published:
            if number.dataset == dataset:
                assert any(form in row for form in (f"{number.value:g}", f"{number.value:.1f}")), (name, number)
        if not isinstance(entry, Architecture):
            continue
        for millions in (preset.parameters, preset.folded_parameters):
            assert millions is None or any(f"{millions:.{digits}f}" in row for digits in (2, 3)), name
        for millions in (preset.macs, preset.folded_macs):
            # One number stands for both where they are the same to a thousandth or two.
            if millions is None or (millions != preset.macs and abs(millions / preset.macs - 1) < 2e-3):
                continue
            assert any(form in row for form in (f"{millions:.1f}", f"{millions:g}", f"{millions / 1e3:.2f}")), name


def test_the_package_lists_what_it_loads_on_first_use():
    names = dir(hf_effmodels)
    assert {"create_model", "list_models", "__version__", "GhostNetForImageClassification", "GhostNetConfig"} <= {
        *names
    }
    assert names == sorted(names)
    assert hf_effmodels.GhostNetConfig.__name__ == "GhostNetConfig"
    with pytest.raises(AttributeError, match="hf_effmodels.* has no attribute 'GhostNet'"):
        _ = hf_effmodels.GhostNet


def test_the_package_lists_configurations_models_and_processors_of_its_own_and_loads_them():
    """As its files define them: one configuration a folder, and the processors that transformers does not have."""
    defined = {"AdemVLProcessor", "GoldYoloImageProcessor", "GoldYoloImageProcessorPil"}
    for kind in ("modeling", "collaboration/codecs"):
        for file in (Path(hf_effmodels.__file__).parent / kind).glob("*/modeling_*.py"):
            defined |= {*re.findall(r"^class (\w+For[A-Z]\w+)\(", file.read_text(), re.MULTILINE)}
    missing = {name for name in defined if not name.endswith("Output")} - {*dir(hf_effmodels)}
    assert len(defined) > 30 and not missing, sorted(missing)
    assert {architecture.config for architecture in ARCHITECTURES.values()} <= {*dir(hf_effmodels)}
    for name in ("AdemVLProcessor", "GoldYoloImageProcessor", "GoldYoloImageProcessorPil"):
        assert getattr(hf_effmodels, name).__name__ == name


def test_numbers_that_are_not_finite_are_refused_wherever_they_are():
    for name, value in (
        ("width_multiplier", float("inf")),
        ("stages", [[[3, float("nan")]]]),
        ("id2label", {0: float("inf")}),
        ("stages", ({"a": float("-inf")},)),
    ):
        with pytest.raises(ValueError, match=f"^{name}: got -?(inf|nan), accepted are finite numbers"):
            hf_effmodels.get_config("ghostnet-0.5x", **{name: value})


def test_weights_of_pipelines_and_sources_that_are_none_are_refused():
    with pytest.raises(ValueError, match="pretrained: srdiff-x4 is a diffusers pipeline; hf-effmodels convert takes"):
        hf_effmodels.create_model("srdiff-x4", pretrained=True)
    with pytest.raises(ValueError, match="source: got 'timm', but it goes with pretrained=True"):
        hf_effmodels.create_model("srdiff-x4", source="timm")
    for source in (None, "official", "timm"):
        check_source(source)
    with pytest.raises(ValueError, match="source: got 'github', accepted are official and timm"):
        check_source("github")


def test_what_the_source_shows_of_presets_is_what_they_are():
    assert names_in_source() == {*hf_effmodels.list_models()}
    for name in hf_effmodels.list_models():
        assert is_pipeline(name) == (not isinstance(find(name)[0], Architecture))
        assert tasks_in_source(name) in ((), hf_effmodels.model_info(name).tasks)
    assert tasks_in_source("ghostnet-0.5x") and not tasks_in_source("nothing") and not is_pipeline("nothing")


def test_a_preset_that_the_source_does_not_show_is_asked_for_where_it_is_defined(monkeypatch):
    monkeypatch.setattr(models, "_names_in", lambda package: None)
    assert names_in_source() is None and not is_pipeline("srdiff-x4") and tasks_in_source("ghostnet-0.5x") == ()
    models.check_known("ghostnet-0.6x")  # whether there is one is told later
    with pytest.raises(ValueError, match="unknown preset 'ghostnet-0.6x'; nearest: ghostnet-0.5x"):
        hf_effmodels.model_info("ghostnet-0.6x")


#: Students and teachers of CDFKD-MFS.
STUDENTS = ("mhresnet*", "mhwrn*", "smhresnet*", "resnet8x*", "resnet18-224", "resnet34-224", "wrn4x*")
#: No accuracy is published of these by themselves, ...
UNMEASURED = (*STUDENTS, "devit-*", "dedeit-*", "decct-*", "light_clip-*", "ofa-*", "pangu-pi-*", "parameternet-moe-*")
UNMEASURED += ("tinyvit-5m-22k", "tinyvit-11m-22k", "tinyvit-21m-22k", "entropic-student-*", "mahppo-*", "srdiff-x4")
#: ... and no weights of these.
UNRELEASED = (*STUDENTS, "adabin-resnet18*", "adabin-vgg*", "adabin-resnet34", "addernet-*", "adem_vl-13b", "bimlp-*")
UNRELEASED += ("devit-*", "dedeit-*", "decct-*", "dtop-*", "ghostnet-0.5x", "ghostnet-1.3x", "ghostnetv3-[01].[356]x")
UNRELEASED += ("light_clip-*", "ofa-*", "pangu-pi-*", "parameternet-*", "mahppo-*", "srdiff-x4")
#: Of these weights no licence is stated; a note says what is known, of most.
UNLICENSED = ("adem_vl-7b-*", "cmt-small", "fastmim-*", "localmim-*", "entropic-student-*", "delvm-*", "sam-diffsr-x4")


def test_every_preset_has_the_numbers_the_weights_and_the_licence_that_there_are():
    def named(patterns) -> set:
        return {name for pattern in patterns for name in hf_effmodels.list_models(pattern)}

    presets = {name: preset for entry in all_entries() for name, preset in entry.presets.items()}
    assert {name for name, preset in presets.items() if not preset.published} == named(UNMEASURED)
    assert {name for name, preset in presets.items() if not preset.weights} == named(UNRELEASED)
    without = {name for name, preset in presets.items() if preset.weights and not preset.weights_license}
    assert without == named(UNLICENSED)
    unsaid = {name for name in without if not presets[name].weights_license_note}
    assert unsaid == named(("cmt-small", "entropic-student-*"))


def test_a_preset_says_who_published_what():
    info = hf_effmodels.model_info("ghostnetv3-1.0x")
    assert (info.top1, info.top1_source) == (77.1, "paper, quoted from memory")
    assert info.architecture == "GhostNetV3" and info.paper.endswith("https://arxiv.org/abs/2404.11202")
    assert (info.parameters, info.macs, info.folded_parameters, info.folded_macs) == (8.129, 404.1, 6.126, 167.0)
    assert info.weights_license == "apache-2.0" and "timm" in info.weights_license_note
    assert info.weights.endswith("GhostNetV3/ghostnetv3-1.0.pth.tar") and "ghostnetv3_pytorch" in info.repository
    # The best known first.
    assert hf_effmodels.model_info("parameternet-600m").top1 == 81.6
    sr = hf_effmodels.model_info("sam-diffsr-x4")
    assert sr.top1 is None and sr.top1_source is None and len(sr.published) == 10
    assert [str(number) for number in sr.published[2:4]] == [
        "PSNR 27.14 dB on Set14 (official repository)",
        "SSIM 0.7484 on Set14 (official repository)",
    ]
    assert hf_effmodels.model_info("srdiff-x4").weights is None
    assert all(task in TASKS for name in hf_effmodels.list_models() for task in hf_effmodels.model_info(name).tasks)


def test_a_task_that_no_preset_has_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match="^task: got 'sing', accepted are ") as said:
        hf_effmodels.list_models(task="sing")
    named = re.findall(r"'([a-z-]+)'", str(said.value).partition("accepted are")[2])
    assert named and all(hf_effmodels.list_models(task=task) for task in named)
    offered = {task for name in hf_effmodels.list_models() for task in hf_effmodels.model_info(name).tasks}
    assert {*named} == offered


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("key", [int, str])
def test_classes_are_numbered_by_their_keys_and_not_by_the_order_they_are_written_in(order, key):
    names = ["cat", "dog", "bird"]
    config = hf_effmodels.get_config("ghostnet-0.5x", id2label={key(number): names[number] for number in order})
    assert config.label2id == {"cat": 0, "dog": 1, "bird": 2}
    assert [config.id2label[number] for number in range(3)] == names


@pytest.mark.parametrize("name, first", [("ghostnet-0.5x", "tench"), ("adabin-resnet20-cifar10", "airplane")])
@pytest.mark.parametrize("override", [{"image_size": 96}, {"output_hidden_states": True}, {"name_or_path": "x"}, {}])
def test_whatever_else_is_set_the_classes_keep_their_names(name, first, override):
    config, plain = (hf_effmodels.get_config(name, **options) for options in (override, {}))
    assert config.id2label[0].startswith(first) and config.id2label == plain.id2label
    assert config.label2id == plain.label2id == {label: number for number, label in config.id2label.items()}


def test_a_preset_says_what_its_own_entry_has():
    """Of all, each fact: none is another's, and none is left out."""
    same = ("parameters", "macs", "folded_parameters", "folded_macs", "published", "weights")
    same += ("weights_license", "weights_license_note")
    with_timm = 0
    for entry in all_entries():
        for name, preset in entry.presets.items():
            info = hf_effmodels.model_info(name)
            assert [getattr(info, field) for field in same] == [getattr(preset, field) for field in same], name
            assert (info.name, info.architecture, info.repository) == (name, entry.title, entry.repository)
            assert info.timm == (f"timm/{preset.timm}" if preset.timm else None)
            with_timm += bool(preset.timm)
            best = [
                number for number in preset.published if (number.metric, number.dataset) == ("top-1", "ImageNet-1k")
            ]
            told = (best[0].value, best[0].source) if best else (None, None)
            assert (info.top1, info.top1_source) == told, name
    assert with_timm > 3


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"image_mean": (0.1, 0.2, 0.3)}, {"image_mean": (0.1, 0.2, 0.3)}),
        ({"do_normalize": False}, {"do_normalize": False}),
        ({"resample": 0}, {"resample": 0}),
        ({"image_size": 96, "image_std": (0.5, 0.5, 0.5)}, {"image_std": (0.5, 0.5, 0.5)}),
        ({"image_size": 96, "size": {"shortest_edge": 128}}, {"size": {"shortest_edge": 128}}),
    ],
)
def test_what_is_said_of_an_image_processor_wins_over_the_preset_and_the_rest_stays(options, expected):
    plain = hf_effmodels.create_image_processor("ghostnet-1.0x", image_size=options.get("image_size"))
    changed = hf_effmodels.create_image_processor("ghostnet-1.0x", **options)
    for name in ("image_mean", "image_std", "do_normalize", "resample", "size", "crop_pct", "do_resize"):
        found, before = getattr(changed, name, None), getattr(plain, name, None)
        found, before = (dict(one) if name == "size" else one for one in (found, before))
        found = {k: v for k, v in found.items() if v is not None} if name == "size" else found
        before = {k: v for k, v in before.items() if v is not None} if name == "size" else before
        assert found == expected.get(name, before), name
    assert any(getattr(plain, name, None) != value for name, value in expected.items())


def test_what_is_known_of_a_preset_is_in_its_fields_one_by_one():
    """The licence of the code is this package's, whatever that of the weights; numbers as trained and folded."""
    entry, preset = find("ghostnetv3-1.0x")
    assert asdict(hf_effmodels.model_info("ghostnetv3-1.0x")) == {
        "name": "ghostnetv3-1.0x",
        "architecture": "GhostNetV3",
        "tasks": ("image-classification", "image-feature-extraction"),
        "parameters": preset.parameters,
        "macs": 404.1,
        "folded_parameters": preset.folded_parameters,
        "folded_macs": 167.0,
        "top1": 77.1,
        "top1_source": preset.published[0].source,
        "published": tuple(asdict(number) for number in preset.published),
        "paper": "GhostNetV3: Exploring the Training Strategies for Compact Models, https://arxiv.org/abs/2404.11202",
        "repository": entry.repository,
        "code_license": "apache-2.0",
        "weights_license": preset.weights_license,
        "weights_license_note": preset.weights_license_note,
        "weights": preset.weights,
        "timm": preset.timm and f"timm/{preset.timm}",
    }
    licences = {name: hf_effmodels.model_info(name) for name in hf_effmodels.list_models()}
    assert {info.code_license for info in licences.values()} == {"apache-2.0"}
    assert {info.weights_license for info in licences.values()} > {"apache-2.0", None}


def test_all_sizes_of_a_processor_are_of_the_new_one_and_what_it_has_not_stays_so():
    own = SimpleNamespace(size={"shortest_edge": 9}, crop_size=None, pad_size={"height": 8, "width": 8}, more=[1])
    found = sized_processor(own, 32)
    assert vars(found) == {
        "size": {"shortest_edge": 32}, "crop_size": None, "pad_size": {"height": 32, "width": 32}, "more": [1],
    }  # fmt: skip
    assert vars(own)["pad_size"] == {"height": 8, "width": 8}
    padded = SimpleNamespace(size={"height": 9, "width": 9}, pad_size={"height": 8, "width": 8})
    assert vars(sized_processor(padded, (48, 32))) == dict.fromkeys(("size", "pad_size"), {"height": 48, "width": 32})
    with pytest.raises(ValueError, match="^image_size: got 48×32, but the pad_size of SimpleNamespace is that of squ"):
        sized_processor(SimpleNamespace(size={"height": 9, "width": 9}, pad_size={"shortest_edge": 8}), (48, 32))
