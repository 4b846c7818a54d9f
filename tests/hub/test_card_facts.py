"""What a card says of a model's sizes, its parts and how its inputs are prepared, counted and written out by hand."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import SegformerImageProcessorPil

import hf_effmodels
from hf_effmodels.architecture import Architecture, PipelineEntry, Preset, Published
from hf_effmodels.hub import build_card
from hf_effmodels.hub.card import _matching_preset
from hf_effmodels.hub.card_text import About, check_results, code, is_local, plain, write_card
from hf_effmodels.hub.convert import ConversionReport
from hf_effmodels.hub.export import with_auto_map
from hf_effmodels.hub.pipeline_card import PipelineFacts, write_pipeline_card
from hf_effmodels.hub.usage import usage_section
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config


def facts_of(text) -> list[tuple[str, str]]:
    """The rows of a card's first table."""
    table = str(text).partition("## Facts\n\n")[2].partition("\n\n")[0]
    return re.findall(r"^\| ([^|]*?) \| (.*) \|$", table, re.MULTILINE)[2:]


def model_of(model_type: str, **fields):
    architecture = ARCHITECTURES[model_type]
    with torch.device("meta"):
        return architecture.model_class(architecture.tasks[0].auto_class)(tiny_config(architecture, **fields))


def facts(model, **options) -> dict[str, str]:
    return dict(facts_of(build_card(model, **options)))


def test_a_card_begins_with_what_the_model_is_and_ends_with_whose_it_is(tiny):
    rows = facts_of(build_card(tiny.model, processor=tiny.processor, license="mit"))
    names = ["Type", "Form", "Parameters", "Image size", "Input channels", "Labels", "Preparation", "Weights"]
    assert [name for name, _ in rows] == [
        *names, "Licence of the weights", "Licence of the code", "Paper", "Official code"
    ]  # fmt: skip
    rows = dict(rows)
    assert rows["Type"] == "GhostNetV3ForImageClassification (GhostNetV3)" and rows["Form"] == "training form"
    assert rows["Image size"] == "64 × 64 pixels" and rows["Weights"] == "float32, safetensors"
    assert rows["Licence of the weights"] == "mit" and rows["Licence of the code"] == "apache-2.0"
    assert rows["Official code"] == ARCHITECTURES["ghostnetv3"].repository


def test_multiply_adds_that_were_counted_stand_where_none_are_published():
    model = model_of("vig")
    assert "Multiply-adds" not in facts(model)
    assert facts(model, multiply_adds="2.6 M for an image")["Multiply-adds"] == "2.6 M for an image"


def test_weights_are_said_to_be_of_their_precision(tiny):
    model = model_of("vig").bfloat16()
    assert facts(model)["Weights"] == "bfloat16, safetensors"


@pytest.mark.parametrize(
    "labels, shown",
    [
        (["cat", "dog"], "2: cat, dog"),
        ([f"class {n}" for n in range(10)], "10: " + ", ".join(f"class {n}" for n in range(10))),
        ([f"class {n}" for n in range(11)], "11: " + ", ".join(f"class {n}" for n in range(10)) + ", …"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], "3"),
    ],
)
def test_the_first_ten_labels_are_named_where_they_have_names(labels, shown):
    model = model_of("vig", id2label=dict(enumerate(labels)))
    assert facts(model)["Labels"] == shown
    assert "Labels" not in facts(ARCHITECTURES["vig"].model_class("AutoModel")(model.config))


@pytest.mark.parametrize(
    "model_type, auto_class",
    [
        ("vig", "AutoModelForImageClassification"),
        ("gold_yolo", "AutoModelForObjectDetection"),
        ("dtop", "AutoModelForSemanticSegmentation"),
        ("pangu_pi", "AutoModelForSequenceClassification"),
        ("pangu_pi", "AutoModelForTokenClassification"),
    ],
)
def test_whatever_tells_classes_apart_names_them(model_type, auto_class):
    architecture = ARCHITECTURES[model_type]
    with torch.device("meta"):
        model = architecture.model_class(auto_class)(tiny_config(architecture, id2label={0: "cat", 1: "a|b"}))
    assert facts(model)["Labels"] == r"2: cat, a\|b"


@pytest.mark.parametrize(
    "model_type, auto_class",
    [("vig", "AutoModel"), ("pangu_pi", "AutoModelForCausalLM"), ("pangu_pi", "AutoModelForQuestionAnswering")],
)
def test_what_tells_none_apart_names_none(model_type, auto_class):
    architecture = ARCHITECTURES[model_type]
    with torch.device("meta"):
        assert "Labels" not in facts(architecture.model_class(auto_class)(tiny_config(architecture)))


