"""What is loaded as a teacher, a tower or a network to be taken apart has all of its weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoBackbone,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ResNetModel,
    SwinConfig,
    SwinForImageClassification,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import hf_effmodels
from hf_effmodels.hub.whole import check_complete, check_filled, load_whole
from hf_effmodels.pipelines import DelvmPipeline, SamDiffSRPipeline
from hf_effmodels.prediction.predictor import load_predictor
from hf_effmodels.training.tasks.super_resolution.arguments import SuperResolutionModelArguments
from hf_effmodels.training.tasks.super_resolution.models import load_pipeline, trained_encoder
from hf_effmodels.training.tasks.visual_sequence_modeling import models as delvm_models

from ..modeling.tiny.gold_yolo import TINY
from ..pipelines.delvm.tiny import tiny_language_model, tiny_vqvae
from ..pipelines.sam_diffsr.tiny import tiny_pipeline

TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11}
NETWORKS = {
    "vit": (
        AutoModelForImageClassification,
        lambda: ViTForImageClassification(
            ViTConfig(
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            )
        ),
    ),
    "swin": (
        AutoModelForImageClassification,
        lambda: SwinForImageClassification(
            SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, image_size=16, patch_size=4)
        ),
    ),
    "resnet": (
        AutoModelForImageClassification,
        lambda: ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
    ),
    "tied llama": (
        AutoModelForCausalLM,
        lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=1, tie_word_embeddings=True)),
    ),
    "mixtral": (
        AutoModelForCausalLM,
        lambda: MixtralForCausalLM(MixtralConfig(**TEXT, num_key_value_heads=1, num_local_experts=2)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_loaded_with_all_of_its_weights_or_not_at_all(name, tmp_path):
    loader, make = NETWORKS[name]
    model = make().eval()
    model.save_pretrained(tmp_path)
    whole = load_whole(loader, "--teacher", str(tmp_path)).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(whole[key], value), key
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    cut = [key for key in weights if key.endswith(("weight", "bias")) and "experts" not in key][2:5]
    save_file({key: value for key, value in weights.items() if key not in cut}, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"^--teacher: {tmp_path} lacks weights of {type(model).__name__}: \S+, \S+, \S+\.$"
    ):
        load_whole(loader, "--teacher", str(tmp_path))


def test_what_is_not_used_may_be_lacking_and_what_is_not_finite_or_there_may_not(tmp_path):
    model = NETWORKS["vit"][1]()
    model.save_pretrained(tmp_path)
    place = str(tmp_path)
    lacking = r"^--image_tower: .* lacks weights of ViTModel: pooler\.dense\.bias, pooler\.dense\.weight\.$"
    with pytest.raises(ValueError, match=lacking):
        load_whole(AutoModel, "--image_tower", place)
    spared = load_whole(AutoModel, "--image_tower", place, spared=("pooler.",), dtype=torch.bfloat16)
    assert spared.dtype == torch.bfloat16 and spared.pooler is not None
    assert load_whole(AutoModel, "--image_tower", place, add_pooling_layer=False).pooler is None
    with pytest.raises(ValueError, match=r"lacks weights of ViTModel: pooler\.dense\.bias"):
        load_whole(AutoModel, "--image_tower", place, spared=("dense.",))
    with pytest.raises(OSError, match="^--teacher: .*nowhere.* Nothing is taught.$"):
        load_whole(AutoModel, "--teacher", str(tmp_path / "nowhere"), hint="Nothing is taught.")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^--teacher: {tmp_path} has .*classifier.bias"):
        load_whole(AutoModelForImageClassification, "--teacher", place)


def test_counters_of_batch_norms_may_be_lacking(tmp_path):
    model = NETWORKS["resnet"][1]()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    kept = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    assert len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})
    assert load_whole(AutoModelForImageClassification, "--teacher", str(tmp_path)).num_labels == 2


def test_a_revision_is_asked_for_by_its_argument():
    given = {}

    class Loader:
        @staticmethod
        def from_pretrained(name, **options):
            given.update(options, name=name)
            return torch.nn.Linear(1, 1), {}

    load_whole(Loader, "--teacher", "org/net", revision=("--teacher_revision", "v2"), token="mine")
    said = {"output_loading_info": True, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    assert given == {"name": "org/net", "revision": "v2", "token": "mine", **said}


@pytest.mark.parametrize("field", ["argument", "name", "loader"])
def test_a_field_of_a_configuration_may_be_called_as_what_loads_it(field):
    given = {}

    class Loader:
        @staticmethod
        def from_pretrained(place, **options):
            given.update(options)
            return torch.nn.Linear(1, 1), {}

    load_whole(Loader, "--model", "org/net", **{field: 3})
    assert given[field] == 3


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_weights_of_other_shapes_are_named_with_both(name, tmp_path):
    model = NETWORKS[name][1]()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(number): str(number) for number in range(5)}
    config["label2id"] = {str(number): number for number in range(5)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape, head = r"\[2, \d+\], not \[5, \d+\]", r"classifier\S*"
    with pytest.raises(
        ValueError,
        match=f"^--teacher: {tmp_path} has weights of other shapes than the {type(model).__name__} of its config.json"
        rf": {head}bias \[2\], not \[5\]; {head}weight {shape}\.$",
    ):
        load_whole(AutoModelForImageClassification, "--teacher", str(tmp_path))


def test_experts_that_cannot_be_put_together_are_told_in_plain_words(tmp_path):
    NETWORKS["mixtral"][1]().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    expert = next(key for key in weights if "experts" in key)
    save_file({key: value for key, value in weights.items() if key != expert}, file, {"format": "pt"})
    with pytest.raises(
        OSError, match="its weights cannot be put together: some of a group are lacking, or have other"
    ):
        load_whole(AutoModelForCausalLM, "--teacher", str(tmp_path))


def without(folder, *parts):
    """Takes the weights whose names have one of the parts out of a folder."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {key: value for key, value in weights.items() if not any(part in key for part in parts)}
    assert 0 < len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})


