"""ADEM keeps peft's contract on every decoder of the LLaMA layout."""

import asyncio
import contextvars
import copy
import enum
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from peft import (
    AutoPeftModel,
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftModelForCausalLM,
    PeftType,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    FalconConfig,
    GenerationConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from hf_effmodels.adapters import AdemConfig, AdemModel
from hf_effmodels.adapters.adem import AdemLayer, convert_to_peft, hotswap_adapter
from hf_effmodels.modeling.adem_vl.fusion_adem_vl import Fusion, FusionSlot
from hf_effmodels.modeling.decoders.cache_names import cache_of

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
    for name, owner in (("adem", r"hf_effmodels\.adapters\.adem"), ("lora", r"peft\.tuners\.lora")):
        with pytest.raises(RuntimeError, match=rf"^peft \d.* has a method '{name}' already: {owner}\.[a-z.]+$"):
            register(name, AdemConfig if name == "lora" else PeftConfig, AdemModel)
    assert list(PeftType) == members
    # Nobody but peft asks for the method here.
    code = f"import hf_effmodels, peft; print(type(peft.PeftConfig.from_pretrained({str(saved[1])!r})).__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "AdemConfig", result.stderr


class NoEnumeration(str):
    __members__: dict = {}


class OtherEnumeration(NoEnumeration):
    _member_names_, _member_map_, _value2member_map_ = [], {}, {}


@pytest.mark.parametrize("kind", [NoEnumeration, OtherEnumeration])
def test_a_peft_that_keeps_its_methods_in_another_way_is_said(monkeypatch, kind):
    from hf_effmodels.adapters import registration

    monkeypatch.setattr(registration, "PeftType", kind)
    with pytest.raises(
        RuntimeError, match="^peft .*: the method OTHER could not be added to peft.PeftType, which works"
    ):
        registration.register("other", AdemConfig, AdemModel)


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


@pytest.mark.parametrize("settings", [{}, {"layers_to_transform": [1]}])
def test_a_deleted_adapter_leaves_nothing_in_the_model_and_its_name_is_free(settings, ids):
    model = adapted()
    before = [*model.state_dict()]
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS, **settings))
    model.delete_adapter("second")
    assert [*model.state_dict()] == before and [*model.peft_config] == ["default"]
    assert not [name for name, _ in model.named_parameters() if "second" in name]
    assert {name for layer in model.get_layer_status() for name in layer.available_adapters} == {"default"}
    layers = [module for module in model.modules() if isinstance(module, AdemLayer)]
    assert all({*layer.alpha} == {*layer.drop_ratio} == {"default"} for layer in layers) and len(layers) == 2
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS + 1, layers_to_transform=[0]))
    offsets = (model.base_model.adem_emb1["second"], model.base_model.adem_emb2["second"])
    assert [tuple(each.shape) for each in offsets] == [(1, TOKENS + 1, WIDTH)] * 2


def test_merging_is_refused_and_unloading_gives_the_base_model_back(ids):
    model = adapted()
    layer = model.base_model.model.model.layers[0].mlp
    for merge in (model.merge_adapter, model.merge_and_unload, model.unmerge_adapter, layer.merge, layer.unmerge):
        with pytest.raises(ValueError, match="ADEM cannot be merged"):
            merge()
    base = model.unload()
    assert not any(isinstance(m, AdemLayer) for m in base.modules())
    assert torch.equal(logits(base, ids), logits(decoder(), ids))
    assert not base._forward_hooks and not base._forward_pre_hooks and "generate" not in vars(base)


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
        {"generation_config": GenerationConfig(num_beams=3, max_new_tokens=4, eos_token_id=None, pad_token_id=0)},
        {"num_beams": 2},
    ],
    ids=["sampled", "configured", "beams"],
)
def test_each_row_is_repeated_as_often_as_generation_asks(ids, image_embeds, settings):
    model = adapted(alpha=0.5)
    if "generation_config" not in settings:
        settings = {"max_new_tokens": 4, "eos_token_id": None, "pad_token_id": 0, **settings}
    both = model.generate(input_ids=ids, image_embeds=image_embeds, **settings)
    alone = [model.generate(input_ids=ids[i, None], image_embeds=image_embeds[i, None], **settings) for i in (0, 1)]
    assert torch.equal(both, torch.cat(alone))
    model.base_model.model.generation_config.num_beams = 2
    default = model.generate(input_ids=ids, image_embeds=image_embeds, max_new_tokens=4, pad_token_id=0)
    assert default.shape[0] == 2