def test_detectors_name_their_labels_and_models_of_pictures_their_channels_and_sizes():
    rows = facts(model_of("gold_yolo", id2label={0: "cat", 1: "dog"}))
    assert rows["Labels"] == "2: cat, dog"
    rows = facts(model_of("ghostnet", num_channels=4, image_size=(48, 32)))
    assert rows["Image size"] == "48 × 32 pixels" and rows["Input channels"] == "4"
    rows = facts(model_of("pangu_pi"))
    assert rows["Vocabulary"] == "96" and rows["Longest sequence"] == "64 tokens"
    assert not {"Image size", "Input channels", "Labels", "Preparation", "Form"} & rows.keys()


@pytest.mark.parametrize(
    "change, form",
    [
        ({}, "404.1 M for one image of 224 × 224 pixels"),
        ({"reparameterized": True}, "167.0 M for one image of 224 × 224 pixels"),
        ({"num_labels": 10}, None),
        ({"num_channels": 1}, None),
        ({"image_size": 192}, None),
    ],
)
def test_products_are_counted_for_the_network_as_it_was_published(change, form):
    with torch.device("meta"):
        rows = facts(hf_effmodels.create_model("ghostnetv3-1.0x", **change), preset="ghostnetv3-1.0x")
    assert rows.get("Multiply-adds") == form
    assert rows["Form"].startswith("folded" if "reparameterized" in change else "training")


# parts


def test_parts_are_told_with_their_kind_width_depth_and_where_they_are_from():
    model = model_of("adem_vl")
    model.config.text_model_name_or_path = "org/llm"
    rows = facts(model, adapter_only=True)
    assert rows["Text model"] == "`org/llm`, llama, width 32, 2 layers"
    assert rows["Vision model"] == "clip_vision_model, width 24, 3 layers"
    assert rows["Image size"] == "32 × 32 pixels"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < trained < model.num_parameters() and rows["Of these trained"] == f"{trained / 1e6:.3f} M"
    assert rows["In this repository"].startswith("the adapters only")
    model.config.text_model_name_or_path = "/home/me/llm"
    rows = facts(model)
    assert rows["Text model"] == "llama, width 32, 2 layers" and "In this repository" not in rows


def test_the_size_of_images_stands_once_where_all_parts_have_the_same():
    model = model_of("tinysam")
    assert [value for name, value in facts_of(build_card(model)) if "size" in name] == ["64 × 64 pixels"]
    model.config.prompt_encoder_config.image_size = 32
    sizes = [row for row in facts_of(build_card(model)) if "size" in row[0]]
    assert sizes == [("Prompt encoder model's image size", "32 × 32 pixels"), ("Image size", "64 × 64 pixels")]


@pytest.mark.parametrize("dataset, told", [("org/data", ["org/data"]), ("imagefolder", None), ("/home/me/a", None)])
def test_the_metadata_name_a_data_set_of_the_hub(dataset, told):
    card = write_card(ABOUT, dataset=dataset, samples={"train": 3})
    assert card.data.datasets == told and ("data of its maker's own" in card.text) == (told is None)


@pytest.mark.parametrize(
    "model_type, expected",
    [
        (
            "light_clip",
            [
                ("Vision model", "resnet, width 8, 16, 1, 1 layers"),
                ("Image size", "32 × 32 pixels"),
                ("Text model", "clip_text_model, width 16, 3 layers"),
            ],
        ),
        (
            "tinysam",
            [
                ("Prompt encoder model", "sam_prompt_encoder, width 16"),
                ("Image size", "64 × 64 pixels"),
                ("Mask decoder model", "sam_mask_decoder, width 16, 2 layers"),
                ("Vision model", "tinysam_vision_model, width 8, 16, 24, 32, 1, 1, 2, 1 layers"),
            ],
        ),
        ("dtop", [("Backbone model", "vit, width 24, 3 layers"), ("Image size", "32 × 32 pixels")]),
    ],
)
def test_parts_with_stages_are_told_stage_by_stage(model_type, expected):
    rows = facts_of(build_card(model_of(model_type)))
    begin = rows.index(expected[0])
    assert rows[begin : begin + len(expected)] == expected


# preparation


def test_what_a_processor_does_with_a_picture_is_written_out(tiny):
    rows = facts(tiny.model, processor=tiny.processor)
    kind = tiny.processor.to_dict()["image_processor_type"]
    assert rows["Preparation"] == (
        f"{kind}; size shortest_edge 64; centre crop 0.875; mean 0.485 0.456 0.406; std 0.229 0.224 0.225"
    )
    plain_one = SegformerImageProcessorPil(do_normalize=False, size={"height": 48, "width": 32})
    assert facts(tiny.model, processor=plain_one)["Preparation"].partition("; ")[2] == "size height 48, width 32"
    grey = SegformerImageProcessorPil(do_resize=False, image_mean=0.5, image_std=0.25)
    assert facts(tiny.model, processor=grey)["Preparation"].partition("; ")[2] == "mean 0.5; std 0.25"


