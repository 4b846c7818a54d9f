"""Types of transformers in the place of `--model`: built, with random weights, for the data set's classes."""

import pytest
from transformers import CLIPImageProcessorPil, ViTConfig, ViTForImageClassification

from hf_effmodels.training.run.arguments import ModelArguments
from hf_effmodels.training.tasks.image_classification.models import load_classifier

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