@torch.no_grad()
@pytest.mark.parametrize(
    ("own", "configured", "keywords", "counts"),
    [
        ({"num_beams": 2}, None, {}, {"num_beams": 2}),
        ({"num_beams": 2}, {"num_beams": 3}, {}, {"num_beams": 3}),
        ({}, {"num_beams": 1}, {"num_beams": 4}, {"num_beams": 4}),
        ({"num_beams": 3}, None, {"num_beams": 2}, {"num_beams": 2}),
        (
            {},
            {"num_return_sequences": 1, "do_sample": True, "top_k": 1},
            {"num_return_sequences": 3},
            {"num_return_sequences": 3, "do_sample": True, "top_k": 1},
        ),
    ],
    ids=["model", "configuration", "keyword", "keyword-over-model", "sequences"],
)
def test_how_often_rows_are_repeated_says_the_keyword_before_the_configuration_before_the_model(
    own, configured, keywords, counts, ids, image_embeds
):
    model = adapted(alpha=0.5)
    settings = {"max_new_tokens": 3, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(input_ids=ids, image_embeds=image_embeds, **settings, **counts)
    assert len(expected) == 2 * counts.get("num_return_sequences", 1)
    for name, value in own.items():
        setattr(model.base_model.model.generation_config, name, value)
    if configured is not None:
        keywords = {"generation_config": GenerationConfig(**settings, **configured), **keywords}
    else:
        keywords = {**settings, **keywords}
    assert torch.equal(model.generate(input_ids=ids, image_embeds=image_embeds, **keywords), expected)


def test_a_fusion_suits_the_rows_it_is_asked_for(image_embeds):
    keys = torch.randn(2, TOKENS, WIDTH)
    fusion = Fusion({"one": (keys, -keys)}, image_embeds, expansion=3)
    for rows, expected in ((2, keys), (6, keys.repeat_interleave(3, dim=0)), (2, keys)):
        found = fusion.of("one", torch.zeros(rows, 1, WIDTH))
        assert torch.equal(found[0], expected) and torch.equal(found[1], -expected)
    with pytest.raises(ValueError, match="got 2 rows for a batch of 4"):
        fusion.of("one", torch.zeros(4, 1, WIDTH))


def test_a_pass_within_a_pass_has_its_own_fusion():
    (outer, inner), (first, second) = (FusionSlot(), FusionSlot()), (Fusion({}), Fusion({}))
    module = nn.Identity()
    with outer.filled(first, module):
        with inner.filled(second, module):
            assert outer.fusion is first and inner.fusion is second
            with suppress(KeyError), outer.filled(second, module):
                assert outer.fusion is second
                raise KeyError
            assert outer.fusion is first
        assert outer.fusion is first and inner.fusion is None
    assert outer.fusion is None


@torch.no_grad()
def test_adapters_of_different_numbers_of_tokens_take_their_own_images(ids, image_embeds):
    model = adapted(alpha=0.5)
    expected = logits(model, ids, image_embeds=image_embeds)
    model.add_adapter("few", AdemConfig(num_vision_tokens=3, alpha=0.5))
    trained(model, "few")
    torch.testing.assert_close(logits(model, ids, image_embeds=image_embeds), expected)
    with pytest.raises(ValueError, match="image_embeds: their shape does not fit the active adapter 'default'"):
        model(ids, image_embeds=image_embeds[:, :3])
    with pytest.raises(
        ValueError, match=r"image_embeds: got \(2, 4, 32\), expected \(rows, 3, 32\) or \(rows, 20, 32\)"
    ):
        model(ids, image_embeds=image_embeds[:, :4])
    model.set_adapter("few")
    other = trained(get_peft_model(decoder(), AdemConfig(num_vision_tokens=3, alpha=0.5))).eval()
    found = logits(model, ids, image_embeds=image_embeds[:, :3])
    torch.testing.assert_close(found, logits(other, ids, image_embeds=image_embeds[:, :3]))


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


def test_reentrant_checkpointing_is_refused_where_something_is_recomputed(ids):
    """A pass without gradients recomputes nothing."""
    model = adapted().train()
    model.base_model.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    assert torch.equal(logits(model, ids), logits(adapted().train(), ids))
    with pytest.raises(ValueError, match="use_reentrant=True, accepted is False"):
        model(ids)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_adapters_of_a_half_precision_base_are_float32_unless_told_otherwise(ids, image_embeds, autocast, half):
    base, dtype = decoder().to(half), torch.float32 if autocast else half
    model = get_peft_model(base, AdemConfig(num_vision_tokens=TOKENS), autocast_adapter_dtype=autocast)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {dtype}
    out = model(ids, image_embeds=image_embeds, labels=ids)
    assert out.logits.dtype == half
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


def test_an_adapter_in_half_precision_stays_in_it_when_another_is_swapped_in(tmp_path):
    """In the same memory, which a graph that was captured goes on to read."""
    other = trained(adapted(), seed=5)
    other.save_pretrained(tmp_path / "other")
    model = adapted().to(torch.bfloat16)
    held = {name: tensor for name, tensor in model.named_parameters() if "adem_emb" in name}
    before = {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in held.items()}
    hotswap_adapter(model, str(tmp_path / "other"))
    assert held and {name: (tensor.dtype, tensor.data_ptr()) for name, tensor in held.items()} == before
    assert {dtype for dtype, _ in before.values()} == {torch.bfloat16}
    expected = {name: tensor for name, tensor in other.named_parameters() if "adem_emb" in name}
    for name, tensor in held.items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16))


@pytest.mark.parametrize("settings", [{"alpha": 0.4}, {"drop_ratio": 0.2}, {"alpha": 0.4, "drop_ratio": 0.2}])
def test_a_swapped_adapter_is_saved_with_its_own_settings(settings, tmp_path):
    model = adapted(alpha=0.3, drop_ratio=0.5)
    trained(adapted(**{"alpha": 0.3, "drop_ratio": 0.5, **settings}), seed=5).save_pretrained(tmp_path / "other")
    hotswap_adapter(model, str(tmp_path / "other"))
    model.save_pretrained(tmp_path / "saved")
    saved = AdemConfig.from_pretrained(tmp_path / "saved")
    expected = {"alpha": 0.3, "drop_ratio": 0.5, **settings}
    assert {name: getattr(saved, name) for name in expected} == expected
    assert (saved.num_vision_tokens, saved.inference_mode) == (TOKENS, True)
    theirs, ours = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("other", "saved"))
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in theirs)


def test_what_does_not_fit_is_not_swapped_in(tmp_path, ids):
    model = adapted()
    expected = logits(model, ids)
    adapted(layers_to_transform=[0]).save_pretrained(tmp_path / "layers")
    get_peft_model(decoder(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "lora")
    wide = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **{**SIZES, "hidden_size": 64}))
    get_peft_model(wide, AdemConfig(num_vision_tokens=TOKENS)).save_pretrained(tmp_path / "wide")
    with_head = AdemConfig(num_vision_tokens=TOKENS, modules_to_save=["lm_head"])
    get_peft_model(decoder(), with_head).save_pretrained(tmp_path / "head")
    for folder, message in (
        ("head", r"holds .*'base_model.model.lm_head.weight': .*, expected \{'base_model.adem_emb1': .*\}"),
        ("layers", r"has layers_to_transform \[0\], the adapter in place None"),
        ("lora", "holds a LoraConfig, no ADEM adapter"),
        ("wide", r"'base_model.adem_emb1': \(1, 20, 64\).*expected.*\(1, 20, 32\)"),
    ):
        with pytest.raises(ValueError, match=message):
            hotswap_adapter(model, str(tmp_path / folder))
    with pytest.raises(ValueError, match="adapter_name: got 'other', the adapters are default"):
        hotswap_adapter(model, str(tmp_path / "layers"), "other")
    with pytest.raises(ValueError, match="model: got a LoraModel, accepted are PeftModels with ADEM adapters"):
        hotswap_adapter(get_peft_model(decoder(), LoraConfig(target_modules=["q_proj"])), str(tmp_path / "layers"))
    assert torch.equal(logits(model, ids), expected)
    # An adapter for another width is refused when it is loaded, too, and says both shapes.
    with pytest.raises(RuntimeError, match=r"size mismatch.*\[1, 20, 64\].*\[1, 20, 32\]"):
        PeftModel.from_pretrained(decoder(), tmp_path / "wide")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("num_vision_tokens", TOKENS + 1),
        ("target_modules", ["self_attn"]),
        ("exclude_modules", ["layers.1.mlp"]),
        ("layers_to_transform", [1]),
    ],
)
def test_an_adapter_of_other_places_is_not_swapped_in(name, theirs, tmp_path, ids):
    """Whatever it is of, even where the offsets have one shape."""
    model = adapted()
    expected, alpha = logits(model, ids), model.peft_config["default"].alpha
    other = AdemConfig(**{"num_vision_tokens": TOKENS, "alpha": 0.9, name: theirs}, task_type="CAUSAL_LM")
    trained(get_peft_model(decoder(), other)).save_pretrained(tmp_path / "other")
    with pytest.raises(
        ValueError, match=f"^model_name_or_path: .*/other has {name} .*Load it under a name of its own"
    ):
        hotswap_adapter(model, str(tmp_path / "other"))
    assert torch.equal(logits(model, ids), expected) and model.peft_config["default"].alpha == alpha


