"""Types of transformers in the place of `--model`: built, with random weights, for the data set's classes."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import CLIPImageProcessorPil, ViTConfig, ViTForImageClassification

import hf_effmodels
from hf_effmodels.training.run.arguments import ModelArguments
from hf_effmodels.training.tasks.image_classification import models
from hf_effmodels.training.tasks.image_classification.models import load_classifier

from ..recorders import Calls
from ..test_rare_preparations import patched

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
TYPES = {
    "vit": ("ViTForImageClassification", {**SIZES, "patch_size": 4}),
    "deit": ("DeiTForImageClassification", {**SIZES, "patch_size": 4}),  # has another class of this kind
    "resnet": (  # has no size of images
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]},
    ),
}


@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_is_built_for_the_classes_and_the_size(model_type):
    class_name, fields = TYPES[model_type]
    args = ModelArguments(model=model_type, model_config=fields, image_size=8, num_channels=1)
    model, processor = load_classifier(args, ["cat", "dog", "hen"])
    assert type(model).__name__ == class_name and model.config.id2label == {0: "cat", 1: "dog", 2: "hen"}
    assert model.config.num_channels == 1 and getattr(model.config, "image_size", 8) == 8
    assert processor.size["shortest_edge"] == 8 and len(processor.image_mean) == 1


def test_pictures_of_another_size_are_resized_and_cropped_to_it(tmp_path):
    """Of a processor that crops both sizes are the one asked for."""
    sizes = {**SIZES, "patch_size": 4, "image_size": 8, "num_labels": 2}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    args = ModelArguments(model=str(tmp_path), image_size=16, ignore_mismatched_sizes=True)
    model, processor = load_classifier(args, ["cat", "dog"])
    assert model.config.image_size == 16
    assert dict(processor.size)["shortest_edge"] == 16 and dict(processor.crop_size) == {"height": 16, "width": 16}
    _, processor = load_classifier(ModelArguments(model=str(tmp_path)), ["cat", "dog"])
    assert dict(processor.size)["shortest_edge"] == 12 and dict(processor.crop_size) == {"height": 8, "width": 8}


def test_a_type_is_shown_pictures_of_the_size_that_its_configuration_has():
    for side in (8, [8, 8]):
        args = ModelArguments(model="vit", model_config={**SIZES, "patch_size": 4, "image_size": side})
        model, processor = load_classifier(args, ["cat", "dog"])
        # A configuration of two sides says nothing of pictures, which are then those of ImageNet.
        assert model.config.image_size == side and processor.size["shortest_edge"] == (8 if side == 8 else 224)


@pytest.mark.parametrize("channels, side", [(1, 16), (2, 24)])
def test_a_preset_and_its_pictures_have_the_channels_and_the_size_asked_for(channels, side, monkeypatch):
    made, make = [], hf_effmodels.create_image_processor
    monkeypatch.setattr(
        hf_effmodels,
        "create_model",
        lambda name, **fields: made.append(fields) or SimpleNamespace(config=SimpleNamespace(num_channels=channels)),
    )
    args = ModelArguments(model="vanillanet-5", num_channels=channels, image_size=side, model_config={"act_num": 1})
    _, processor = load_classifier(args, ["cat", "dog"])
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    fields = {"act_num": 1, "num_channels": channels, "image_size": side}
    assert made == [{"task": "image-classification", **fields, **labels}]
    assert len(processor.image_mean) == len(processor.image_std) == channels
    expected = make("vanillanet-5", image_size=side).to_dict()
    for name in ("size", "crop_size", "crop_pct"):
        assert processor.to_dict().get(name) == expected.get(name)
    assert expected["size"] != make("vanillanet-5").to_dict()["size"]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_classifier_is_read_where_it_is_said_with_what_its_configuration_is_asked_to_be(fresh, monkeypatch):
    """At its revision, with the token, and with code of its own where that is trusted; trained in float32."""
    calls, network = Calls(), SimpleNamespace(config=ViTConfig(num_channels=1, num_labels=2))
    config = ViTConfig(**SIZES, num_labels=2)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 12}, do_center_crop=False)
    patched(
        monkeypatch,
        models,
        AutoConfig=SimpleNamespace(from_pretrained=calls.of("config", config)),
        load_image_processor=calls.of("processor", lambda *_, **__: processor),
        AutoModelForImageClassification=SimpleNamespace(
            from_pretrained=calls.of("trained", (network, "found")), from_config=calls.of("fresh", network)
        ),
        reading=calls.of("reading", lambda *_, **__: nullcontext()),
        check_complete=calls.of("complete"),
    )
    args = ModelArguments(
        model="some/where", revision="v2", token="hf_mine", trust_remote_code=True, num_channels=1,
        model_config={"layer_norm_eps": 0.5}, ignore_mismatched_sizes=True,
    )  # fmt: skip
    found, used = load_classifier(args, ["cat", "dog"], from_scratch=fresh, new_head=False)
    assert found is network and len(used.image_mean) == 1
    place = {"revision": "v2", "token": "hf_mine", "trust_remote_code": True}
    assert calls["config"] == [(("some/where",), place)]
    assert calls["processor"] == [(("some/where", config), place)]
    assert calls["reading"] == [(("--model", "some/where"), {"revision": ("--revision", "v2")})]
    labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    fields = {"layer_norm_eps": 0.5, "num_channels": 1, **labels}
    if fresh:
        assert calls["fresh"] == [((config,), {"dtype": torch.float32, "trust_remote_code": True})]
        assert {name: getattr(config, name) for name in fields} == fields and "trained" not in calls
        return
    more = {"ignore_mismatched_sizes": True, "output_loading_info": True, "dtype": torch.float32}
    assert calls["trained"] == [(("some/where",), {**fields, **place, **more})]
    assert calls["complete"] == [(("--model", "some/where", network, "found"), {"to_be_trained": False})]


@pytest.mark.parametrize("own, has", [(3, 2), (2, 3)])
def test_a_head_of_fewer_or_more_classes_is_refused_and_numbers_are_told_by_a_larger_one(own, has, tmp_path):
    sizes = {**SIZES, "patch_size": 4, "image_size": 8, "num_labels": own}
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 8}, do_center_crop=False).save_pretrained(tmp_path)
    args, names = ModelArguments(model=str(tmp_path)), ["cat", "dog", "hen"][:has]
    message = f"^--model: .* has a head for {own} classes, the data set has {has}. With --ignore_mismatched_sizes"
    with pytest.raises(ValueError, match=message):
        load_classifier(args, names)
    if own > has:
        model, _ = load_classifier(args, names, named=False)
        assert model.config.num_labels == own
    else:
        with pytest.raises(ValueError, match=message):
            load_classifier(args, names, named=False)


@pytest.mark.parametrize(
    "given, wrong, option",
    [
        ({"image_size": 30}, "image_size", "--"),
        ({"num_channels": 1}, "num_channels", "--"),
        ({"model_config": {"image_size": 30}}, "image_size", "--model_config: "),
        ({"image_size": 30, "model_config": {"stem": 3}}, "stem", "--model_config: "),
    ],
)
def test_what_a_preset_cannot_be_is_told_by_the_option_that_asked_for_it(given, wrong, option, monkeypatch):
    def refuses(name, **fields):
        assert name == "vanillanet-5" and wrong in fields and fields["id2label"] == {0: "a", 1: "b"}
        raise ValueError(f"{wrong}: got what it does not take")

    monkeypatch.setattr(hf_effmodels, "create_model", refuses)
    with pytest.raises(ValueError, match=f"^{option}{wrong}: got what it does not take$"):
        load_classifier(ModelArguments(model="vanillanet-5", **given), ["a", "b"])


def test_what_a_type_does_not_have_is_named():
    fields = {"num_channels": 5}
    with pytest.raises(ValueError, match=r"^--model_config: num_channels: got 5, images can be read as \[1, 2"):
        load_classifier(ModelArguments(model="vit", model_config=fields), ["a", "b"])
    with pytest.raises(ValueError, match="^--model_config: ViTConfig has no field 'hiden_size'; nearest: hidden_size"):
        load_classifier(ModelArguments(model="vit", model_config={"hiden_size": 8}), ["a", "b"])
    with pytest.raises(
        ValueError, match="^--revision: got 'main', which goes with a model on the Hub; vit starts from"
    ):
        load_classifier(ModelArguments(model="vit", revision="main"), ["a", "b"])
