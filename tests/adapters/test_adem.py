"""ADEM keeps peft's contract on every decoder of the LLaMA layout."""

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from peft import (
    AutoPeftModel,
    AutoPeftModelForCausalLM,
    PeftConfig,
    PeftModel,
    PeftModelForCausalLM,
    PeftType,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from hf_effmodels.adapters import AdemConfig, AdemModel
from hf_effmodels.adapters.adem import AdemLayer, hotswap_adapter

from ..threads import run_together

WIDTH, TOKENS, VOCABULARY = 32, 20, 61
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
}
DECODERS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi3": {},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "smollm3": {},
    "pangu_pi": {"series_activations": ["silu", "tanh"], "augmented_shortcut_reduction": 8},
}


def decoder(model_type="llama", seed=0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **SIZES, **DECODERS[model_type])
    return AutoModelForCausalLM.from_config(config).eval()


def trained(model, adapter="default", seed=1):
    """Offsets as training leaves them: neither zero."""
    generator = torch.Generator().manual_seed(seed)
    tuner = model.base_model
    with torch.no_grad():
        for offsets in (tuner.adem_emb1, tuner.adem_emb2):
            offsets[adapter].copy_(torch.randn(offsets[adapter].shape, generator=generator) / 2)
    return model


def adapted(model_type="llama", **settings):
    return trained(get_peft_model(decoder(model_type), AdemConfig(num_vision_tokens=TOKENS, **settings))).eval()


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def image_embeds():
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def base_folder(tmp_path):
    decoder().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def saved(tmp_path, base_folder):
    """A model, and the folder of its adapter."""
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    model = trained(get_peft_model(model, AdemConfig(num_vision_tokens=TOKENS, alpha=0.3, drop_ratio=0.25)))
    model.save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


def logits(model, ids, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


def test_the_method_is_registered_once(saved):
    from hf_effmodels.adapters.registration import register

    assert PeftType("ADEM") is PeftType.ADEM is PeftType["ADEM"]
    assert PeftType.ADEM.value == "ADEM"
    members = list(PeftType)
    register("adem", AdemConfig, AdemModel)
    assert list(PeftType) == members
    with pytest.raises(RuntimeError, match="has a method 'adem' already"):
        register("adem", PeftConfig, AdemModel)
    # Nobody but peft asks for the method here.
    code = f"import hf_effmodels, peft; print(type(peft.PeftConfig.from_pretrained({str(saved[1])!r})).__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "AdemConfig", result.stderr


@pytest.mark.parametrize("model_type", DECODERS)
def test_fusion_is_added_to_every_feed_forward_network(model_type, ids, image_embeds):
    model = adapted(model_type, alpha=0.5, drop_ratio=0.25)
    layers = [m for m in model.modules() if isinstance(m, AdemLayer)]
    assert len(layers) == 2
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: seen.append((module, args[0], output)))
    logits(model, ids, image_embeds=image_embeds)
    keys, values = (offsets["default"] for offsets in (model.base_model.adem_emb1, model.base_model.adem_emb2))
    for layer, hidden, output in seen:
        scores = F.silu(hidden) @ F.silu(image_embeds + keys).mT
        scores = scores * (scores >= scores.sort(dim=-1).values[..., 5:6])
        expected = layer.base_layer(hidden) + 0.5 * scores @ (image_embeds + values)
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_untrained_adapters_leave_text_as_it_is_and_trained_ones_are_a_memory(ids):
    base = decoder()
    model = get_peft_model(copy.deepcopy(base), AdemConfig(num_vision_tokens=TOKENS))
    assert torch.equal(logits(model, ids), logits(base, ids))
    assert not torch.allclose(logits(trained(model), ids), logits(base, ids))
    zeros = torch.zeros(2, TOKENS, WIDTH)
    torch.testing.assert_close(logits(model, ids, image_embeds=zeros), logits(model, ids))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_adapters_load_to_the_same_outputs(saved, base_folder, ids, image_embeds, low_cpu_mem_usage):
    model, folder = saved
    expected = logits(model, ids, image_embeds=image_embeds)
    weights = load_file(folder / "adapter_model.safetensors")
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "base_model.adem_emb1": (1, TOKENS, WIDTH),
        "base_model.adem_emb2": (1, TOKENS, WIDTH),
    }
    assert PeftConfig.from_pretrained(folder).drop_ratio == 0.25
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    loaded = PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(loaded, ids, image_embeds=image_embeds), expected)
    assert not any(p.requires_grad for p in loaded.parameters())
    for auto in (AutoPeftModel, AutoPeftModelForCausalLM):
        loaded = auto.from_pretrained(folder)
        loaded.load_adapter(folder, "other", low_cpu_mem_usage=low_cpu_mem_usage)
        loaded.set_adapter("other")
        assert torch.equal(logits(loaded, ids, image_embeds=image_embeds), expected)