@pytest.mark.parametrize(("ours", "theirs"), [(None, "layers"), ("layers", None), (["layers"], "layers")])
def test_an_adapter_of_layers_of_another_name_is_not_swapped_in(ours, theirs, tmp_path):
    """Layer 0 of every list there is may be another than that of one of them."""
    adapted(layers_to_transform=[0], layers_pattern=theirs, alpha=0.9).save_pretrained(tmp_path / "other")
    model = adapted(layers_to_transform=[0], layers_pattern=ours)
    with pytest.raises(ValueError, match="/other has layers_pattern .*Load it under a name of its own"):
        hotswap_adapter(model, str(tmp_path / "other"))
    assert model.peft_config["default"].alpha == AdemConfig().alpha


class Seeing(nn.Module):
    """A model whose decoder is a part of it, with a configuration of its own."""

    def __init__(self):
        super().__init__()
        inner = AutoConfig.for_model("llama", **SIZES)
        self.config = SimpleNamespace(hidden_size=8 * WIDTH, get_text_config=lambda: inner, model_type="seeing")
        # A gate comes first, whose input is of another width.
        self.mlp = nn.ModuleDict({"gate": nn.Linear(3, 1), "up": nn.Linear(WIDTH, WIDTH)})


def test_offsets_are_as_wide_as_the_decoder_of_a_model_that_has_more():
    model = get_peft_model(Seeing(), AdemConfig(num_vision_tokens=5, target_modules=["mlp"]))
    for offsets in (model.base_model.adem_emb1, model.base_model.adem_emb2):
        assert tuple(offsets["default"].shape) == (1, 5, WIDTH)


def test_the_adapter_that_is_named_is_swapped_and_no_other(tmp_path, ids, image_embeds):
    model = adapted(alpha=0.3)
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS, alpha=0.2, drop_ratio=0.5))
    trained(model, "second", seed=9)
    other = trained(adapted(alpha=0.7, drop_ratio=0.25), seed=5)
    other.save_pretrained(tmp_path / "other")
    of_first = logits(model, ids, image_embeds=image_embeds)
    hotswap_adapter(model, str(tmp_path / "other"), "second")
    torch.testing.assert_close(logits(model, ids, image_embeds=image_embeds), of_first)
    model.set_adapter("second")
    torch.testing.assert_close(
        logits(model, ids, image_embeds=image_embeds), logits(other, ids, image_embeds=image_embeds)
    )
    found = {name: (config.alpha, config.drop_ratio) for name, config in model.peft_config.items()}
    assert found == {"default": (0.3, AdemConfig().drop_ratio), "second": (0.7, 0.25)}


@pytest.mark.parametrize(("place", "other_place"), [([0], [1]), ([1], [0]), ([1], [0, 1])])
def test_a_swapped_adapter_stays_in_its_own_layers(place, other_place, tmp_path, ids, image_embeds):
    def of(place, seed, **settings):
        return trained(adapted(layers_to_transform=place, **settings), seed=seed)

    other = of(place, 5, alpha=0.6)
    other.save_pretrained(tmp_path)
    model = of(other_place, 7)
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS, layers_to_transform=place))
    hotswap_adapter(model, str(tmp_path), "second")
    layers = {int(each.name.split(".")[-2]): {*each.available_adapters} for each in model.get_layer_status()}
    assert [number for number, names in layers.items() if "second" in names] == place
    model.set_adapter("second")
    torch.testing.assert_close(
        logits(model, ids, image_embeds=image_embeds), logits(other, ids, image_embeds=image_embeds)
    )


