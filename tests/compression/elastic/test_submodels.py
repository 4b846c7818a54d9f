"""Sub-models of models that this project did not write."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    Qwen3Config,
    ResNetConfig,
    ViTConfig,
)

from hf_effmodels.compression.elastic import extract_submodel, run_submodel, submodel

_TEXT = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_GROUPS = {"num_key_value_heads": 2, "head_dim": 8}
DECODERS = {
    "llama": (LlamaConfig(**_TEXT, **_GROUPS), {"num_attention_heads": 2, "hidden_size": 24}),
    "qwen3": (Qwen3Config(**_TEXT, **_GROUPS, tie_word_embeddings=True), {"num_attention_heads": 2}),
    "gemma": (GemmaConfig(**_TEXT, **_GROUPS), {"num_key_value_heads": 1, "num_attention_heads": 2}),
    "phi": (PhiConfig(**_TEXT, num_key_value_heads=4), {"hidden_size": 24, "num_attention_heads": 3}),
}
IDS = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(0))


def _decoder(name):
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(copy.deepcopy(DECODERS[name][0])).eval()


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_sub_model_runs_generates_and_is_saved_as_what_it_computed_inside(name, tmp_path):
    model = _decoder(name)
    sizes = {"num_hidden_layers": 2, "intermediate_size": 20, **DECODERS[name][1]}
    inside = run_submodel(model, sizes, {"input_ids": IDS}).logits
    smaller = submodel(model, **sizes)
    assert torch.equal(smaller(input_ids=IDS).logits, inside)
    extracted = extract_submodel(model, **sizes)
    extracted.save_pretrained(tmp_path)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model) and not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(loaded(input_ids=IDS).logits, inside, rtol=1e-5, atol=1e-6)
    assert loaded.num_parameters() < model.num_parameters() / 1.5
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = smaller.generate(IDS, **options)
    assert torch.equal(cached, loaded.generate(IDS, **options, use_cache=False))
    # Independent of how parts are taken: the layers by hand, the norm and the head of the whole.
    by_hand = _decoder(name)
    by_hand.model.layers = by_hand.model.layers[:2]
    by_hand.config.num_hidden_layers = 2
    torch.testing.assert_close(
        submodel(model, num_hidden_layers=2)(input_ids=IDS).logits, by_hand(input_ids=IDS).logits
    )


@torch.no_grad()
def test_a_sub_model_drafts_for_the_whole_and_shares_its_memory():
    model = _decoder("llama")
    draft = submodel(model, num_hidden_layers=2)
    assert draft.model.layers[0].mlp.up_proj.weight.data_ptr() == model.model.layers[0].mlp.up_proj.weight.data_ptr()
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    alone = model.generate(IDS[:1], **options)
    assert torch.equal(model.generate(IDS[:1], assistant_model=draft, **options), alone)
    untouched = extract_submodel(model, num_hidden_layers=2)(input_ids=IDS).logits
    copied = extract_submodel(model, num_hidden_layers=2)
    for weight in model.parameters():
        weight.zero_()
    assert torch.equal(copied(input_ids=IDS).logits, untouched)
    assert not draft(input_ids=IDS).logits.any()


def test_gradients_flow_into_the_leading_part_alone():
    model = _decoder("llama")
    sizes = {"num_hidden_layers": 3, "intermediate_size": 20}
    run_submodel(model.train(), sizes, {"input_ids": IDS, "labels": IDS}).loss.backward()
    gate = model.model.layers[1].mlp.gate_proj.weight.grad
    alone = extract_submodel(model, **sizes)
    alone(input_ids=IDS, labels=IDS).loss.backward()
    torch.testing.assert_close(gate[:20], alone.model.layers[1].mlp.gate_proj.weight.grad)
    assert not gate[20:].any() and model.model.layers[3].mlp.gate_proj.weight.grad is None


@torch.no_grad()
def test_classifiers_of_images_nest_too():
    torch.manual_seed(2)
    pixels = torch.randn(2, 3, 32, 32)
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 3], layer_type="basic", num_labels=3)
    vit = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    for config, sizes in (
        (resnet, {"depths": [1, 2], "hidden_sizes": [8, 24]}),
        (vit, {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}),
    ):
        model = AutoModelForImageClassification.from_config(config).eval()
        inside = run_submodel(model, sizes, {"pixel_values": pixels}).logits
        assert torch.equal(extract_submodel(model, **sizes)(pixels).logits, inside)
        assert not torch.equal(inside, model(pixels).logits)


@pytest.mark.parametrize(
    "config, sizes, reason",
    [
        (DECODERS["llama"][0], {"num_hidden_layers": 5}, "num_hidden_layers: got 5, accepted are 1 to 4"),
        (DECODERS["llama"][0], {"depth": 5}, "depth: llama has no such size"),
        (DECODERS["llama"][0], {"num_attention_heads": 3}, "got 3 and 1, accepted are heads in whole groups of 2"),
        (DECODERS["phi"][0], {"hidden_size": 16}, "got 16 and 4, accepted are 8 channels for each head"),
        (GPTNeoXConfig(**_TEXT), {"hidden_size": 16, "num_attention_heads": 2}, "query_key_value.* less depth"),
        (LlamaConfig(**_TEXT), {}, "sizes: got none"),
    ],
)
def test_sizes_that_are_none_are_refused(config, sizes, reason):
    with pytest.raises(ValueError, match=reason):
        submodel(AutoModelForCausalLM.from_config(config), **sizes)
