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
from hf_effmodels.compression.elastic.recalibration import recalibrate_batch_norms
from hf_effmodels.compression.elastic.submodels import SubmodelView, submodel_config, submodel_weights

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


def test_values_of_each_layer_follow_their_number():
    model = _decoder("qwen3")
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
    assert submodel(model, num_hidden_layers=2).config.layer_types == ["full_attention", "sliding_attention"]


def test_a_sub_model_is_of_its_own_model_and_never_checkpointed():
    model = _decoder("llama")
    for other in ("qwen3", "gemma"):
        with pytest.raises(ValueError, match=r"model: the sub-model's .* is \(.*\), the model's is"):
            submodel_weights(model, AutoModelForCausalLM.from_config(DECODERS[other][0]).lm_head.__class__(99, 99))
    wide = AutoModelForCausalLM.from_config(LlamaConfig(**_TEXT | {"intermediate_size": 50}, **_GROUPS))
    with pytest.raises(ValueError, match=r"gate_proj.weight is \(50, 32\), the model's is \(48, 32\)"):
        submodel_weights(model, wide)
    model.model.gradient_checkpointing = True
    with pytest.raises(ValueError, match="gradient_checkpointing: got True, accepted is False"):
        SubmodelView(model, {"num_hidden_layers": 2})
    assert SubmodelView(model, {}).network is model


class _Norms(torch.nn.Module):
    """Two batch norms, of which one runs."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.dropout = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.9)

    def forward(self, x):
        return self.used(self.dropout(x))


def test_statistics_are_means_over_the_batches_by_their_sizes():
    """Of a batch of one and one of three: its mean counts once, theirs three times, and so do the variances."""
    model = _Norms().train()
    model.unused.eval()
    batches = [torch.tensor([[4.0, 1.0]]), torch.tensor([[0.0, 1.0], [3.0, 5.0], [6.0, 3.0]])]
    recalibrate_batch_norms(model, [{"x": batch[..., None].expand(-1, -1, 2)} for batch in batches])
    torch.testing.assert_close(model.used.running_mean, torch.tensor([(4 + 3 * 3) / 4, (1 + 3 * 3) / 4]))
    torch.testing.assert_close(model.used.running_var, torch.tensor([3 * 6 / 4, 3 * (8 / 3) / 4]))
    assert model.unused.running_mean.tolist() == [0, 0] and model.unused.running_var.tolist() == [1, 1]
    assert (model.used.momentum, int(model.used.num_batches_tracked)) == (0.1, 0)
    assert model.training and model.used.training and model.dropout.training and not model.unused.training


def test_statistics_of_nothing_or_of_no_numbers_are_refused():
    with pytest.raises(ValueError, match="model: Linear has no batch norms, nothing to calibrate"):
        recalibrate_batch_norms(torch.nn.Linear(1, 1), [])
    model = _Norms()
    with pytest.raises(ValueError, match="batches: there are none, accepted is one or more"):
        recalibrate_batch_norms(model, [])
    with pytest.raises(ValueError, match="batches: what enters used is not finite"):
        recalibrate_batch_norms(model, [{"x": torch.full((2, 2), float("inf"))}])
    assert model.used.running_mean.tolist() == [0, 0]


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
        (DECODERS["llama"][0], {"num_hidden_layers": 0}, "num_hidden_layers: got 0, accepted are 1 to 4"),
        (DECODERS["llama"][0], {"num_hidden_layers": True}, "num_hidden_layers: got True"),
        (DECODERS["llama"][0], {"num_hidden_layers": [1]}, r"num_hidden_layers: got \[1\]"),
        (DECODERS["llama"][0], {"tie_word_embeddings": 1}, "tie_word_embeddings: llama has no such size"),
        (DECODERS["llama"][0], {"num_attention_heads": 1}, "got 1 and 0, accepted are heads in whole groups of 2"),
        (DECODERS["llama"][0], {"hidden_size": 30}, "hidden_size: llama does not accept .*hidden_size.*30.*: .*30"),
    ],
)
def test_sizes_that_are_none_are_refused(config, sizes, reason):
    with pytest.raises(ValueError, match=reason):
        submodel(AutoModelForCausalLM.from_config(config), **sizes)


def test_the_width_of_a_head_that_a_configuration_names_stays():
    config = LlamaConfig(**_TEXT, num_key_value_heads=2, head_dim=12)  # 12, not 32 / 4
    both = {"num_key_value_heads": 1, "num_attention_heads": 2}
    for sizes in ({"hidden_size": 16}, {"num_attention_heads": 2}, both):
        smaller = submodel_config(config, **sizes)
        assert (smaller.head_dim, config.head_dim) == (12, 12)
        assert smaller.num_attention_heads == 2 * smaller.num_key_value_heads
        assert {**smaller.to_dict(), **sizes}.items() == smaller.to_dict().items()
    assert submodel_config(config, intermediate_size=8).num_key_value_heads == 2


def test_a_sub_model_is_for_inference_and_its_copy_is_a_model_of_its_own():
    model = _decoder("llama").train()
    model.generation_config.max_length = 77
    sizes = {"num_hidden_layers": 2, "intermediate_size": 20}
    shared, copied = submodel(model, **sizes), extract_submodel(model, **sizes)
    for smaller, trains in ((shared, False), (copied, True)):
        assert smaller.training and {weight.requires_grad for weight in smaller.parameters()} == {trains}
        assert smaller.generation_config.max_length == 77 and smaller.generation_config is not model.generation_config
        assert smaller.config._attn_implementation == model.config._attn_implementation
        assert (smaller.config.num_hidden_layers, model.config.num_hidden_layers) == (2, 4)
    assert not shared.model.layers[0].mlp.down_proj.weight.is_contiguous()
    assert all(weight.is_contiguous() for weight in copied.parameters())
    buffers = {buffer.data_ptr() for buffer in model.buffers() if buffer.numel()}
    assert buffers and not buffers & {buffer.data_ptr() for buffer in copied.buffers()}
    assert all(weight.requires_grad for weight in model.parameters())
    assert not submodel(model.eval(), num_hidden_layers=1).training
    # A view has no weights that an optimiser would be given.
    view = SubmodelView(model.train(), sizes)
    assert view.training and view.network.training and all(weight.is_meta for weight in view.parameters())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("make", [submodel, extract_submodel])
def test_a_sub_model_attends_by_the_same_code_as_the_whole(make, attention):
    model = AutoModelForCausalLM.from_config(copy.deepcopy(DECODERS["llama"][0]), attn_implementation=attention)
    smaller = make(model, num_hidden_layers=2)
    assert smaller.config._attn_implementation == model.config._attn_implementation == attention
    view = SubmodelView(model, {"num_hidden_layers": 2})
    assert view.network.config._attn_implementation == attention
    with torch.no_grad():
        torch.testing.assert_close(view(input_ids=IDS).logits, smaller(IDS).logits, rtol=0, atol=0)