def test_several_adapters_are_switched_summed_disabled_and_deleted(ids, image_embeds):
    model = adapted()
    first = logits(model, ids, image_embeds=image_embeds)
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS, alpha=0.7, layers_to_transform=[1]))
    trained(model, "second", seed=9)
    offsets = model.base_model.adem_emb1
    assert [p.requires_grad for p in (offsets["default"], offsets["second"])] == [True, False]
    assert torch.equal(logits(model, ids, image_embeds=image_embeds), first)
    model.set_adapter("second")
    assert [p.requires_grad for p in (offsets["default"], offsets["second"])] == [False, True]
    second = logits(model, ids, image_embeds=image_embeds)
    assert not torch.allclose(second, first)
    model.base_model.set_adapter(["default", "second"])
    layer = model.base_model.model.model.layers[1].mlp
    hidden = torch.randn(2, 3, WIDTH)
    with torch.no_grad(), model.vision_context(image_embeds):
        both, plain = layer(hidden), layer.base_layer(hidden)
        alone = []
        for name in ("default", "second"):
            model.base_model.set_adapter(name)
            alone.append(layer(hidden) - plain)
    torch.testing.assert_close(both, plain + sum(alone))
    with model.disable_adapter():
        assert torch.equal(logits(model, ids, image_embeds=image_embeds), logits(decoder(), ids))
    assert torch.equal(logits(model, ids, image_embeds=image_embeds), second)
    model.delete_adapter("second")
    assert model.active_adapters == ["default"]
    assert offsets["default"].requires_grad
    assert "second" not in offsets
    assert torch.equal(logits(model, ids, image_embeds=image_embeds), first)


def test_merging_is_refused_and_unloading_gives_the_base_model_back(ids):
    model = adapted()
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="ADEM cannot be merged"):
            merge()
    base = model.unload()
    assert not any(isinstance(m, AdemLayer) for m in base.modules())
    assert torch.equal(logits(base, ids), logits(decoder(), ids))
    with pytest.raises(TypeError, match="image_embeds"):
        base.model.embed_tokens(ids, image_embeds=None)


@pytest.mark.parametrize("how", ["keyword", "context"])
def test_generation_repeats_images_as_the_ids_and_pads_left(image_embeds, how):
    model = adapted()
    rows = [[5, 6, 7, 8], [9, 10]]
    settings = {"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    settings |= {"eos_token_id": None, "pad_token_id": 0}

    def generate(ids, mask, images):
        if how == "keyword":
            found = model.generate(input_ids=ids, attention_mask=mask, image_embeds=images, **settings)
        else:
            with model.vision_context(images):
                found = model.generate(input_ids=ids, attention_mask=mask, **settings)
        return found[:, ids.shape[1] :]

    batch = generate(torch.tensor([rows[0], [0, 0, *rows[1]]]), torch.tensor([[1] * 4, [0, 0, 1, 1]]), image_embeds)
    alone = [
        generate(torch.tensor([row]), torch.ones(1, len(row)).long(), image_embeds[i : i + 1])
        for i, row in enumerate(rows)
    ]
    assert torch.equal(batch, torch.cat(alone))


@torch.no_grad()
@pytest.mark.parametrize("how", ["keyword", "context"])
def test_threads_see_their_own_images(ids, how):
    model = adapted()
    shown = [torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in (4, 5, 6)]
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def with_images(run, images, **kwargs):
        if how == "keyword":
            return run(image_embeds=images, **kwargs)
        with model.vision_context(images):
            return run(**kwargs)

    def answers(images):
        first = with_images(model, images, input_ids=ids)
        return first.logits, model(input_ids=ids[:, :1], past_key_values=first.past_key_values).logits

    def written(images):
        return with_images(model.generate, images, input_ids=ids, **settings)

    for ask in (answers, written):
        alone = [ask(images) for images in shown]
        together = run_together(model.base_model.model, [partial(ask, images) for images in shown])
        torch.testing.assert_close(together, alone)
    texts = [lambda: logits(model, ids), lambda: logits(model, ids, image_embeds=shown[0])]
    torch.testing.assert_close(run_together(model.base_model.model, texts)[0], logits(model, ids))


def test_gradients_reach_the_adapters_only(ids, image_embeds, capsys):
    model = adapted().train()
    model(ids, image_embeds=image_embeds, labels=ids).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"base_model.adem_emb1.default", "base_model.adem_emb2.default"}
    model.print_trainable_parameters()
    assert f"trainable params: {2 * TOKENS * WIDTH:,d} " in capsys.readouterr().out


