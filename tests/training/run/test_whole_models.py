"""What a training begins with, an evaluation measures and an export writes has all of its weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SwinConfig,
    SwinForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
    YolosConfig,
    YolosForObjectDetection,
)

import hf_effmodels
from hf_effmodels import edge, edge_language, edge_masks, edge_two_towers
from hf_effmodels.training.run.arguments import ModelArguments
from hf_effmodels.training.run.dense_models import load_backbone, load_pretrained
from hf_effmodels.training.tasks.causal_lm.arguments import LanguageModelArguments
from hf_effmodels.training.tasks.causal_lm.models import load_language_model
from hf_effmodels.training.tasks.image_classification.models import load_classifier
from hf_effmodels.training.tasks.mask_generation.models import load_sam
from hf_effmodels.training.tasks.masked_image_modeling.arguments import MaskedModelArguments
from hf_effmodels.training.tasks.masked_image_modeling.models import load_masked_model

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
VIT = {**SIZES, "image_size": 16, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 19}
SAM = {
    "vision_config": {
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32, "patch_size": 8},
        **{"output_channels": 8, "num_pos_feats": 4, "mlp_dim": 8, "window_size": 2, "global_attn_indexes": [0]},
    },
    "prompt_encoder_config": {"hidden_size": 8, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
    "mask_decoder_config": {
        **{"hidden_size": 8, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
        "iou_head_hidden_dim": 8,
    },
}
SEGFORMER = {"hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "depths": [1] * 4, "decoder_hidden_size": 8}


def tokenizer():
    class Tokens:
        def __len__(self):
            return 19

    return Tokens()


def classifier(place, trained):
    return load_classifier(ModelArguments(model=place), ["cat", "dog"] if trained else None, new_head=trained)[0]


def dense(auto_class):
    def load(place, trained):
        labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}} if trained else {}
        return load_pretrained(ModelArguments(model=place), auto_class, labels)[0]

    return load


def language(place, trained):
    return load_language_model(LanguageModelArguments(model=place), tokenizer(), 4, to_be_trained=trained)


#: Network -> how to make one, how a task loads it, and a part of its body.
NETWORKS = {
    "a classifier": (lambda: ViTForImageClassification(ViTConfig(**VIT)), classifier, "layernorm_before"),
    "a detector": (
        lambda: YolosForObjectDetection(YolosConfig(**{**VIT, "image_size": [16, 16]})),
        dense(AutoModelForObjectDetection),
        "layernorm_after",
    ),
    "a segmenter": (
        lambda: SegformerForSemanticSegmentation(SegformerConfig(**SEGFORMER)),
        dense(AutoModelForSemanticSegmentation),
        "patch_embeddings",
    ),
    "a language model": (
        lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=2)),
        language,
        "mlp.up_proj",
    ),
    "a SAM": (
        lambda: SamModel(SamConfig(**SAM)),
        lambda place, trained: load_sam(ModelArguments(model=place))[0],
        "mask_decoder.iou_token",
    ),
    "a masked image model": (
        lambda: hf_effmodels.create_model(
            "fastmim-vit-base", backbone_config={"model_type": "vit", **VIT}, image_size=16, block_size=8
        ),
        lambda place, trained: load_masked_model(MaskedModelArguments(model=place))[0],
        "encoder.layernorm",
    ),
    "an exported classifier": (
        lambda: ViTForImageClassification(ViTConfig(**VIT)),
        lambda place, trained: edge.load_source(place)[0],
        "layernorm_before",
    ),
    "an exported language model": (
        lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=2)),
        lambda place, trained: edge_language._load_source(place, tokenizer())[0],
        "mlp.up_proj",
    ),
    "an exported CLIP": (
        lambda: CLIPModel(CLIPConfig(text_config={**TEXT, "eos_token_id": 2}, vision_config=VIT, projection_dim=4)),
        lambda place, trained: edge_two_towers.load_source(place, "its processor")[0],
        "text_projection",
    ),
    "an exported SAM": (
        lambda: SamModel(SamConfig(**SAM)),
        lambda place, trained: edge_masks.load_source(place)[0],
        "mask_decoder.iou_token",
    ),
}


def saved(model, folder):
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def without(folder, part):
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {key: value for key, value in weights.items() if part not in key}
    assert 0 < len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_that_lacks_weights_of_the_body_is_refused(name, trained, tmp_path):
    make, load, part = NETWORKS[name]
    model = make()
    place = saved(model, tmp_path)
    found = load(place, trained).state_dict()
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())
    without(tmp_path, part)
    with pytest.raises(ValueError, match=rf"^(--model|source): {place} lacks weights of .*: .*{part}"):
        load(place, trained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_in_half_precision_are_trained_and_measured_in_float32(name, dtype, tmp_path):
    make, load, _ = NETWORKS[name]
    model = make().to(dtype)
    place = saved(model, tmp_path)
    for trained in (True, False):
        found = load(place, trained).state_dict()
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                assert found[key].dtype == torch.float32, key
                assert torch.equal(found[key], value.float()), key


def test_a_classifier_without_a_head_may_be_trained_and_not_measured(tmp_path):
    place = saved(ViTModel(ViTConfig(**VIT)), tmp_path)
    assert classifier(place, True).num_labels == 2
    with pytest.raises(ValueError, match="^--model: .* lacks weights of ViTForImageClassification: classifier"):
        classifier(place, False)


def test_weights_that_are_drawn_anew_are_in_float32_whatever_was_saved(tmp_path):
    place = saved(ViTForImageClassification(ViTConfig(**VIT)).bfloat16(), tmp_path)
    model, _ = load_classifier(ModelArguments(model=place), ["cat", "dog", "cow"], from_scratch=True)
    assert model.num_labels == 3 and {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_backbone_lacks_nothing_but_what_its_class_adds(tmp_path):
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "image_size": 16, "patch_size": 4}
    place = saved(SwinForImageClassification(SwinConfig(**swin)), tmp_path)
    heads = {"hidden_size": 8, "use_auxiliary_head": False}
    backbone = SwinConfig(**swin, out_features=["stage1", "stage2"])
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **heads))
    load_backbone(model, place, None)  # the norms of the maps are new
    without(tmp_path, "blocks.0.")
    with pytest.raises(ValueError, match=r"^--backbone: .* lacks weights of SwinBackbone: .*blocks\.0"):
        load_backbone(model, place, None)


def test_an_encoder_of_texts_is_no_language_model(tmp_path):
    place = saved(BertForMaskedLM(BertConfig(**TEXT)), tmp_path)
    with pytest.raises(ValueError, match="^--model: .* is a bert for fill-mask, accepted are causal language"):
        language(place, True)