def loaded(loader, folder, **options):
    return loader.from_pretrained(folder, output_loading_info=True, **options)


#: What is trained -> the class whose checkpoint it begins with, and a part of that checkpoint.
BEGINNINGS = {
    "a body of a ViT": ("vit", ViTModel, "layernorm."),
    "a body of a Swin": ("swin", SwinModel, "layers.0."),
    "a body of a ResNet": ("resnet", ResNetModel, "stages.0."),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_is_trained_may_have_a_new_head_and_no_new_body(name, tmp_path):
    network, kind, part = BEGINNINGS[name]
    kind(NETWORKS[network][1]().config).save_pretrained(tmp_path)
    model, found = loaded(AutoModelForImageClassification, tmp_path)
    check_complete("--model", "it", model, found, to_be_trained=True)
    with pytest.raises(ValueError, match="^--model: it lacks weights of .*ForImageClassification: classifier"):
        check_complete("--model", "it", model, found)
    without(tmp_path, part)
    model, found = loaded(AutoModelForImageClassification, tmp_path)
    with pytest.raises(ValueError, match=f"^--model: it lacks weights of .*ForImageClassification: .*{part}"):
        check_complete("--model", "it", model, found, to_be_trained=True)


def test_a_head_that_the_checkpoint_should_have_is_no_new_one(tmp_path):
    NETWORKS["vit"][1]().save_pretrained(tmp_path)
    without(tmp_path, "classifier")
    model, found = loaded(AutoModelForImageClassification, tmp_path)
    with pytest.raises(ValueError, match="lacks weights of ViTForImageClassification: classifier.bias, "):
        check_complete("--model", "it", model, found, to_be_trained=True)


def test_other_shapes_are_accepted_where_they_are_asked_for_in_a_training_alone(tmp_path):
    NETWORKS["vit"][1]().save_pretrained(tmp_path)
    model, found = loaded(AutoModelForImageClassification, tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    check_complete("--model", "it", model, found, to_be_trained=True)
    with pytest.raises(ValueError, match="it has weights of other shapes"):
        check_complete("--model", "it", model, found)


def test_a_body_of_a_class_that_is_not_known_is_what_all_classes_share(tmp_path):
    NETWORKS["vit"][1]().save_pretrained(tmp_path)
    without(tmp_path, "classifier")
    model, found = loaded(AutoModelForImageClassification, tmp_path)
    for unknown in (None, ["MyOwnNet"]):
        model.config.architectures = unknown
        check_complete("--model", "it", model, found, to_be_trained=True)
    without(tmp_path, "layernorm_before")
    model, found = loaded(AutoModelForImageClassification, tmp_path)
    model.config.architectures = None
    with pytest.raises(ValueError, match="lacks weights of ViTForImageClassification: vit.*layernorm_before.bias"):
        check_complete("--model", "it", model, found, to_be_trained=True)


def test_parts_that_a_detector_has_beyond_a_pretrained_backbone_begin_anew(tmp_path):
    config = hf_effmodels.get_config("gold-yolo-n", **TINY["gold_yolo"])
    AutoBackbone.from_config(config).save_pretrained(tmp_path)
    model, found = loaded(AutoModelForObjectDetection, tmp_path)
    assert any(key.startswith("gold_yolo.neck.") for key in found["missing_keys"])
    check_complete("--model", "it", model, found, to_be_trained=True)
    without(tmp_path, "backbone.stages.0.", "stages.0.")
    model, found = loaded(AutoModelForObjectDetection, tmp_path)
    with pytest.raises(ValueError, match="lacks weights of GoldYoloForObjectDetection: gold_yolo.*stages.0"):
        check_complete("--model", "it", model, found, to_be_trained=True)


@pytest.mark.parametrize("written", ["pipeline", "Trainer", "AutoModel", "PreTrainedConfig", 7])
def test_a_class_that_somebody_writes_into_a_configuration_is_not_called(tmp_path, written):
    NETWORKS["vit"][1]().save_pretrained(tmp_path)
    without(tmp_path, "classifier")
    model, found = loaded(AutoModelForImageClassification, tmp_path)
    model.config.architectures = [written]
    check_complete("--model", "it", model, found, to_be_trained=True)


def test_parts_of_diffusers_with_weights_that_are_not_finite_are_refused(tmp_path):
    """They would be called random or blank pictures; what of a pipeline is no network is passed over."""
    pipe = tiny_pipeline()
    check_filled("--model", "it", *pipe.components.values())
    name, weight = next((n, w) for n, w in pipe.unet.state_dict().items() if w.is_floating_point())
    weight.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=f"^--model: it has {name}.* not finite|^--model: it has .*{name}"):
        check_filled("--model", "it", *pipe.components.values())


def test_parts_of_diffusers_that_lack_weights_are_refused(tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    check_filled("--model", "it", *SamDiffSRPipeline.from_pretrained(tmp_path).components.values())
    args = SuperResolutionModelArguments(model=str(tmp_path))
    for part, name in (("unet", "SamDiffSRUNet2DModel"), ("condition_encoder", "RRDBModel")):
        file = tmp_path / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        (first, *_) = sorted(weights)
        save_file({key: value for key, value in weights.items() if key != first}, file, metadata={"format": "pt"})
        said = f"^--model: {tmp_path} lacks weights of {name}: {first}.$"
        with pytest.raises(ValueError, match=said):
            load_pipeline(str(tmp_path), args)
        with pytest.raises(ValueError, match=f"lacks weights of {name}"):
            load_predictor(str(tmp_path), device="cpu")
        if part == "condition_encoder":
            with pytest.raises(ValueError, match=said):
                trained_encoder("--model", str(tmp_path), args)
        save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize("part, name", [("vqvae", "VQModel"), ("language_model", "LlamaForCausalLM")])
def test_a_delvm_that_lacks_weights_is_refused(tmp_path, part, name):
    DelvmPipeline(tiny_vqvae(), tiny_language_model()).save_pretrained(tmp_path)
    given = delvm_models.load_pipeline("--teacher", str(tmp_path))
    expected = DelvmPipeline.from_pretrained(tmp_path)
    for own, theirs in zip(given.components.values(), expected.components.values(), strict=True):
        if isinstance(own, torch.nn.Module):
            torch.testing.assert_close(own.state_dict(), theirs.state_dict())
    (file,) = (tmp_path / part).glob("*.safetensors")
    weights = load_file(file)
    first = sorted(key for key in weights if key.endswith("weight"))[1]
    save_file({key: value for key, value in weights.items() if key != first}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"^--teacher: {tmp_path} lacks weights of {name}: {first}"):
        delvm_models.load_pipeline("--teacher", str(tmp_path))
    if part == "vqvae":
        with pytest.raises(ValueError, match=f"^--image_tokenizer: {tmp_path} lacks weights of {name}: {first}"):
            delvm_models.load_image_tokenizer(str(tmp_path), None)


@pytest.mark.parametrize("count, told", [(3, "a, b, c"), (4, "a, b, c and 1 more"), (6, "a, b, c and 3 more")])
def test_of_what_is_lacking_three_are_named_and_the_others_counted(count, told):
    found = {"missing_keys": list(reversed("abcdef"[:count]))}
    with pytest.raises(ValueError, match=f"^--model: it lacks weights of Linear: {told}.$"):
        check_complete("--model", "it", torch.nn.Linear(1, 1), found)


def test_what_lies_here_has_no_revision(tmp_path):
    with pytest.raises(
        ValueError, match="^--teacher_revision: got 'v2', but --teacher .* lies here: it has no revisions"
    ):
        load_whole(AutoModel, "--teacher", str(tmp_path), revision=("--teacher_revision", "v2"))


def test_what_is_not_used_may_be_of_another_shape_and_nothing_else(tmp_path):
    model = AutoModel.from_config(NETWORKS["vit"][1]().config)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    width = len(weights["pooler.dense.bias"])
    changed = {"pooler.dense.weight": torch.zeros(width + 1, width), "pooler.dense.bias": torch.zeros(width + 1)}
    save_file(weights | changed, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"other shapes .*pooler\.dense\.bias \[{width + 1}\], not \[{width}\]"):
        load_whole(AutoModel, "--image_tower", str(tmp_path), spared=("dense.",))
    spared = load_whole(AutoModel, "--image_tower", str(tmp_path), spared=("embeddings.", "pooler."))
    torch.testing.assert_close(spared.layernorm.weight, weights["layernorm.weight"])
    save_file(weights | changed | {"layernorm.bias": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"config\.json: layernorm\.bias \[3\], not \[{width}\]\.$"):
        load_whole(AutoModel, "--image_tower", str(tmp_path), spared=("pooler.",))