def test_a_tokenizer_is_told_with_the_number_of_its_tokens_and_both_where_there_are_both(tiny):
    class Words:
        def __len__(self):
            return 7

    class Both:
        image_processor, tokenizer = tiny.processor, Words()

        def to_dict(self):
            return {}

    assert facts(model_of("pangu_pi"), processor=Words())["Preparation"] == "Words, 7 tokens"
    images, _, words = facts(tiny.model, processor=Both())["Preparation"].rpartition("; ")
    assert words == "Words, 7 tokens" and images == facts(tiny.model, processor=tiny.processor)["Preparation"]


# which variant


@pytest.mark.parametrize(
    "change, known",
    [
        ({"num_labels": 3}, True),
        ({"num_channels": 1}, True),
        ({"image_size": 64}, True),
        ({"reparameterized": True}, True),
        ({"classifier_dropout": 0.5}, False),
        ({"width_multiplier": 0.5}, "0.5x"),
    ],
)
def test_a_variant_is_the_published_one_whatever_its_labels_and_pictures(change, known):
    with torch.device("meta"):
        text = build_card(hf_effmodels.create_model("ghostnet-1.0x", **change)).text
    variant = "`ghostnet-1.0x`" if known is True else "`ghostnet-0.5x`" if known else "of its own"
    assert variant in text.partition("\n## Facts")[0]


def test_a_title_is_the_name_on_the_hub_or_that_of_the_variant_or_of_the_family():
    with torch.device("meta"):
        model = hf_effmodels.create_model("ghostnet-1.0x")
    title = {
        "net": {"repo_id": "org/net"},
        "ghostnet-1.0x": {},
        "ghostnet-1.3x": {"preset": "ghostnet-1.3x"},
    }
    for name, options in title.items():
        assert build_card(model, **options).text.strip().startswith(f"# {name}\n")
    assert build_card(model_of("ghostnet")).text.strip().startswith("# GhostNet\n")


@pytest.mark.parametrize("auto_class", ["AutoModelForImageClassification", "AutoModel", "AutoBackbone"])
def test_the_metadata_name_the_task_of_the_head(auto_class):
    architecture = ARCHITECTURES["ghostnet"]
    model = architecture.model_class(auto_class)(tiny_config(architecture))
    card = build_card(model, license="mit")
    expected = {
        "AutoModelForImageClassification": ("image-classification", "An image classifier"),
        "AutoModel": ("image-feature-extraction", "A"),
        "AutoBackbone": (None, "A feature extractor of the GhostNet family"),
    }[auto_class]
    assert card.data.pipeline_tag == expected[0] and f"\n{expected[1]}" in card.text


def test_a_card_says_that_it_loads_without_the_package_only_where_the_code_lies_beside_it():
    model = model_of("ghostnet")
    with_code, without = build_card(model).text, build_card(model, with_code=False).text
    said = "The repository carries the model's code: it loads with or without that package."
    assert said in with_code and said not in without
    assert "trust_remote_code" in with_code and "trust_remote_code" not in without


def test_code_that_is_not_public_is_told_to_be_so():
    public = [a for a in ARCHITECTURES.values() if "arxiv.org/" not in a.repository]
    private = [a for a in ARCHITECTURES.values() if "arxiv.org/" in a.repository]
    assert public and private
    for architecture in (public[0], private[0]):
        text = build_card(model_of(architecture.model_type)).text
        rows = dict(facts_of(text))
        is_public = architecture is public[0]
        assert rows["Official code"] == (architecture.repository if is_public else "none is public")
        assert ("[official code](" in text) == is_public


# the writer of all cards


ABOUT = About(title="net", introduction="A net.", library="transformers", task="image-classification")


def test_a_card_has_the_sections_that_it_has_something_for():
    assert re.findall("^## .*", write_card(ABOUT).text, re.MULTILINE) == ["## Facts", "## Numbers"]
    conversion = {"source": "x.pth", "sha256": "ab", "entry": "ema", "converted": 2}
    whole = About(**{**vars(ABOUT), "figures": ("training_curve.png",), "usage": "## Usage\n\nSo."})
    card = write_card(whole, training={"lr": 0.1}, conversion=conversion, dataset="digits", results={"accuracy": 1})
    assert re.findall("^## .*", card.text, re.MULTILINE) == [
        "## Facts", "## Usage", "## Numbers", "## Figures", "## Training", "## Origin"
    ]  # fmt: skip
    assert "![Training](training_curve.png)" in card.text
    # Nothing was published: no word on whose numbers those were.
    assert "The published numbers belong" not in card.text
    assert "No result on a benchmark has been published for this variant" in write_card(ABOUT).text
    assert "No result on a benchmark has been published" not in card.text