def test_peft_models_with_and_without_a_task_take_images(ids, image_embeds):
    """With a task the PeftModel calls the tuner, without one it calls the base model past it."""
    model, plain = adapted(task_type="CAUSAL_LM"), adapted()
    assert (type(model), type(plain)) == (PeftModelForCausalLM, PeftModel)
    settings = {"image_embeds": image_embeds, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    expected = logits(model, ids, image_embeds=image_embeds)
    assert torch.equal(logits(plain, ids, image_embeds=image_embeds), expected)
    assert torch.equal(plain.generate(input_ids=ids, **settings), model.generate(input_ids=ids, **settings))


def test_a_refused_merge_leaves_modules_that_are_saved_along_in_place(ids):
    model = trained(get_peft_model(decoder(), AdemConfig(num_vision_tokens=TOKENS, modules_to_save=["embed_tokens"])))
    with torch.no_grad():
        model.base_model.model.model.embed_tokens.modules_to_save["default"].weight.add_(1.0)
    before = logits(model, ids)
    with pytest.raises(ValueError, match="ADEM cannot be merged"):
        model.merge_and_unload()
    assert torch.equal(logits(model, ids), before) and model.active_adapters == ["default"]


def test_what_is_called_past_the_peft_model_sees_one_image_a_row(ids, image_embeds):
    model = adapted(alpha=0.5)
    part = model.base_model.model.model
    with torch.no_grad(), model.vision_context(image_embeds):
        expected = model(ids, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(part(ids).last_hidden_state, expected)
        with pytest.raises(ValueError, match="image_embeds: got 2 rows for a batch of 4"):
            part(ids.repeat(2, 1))


def test_a_layer_shows_the_offsets_of_the_adapters_it_has():
    model = adapted()
    model.add_adapter("second", AdemConfig(num_vision_tokens=5, layers_to_transform=[1]))
    first, last = (layer.mlp.adem_emb1 for layer in model.base_model.model.model.layers)
    of_tuner = model.base_model.adem_emb1
    assert (list(first), len(first), "second" in first) == (["default"], 1, False)
    assert list(last) == list(last.keys()) == ["default", "second"] and len(last) == 2
    assert last["second"] is of_tuner["second"] is dict(last.items())["second"] is list(last.values())[1]
    assert not list(first.parameters())


def test_official_offsets_become_an_adapter_with_the_settings_that_are_given(tmp_path, ids, image_embeds, base_folder):
    from safetensors.torch import save_file

    offsets = [torch.randn(1, TOKENS, WIDTH), torch.randn(1, TOKENS, WIDTH)]
    save_file({"adapter_emb1": offsets[0], "adapter_emb2": offsets[1]}, tmp_path / "official.safetensors")
    config = convert_to_peft(
        tmp_path / "official.safetensors", tmp_path / "adapter", text_model=base_folder, alpha=0.6, drop_ratio=0.25
    )
    assert (config.num_vision_tokens, config.alpha, config.drop_ratio) == (TOKENS, 0.6, 0.25)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded.base_model.adem_emb1["default"], offsets[0])
    assert torch.equal(loaded.base_model.adem_emb2["default"], offsets[1])
    assert not any(p.requires_grad for p in loaded.parameters())
    for tensors, message in (
        ({"adapter_emb2": offsets[1]}, "official.safetensors has no 'adapter_emb1'; found \\['adapter_emb2'\\]"),
        (
            {"adapter_emb1": offsets[0], "adapter_emb2": offsets[1] > 0},
            "^checkpoint: adapter_emb2 is of type bool; accepted are dense tensors of ",
        ),
        (
            {"adapter_emb1": offsets[0], "adapter_emb2": offsets[1].half()},
            "^checkpoint: its weights are of several types: float32 .1, such as adapter_emb1., float16 .1, such as",
        ),
        (
            {"adapter_emb1": offsets[0], "adapter_emb2": offsets[1][0]},
            "has offsets \\(1, 20, 32\\), \\(20, 32\\), expected",
        ),
        (
            {"adapter_emb1": offsets[0][0], "adapter_emb2": offsets[1][0]},
            "expected are two of \\(layers, tokens, width",
        ),
        (
            {"adapter_emb1": offsets[0], "adapter_emb2": offsets[1][:, 1:]},
            "has offsets \\(1, 20, 32\\), \\(1, 19, 32\\)",
        ),
    ):
        save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "official.safetensors")
        with pytest.raises(ValueError, match=message):
            convert_to_peft(tmp_path / "official.safetensors", tmp_path / "wrong")
        assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("given", "alpha", "drop_ratio"),
    [
        ({}, 0.2, 0.15),
        ({"alpha": 0.6}, 0.6, 0.15),
        ({"drop_ratio": 0.25}, 0.2, 0.25),
        ({"alpha": 0.6, "drop_ratio": 0.25}, 0.6, 0.25),
    ],
)
def test_what_a_checkpoint_says_of_its_training_is_taken_and_what_is_given_wins(given, alpha, drop_ratio, tmp_path):
    weights = {"adapter_emb1": torch.randn(1, TOKENS, WIDTH), "adapter_emb2": torch.randn(1, TOKENS, WIDTH)}
    said = {"alpha": 0.2, "drop_ratio": 0.15, "beta": 0.5, "epochs": 9}
    torch.save({"model": weights, "args": said}, tmp_path / "official.pth")
    config = convert_to_peft(tmp_path / "official.pth", tmp_path / "adapter", **given)
    for found in (config, AdemConfig.from_pretrained(tmp_path / "adapter")):
        assert (found.alpha, found.drop_ratio, found.num_vision_tokens) == (alpha, drop_ratio, TOKENS)
        assert (found.inference_mode, found.task_type, {*found.target_modules}) == (True, "CAUSAL_LM", {"mlp"})


def test_other_fields_that_are_given_for_an_official_adapter_win_too(tmp_path):
    weights = {"adapter_emb1": torch.randn(1, TOKENS, WIDTH), "adapter_emb2": torch.randn(1, TOKENS, WIDTH)}
    torch.save({"model": weights}, tmp_path / "official.pth")
    config = convert_to_peft(
        tmp_path / "official.pth", tmp_path / "adapter", inference_mode=False, target_modules=["feed_forward"]
    )
    assert {*config.target_modules} == {"feed_forward"} and (config.alpha, config.drop_ratio) == (
        AdemConfig().alpha, AdemConfig().drop_ratio
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_type", None),
        ("task_type", "FEATURE_EXTRACTION"),
        ("base_model_name_or_path", "you/llama"),
        ("inference_mode", False),
        ("init_std", 0.5),
        ("num_vision_tokens", TOKENS),
        ("layers_to_transform", [1]),
        ("exclude_modules", {"x"}),
    ],
)
def test_any_field_may_be_given_for_an_official_adapter(name, value, tmp_path):
    weights = {"adapter_emb1": torch.randn(1, TOKENS, WIDTH), "adapter_emb2": torch.randn(1, TOKENS, WIDTH)}
    torch.save({"model": weights}, tmp_path / "official.pth")
    given = {name: list(value) if isinstance(value, set) else value}
    found = convert_to_peft(tmp_path / "official.pth", tmp_path / "adapter", text_model="me/llama", **given)
    plain = {"task_type": "CAUSAL_LM", "base_model_name_or_path": "me/llama", "inference_mode": True}
    for field, expected in (plain | {"num_vision_tokens": TOKENS, "target_modules": {"mlp"}, name: value}).items():
        assert getattr(found, field) == expected, field