def test_checkpointed_layers_are_recomputed_with_the_images_of_their_own_pass(ids, image_embeds):
    def gradients(checkpointing: bool):
        model = adapted().train()
        if checkpointing:
            model.base_model.model.activation_checkpointing_enable()
        images = image_embeds.clone().requires_grad_()
        # Two passes before the backward pass, the second one without an image.
        loss = model(ids, image_embeds=images, labels=ids).loss + model(ids[:1], labels=ids[:1]).loss
        loss.backward()
        return [images.grad, *(p.grad for p in model.parameters() if p.grad is not None)]

    for expected, got in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(got, expected)


def test_reentrant_checkpointing_is_refused(ids):
    model = adapted().train()
    model.base_model.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=True, accepted is False"):
        model(ids)


@pytest.mark.parametrize(("autocast", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_adapters_of_a_half_precision_base_are_float32_unless_told_otherwise(ids, image_embeds, autocast, dtype):
    base = decoder().to(torch.bfloat16)
    model = get_peft_model(base, AdemConfig(num_vision_tokens=TOKENS), autocast_adapter_dtype=autocast)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {dtype}
    out = model(ids, image_embeds=image_embeds, labels=ids)
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert model.base_model.adem_emb2["default"].grad.dtype == dtype


def test_compiled_models_give_the_same_outputs(ids, image_embeds):
    model = adapted()
    compiled = torch.compile(model, backend="eager")
    for kwargs in ({"image_embeds": image_embeds}, {}):
        torch.testing.assert_close(logits(compiled, ids, **kwargs), logits(model, ids, **kwargs))


def test_modules_to_save_are_trained_and_saved_along(tmp_path, base_folder, ids):
    config = AdemConfig(num_vision_tokens=TOKENS, modules_to_save=["lm_head"])
    model = trained(get_peft_model(AutoModelForCausalLM.from_pretrained(base_folder), config))
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.add_(1.0)
    model.save_pretrained(tmp_path / "with_head")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "with_head")
    assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_weights_are_swapped_in_place_without_new_parameters(tmp_path, ids, image_embeds):
    model, other = adapted(), trained(adapted(), seed=5)
    other.save_pretrained(tmp_path / "other")
    before = [id(p) for p in model.parameters()]
    compiled = torch.compile(model, backend="eager")
    logits(compiled, ids, image_embeds=image_embeds)
    set_peft_model_state_dict(model, load_peft_weights(tmp_path / "other", device="cpu"))
    assert [id(p) for p in model.parameters()] == before
    expected = logits(other, ids, image_embeds=image_embeds)
    torch.testing.assert_close(logits(compiled, ids, image_embeds=image_embeds), expected)


def test_an_adapter_is_hot_swapped_with_its_settings_and_a_compiled_model_follows(tmp_path, ids, image_embeds):
    model, other = adapted(), trained(adapted(alpha=0.4, drop_ratio=0.2), seed=5)
    other.save_pretrained(tmp_path / "other")
    before = [id(p) for p in model.parameters()]
    compiled = torch.compile(model, backend="eager")
    logits(compiled, ids, image_embeds=image_embeds)
    hotswap_adapter(compiled, tmp_path / "other")
    assert [id(p) for p in model.parameters()] == before
    assert model.peft_config["default"].alpha == 0.4
    expected = logits(other, ids, image_embeds=image_embeds)
    for m in (model, compiled):
        torch.testing.assert_close(logits(m, ids, image_embeds=image_embeds), expected)


def test_what_does_not_fit_is_not_swapped_in(tmp_path, ids):
    from peft import LoraConfig

    model = adapted()
    expected = logits(model, ids)
    adapted(layers_to_transform=[0]).save_pretrained(tmp_path / "layers")
    get_peft_model(decoder(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    wide = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **{**SIZES, "hidden_size": 64}))
    get_peft_model(wide, AdemConfig(num_vision_tokens=TOKENS)).save_pretrained(tmp_path / "wide")
    for folder, message in (
        ("layers", r"has layers_to_transform \[0\], the adapter in place None"),
        ("lora", "holds a LoraConfig, no ADEM adapter"),
        ("wide", r"'base_model.adem_emb1': \(1, 20, 64\).*expected.*\(1, 20, 32\)"),
    ):
        with pytest.raises(ValueError, match=message):
            hotswap_adapter(model, str(tmp_path / folder))
    with pytest.raises(ValueError, match="adapter_name: got 'other', the adapters are default"):
        hotswap_adapter(model, str(tmp_path / "layers"), "other")
    assert torch.equal(logits(model, ids), expected)
    # An adapter for another width is refused when it is loaded, too, and says both shapes.
    with pytest.raises(RuntimeError, match=r"size mismatch.*\[1, 20, 64\].*\[1, 20, 32\]"):
        PeftModel.from_pretrained(decoder(), tmp_path / "wide")


def test_peft_models_with_and_without_a_task_take_images(ids, image_embeds):
    """With a task the PeftModel calls the tuner, without one it calls the base model past it."""
    model, plain = adapted(task_type="CAUSAL_LM"), adapted()
    assert (type(model), type(plain)) == (PeftModelForCausalLM, PeftModel)
    settings = {"image_embeds": image_embeds, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    expected = logits(model, ids, image_embeds=image_embeds)
    assert torch.equal(logits(plain, ids, image_embeds=image_embeds), expected)
    assert torch.equal(plain.generate(input_ids=ids, **settings), model.generate(input_ids=ids, **settings))


def test_copies_are_independent(ids, image_embeds):
    model = adapted()
    expected = logits(model, ids, image_embeds=image_embeds)
    other = trained(copy.deepcopy(model), seed=8)
    assert torch.equal(logits(model, ids, image_embeds=image_embeds), expected)
    assert not torch.allclose(logits(other, ids, image_embeds=image_embeds), expected)


def test_bad_input_is_answered_by_name(ids, image_embeds):
    model = adapted()
    with pytest.raises(ValueError, match="image_embeds: got 1 rows for a batch of 2"):
        model(ids, image_embeds=image_embeds[:1])
    with pytest.raises(ValueError, match=r"image_embeds: got \(2, 20, 16\), expected \(rows, 20, 32\)"):
        model(ids, image_embeds=image_embeds[..., :16])
    # Nothing of a failed call stays behind.
    torch.testing.assert_close(logits(model, ids), logits(adapted(), ids))
    with pytest.raises(ValueError, match="adapter_names: ADEM runs one set of adapters"):
        model(ids, adapter_names=["default", "default"])
    for settings, message in (
        ({"drop_ratio": 1.0}, "drop_ratio: got 1.0"),
        ({"num_vision_tokens": 0}, "num_vision_tokens: got 0"),
        ({"target_modules": ".*mlp", "layers_to_transform": [0]}, "layers_to_transform: cannot be used"),
    ):
        with pytest.raises(ValueError, match=message):
            AdemConfig(**settings)
    with pytest.raises(ValueError, match="target_modules: a module's input has 48 channels, the fusion 32"):
        get_peft_model(decoder(), AdemConfig(num_vision_tokens=TOKENS, target_modules=["down_proj"]))(ids)
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=61))
    with pytest.raises(ValueError, match="does not know the layout of a 'gpt_neox', known are llama, mistral"):
        get_peft_model(neox, AdemConfig())


def test_parameters_of_the_offsets_are_those_of_the_paper():
    for width, expected in ((4096, 2_621_440), (5120, 3_276_800)):
        config = AutoConfig.for_model("llama", hidden_size=width, num_hidden_layers=2, intermediate_size=64)
        with torch.device("meta"):
            model = get_peft_model(AutoModelForCausalLM.from_config(config), AdemConfig())
        assert model.get_nb_trainable_parameters()[0] == expected
        assert isinstance(model.base_model, AdemModel)