def test_a_card_says_on_what_and_on_how_much_of_it_a_model_was_trained():
    text = write_card(ABOUT, dataset="digits").text
    assert "A net. Trained on digits.\n" in text
    text = write_card(ABOUT, dataset="digits", samples={"train": 50, "test": 10}).text
    assert "Trained on digits (samples: 50 of train, 10 of test).\n" in text
    assert "Trained" not in write_card(ABOUT, samples={"train": 50}).text


def test_metadata_hold_data_sets_of_the_hub_only_and_each_metric_once():
    results = [{"metric": m, "value": 1, "dataset": "d", "split": s} for m, s in (("b", "x"), ("a", None), ("b", "y"))]
    data = write_card(ABOUT, results=results, dataset="org/data").data
    assert data.datasets == ["org/data"] and data.metrics == ["a", "b"] and data.tags is None
    assert [r.dataset_split for r in data.eval_results] == ["x", None, "y"]
    assert {(r.dataset_name, r.task_type) for r in data.eval_results} == {("d", "image-classification")}
    bare = write_card(About(**{**vars(ABOUT), "task": None}), results={"loss": 2}, dataset="my pictures").data
    assert bare.datasets is None and bare.eval_results[0].task_type == "feature-extraction"
    none = write_card(ABOUT).data
    assert none.metrics is None and none.eval_results is None


def test_a_licence_of_ones_own_stands_in_the_metadata_with_its_name_and_its_place():
    card = write_card(ABOUT, license="other", license_name="Mine", license_link="https://x.org/l", base_model="org/b")
    data = card.data
    assert (data.license, data.license_name, data.license_link) == ("other", "Mine", "https://x.org/l")
    assert data.base_model == "org/b" and "[Mine](https://x.org/l)" in card.text
    assert write_card(ABOUT, license="mit").data.license_link is None


@pytest.mark.parametrize(
    "metric, value, shown",
    [
        ("accuracy", 0.5, "50.00 %"),
        ("Top-1", 1, "100.00 %"),
        ("top5", 0, "0.00 %"),
        ("map", 3.12663e-06, "0.00 %"),
        ("map_50", 0.25, "25.00 %"),
        ("AP_small", 0.25, "25.00 %"),
        ("miou_point", 0.125, "12.50 %"),
        ("text_to_image_recall_at_1", 0.125, "12.50 %"),
        ("mapping_error", 0.5, "0.5"),
        ("accuracy", 1.5, "1.5"),
        ("accuracy", -0.5, "-0.5"),
        ("PSNR-Y", 30, "30.00 dB"),
        ("SSIM", 0.5, "0.5000"),
        ("loss", 0.5, "0.5"),
    ],
)
def test_shares_are_shown_as_per_cent_and_everything_else_is_not(metric, value, shown):
    text = write_card(ABOUT, results={metric: value}, dataset="d").text
    assert f"| {metric}, d | not published | {shown} (measured by the publisher of these weights) |" in text


@pytest.mark.parametrize(
    "dataset, name, identifier",
    [
        ("org/data", "org/data", "org/data"),
        ("digits", "digits", "digits"),
        ("My photos, 2nd set", "My photos, 2nd set", "My-photos-2nd-set"),
        ("/home/me/photos", "data of its maker's own", "unknown"),
        ("imagefolder", "data of its maker's own", "unknown"),  # how files are read, which are the maker's
        ("csv", "data of its maker's own", "unknown"),
        ("写真 !", "写真 !", "写真"),
        ("!", "!", "unknown"),
    ],
)
def test_the_index_of_results_has_an_identifier_beside_the_name_of_a_data_set(dataset, name, identifier):
    (result,) = write_card(ABOUT, results={"loss": 1.0}, dataset=dataset).data.eval_results
    assert (result.dataset_name, result.dataset_type) == (name, identifier)