def test_an_official_adapter_has_as_many_tokens_as_its_offsets(tmp_path):
    weights = {"adapter_emb1": torch.randn(1, TOKENS, WIDTH), "adapter_emb2": torch.randn(1, TOKENS, WIDTH)}
    torch.save({"model": weights}, tmp_path / "official.pth")
    with pytest.raises(
        ValueError, match=f"^num_vision_tokens: got {TOKENS + 1}, but .* has offsets of {TOKENS} tokens"
    ):
        convert_to_peft(tmp_path / "official.pth", tmp_path / "adapter", num_vision_tokens=TOKENS + 1)
    assert not (tmp_path / "adapter").exists()


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
    for names in (["default", "default"], []):
        with pytest.raises(ValueError, match="adapter_names: ADEM runs one set of adapters"):
            model(ids, adapter_names=names)
    for settings, message in (
        ({"drop_ratio": 1.0}, "drop_ratio: got 1.0"),
        ({"drop_ratio": -0.1}, "drop_ratio: got -0.1"),
        ({"num_vision_tokens": 0}, "num_vision_tokens: got 0"),
        ({"num_vision_tokens": 2.0}, "num_vision_tokens: got 2.0, accepted are positive integers"),
        ({"target_modules": ".*mlp", "layers_to_transform": [0]}, "layers_to_transform: cannot be used"),
        ({"target_modules": ".*mlp", "layers_to_transform": 0}, "layers_to_transform: cannot be used"),
        ({"layers_pattern": "layers"}, "layers_to_transform: got None with layers_pattern 'layers'"),
        ({"layers_pattern": ["h"], "layers_to_transform": []}, r"layers_to_transform: got \[\] with layers_pattern"),
        ({"target_modules": "All-Linear"}, "target_modules: got 'All-Linear', accepted are whole feed-forward"),
        ({"init_std": -0.1}, "init_std: got -0.1"),
        ({"task_type": "CAUSAL"}, "Invalid task type: 'CAUSAL'"),
    ):
        with pytest.raises(ValueError, match=message):
            AdemConfig(**settings)
    AdemConfig(drop_ratio=0.0, num_vision_tokens=1, init_std=0.0, layers_to_transform=0, layers_pattern="layers")
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


def test_images_of_a_context_stay_with_their_task_and_their_block(ids, image_embeds):
    model = adapted(alpha=0.5)
    shown = [image_embeds, image_embeds + 1, None]
    expected = [logits(model, ids, image_embeds=images) for images in shown]

    async def ask(images):
        with model.vision_context(images):
            await asyncio.sleep(0)  # the others enter theirs
            return logits(model, ids)

    async def ask_all():
        return await asyncio.gather(*map(ask, shown))

    torch.testing.assert_close(asyncio.run(ask_all()), expected)
    # Nested, left by an exception, carried into a thread.
    with model.vision_context(shown[0]):
        with suppress(ValueError), model.vision_context(shown[1]):
            torch.testing.assert_close(logits(model, ids), expected[1])
            model(ids, image_embeds=image_embeds[:1])
        torch.testing.assert_close(logits(model, ids), expected[0])
        with model.vision_context(None):
            torch.testing.assert_close(logits(model, ids), expected[2])
        torch.testing.assert_close(logits(model, ids, image_embeds=shown[1]), expected[1])
        other = adapted(alpha=0.5)
        torch.testing.assert_close(logits(other, ids), expected[2])  # another model's block
        context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as pool:
        torch.testing.assert_close(pool.submit(context.run, logits, model, ids).result(), expected[0])
    torch.testing.assert_close(logits(model, ids), expected[2])


def test_generators_that_pause_in_their_contexts_do_not_mix_images_silently(ids, image_embeds):
    model = adapted()

    def stream(images):
        with model.vision_context(images):
            for _ in range(2):
                yield logits(model, ids)

    with pytest.raises(RuntimeError, match="vision_context: a block was left while a later one was still open"):
        for _ in zip(stream(image_embeds), stream(image_embeds + 1), strict=True):
            pass
    torch.testing.assert_close(logits(model, ids), logits(adapted(), ids))


def test_a_block_may_end_before_a_later_one_of_another_model(ids, image_embeds):
    one, other = adapted(alpha=0.5), adapted(alpha=0.5)
    expected = logits(other, ids, image_embeds=image_embeds)
    first, second = one.vision_context(image_embeds), other.vision_context(image_embeds)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    torch.testing.assert_close(logits(other, ids), expected)
    second.__exit__(None, None, None)
    torch.testing.assert_close(logits(other, ids), logits(one, ids))


@torch.no_grad()
def test_a_cache_remembers_what_its_tokens_have_seen(ids, image_embeds):
    model = adapted(alpha=0.5)
    expected = logits(model, ids, image_embeds=image_embeds)
    assert not torch.allclose(expected, logits(model, ids))
    first = model(ids[:, :4], image_embeds=image_embeds)
    steps = [model(piece, past_key_values=first.past_key_values).logits for piece in ids[:, 4:].split(1, dim=1)]
    torch.testing.assert_close(torch.cat([first.logits, *steps], dim=1), expected)
    settings = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    turn = model.generate(input_ids=ids, image_embeds=image_embeds, return_dict_in_generate=True, **settings)
    turns = torch.cat([turn.sequences, ids[:, :3]], dim=1)
    again = model.generate(input_ids=turns, past_key_values=turn.past_key_values, **settings)
    assert torch.equal(again, model.generate(input_ids=turns, image_embeds=image_embeds, **settings))
    first.past_key_values.reorder_cache(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"past_key_values: its tokens have seen images.*image_embeds of an adapter"):
        model(ids[:, :1], past_key_values=first.past_key_values)
    # Nothing was shown: nothing is remembered, and the rows may go where they like.
    plain = model(ids[:, :4]).past_key_values
    plain.reorder_cache(torch.tensor([1, 0]))
    turned = model(ids[:, 4:].flip(0), past_key_values=plain).logits
    torch.testing.assert_close(turned.flip(0), logits(model, ids)[:, 4:])


@torch.no_grad()
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_tells_what_its_tokens_have_seen_by_either_of_its_names(name, ids, image_embeds):
    """Models of this package take both, whichever transformers has."""
    model = adapted("pangu_pi", alpha=0.5)
    expected = logits(model, ids, image_embeds=image_embeds)
    kept = cache_of(model(ids[:, :4], image_embeds=image_embeds))
    torch.testing.assert_close(logits(model, ids[:, 4:], **{name: kept}), expected[:, 4:])