def test_settings_of_a_training_are_flattened_and_lists_stay_lists():
    training = {"optimizer": {"name": "sgd", "groups": {"lr": 1}}, "sizes": [1, 2], "text": "a `b`", "empty": ""}
    text = write_card(ABOUT, training=training).text
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", text.partition("## Training")[2], re.MULTILINE))
    assert rows["optimizer.name"] == "`sgd`" and rows["optimizer.groups.lr"] == "`1`"
    assert rows["sizes"] == "`[1, 2]`" and rows["text"] == r"a \`b\`"
    assert re.search(r"^\| empty \| *\|$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "value, error",
    [(True, "must be a number, got True"), ("1", "must be a number, got '1'"), (None, "must be a number, got None")],
)
def test_a_result_is_a_number(value, error):
    with pytest.raises(ValueError, match=error):
        check_results({"accuracy": value}, "d")
    for result in (3, ["metric", "value"], {"value": 1}, {"metric": "a"}):
        with pytest.raises(ValueError, match="accepted are mappings with 'metric' and 'value'"):
            check_results([result], "d")
    assert check_results(None, "d") == []
    own = {"metric": "a", "value": 1, "dataset": "mine", "split": "x", "source": "y"}
    assert check_results([own], None) == [own]
    assert check_results({"a": 2}, "d") == [{"metric": "a", "value": 2, "dataset": "d", "split": None, "source": None}]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("a _b", r"a \_b"),
        ("1. a", r"\1. a"),
        ("1a", "1a"),
        ("#a", r"\#a"),
        ("a#", "a#"),
        ("a & b", "a &amp; b"),
        ("a*b|c", r"a\*b\|c"),
    ],
)
def test_markup_in_a_text_shows_as_what_it_is(text, shown):
    assert plain(text) == shown


def test_code_is_set_as_such_unless_it_has_backticks_itself():
    assert [code(value) for value in (3, "a|b", "a`b", "", None)] == ["`3`", r"`a\|b`", r"a\`b", "", "`None`"]


@pytest.mark.parametrize(
    "name, local",
    [
        ("/data/x", True),
        ("~/x", True),
        ("./x", True),
        (r"\\host\x", True),
        ("..", True),
        ("C:/x", True),
        (r"c:\x", True),
        ("file:x", True),
        ("a/b/c", True),
        ("org/data", False),
        ("digits", False),
        ("https://x.org/a/b", False),
        ("http://x.org/a/b", False),
        ("my data/of b/c", False),
        (3, False),
        (None, False),
        ("x" * 300, False),
        ("a\0b", False),
    ],
)
def test_a_place_on_this_machine_is_told_from_a_name(name, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_local(name) is local


# snippets


def test_a_folder_is_told_how_to_fold_and_to_pack():
    fold, pack = "`model.reparameterize()` folds", "`model.deploy()` also packs"
    for model_type, options, said in (
        ("ghostnet", {}, (fold,)),
        ("ghostnet", {"reparameterized": True}, ()),
        ("bimlp", {}, (fold, pack)),
        ("pangu_pi", {}, ()),
    ):
        architecture = ARCHITECTURES[model_type]
        name = architecture.auto_classes[architecture.tasks[0].auto_class]
        text = usage_section(architecture, name, tiny_config(architecture, **options))
        assert [part for part in (fold, pack) if part in text] == list(said), model_type


def test_pictures_of_other_channels_come_as_numbers_of_the_right_shape():
    architecture = ARCHITECTURES["ghostnet"]
    config = tiny_config(architecture, num_channels=4, image_size=(48, 32))
    text = usage_section(architecture, "GhostNetForImageClassification", config)
    assert text.count("torch.zeros(1, 4, 48, 32)") == 3 and "PIL" not in text
    square = usage_section(architecture, "GhostNetForImageClassification", tiny_config(architecture, num_channels=1))
    assert square.count("torch.zeros(1, 1, 64, 64)") == 3
    maps = usage_section(architecture, "GhostNetBackbone", config)
    assert f"out_features={config.stage_names[-2:]!r}" in maps and "With `hf_effmodels` installed" not in maps
    assert "from hf_effmodels import GhostNetBackbone" in maps
    assert "from transformers import AutoBackbone" in usage_section(
        architecture, "GhostNetBackbone", config, "org/net"
    )


def test_numbers_of_layers_around_a_network_are_none_of_its_kind():
    with pytest.raises(ValueError, match=r"model: got Sequential \(model_type None\)"):
        build_card(nn.Sequential(nn.Linear(1, 1)))


def test_a_models_card_says_on_how_much_of_what_it_was_trained(tiny):
    text = build_card(tiny.model, dataset="digits", samples={"train": 50, "test": 10}).text
    assert "Trained on digits (samples: 50 of train, 10 of test).\n" in text


@pytest.mark.parametrize("name", ["addernet-resnet50", "cmt-small", "parameternet-600m"])
def test_a_variant_stays_the_published_one_whatever_maps_a_backbone_gives(name):
    """Which maps come out, how many classes there are and how large images are does not make another network."""
    (architecture,) = (one for one in ARCHITECTURES.values() if name in one.presets)
    config = hf_effmodels.get_config(name, num_labels=3)
    assert _matching_preset(architecture, config) == name
    config.out_features = config.stage_names[1:2]
    assert _matching_preset(architecture, config) == name


def test_of_a_model_of_parts_each_part_has_to_be_the_published_one_but_for_its_images():
    architecture = ARCHITECTURES["tinysam"]
    for name in ("tinysam", "mobilesam"):  # one network
        config = hf_effmodels.get_config(name)
        first = _matching_preset(architecture, config)
        config.vision_config.image_size = config.prompt_encoder_config.image_size = 512
        config.prompt_encoder_config.image_embedding_size = 32
        config.vision_config.dtype, config.vision_config._name_or_path = torch.float16, "org/somewhere"
        config.mask_decoder_config.transformers_version = "1.0"
        assert _matching_preset(architecture, config) == first in architecture.presets
        config.mask_decoder_config.num_hidden_layers += 1
        assert _matching_preset(architecture, config) is None


def test_metrics_are_named_by_the_alphabet_and_the_settings_with_code_too():
    results = dict.fromkeys(["f", "c", "e", "b", "d", "a"], 1.0)
    assert write_card(ABOUT, results=results, dataset="digits").data.metrics == ["a", "b", "c", "d", "e", "f"]
    written = with_auto_map({"z": 1, "b": {"y": 1, "x": 2}}, {"AutoModel": "a.B"}).decode()
    assert written == json.dumps({"auto_map": {"AutoModel": "a.B"}, "b": {"y": 1, "x": 2}, "z": 1}, indent=2) + "\n"


def test_what_is_told_of_a_model_is_in_its_card(tiny):
    own = {"license": "other", "license_name": "Mine", "license_link": "https://x.org/l", "base_model": "org/base"}
    file = {"source": "a.pth", "sha256": "ab" * 32, "entry": "ema", "converted": 12}
    more = {"dataset": "org/data", "results": {"accuracy": 0.5}, "training": {"optimizer": {"lr": 0.1}}}
    card = build_card(tiny.model, conversion=file, figures=["training_curve.png"], **own, **more)
    for name, value in own.items():
        assert getattr(card.data, name) == value
    assert card.data.datasets == ["org/data"] and card.data.metrics == ["accuracy"] and "50.00 %" in card.text
    for said in ("| optimizer.lr | `0.1` |", "ab" * 32, "12 tensors of ema", "(training_curve.png)", "[Mine](https"):
        assert said in card.text, said
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-classification"
    assert card.data.tags == ["hf_effmodels", "ghostnetv3", "arxiv:2404.11202"]


def test_snippets_and_titles_are_of_the_repository_the_commit_and_the_files_that_there_are(tiny):
    text = build_card(tiny.model, processor=tiny.processor, repo_id="org/net", revision="abc123").text
    assert (
        text.lstrip().startswith("# net\n") and text.count('model_id = "org/net"') == 3 and 'revision="abc123"' in text
    )
    assert "with or without that package" in text and "trust_remote_code=True" in text
    plain = build_card(tiny.model, with_code=False).text
    assert "with or without that package" not in plain and "trust_remote_code" not in plain
    assert plain.lstrip().startswith("# GhostNetV3\n") and 'model_id = "."' in plain
    with pytest.raises(ValueError, match="^preset: got 'nope', accepted for GhostNetV3: ghostnetv3-0.5x, "):
        build_card(tiny.model, preset="nope")
    for wrong in ({"repo_id": "a b"}, {"repo_id": "org/net", "revision": "a b"}):
        with pytest.raises(ValueError, match="^(repo_id|revision): got 'a b', accepted is "):
            build_card(tiny.model, **wrong)


def test_a_place_among_several_values_of_a_training_is_told_as_one():
    training = {"files": ["/home/me/x.csv", "org/data"], "losses": {"kd": {"sizes": [1, 0.5], "from": "/home/me/t"}}}
    text = write_card(About(title="a", introduction="A.", library="x", task="y"), training=training).text
    assert "/home" not in text and "| files | `[a local path, org/data]` |" in text
    assert "| losses.kd.sizes | `[1, 0.5]` |" in text and "| losses.kd.from | a local path |" in text


# whole cards, written out by hand


class Everything:
    """What a card may be given, away from what it says by itself."""

    entry = Architecture(
        model_type="net", config="C", auto_classes={}, title="Net", package="x.net", paper="Nets", arxiv="2401.00001",
        repository="https://x.org/code",
    )  # fmt: skip
    preset = Preset(
        model_type="net", config={}, parameters=1.0, weights="https://x.org/w.pth", weights_license="mit",
        weights_license_note="as a mail says",
        published=(
            Published("top-1", 77.125, "ImageNet-1k", "paper"),
            Published("SSIM", 0.87315, "Set5", "README"),
            Published("perplexity", 12.5, "text", "paper"),
        ),
    )  # fmt: skip
    conversion = ConversionReport("net-1", "w.pth", "ab12", "state_dict_ema", 12, ["x"], False)


def test_a_whole_card_has_every_number_with_its_source():
    about = About(
        title="my net", introduction="A net.", library="transformers", task="image-classification", tags=("a", "b"),
        facts=(("Type", "Net"), ("Layers", "3")), usage="## Usage\n\nSo.", published=Everything.preset.published,
        entry=Everything.entry, preset=Everything.preset, figures=("calibration.png", "training_curve.png"),
    )  # fmt: skip
    results = [
        {"metric": "accuracy", "value": 0.5, "split": "test", "source": "evaluate, 2 May"},
        {"metric": "PSNR", "value": 30.126, "dataset": "Set14"},
        {"metric": "loss", "value": float("nan"), "dataset": "/home/me/data"},
    ]
    card = write_card(
        about, license="mit", dataset="org/data", results=results, training={"lr": 0.1, "data": "/home/me/x"},
        conversion=Everything.conversion, base_model="org/base", samples={"train": 5, "test": 2},
    )  # fmt: skip
    assert (
        card.text.strip()
        == """# my net

A net. Trained on org/data (samples: 5 of train, 2 of test).

## Facts

|  |  |
| --- | --- |
| Type | Net |
| Layers | 3 |
| Licence of the weights | mit |
| Licence of the code | apache-2.0 |
| Paper | [arXiv:2401.00001](https://arxiv.org/abs/2401.00001) |
| Official code | https://x.org/code |

## Usage

So.

## Numbers

|  | published | measured here |
| --- | --- | --- |
| top-1, ImageNet-1k | 77.12 % (paper) | not measured here |
| SSIM, Set5 | 0.8731 (README) | not measured here |
| perplexity, text | 12.50 (paper) | not measured here |
| accuracy, org/data, test | not published | 50.00 % (evaluate, 2 May) |
| PSNR, Set14 | not published | 30.13 dB (measured by the publisher of these weights) |
| loss, data of its maker's own | not published | nan (measured by the publisher of these weights) |

The published numbers belong to the authors' weights: these, converted.

## Figures

![Whether probabilities can be believed](calibration.png)

![Training](training_curve.png)

## Training

| hyper-parameter | value |
| --- | --- |
| lr | `0.1` |
| data | a local path |

## Origin

Converted from the official weights by `hf-effmodels convert`.

| Official file |  |
| --- | --- |
| SHA-256 | `ab12` |
| Read from it | 12 tensors of state_dict_ema |
| Published at | https://x.org/w.pth |
| Licence | as a mail says |

## Citation

Please cite the paper: Nets, arXiv:2401.00001 ([BibTeX](https://arxiv.org/bibtex/2401.00001))."""
    )
    data = card.data.to_dict()
    (index,) = data.pop("model-index")
    assert data == {
        "license": "mit", "library_name": "transformers", "pipeline_tag": "image-classification", "tags": ["a", "b"],
        "datasets": ["org/data"], "base_model": "org/base", "metrics": ["PSNR", "accuracy", "loss"],
    }  # fmt: skip
    assert index["name"] == "my net", "and a value that is no number stands in no table of the Hub"
    found = [
        (one["task"]["type"], one["dataset"]["name"], one["dataset"]["type"], one["dataset"].get("split"), metric)
        for one in index["results"]
        for metric in ((m["type"], m["name"], m["value"]) for m in one["metrics"])
    ]
    assert found == [
        ("image-classification", "org/data", "org/data", "test", ("accuracy", "accuracy", 0.5)),
        ("image-classification", "Set14", "Set14", None, ("PSNR", "PSNR", 30.126)),
    ]


@pytest.mark.parametrize("given", ["apache-2.0", None])
def test_the_note_on_a_licence_stands_where_it_is_the_officials(given):
    about = About(**{**vars(ABOUT), "preset": Everything.preset})
    text = write_card(about, license=given, conversion=Everything.conversion).text
    assert "as a mail says" not in text and "https://x.org/w.pth" in text
    unstated = About(**{**vars(ABOUT), "preset": replace(Everything.preset, weights_license=None, weights=None)})
    text = write_card(unstated, license=given, conversion=Everything.conversion).text
    assert ("as a mail says" in text) == (given is None) and "Published at" not in text


def test_a_whole_card_of_a_pipeline_has_what_is_its_own_and_what_all_have():
    entry = PipelineEntry(
        task="super-resolution", classes={}, code=(), title="Pipe", package="x.pipe", paper="Pipes",
        arxiv="2402.00002", repository="https://x.org/pipe",
    )  # fmt: skip
    presets = {"pipe-x4": Everything.preset}
    entry = SimpleNamespace(**{name: getattr(entry, name) for name in vars(entry)}, presets=presets, tasks=entry.tasks)
    about = PipelineFacts(
        introduction="It makes large ones",
        tags=("pipe",),
        facts=(("Factor", "4"),),
        weights=torch.zeros(1, dtype=torch.bfloat16),
        usage='## Use\n\n`"{id}"`',
    )
    card = write_pipeline_card(entry, about, license="mit", preset="pipe-x4", repo_id="org/mine", dataset="Set5")
    assert (
        card.text.strip()
        == """# mine

It makes large ones, after [Pipes](https://arxiv.org/abs/2402.00002) ([official code](https://x.org/pipe)), \
implemented for diffusers by `hf_effmodels`. The repository carries the pipeline's code: it loads with or without \
that package. Trained on Set5.

## Facts

|  |  |
| --- | --- |
| Factor | 4 |
| Weights | bfloat16, safetensors |
| Licence of the weights | mit |
| Licence of the code | apache-2.0 |
| Paper | [arXiv:2402.00002](https://arxiv.org/abs/2402.00002) |
| Official code | https://x.org/pipe |

## Use

`"org/mine"`

## Numbers

|  | published | measured here |
| --- | --- | --- |
| top-1, ImageNet-1k | 77.12 % (paper) | not measured here |
| SSIM, Set5 | 0.8731 (README) | not measured here |
| perplexity, text | 12.50 (paper) | not measured here |

The published numbers belong to the authors' weights: not necessarily these.

## Citation

Please cite the paper: Pipes, arXiv:2402.00002 ([BibTeX](https://arxiv.org/bibtex/2402.00002))."""
    )
    assert card.data.to_dict() == {
        "license": "mit", "library_name": "diffusers", "pipeline_tag": "image-to-image",
        "tags": ["hf_effmodels", "pipe", "arxiv:2402.00002"],
    }  # fmt: skip
    plain_one = write_pipeline_card(entry, about)
    assert (
        plain_one.text.lstrip().startswith("# Pipe\n")
        and "No result on a benchmark has been published" in plain_one.text
    )
    assert '`"path/to/this/folder"`' in plain_one.text and "none stated: not for redistribution" in plain_one.text
    assert write_pipeline_card(entry, about, preset="pipe-x4").text.lstrip().startswith("# pipe-x4\n")
    with pytest.raises(ValueError, match="^preset: got 'pipe-x8', accepted are 'pipe-x4'.$"):
        write_pipeline_card(entry, about, preset="pipe-x8")


@pytest.mark.parametrize(
    "name, change",
    [
        ("pangu-pi-1b", {"use_cache": False}),
        ("pangu-pi-1b", {"pad_token_id": 3, "bos_token_id": 4, "eos_token_id": 5}),
        ("parameternet-moe-1b", {"output_router_logits": True}),
        ("parameternet-moe-1b", {"use_cache": False, "pad_token_id": 7}),
    ],
)
def test_how_a_model_is_run_makes_no_other_variant_of_it(name, change):
    (architecture,) = (one for one in ARCHITECTURES.values() if name in one.presets)
    assert _matching_preset(architecture, hf_effmodels.get_config(name, **change)) == name
    assert _matching_preset(architecture, hf_effmodels.get_config(name, **change, hidden_size=64)) is None


@pytest.mark.parametrize(
    "model_type, fields, code",
    [
        (
            "coded_classifier",
            {"widths": [2, 4]},
            "2, 4 channels in the place of all up to resnet.encoder.stages.0, mean scale hyperprior prior; "
            "learns still",
        ),
        ("channel_coded_classifier", {"bits": 3}, "3 bits for each of {} channels after resnet.encoder.stages.0"),
    ],
)
def test_a_network_around_another_one_names_it_and_its_code(model_type, fields, code):
    architecture = ARCHITECTURES[model_type]
    config = tiny_config(architecture, **fields)
    model = architecture.model_class("AutoModelForImageClassification")(config)
    rows = facts(model)
    assert rows["Network"] == "resnet"
    expected = code.format(config.channels // config.shrink) if "{}" in code else code
    assert rows["Code"] == expected