@torch.no_grad()
def test_assistants_and_lookup_change_nothing(image_embeds):
    model = adapted(alpha=0.5)
    prompt = torch.tensor([[5, 6, 7, 5, 6]])
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = prompt
    for _ in range(6):
        scores = logits(model, written, image_embeds=image_embeds[:1], use_cache=False)
        written = torch.cat([written, scores[:, -1:].argmax(-1)], dim=1)
    for help_ in ({"assistant_model": model}, {"assistant_model": decoder(seed=4)}, {"prompt_lookup_num_tokens": 2}):
        found = model.generate(input_ids=prompt, image_embeds=image_embeds[:1], **help_, **settings)
        assert torch.equal(found, written)


def by_hand(base, targets, tuner, image_embeds, settings, adapter="default"):
    """Logits of the base model with the paper's formula hooked into the modules named, in every layer."""
    keys, values = (offsets[adapter] for offsets in (tuner.adem_emb1, tuner.adem_emb2))
    scores_of = F.silu(image_embeds + keys), image_embeds + values

    def hook(module, args, output):
        scores = F.silu(args[0]) @ scores_of[0].mT
        kept = scores.argsort(-1).argsort(-1) >= int(settings["drop_ratio"] * TOKENS)
        return output + settings["alpha"] * (scores * kept) @ scores_of[1]

    layers = [module for name, module in base.named_modules() if name.endswith(targets)]
    assert len(layers) == 2
    for layer in layers:
        layer.register_forward_hook(hook)
    return base


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "gpt_neox", "falcon"])
def test_outputs_of_decoders_that_are_not_ours_follow_the_paper(model_type, ids, image_embeds):
    """Away from every default; GPT-NeoX and Falcon (parallel blocks) by naming their feed-forward networks."""
    settings = {"alpha": 0.7, "drop_ratio": 0.35}
    if model_type in DECODERS:
        base, targets = decoder(model_type), None
    else:
        torch.manual_seed(0)
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
        config = GPTNeoXConfig(**sizes) if model_type == "gpt_neox" else FalconConfig(**sizes, alibi=False)
        base, targets = AutoModelForCausalLM.from_config(config).eval(), ["mlp"]
    plain = copy.deepcopy(base)
    config = AdemConfig(num_vision_tokens=TOKENS, target_modules=targets, **settings)
    model = trained(get_peft_model(base, config)).eval()
    expected = by_hand(plain, "mlp", model.base_model, image_embeds, settings)(ids).logits
    torch.testing.assert_close(logits(model, ids, image_embeds=image_embeds), expected, rtol=1e-4, atol=1e-4)
    greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(input_ids=ids, image_embeds=image_embeds, **greedy)
    assert torch.equal(found, plain.generate(ids, **greedy))


@torch.no_grad()
@pytest.mark.parametrize("order", [["default", "second"], ["second", "default"], ["second"]])
def test_of_adapters_that_act_together_each_has_its_own_settings(order, ids, image_embeds):
    settings = {"default": {"alpha": 0.3, "drop_ratio": 0.0}, "second": {"alpha": 0.7, "drop_ratio": 0.5}}
    plain, model = decoder(), adapted(**settings["default"])
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS, **settings["second"]))
    trained(model, "second", seed=9).base_model.set_adapter(order)
    for adapter in order:
        by_hand(plain, "mlp", model.base_model, image_embeds, settings[adapter], adapter)
    found = logits(model.eval(), ids, image_embeds=image_embeds)
    torch.testing.assert_close(found, plain(ids).logits, rtol=1e-4, atol=1e-4)


def test_key_offsets_start_as_told_and_value_offsets_at_zero():
    offsets = get_peft_model(decoder(), AdemConfig(num_vision_tokens=300, init_std=0.5)).base_model
    assert offsets.adem_emb1["default"].std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(offsets.adem_emb1["default"].mean().item()) < 0.05
    assert not offsets.adem_emb2["default"].any()


def test_exclusions_and_layers_are_left_as_they_are(ids, image_embeds):
    for settings, layers in (
        ({"exclude_modules": ["layers.0.mlp"]}, [1]),
        ({"exclude_modules": r".*layers\.1\.mlp"}, [0]),
        ({"layers_to_transform": 1}, [1]),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, [0]),
        ({"target_modules": r".*\.1\.mlp"}, [1]),
    ):
        model = adapted(**settings)
        found = [name.split(".")[-2] for name, m in model.named_modules() if isinstance(m, AdemLayer)]
        assert found == [str(layer) for layer in layers]
    with pytest.raises(ValueError, match="Target modules .* not found"):
        adapted(layers_to_transform=[0], layers_pattern="blocks")


class Lines(nn.Module):
    """A network of nobody's, without a configuration."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))

    def forward(self, x):
        return x + self.mlp(x)


def test_a_model_without_a_configuration_is_adapted_by_naming_its_networks():
    torch.manual_seed(0)
    config = AdemConfig(num_vision_tokens=5, target_modules=["mlp"], alpha=1.0, drop_ratio=0.0)
    model = get_peft_model(Lines(), config)
    tuner, x, images = model.base_model, torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    trained(model)
    fused = F.silu(x) @ F.silu(images + tuner.adem_emb1["default"]).mT @ (images + tuner.adem_emb2["default"])
    torch.testing.assert_close(model(x, image_embeds=images), model.unload()(x) + fused)
    with pytest.raises(ValueError, match="does not know the layout of a 'custom', known are llama"):
        get_peft_model(Lines(), AdemConfig())
    with pytest.raises(ValueError, match="target_modules: the model has no config.hidden_size, and a targeted"):
        get_peft_model(nn.Sequential(nn.ReLU()), AdemConfig(target_modules=["0"]))


#: Calls of peft after a first adapter "default"; each gets the model, a way to make a configuration, a saved adapter.
CALLS = {
    "add": lambda m, config, folder: m.add_adapter("other", config()),
    "add for inference": lambda m, config, folder: m.add_adapter("other", config(inference_mode=True)),
    "load": lambda m, config, folder: m.load_adapter(folder, "other"),
    "load to train": lambda m, config, folder: m.load_adapter(folder, "other", is_trainable=True),
    "set": lambda m, config, folder: m.set_adapter("other"),
    "set for inference": lambda m, config, folder: m.set_adapter("other", inference_mode=True),
    "set back": lambda m, config, folder: m.set_adapter("default"),
    "set both": lambda m, config, folder: m.base_model.set_adapter(["default", "other"]),
    "inject again": lambda m, config, folder: m.base_model.inject_adapter(m.base_model.model, "default"),
    "freeze": lambda m, config, folder: m.set_requires_grad("default", False),
    "unfreeze": lambda m, config, folder: m.set_requires_grad("other"),
    "delete": lambda m, config, folder: m.delete_adapter("other"),
    "delete first": lambda m, config, folder: m.delete_adapter("default"),
    "third": lambda m, config, folder: m.add_adapter("third", config()),
    "disable": lambda m, config, folder: m.base_model.disable_adapter_layers(),
    "enable": lambda m, config, folder: m.base_model.enable_adapter_layers(),
}
SEQUENCES = [
    ["add"],
    ["add for inference"],
    ["load"],
    ["load to train"],
    ["freeze", "add"],
    ["inject again"],
    ["freeze", "inject again"],
    ["freeze", "add", "set", "inject again"],
    ["freeze", "load to train", "third"],
    ["add", "set", "third"],
    ["add", "set for inference", "third"],
    ["add", "set both", "third"],
    ["add", "delete"],
    ["freeze", "add", "delete"],
    ["add", "unfreeze", "set back"],
    ["add", "set", "delete"],
    ["add", "delete first"],
    ["add", "third", "freeze", "delete"],
    ["add", "disable"],
    ["add", "disable", "enable"],
    ["load", "set", "set back"],
]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=" - ".join)
def test_what_is_trained_is_what_loras_calls_leave_trained(tmp_path, sequence):
    saved_head = None if "set both" in sequence else ["lm_head"]  # peft saves modules of one adapter at a time

    def config(method, **more):
        more |= {"modules_to_save": saved_head and list(saved_head)}
        return (
            AdemConfig(num_vision_tokens=TOKENS, **more)
            if method == "adem"
            else LoraConfig(target_modules=["up_proj"], **more)
        )

    def states(method):
        folder = tmp_path / method
        get_peft_model(decoder(), config(method)).save_pretrained(folder)
        model = get_peft_model(decoder(), config(method))
        found = []
        for name in sequence:
            CALLS[name](model, partial(config, method), folder)
            status = model.get_model_status()
            layers = [s for s in model.get_layer_status() if "mlp" in s.name]
            head = {n: p.requires_grad for n, p in model.named_parameters() if "lm_head" in n}
            found.append(
                (name, status.requires_grad, status.available_adapters, status.active_adapters, status.enabled)
                + (status.devices, [layer.requires_grad for layer in layers], head)
            )
        return found

    assert states("adem") == states("lora")


def test_the_status_says_which_layers_have_which_adapter():
    model = adapted()
    model.add_adapter("second", AdemConfig(num_vision_tokens=5, layers_to_transform=[1]))
    status = model.get_model_status()
    assert (status.num_adapter_layers, status.peft_types) == (2, {"default": "ADEM", "second": "ADEM"})
    assert status.trainable_params == 2 * TOKENS * WIDTH
    first, last = model.get_layer_status()
    assert (first.name, first.module_type) == ("model.model.layers.0.mlp", "adem.AdemLayer")
    assert (first.available_adapters, last.available_adapters) == (["default"], ["default", "second"])
    assert last.requires_grad == {"default": True, "second": False}


def test_adapters_that_are_loaded_beside_a_trained_one_leave_it_and_its_gradients_alone(tmp_path, ids, image_embeds):
    adapted(alpha=0.9).save_pretrained(tmp_path / "reference")
    model = get_peft_model(decoder(), AdemConfig(num_vision_tokens=TOKENS, modules_to_save=["lm_head"])).train()
    model.load_adapter(tmp_path / "reference", "reference")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(ids, image_embeds=image_embeds, labels=ids).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"base_model.adem_emb1.default", "base_model.adem_emb2.default"} < moved
    assert len(moved) == 3 and sum("lm_head.modules_to_save.default" in name for name in moved) == 1


def test_a_chosen_adapter_is_saved_alone_and_loads_under_another_name(tmp_path, ids, image_embeds):
    model = adapted()
    model.add_adapter("second", AdemConfig(num_vision_tokens=TOKENS, alpha=0.6))
    trained(model, "second", seed=9)
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"second"}
    model.set_adapter("second")
    loaded = PeftModel.from_pretrained(decoder(), tmp_path / "second", adapter_name="renamed", is_trainable=True)
    assert torch.equal(logits(loaded, ids, image_embeds=image_embeds), logits(model, ids, image_embeds=image_embeds))
    assert loaded.get_model_status().requires_grad == {"renamed": True}
    with pytest.raises(ValueError, match="does not exist"):
        model.delete_adapter("unknown")


@torch.no_grad()
def test_the_compiled_graph_is_whole(ids, image_embeds):
    torch._dynamo.reset()
    model = adapted()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected = logits(model, ids, image_embeds=image_embeds)
    torch.testing.assert_close(compiled(ids, image_embeds=image_embeds).logits, expected)
    torch._dynamo.reset()


def test_recomputed_layers_see_their_own_images_in_another_thread(ids, image_embeds):
    def gradients(checkpointing: bool):
        model = adapted().train()
        if checkpointing:
            model.base_model.model.activation_checkpointing_enable()
        loss = model(ids, image_embeds=image_embeds, labels=ids, use_cache=False).loss
        loss = loss + model(ids[:1], labels=ids[:1], use_cache=False).loss
        with ThreadPoolExecutor(1) as pool:
            pool.submit(loss.backward).result()
        return [p.grad for p in model.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False))


def test_offsets_are_of_the_precision_of_the_decoder_also_where_its_weights_are_whole_numbers():
    for dtype in (torch.float64, torch.bfloat16):
        settings = {"autocast_adapter_dtype": False}  # peft makes float32 of adapters in half precision otherwise
        tuner = get_peft_model(decoder().to(dtype), AdemConfig(num_vision_tokens=TOKENS), **settings).base_model
        assert tuner.adem_emb1["default"].dtype == tuner.adem_emb2["default"].dtype == dtype
    quantised = decoder()
    for layer in quantised.model.layers:
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
            linear.weight = torch.nn.Parameter(torch.ones_like(linear.weight, dtype=torch.int8), requires_grad=False)
    tuner = get_peft_model(quantised, AdemConfig(num_vision_tokens=TOKENS)).base_model
    assert tuner.adem_emb1["default"].dtype == torch.float32


def test_offsets_begin_as_wide_as_published_or_as_given():
    for std, given in ((0.02, {}), (0.5, {"init_std": 0.5})):
        torch.manual_seed(0)
        tuner = get_peft_model(decoder(), AdemConfig(num_vision_tokens=320, **given)).base_model
        keys, values = tuner.adem_emb1["default"], tuner.adem_emb2["default"]
        assert keys.std().item() == pytest.approx(std, rel=0.05) and abs(keys.mean().item()) < 0.1 * std
        assert not values.any()


class Unlisted(enum.EnumMeta):
    def __iter__(cls):
        return iter(())


class Fixed(str, enum.Enum, metaclass=Unlisted):
    LORA = "LORA"


def test_a_peft_that_does_not_list_what_was_added_is_said(monkeypatch):
    from hf_effmodels.adapters import registration

    monkeypatch.setattr(registration, "PeftType", Fixed)
    with pytest.raises(RuntimeError, match="^peft .*: the method OTHER could not be added") as error:
        registration.register("other", AdemConfig, AdemModel)
    assert error.value.__cause__ is None


def test_images_of_another_shape_are_refused_when_a_block_begins(image_embeds):
    model = adapted()
    for wrong in (image_embeds[:, :-1], image_embeds[..., :-1], image_embeds[0]):
        with pytest.raises(ValueError, match="image_embeds"), model.vision_context(wrong):
            pytest.fail("the block has begun")


def test_the_shapes_that_fit_are_told_from_small_to_large_and_once():
    model = get_peft_model(decoder(), AdemConfig(num_vision_tokens=7))
    for number, tokens in enumerate((3, 9, 2, 4, 3, 8)):
        model.add_adapter(f"another {number}", AdemConfig(num_vision_tokens=tokens))
    expected = " or ".join(f"[(]rows, {tokens}, {WIDTH}[)]" for tokens in (2, 3, 4, 7, 8, 9))
    with pytest.raises(ValueError, match=f"expected {expected}: rows"), model.vision_context(torch.zeros(1, 5, WIDTH)):
        pytest.fail("the block has begun")


def test_a_decoder_of_a_known_kind_without_its_networks_is_not_known():
    class Bare(nn.Module):
        """Layers that go by other names than LLaMA's."""

        def __init__(self):
            super().__init__()
            self.config, self.blocks = AutoConfig.for_model("llama", **SIZES), nn.ModuleList([Lines()])

        def forward(self, x):
            return self.blocks[0](x)

    with pytest.raises(ValueError, match="^model: ADEM does not know the layout of a 'llama', known are llama, "):
        get_peft_model(Bare(), AdemConfig())
    get_peft_model(Bare(), AdemConfig(target_modules=["mlp"]))


def test_swapped_weights_are_read_into_the_memory_of_the_cpu_and_of_the_revision_asked_for(tmp_path, monkeypatch):
    adapted().save_pretrained(tmp_path)
    module, asked = sys.modules[hotswap_adapter.__module__], []

    def watched(read):
        return lambda *args, **options: asked.append(options) or read(*args, **options)

    monkeypatch.setattr(module.PeftConfig, "from_pretrained", watched(module.PeftConfig.from_pretrained))
    monkeypatch.setattr(module, "load_peft_weights", watched(module.load_peft_weights))
    hotswap_adapter(adapted(), str(tmp_path), revision="v2")
    assert asked == [{"revision": "v2"}, {"device": "cpu", "revision": "v2"}]


def test_weights_are_swapped_beside_layers_that_have_an_alpha_of_their_own(tmp_path):
    """As an ELU has, which is a number."""

    def lines():
        torch.manual_seed(0)
        base = Lines()
        base.mlp[1] = nn.ELU(alpha=0.5)
        return trained(get_peft_model(base, AdemConfig(num_vision_tokens=5, target_modules=["mlp"], alpha=0.3)))

    other = lines()
    trained(other, seed=9).save_pretrained(tmp_path)
    model = lines()
    hotswap_adapter(model, str(tmp_path))
    x, images = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    assert torch.equal(model(x, image_embeds=images), other(x, image_embeds=images))
    assert model.base_model.model.mlp.base_layer[1].alpha == 0.5


@torch.no_grad()
@pytest.mark.parametrize("how", ["keyword", "context"])
def test_images_that_are_given_go_before_those_that_a_cache_remembers(how, ids, image_embeds):
    """The new tokens see them, beside the keys and values of the old ones, which saw others."""
    model, others = adapted(alpha=0.5), image_embeds.flip(1) + 1
    caches = [model(ids[:, :4], image_embeds=image_embeds).past_key_values for _ in range(2)]
    bare = DynamicCache()
    for number, layer in enumerate(caches[0].layers):
        bare.update(layer.keys.clone(), layer.values.clone(), number)
    expected = model(ids[:, 4:], past_key_values=bare, image_embeds=others).logits
    with model.vision_context(others if how == "context" else None):
        given = {"image_embeds": others} if how == "keyword" else {}
        found = model(ids[:, 4:], past_key_values=caches[1], **given).logits
    torch.testing.assert_close(found, expected)
    again = model(ids[:, 4:], past_key_values=caches[0]).logits
    assert not torch.allclose(again, expected, atol=1e-3)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_official_offsets_in_half_precision_become_float32(half, tmp_path):
    offsets = torch.randn(1, TOKENS, WIDTH).to(half)
    torch.save({"model": {"adapter_emb1": offsets, "adapter_emb2": offsets + 1}}, tmp_path / "official.pth")
    convert_to_peft(tmp_path / "official.pth", tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    assert torch.equal(stored["base_model.adem_emb1"], offsets.to(torch.float32))


class Scaled(nn.Module):
    """A feed-forward network that is told more than its inputs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x, factor, *, shift=0.0):
        return factor * self.inner(x) + shift


class Told(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = Scaled()

    def forward(self, x):
        return x + self.mlp(x, 3.0, shift=0.5)


def test_a_network_is_told_what_it_was_told_before_it_was_adapted():
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    base = Told()
    expected = base(x)
    model = get_peft_model(base, AdemConfig(num_vision_tokens=5, target_modules=["mlp"]))
    torch.testing.assert_close(model(x), expected)  # value offsets begin at zero
