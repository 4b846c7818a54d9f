"""What is ADEM-VL's own: rows with and without images, generation, adapter folders, conversion, processor."""

import argparse
import base64
import copy
import functools
import json
import threading
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaTokenizer,
    pipeline,
)
from transformers.generation import BaseStreamer

import hf_effmodels  # noqa: F401
from hf_effmodels import hub
from hf_effmodels.adapters.adem import convert_to_peft
from hf_effmodels.hub.convert import ConversionError
from hf_effmodels.modeling.adem_vl import fusion_adem_vl, modeling_adem_vl, processing_adem_vl
from hf_effmodels.modeling.adem_vl.configuration_adem_vl import CLIP_PROCESSOR, PRESETS, AdemVLConfig
from hf_effmodels.modeling.adem_vl.convert_adem_vl import adapt, settings_of
from hf_effmodels.modeling.adem_vl.modeling_adem_vl import (
    ADAPTER_NAMES,
    AdemVLForConditionalGeneration,
    AdemVLModel,
)
from hf_effmodels.modeling.adem_vl.processing_adem_vl import AdemVLProcessor

from ..threads import run_together

CHARACTERS = "▁\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:/?!"
VOCABULARY = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *CHARACTERS])}
IMAGE = len(VOCABULARY)
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "vocab_size": IMAGE, "pad_token_id": 0}
VISION = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"patch_size": 8, "image_size": 32}
SETTINGS = {"pool_sizes": [4, 2], "projector_hidden_size": 8, "vision_adapter_dim": 4, "image_token_id": IMAGE}
GREEDY = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
IDS = torch.tensor([[1, 5, IMAGE, 7, 8], [1, 5, 6, 7, 8]])


def configuration(text="llama", vision="clip_vision_model", **settings) -> AdemVLConfig:
    more = {"head_dim": 8} if text.startswith(("gemma", "qwen3")) else {}
    return AdemVLConfig(
        text_config={"model_type": text, **TEXT, **more},
        vision_config={"model_type": vision, **VISION},
        **{**SETTINGS, **settings},
    )


def trained(model):
    """No adapter is left at zero, where it starts."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ADAPTER_NAMES.match(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return model.eval()


def build(*args, **settings):
    torch.manual_seed(0)
    return trained(AdemVLForConditionalGeneration(configuration(*args, **settings)))


@pytest.fixture
def pixels():
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def bases(tmp_path):
    """Folders of a language model and of a full CLIP."""
    torch.manual_seed(0)
    config = configuration()
    AutoModelForCausalLM.from_config(config.text_config).save_pretrained(tmp_path / "llm")
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPConfig(vision_config=VISION, text_config={**text, "vocab_size": 10}, projection_dim=8)
    CLIPModel(clip).save_pretrained(tmp_path / "clip")
    return str(tmp_path / "llm"), str(tmp_path / "clip")


def logits(model, ids=IDS, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


@pytest.mark.parametrize(("preset", "expected"), [("adem_vl-7b-scienceqa", 4_530_432), ("adem_vl-13b", 5_449_984)])
def test_trained_parameters_are_those_of_the_paper(preset, expected):
    with torch.device("meta"):
        model = AdemVLForConditionalGeneration(AdemVLConfig(**PRESETS[preset].config))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected
    assert PRESETS[preset].trainable_parameters == expected / 1e6
    assert PRESETS[preset].parameters == round(sum(p.numel() for p in model.parameters()) / 1e6, 2)


def test_presets_prepare_pictures_by_the_statistics_of_their_task():
    """ImageNet's, CLIP's where captions are written; those of LLaMA-7B are one network."""
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    clip = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = dict.fromkeys(("adem_vl-7b-scienceqa", "adem_vl-7b-instruction", "adem_vl-13b"), imagenet)
    expected["adem_vl-7b-caption"] = clip
    assert PRESETS.keys() == expected.keys()
    for name, preset in PRESETS.items():
        processor = preset.image_processor
        assert (processor["image_mean"], processor["image_std"]) == expected[name], name
        assert not processor["do_center_crop"] and processor["resample"] == Image.Resampling.BICUBIC
        if "7b" in name:
            assert preset.config == {} and (preset.parameters, preset.trainable_parameters) == (7033.53, 4.530432)


@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model"])
def test_each_row_is_what_it_is_alone(pixels, vision):
    model = build("llama", vision)
    together = logits(model, pixel_values=pixels)
    torch.testing.assert_close(together[:1], logits(model, IDS[:1], pixel_values=pixels))
    torch.testing.assert_close(together[1:], logits(model, IDS[1:]))
    both = torch.cat([pixels, torch.zeros_like(pixels)])
    mask = torch.tensor([1, 0])
    encoded = []
    model.model.vision_tower.register_forward_hook(lambda module, args, output: encoded.append(len(args[0])))
    assert torch.equal(logits(model, pixel_values=both, image_mask=mask), together)
    assert encoded == [1]  # what no row shows is not looked at
    # The other way round, and images that differ.
    plain = build("llama", vision, use_cls_token=False)
    ids, both = IDS.masked_fill(IDS == IMAGE, 9), torch.cat([pixels, pixels + 1])
    expected = torch.cat([logits(plain, ids[:1]), logits(plain, ids[1:], pixel_values=both[1:])])
    torch.testing.assert_close(logits(plain, ids, pixel_values=both, image_mask=mask.flip(0)), expected)
    torch.testing.assert_close(logits(plain, ids, pixel_values=both[1:], image_mask=mask.flip(0)), expected)


def test_images_reach_all_tokens_and_not_only_their_slot(pixels):
    model = build()
    seen = model.model.encode_rows(IDS, pixels)
    context, class_embeds = seen
    torch.testing.assert_close(
        logits(model, vision_context=context, class_embeds=class_embeds), logits(model, pixel_values=pixels)
    )
    without = logits(model, vision_context=torch.zeros_like(context), class_embeds=class_embeds)
    assert not torch.allclose(without[0, 0], logits(model, pixel_values=pixels)[0, 0])


def images(count: int) -> list[torch.Tensor]:
    return [torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(count)]


@torch.no_grad()
def test_threads_see_their_own_images():
    model = build(beta=1.0, alpha=0.5)

    def answers(image):
        first = model(IDS, pixel_values=image)
        return first.logits, model(IDS[:, -1:], past_key_values=first.past_key_values).logits

    def written(image):
        return model.generate(IDS, pixel_values=image, **GREEDY)

    for ask in (answers, written):
        alone = [ask(image) for image in images(3)]
        together = run_together(model.model.language_model, [functools.partial(ask, image) for image in images(3)])
        torch.testing.assert_close(together, alone)
    assert not torch.equal(alone[0], alone[1])


@torch.no_grad()
def test_a_model_is_called_while_it_generates(pixels):
    model = build(beta=1.0, alpha=0.5)
    other = images(1)[0]
    expected = model.generate(IDS, pixel_values=pixels, **GREEDY)
    asides = logits(model, pixel_values=other), logits(model, IDS[1:]), model.generate(IDS[1:], **GREEDY)

    def aside(ids, scores):
        torch.testing.assert_close(logits(model, pixel_values=other), asides[0])
        torch.testing.assert_close(logits(model, IDS[1:]), asides[1])
        assert torch.equal(model.generate(IDS[1:], **GREEDY), asides[2])
        with pytest.raises(ValueError, match="got 2 images"):
            model(IDS, pixel_values=torch.cat([other, other]))
        return scores

    assert torch.equal(model.generate(IDS, pixel_values=pixels, logits_processor=[aside], **GREEDY), expected)


@pytest.mark.parametrize("text", ["mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "smollm3", "pangu_pi"])
def test_any_decoder_of_the_llama_layout_fits(pixels, text):
    # Without the fusion it is the decoder's own language model, caps and ties of the head included.
    model = build(text, alpha=0.0)
    with torch.no_grad():
        for parameter in model.lm_head.parameters():
            parameter.mul_(50)  # into the caps
    base = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    base.model.load_state_dict(model.model.language_model.state_dict())
    base.lm_head.load_state_dict(model.lm_head.state_dict())
    torch.testing.assert_close(logits(model, IDS[1:]), logits(base, IDS[1:]))
    # And the decoder by itself is as it was, whatever ran before.
    model = build(text, alpha=1.0)
    logits(model, pixel_values=pixels)
    alone = base.model
    alone.load_state_dict(model.model.language_model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.model.language_model(IDS[1:])[0], alone(IDS[1:])[0])
    model = build(text)
    model(IDS, pixel_values=pixels, labels=IDS).loss.backward()
    assert model.model.value_offsets.grad.abs().max() > 0
    assert model.model.image_projection.fc1.weight.grad.abs().max() > 0


def test_generation_sees_each_image_once_and_agrees_with_rows_alone(pixels):
    model = build()
    passes = []
    model.model.vision_tower.register_forward_hook(lambda *args: passes.append(1))
    ids = torch.tensor([[1, 5, IMAGE, 7, 8, 9], [0, 0, 1, 5, 6, 7]])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    for more in ({}, {"num_beams": 3, "num_return_sequences": 2}):
        passes.clear()
        found = model.generate(ids, attention_mask=mask, pixel_values=pixels, **more, **GREEDY)
        assert torch.equal(found[:, :6], ids.repeat_interleave(len(found) // 2, dim=0))
        found = found[:, 6:]
        assert len(passes) == 1
        alone = [
            model.generate(ids[:1], pixel_values=pixels, **more, **GREEDY)[:, 6:],
            model.generate(ids[1:, 2:], **more, **GREEDY)[:, 4:],
        ]
        assert torch.equal(found, torch.cat(alone))
        without_cache = model.generate(
            ids, attention_mask=mask, pixel_values=pixels, use_cache=False, **more, **GREEDY
        )
        assert torch.equal(found, without_cache[:, 6:])


def test_only_adapters_get_gradients_and_checkpointing_keeps_them(pixels):
    def gradients(checkpointing: bool):
        model = build(vision_adapter_dropout=0.0).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        loss = model(IDS, pixel_values=pixels, labels=IDS).loss + model(IDS[1:], labels=IDS[1:]).loss
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected, got = gradients(False), gradients(True)
    assert all(ADAPTER_NAMES.match(name) for name in expected)
    # The bottleneck of the layer that is not run has none.
    assert not any(name.startswith("model.vision_adapters.2.") for name in expected)
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])


def test_distributed_training_gets_every_gradient_from_a_batch_of_text_only(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = build().train()
        model(IDS[1:], labels=IDS[1:]).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    ignored = set(model._ddp_params_and_buffers_to_ignore)
    assert ignored == {f"model.vision_adapters.2.fc{i}.weight" for i in (1, 2)}
    waiting = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert waiting == ignored
    assert not model.model.image_projection.fc1.weight.grad.any()


def test_image_tokens_are_never_learned(pixels):
    model = build()
    labels = IDS.clone()
    masked = labels.masked_fill(labels == IMAGE, -100)
    losses = [model(IDS, pixel_values=pixels, labels=target).loss for target in (labels, masked)]
    assert torch.equal(*losses)
    scores = logits(model, pixel_values=pixels)
    expected = F.cross_entropy(scores[:, :-1].flatten(0, 1), masked[:, 1:].flatten())
    torch.testing.assert_close(losses[0], expected)
    summed = model(IDS, pixel_values=pixels, labels=labels, num_items_in_batch=torch.tensor(20)).loss
    torch.testing.assert_close(summed, expected * 7 / 20)  # of 8 predicted tokens one is the image's
    for keep, kept in ((2, slice(-2, None)), (torch.tensor([0, 3]), [0, 3])):
        found = logits(model, pixel_values=pixels, logits_to_keep=keep)
        torch.testing.assert_close(found, scores[:, kept])


def test_the_decoder_is_told_what_is_asked_of_it_and_not_how_the_loss_is_divided(pixels):
    model, asked = build(), []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, options: asked.append(options), with_kwargs=True
    )
    options = {"num_items_in_batch": torch.tensor(20), "output_hidden_states": True}
    outputs = model(IDS, pixel_values=pixels, labels=IDS, **options)
    assert asked[0]["output_hidden_states"] is True and "num_items_in_batch" not in asked[0]
    assert len(outputs.hidden_states) == model.config.text_config.num_hidden_layers + 1


def test_full_models_save_and_load_with_float32_adapters_in_half_precision(tmp_path, pixels):
    model = build()
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(logits(loaded, pixel_values=pixels), logits(model, pixel_values=pixels))
    trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ADAPTER_NAMES.match(name)}
    half = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    dtypes = {(bool(ADAPTER_NAMES.match(name)), p.dtype) for name, p in half.named_parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    torch.testing.assert_close(
        logits(half, pixel_values=pixels).float(), logits(model, pixel_values=pixels), atol=0.05, rtol=0.05
    )
    base = AdemVLModel.from_pretrained(tmp_path)
    assert torch.equal(base.key_offsets, model.model.key_offsets)


def test_tied_embeddings_stay_tied(tmp_path, pixels):
    text = configuration("gemma").text_config
    assert text.tie_word_embeddings
    AutoModelForCausalLM.from_config(text).save_pretrained(tmp_path / "llm")
    tower = CLIPVisionModel(configuration().vision_config)
    model = AdemVLForConditionalGeneration.from_base_models(str(tmp_path / "llm"), tower, **SETTINGS)
    trained(model).save_pretrained(tmp_path / "full")
    for m in (model, AutoModelForImageTextToText.from_pretrained(tmp_path / "full")):
        assert m.lm_head.weight is m.model.language_model.embed_tokens.weight
        torch.testing.assert_close(logits(m, pixel_values=pixels), logits(model, pixel_values=pixels))


def test_adapter_folders_hold_the_trained_weights_only(tmp_path, bases, pixels):
    model = trained(AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS))
    frozen = AutoModelForCausalLM.from_pretrained(bases[0])
    assert torch.equal(
        model.model.language_model.layers[0].mlp.up_proj.weight, frozen.model.layers[0].mlp.up_proj.weight
    )
    model.save_pretrained(tmp_path / "adapters", adapter_only=True)
    saved = load_file(tmp_path / "adapters" / "model.safetensors")
    assert saved.keys() == {name for name in model.state_dict() if ADAPTER_NAMES.match(name)}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters")
    assert torch.equal(logits(loaded, pixel_values=pixels), logits(model, pixel_values=pixels))
    # A configuration that is given stays as it is; the model's own is of a whole model.
    given = AdemVLConfig.from_pretrained(tmp_path / "adapters")
    before = given.to_dict()
    told = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters", config=given)
    assert given.to_dict() == before and given.adapter_only and not told.config.adapter_only
    loaded.save_pretrained(tmp_path / "full")
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "full")
    torch.testing.assert_close(logits(whole, pixel_values=pixels), logits(model, pixel_values=pixels))
    # The base class has no place for what is around the decoder's head; other weights than the adapters' are said.
    with pytest.raises(
        ValueError, match="adapters holds the adapters of an AdemVLForConditionalGeneration only; load"
    ):
        AdemVLModel.from_pretrained(tmp_path / "adapters")
    file, config = tmp_path / "adapters" / "model.safetensors", AdemVLConfig.from_pretrained(tmp_path / "adapters")
    save_file({name: value for name, value in saved.items() if "key_offsets" not in name}, file, {"format": "pt"})
    with pytest.raises(OSError, match=r"adapters: model.safetensors lacks or adds \['model.key_offsets'\]"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters")
    for name in ("vision_model_name_or_path", "text_model_name_or_path"):
        setattr(config, name, None)
        config.save_pretrained(tmp_path / "adapters")
        with pytest.raises(
            ValueError, match=f"{name}: .* holds adapters only and does not say where the frozen parts"
        ):
            AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters")
    with pytest.raises(ValueError, match=r"config.text_model_name_or_path: got None"):
        build().save_pretrained(tmp_path / "nowhere", adapter_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_frozen_parts_are_reached_as_the_adapters_are_and_are_of_no_revision_of_theirs(monkeypatch):
    asked, tower = [], {"revision": "v3", "subfolder": "vision", "token": "mine", "dtype": torch.float16}

    class Kind:
        @staticmethod
        def from_pretrained(name, **how):
            asked.append((name, how))
            raise ValueError("it is enough")

    def found(name, **how):
        asked.append((name, how))
        return SimpleNamespace(vision_config="vision")

    config = SimpleNamespace(text_model_name_or_path="you/llama", vision_model_name_or_path="you/clip")
    monkeypatch.setattr(modeling_adem_vl, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=found))
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", found)
    monkeypatch.setattr(modeling_adem_vl, "MODEL_MAPPING", {str: Kind})
    reached = {"token": "mine", "cache_dir": "here", "local_files_only": True, "force_download": False}
    of_adapters = {"revision": "v2", "subfolder": "adapters", "variant": "fp16"}
    how = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    with pytest.raises(ValueError, match="it is enough"):
        AdemVLForConditionalGeneration._from_adapters("you/adapters", config, **reached, **of_adapters, **how)
    assert asked == [
        ("you/llama", reached | how),
        ("you/clip", reached),
        ("you/clip", reached | {"config": "vision", "dtype": torch.bfloat16}),
    ]
    asked.clear()
    with pytest.raises(ValueError, match="it is enough"):
        modeling_adem_vl.load_vision_tower("you/clip", **tower)
    assert [how for _, how in asked] == [
        {name: tower[name] for name in ("revision", "subfolder", "token")},
        tower | {"config": "vision"},
    ]


def test_frozen_parts_that_do_not_fit_are_refused(tmp_path, bases, pixels):
    model = AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS)
    model.save_pretrained(tmp_path / "adapters", adapter_only=True)
    for field, theirs in (("hidden_size", 64), ("num_hidden_layers", 5)):
        other = copy.deepcopy(configuration().text_config)
        ours = getattr(other, field)
        setattr(other, field, theirs)
        AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / field)
        config = AdemVLConfig.from_pretrained(tmp_path / "adapters")
        config.text_model_name_or_path = str(tmp_path / field)
        config.save_pretrained(tmp_path / "adapters")
        with pytest.raises(ValueError, match=f"trained for a text model with {field} {ours}, .*{field} has {theirs}"):
            AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters")
    config.text_model_name_or_path = bases[0]
    for field, theirs in (("hidden_size", 64), ("num_hidden_layers", 5)):
        other = copy.deepcopy(configuration().vision_config)
        ours = getattr(other, field)
        setattr(other, field, theirs)
        CLIPVisionModel(other).save_pretrained(tmp_path / f"vision {field}")
        config.vision_model_name_or_path = str(tmp_path / f"vision {field}")
        config.save_pretrained(tmp_path / "adapters")
        with pytest.raises(ValueError, match=f"for a vision model with {field} {ours}, .*{field}.* has {theirs}"):
            AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters")
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=61))
    tower = CLIPVisionModel(configuration().vision_config)
    with pytest.raises(StrictDataclassError, match="vision_config: got model_type .llama., accepted are clip_vision"):
        AdemVLForConditionalGeneration.from_base_models(bases[0], AutoModelForCausalLM.from_pretrained(bases[0]))
    with pytest.raises(ValueError, match="a 'gpt2' has no layers.<i>.mlp; accepted are decoders of the LLaMA layout"):
        AdemVLForConditionalGeneration.from_base_models(gpt2, tower, **SETTINGS)


def test_adapters_start_as_the_paper_has_them(bases, pixels):
    for model in (
        AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS),
        AdemVLForConditionalGeneration(configuration()),
    ):
        inner = model.model
        assert inner.key_offsets.std().item() == pytest.approx(0.02, rel=0.2)
        assert not inner.value_offsets.any()
        bound = (6 / (8 + 24)) ** 0.5
        assert inner.image_projection.fc1.weight.abs().max().item() == pytest.approx(bound, rel=0.1)
        assert not inner.image_projection.fc2.bias.any()
        assert not any(adapter.fc2.weight.any() for adapter in inner.vision_adapters)
        for adapter in inner.vision_adapters:  # as torch starts a linear layer
            assert adapter.fc1.weight.abs().max().item() == pytest.approx(24**-0.5, rel=0.1)


OFFICIAL = {
    "model.key_offsets": "adapter_emb1",
    "model.value_offsets": "adapter_emb2",
    "model.image_projection.": "adapter_proj.",
    "model.class_projection.": "adapter_proj_cls.",
}


def official(model, arguments) -> dict:
    """A file as the official training script writes it."""

    def name(ours: str) -> str:
        for start, theirs in OFFICIAL.items():
            if ours.startswith(start):
                return f"module.{ours.replace(start, theirs)}"
        number, rest = ours.removeprefix("model.vision_adapters.").split(".", 1)
        return f"module.backbone.visual.transformer.resblocks.{number}.adapter_mlp.{rest}"

    weights = {name(k): v.half() for k, v in model.state_dict().items() if ADAPTER_NAMES.match(k)}
    return {"model": weights, "optimizer": {}, "epoch": 3, "scaler": {}, "args": arguments}


def test_official_checkpoints_become_adapter_folders(tmp_path, bases, pixels):
    model = trained(AdemVLForConditionalGeneration.from_base_models(*bases, alpha=0.2, beta=0.5, **SETTINGS))
    model.to(torch.float16).float()
    arguments = argparse.Namespace(alpha=0.2, beta=0.5, drop_ratio=0.1, down_sample_num=[16, 4], no_cls=False)
    torch.save(official(model, arguments), tmp_path / "official.pth")
    tokenizer = LlamaTokenizer(vocab=VOCABULARY, merges=[])
    parts = {"text_model": bases[0], "vision_model": bases[1], "image_token_id": IMAGE, "tokenizer": tokenizer}
    convert = functools.partial(hub.convert, "adem_vl-7b-instruction", **parts)
    convert(tmp_path / "official.pth", tmp_path / "converted")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted")
    assert (loaded.config.pool_sizes, loaded.config.alpha, loaded.config.beta) == ([4, 2], 0.2, 0.5)
    for name, value in loaded.state_dict().items():
        if ADAPTER_NAMES.match(name):
            assert torch.equal(value, model.state_dict()[name]), name

    # The decoder's part is a PEFT adapter that gives the same.
    convert_to_peft(tmp_path / "official.pth", tmp_path / "peft", text_model=bases[0])
    adapted = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft")
    context, _ = loaded.model.encode_rows(IDS, pixels)
    ids = IDS.masked_fill(IDS == IMAGE, 9)
    expected = logits(loaded, ids, vision_context=context)
    torch.testing.assert_close(logits(adapted, ids, image_embeds=context), expected)

    broken = official(model, arguments)
    del broken["model"]["module.adapter_proj.fc2.bias"]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(ConversionError, match=r"1 missing: model\.image_projection\.fc2\.bias\."):
        convert(tmp_path / "broken.pth", tmp_path / "wrong")
    with pytest.raises(ValueError, match="made for 20 as the number of visual tokens, .* have 16"):
        convert(tmp_path / "official.pth", tmp_path / "wrong", pool_sizes=[4])
    torch.save({"model": {"a": torch.ones(1)}, "args": CLIPVisionModel}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="would run code"):
        convert(tmp_path / "evil.pth", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.fixture
def processor():
    from transformers import CLIPImageProcessorPil

    settings = {**CLIP_PROCESSOR, "size": {"height": 32, "width": 32}}
    return AdemVLProcessor(CLIPImageProcessorPil(**settings), LlamaTokenizer(vocab=VOCABULARY, merges=[]))


@pytest.fixture
def image():
    return Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 50, 3), dtype=np.uint8))


def test_what_is_asked_of_the_images_reaches_their_processor(processor, image):
    text = processor.image_prefix + processor.image_token + "hi"
    plain = processor(image, text, return_tensors="pt").pixel_values
    raw = processor(image, text, return_tensors="pt", do_normalize=False).pixel_values
    mean, std = (torch.tensor(CLIP_PROCESSOR[name])[:, None, None] for name in ("image_mean", "image_std"))
    torch.testing.assert_close(raw[0], plain[0] * std + mean, rtol=1e-4, atol=1e-5)


def pieces(processor, *parts) -> list[int]:
    ids = []
    for part in parts:
        ids += [part] if isinstance(part, int) else processor.tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def turns(*texts, image=None) -> list[dict]:
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": [{"type": "text", "text": t}]} for i, t in enumerate(texts)
    ]
    if image is not None:
        messages[0]["content"].insert(0, {"type": "image", "image": image})
    return messages


def test_prompts_are_encoded_in_pieces_as_in_training(processor, image):
    encode = functools.partial(pieces, processor)
    batch = processor(images=[image], text=["<image>a picture of", "what?"], return_tensors="pt")
    with_image, without = encode(1, "Image: ", IMAGE, "a picture of"), encode(1, "Image: N/A", "what?")
    assert batch["input_ids"][0].tolist() == with_image
    assert batch["input_ids"][1].tolist() == [0] * (len(with_image) - len(without)) + without
    assert batch["attention_mask"][1].sum() == len(without)
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    chat = functools.partial(processor.apply_chat_template, tokenize=True, return_dict=True)
    rendered = chat(turns("what?", "a cat", "why?", image=image), add_generation_prompt=True)
    text = "Instruction: what?\nResponse:a cat\nInstruction: why?\nResponse:"
    assert rendered["input_ids"][0] == encode(1, "Image: ", IMAGE, text)
    rendered = chat(turns("why?"), add_generation_prompt=True)
    assert rendered["input_ids"][0] == encode(1, "Image: N/A", "Instruction: why?\nResponse:")
    processor.use_cls_token = False
    batch = processor(images=[image], text=["<image>a picture of", "what?"], return_tensors="pt")
    assert batch["input_ids"][0].tolist() == encode(1, "a picture of")
    assert batch["image_mask"].tolist() == [True, False]


@pytest.mark.parametrize("as_parts", [True, False])
@pytest.mark.parametrize(
    "messages, text",
    [
        ((("user", "why?"), ("assistant", "no")), "Instruction: why?\nResponse:no"),
        (
            (("user", "what?"), ("assistant", "a cat"), ("user", "why?"), ("assistant", "so it is")),
            "Instruction: what?\nResponse:a cat\nInstruction: why?\nResponse:so it is",
        ),
        ((("assistant", "hello"),), "Response:hello"),
        ((("assistant", "hello"), ("user", "why?")), "Response:hello\nInstruction: why?\n"),
        ((("user", "why?"),), "Instruction: why?\n"),
        ((("system", "be brief"), ("user", "why?"), ("assistant", "no")), "be brief\nInstruction: why?\nResponse:no"),
    ],
)
def test_a_line_is_broken_between_turns_and_not_behind_the_last_answer(processor, messages, text, as_parts):
    """What is learned ends with the answer; the words are the same as parts (here two of each) and as one string."""
    cut = [[{"type": "text", "text": words} for words in (said[:2], said[2:])] for _, said in messages]
    content = cut if as_parts else [said for _, said in messages]
    chat = [{"role": role, "content": said} for (role, _), said in zip(messages, content, strict=True)]
    assert processor.apply_chat_template(chat) == f"Image: N/A{text}"


@pytest.mark.parametrize("token", ["<image>", "<a 'picture'>"])
@pytest.mark.parametrize(
    ("prefix", "nothing"),
    [("Image: ", "Image: N/A"), ('It\'s a "picture":\n', "None \\ é 🐈 {{ }}"), ("", ""), ("Image: ", "Image: none")],
)
def test_a_chat_begins_as_the_processor_begins_its_texts(processor, image, token, prefix, nothing, tmp_path):
    """With an image and without one, also after it was saved, or with the template of another one."""
    how = {"image_token": token, "image_prefix": prefix, "no_image_text": nothing}
    made = AdemVLProcessor(processor.image_processor, processor.tokenizer, **how)
    made.save_pretrained(tmp_path / "made")
    processor.save_pretrained(tmp_path / "plain")
    for mine in (
        made,
        AdemVLProcessor.from_pretrained(tmp_path / "made"),
        AdemVLProcessor.from_pretrained(tmp_path / "plain", **how),
    ):
        chat = functools.partial(mine.apply_chat_template, add_generation_prompt=True)
        asked = turns("what?", "a cat", "why?", image=image)
        text = "Instruction: what?\nResponse:a cat\nInstruction: why?\nResponse:"
        assert chat(asked) == f"{prefix}{token}{text}"
        assert chat(turns("why?")) == f"{nothing}Instruction: why?\nResponse:"
        encode = functools.partial(pieces, mine)
        chat = functools.partial(chat, tokenize=True, return_dict=True)
        assert chat(asked)["input_ids"] == [encode(1, prefix, mine.image_token_id, text)]
        assert chat(turns("why?"))["input_ids"] == [encode(1, nothing, "Instruction: why?\nResponse:")]


@pytest.mark.parametrize(("prefix", "nothing"), [("Picture: ", "Picture: none"), ("See ", "No picture."), ("", "")])
def test_texts_begin_as_the_processor_was_made_to_begin_them(processor, image, prefix, nothing, tmp_path):
    """Also where a text says so itself; and after it was saved."""
    made = AdemVLProcessor(processor.image_processor, processor.tokenizer, image_prefix=prefix, no_image_text=nothing)
    made.save_pretrained(tmp_path)
    encode = functools.partial(pieces, processor)
    for mine in (made, AdemVLProcessor.from_pretrained(tmp_path)):
        assert (mine.image_prefix, mine.no_image_text) == (prefix, nothing)
        for text in ("<image>what?", f"{prefix}<image>what?"):
            assert mine(text=text, images=image)["input_ids"] == [encode(1, prefix, IMAGE, "what?")]
        for text in ("what?", f"{nothing}what?"):
            assert mine(text=text)["input_ids"] == [encode(1, nothing, "what?")]


@pytest.mark.parametrize(
    ("has", "padding"),
    [
        ({"pad_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}, "<s>"),
        ({"pad_token": None, "unk_token": "<unk>", "eos_token": "</s>"}, "<unk>"),
        ({"pad_token": None, "unk_token": None, "eos_token": "</s>"}, "</s>"),
    ],
)
def test_a_tokenizer_keeps_its_padding_and_one_without_pads_with_what_stands_for_nothing(processor, has, padding):
    tokenizer = LlamaTokenizer(vocab=VOCABULARY, merges=[])
    for name, token in has.items():
        setattr(tokenizer, name, token)
    made = AdemVLProcessor(processor.image_processor, tokenizer)
    batch = made(text=["a", "a longer one"], return_tensors="pt")
    assert tokenizer.pad_token == padding and batch.input_ids[0, 0] == VOCABULARY[padding]
    assert batch.attention_mask[0, 0] == 0


@pytest.mark.parametrize("tensors", [None, "pt", "np"])
@pytest.mark.parametrize("shown", [[True, False], [False, True, True], [True]])
def test_which_texts_have_an_image_is_told_in_the_form_that_is_asked_for(processor, image, tensors, shown):
    """To models without class token alone, and of texts of which one has an image."""
    texts = ["<image>a" if each else "a" for each in shown]
    given = {"text": texts, "images": [image] * sum(shown)}
    assert "image_mask" not in processor(**given, return_tensors=tensors)
    processor.use_cls_token = False
    found = processor(**given, return_tensors=tensors)["image_mask"]
    assert {None: list, "pt": torch.Tensor, "np": np.ndarray}[tensors] is type(found)
    assert [bool(each) for each in found] == shown
    assert "image_mask" not in processor(text=["a", "b"], return_tensors=tensors)


@pytest.mark.parametrize(
    ("drop_ratio", "kept"),
    [(0.0, [1, 1, 1, 1, 1]), (0.19, [1, 1, 1, 1, 1]), (0.2, [0, 1, 1, 1, 1]), (0.4, [0, 1, 1, 1, 1]),
     (0.6, [0, 0, 0, 1, 1]), (0.8, [0, 0, 0, 0, 1]), (0.99, [0, 0, 0, 0, 1])],
)  # fmt: skip
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_the_lowest_scores_are_dropped_by_their_sign_and_those_as_low_as_the_lowest_kept_stay(drop_ratio, kept, order):
    """Scores -3, 1, 1, 2, 4 of five visual tokens in any order: of two equal ones either both stay or neither."""
    scores = torch.tensor([-3.0, 1.0, 1.0, 2.0, 4.0])[order]
    hidden = torch.ones(1, 1, 1)
    keys = (scores / F.silu(hidden).item()).view(1, 5, 1)
    expected = scores * torch.tensor(kept, dtype=torch.float32)[order]
    found = fusion_adem_vl.fuse(hidden, keys, torch.eye(5)[None], drop_ratio)
    torch.testing.assert_close(found[0, 0], expected)


@pytest.mark.parametrize("how", ["file", "base64", "data", "http", "https"])
def test_images_are_taken_from_files_texts_and_addresses(processor, image, how, tmp_path, monkeypatch):
    image.save(tmp_path / "image.png")
    content, asked = (tmp_path / "image.png").read_bytes(), []
    encoded = base64.b64encode(content).decode()
    given = {"file": str(tmp_path / "image.png"), "base64": encoded, "data": f"data:image/png;base64,{encoded}"}
    address = f"{how}://example.org/image.png"

    class Answer:
        def raise_for_status(self):
            return self

    Answer.content = content

    def get(url, **options):
        asked.append((url, options.get("follow_redirects"), options.get("timeout", 0) > 0))
        return Answer()

    monkeypatch.setattr(processing_adem_vl.httpx, "get", get)
    found = processor(text="<image>a", images=given.get(how, address), return_tensors="pt").pixel_values
    assert torch.equal(found, processor(text="<image>a", images=image, return_tensors="pt").pixel_values)
    assert asked == ([(address, True, True)] if how.startswith("http") else [])


def test_an_address_that_answers_with_an_error_is_no_image(processor, monkeypatch):
    def refuse():
        raise OSError("404")

    answer = SimpleNamespace(raise_for_status=refuse, content=b"not found")
    monkeypatch.setattr(processing_adem_vl.httpx, "get", lambda url, **options: answer)
    with pytest.raises(OSError, match="404"):
        processor(text="<image>a", images="https://example.org/none.png")
    with pytest.raises(
        ValueError, match="images: got 'nowhere.png', accepted are images, arrays, tensors, image files"
    ):
        processor(text="<image>a", images="nowhere.png")


def test_the_place_of_the_image_is_no_word(processor):
    """Decoded answers leave it out with the start and the end, where the tokenizer is told to."""
    ids = [1, IMAGE, *pieces(processor, "what?")]
    assert "<image>" in processor.tokenizer.decode(ids)
    assert "<image>" not in processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_texts_and_images_that_do_not_correspond_are_refused(processor, image, pixels):
    for arguments, message in (
        ({"text": "<image>what?"}, r"images: got 0, but the texts have 1 place\(s\) for one. Begin each text"),
        ({"text": "what?", "images": image}, r"images: got 1, but the texts have 0 place"),
        ({"text": ["<image>a", "b"], "images": [[], [image]]}, "images: got 0, but text 0 has 1"),
        ({"text": "<image><image>", "images": [image] * 2}, "2 image tokens; the model looks at one image per text"),
        ({"text": "what <image>", "images": image}, "write <image> at its start"),
        ({"images": image}, "text: got None"),
        ({"text": [1]}, r"text: got \[1\], accepted is a text or a list of texts"),
        ({"text": "what?", "videos": [image]}, "videos, audio: an ADEM-VL model takes images and text only"),
        ({"text": "what?", "audio": [image]}, "videos, audio: an ADEM-VL model takes images and text only"),
    ):
        with pytest.raises(ValueError, match=message):
            processor(**arguments)
    model = build()
    for run in (model, model.generate):
        for ids, images, message in (
            (IDS, None, "row 0 has an image token, but there is no image: give pixel_values"),
            (IDS[1:], pixels, "got 1 images, but 0 of 1 rows have a place"),
            (IDS, torch.cat([pixels] * 2), "got 2 images, but 1 of 2 rows have a place"),
            (IDS, pixels[..., :30], r"got shape \(1, 3, 32, 30\), expected \(images, 3, 32, 32\)"),
        ):
            with pytest.raises(ValueError, match=message):
                run(ids, pixel_values=images)
    for settings, message in (
        ({"pool_sizes": [5]}, r"pool_sizes: got \[5\], accepted are sides from 1 to that of the grid of patches, 4"),
        ({"vision_feature_layer": -5}, "vision_feature_layer: got -5 for a tower of 3 layers"),
        ({"vision_feature_layer": 0}, "vision_feature_layer: got 0 for a tower of 3 layers"),
        ({"vision_feature_layer": 4}, "vision_feature_layer: got 4 for a tower of 3 layers"),
        ({"drop_ratio": 1.0}, "drop_ratio: got 1.0"),
        ({"vision": "vit"}, "vision_config: got model_type 'vit', accepted are clip_vision_model"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            configuration(**settings)
    with pytest.raises(ValueError, match=r"vision_context: got \(1, 3, 32\), expected \(rows, 20, 32\)"):
        model(IDS[1:], vision_context=torch.zeros(1, 3, 32))
    context, class_embeds = model.model.encode_rows(IDS, pixels)
    with pytest.raises(ValueError, match="class_embeds: got 1 rows for a batch of 2"):
        model(IDS, vision_context=context, class_embeds=class_embeds[:1])
    with pytest.raises(ValueError, match=r"there is no image: give pixel_values \(with vision_context also class_emb"):
        model(IDS, vision_context=context)
    two, both = IDS.clone(), {"input_ids": IDS, "inputs_embeds": torch.zeros(2, 5, 32)}
    two[0, 3] = IMAGE
    for arguments, message in (
        ({"input_ids": two, "pixel_values": pixels}, "input_ids: row 0 has 2 image tokens, accepted is one per row"),
        (
            {"input_ids": IDS, "pixel_values": pixels, "image_mask": torch.tensor([False, True])},
            r"image_mask: says that rows \[1\] have an image, but image tokens are in rows \[0\] of input_ids",
        ),
        (both, "input_ids: give exactly one of input_ids and inputs_embeds"),
        ({}, "input_ids: give exactly one of input_ids and inputs_embeds"),
        (
            {"input_ids": IDS, "pixel_values": pixels, "vision_context": context},
            "pixel_values: give either the images or the vision_context made of them, not both",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model.model(**arguments)
    other = AdemVLConfig(text_config={"model_type": "gpt_bigcode"}, vision_config=VISION, **SETTINGS)
    with torch.device("meta"), pytest.raises(ValueError, match="a 'gpt_bigcode' has no layers.<i>.mlp; accepted are"):
        AdemVLModel(other)


def test_pipeline_answers_about_images_in_several_turns(tmp_path, processor, image):
    model = build()
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, AdemVLProcessor)
    assert list(loaded.image_processor.image_mean) == CLIP_PROCESSOR["image_mean"]
    answer = pipeline("image-text-to-text", model=str(tmp_path))
    first, several = turns("what?", image=image), turns("what?", "a cat", "why?", image=image)
    answers = answer(text=[first, several, turns("why?")], max_new_tokens=4, return_full_text=False, do_sample=False)
    expected = model.generate(
        **loaded.apply_chat_template(
            several, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ),
        max_new_tokens=4,
        do_sample=False,
    )
    text = loaded.decode(expected[0], skip_special_tokens=True)
    assert text.endswith(answers[1][0]["generated_text"])
    assert answers[1][0]["generated_text"]
    assert len(answers) == 3
    single = answer(images=image, text="<image>a picture of", max_new_tokens=4)
    assert single[0]["generated_text"].startswith("<image>a picture of")


def test_copies_do_not_share_their_adapters(pixels):
    model = build()
    expected = logits(model, pixel_values=pixels)
    other = copy.deepcopy(model)
    torch.nn.init.normal_(other.model.value_offsets)
    assert torch.equal(logits(model, pixel_values=pixels), expected)
    assert not torch.allclose(logits(other, pixel_values=pixels), expected)


def greedy_by_hand(model, ids, pixels, new=8, process=lambda ids, scores: scores):
    """Without cache, hooks of generation or anything that is kept: the whole row is read again for each token."""
    for _ in range(new):
        scores = logits(model, ids, pixel_values=pixels, use_cache=False)[:, -1]
        ids = torch.cat([ids, process(ids, scores).argmax(-1, keepdim=True)], dim=1)
    return ids


def penalized(ids, scores):
    """Repetition penalty 1.5 as its paper has it, over the tokens that are in the vocabulary."""
    seen = torch.tensor([sorted(set(row.tolist()) - {IMAGE}) for row in ids])
    kept = scores.gather(1, seen)
    return scores.scatter(1, seen, torch.where(kept < 0, kept * 1.5, kept / 1.5))


PROMPT = torch.tensor([[1, 5, IMAGE, 7, 8, 9, 1, 5]])


@torch.no_grad()
def test_generation_never_looks_the_image_token_up_in_the_vocabulary(pixels):
    model = build(beta=1.0, alpha=0.5)
    settings = {**GREEDY, "max_new_tokens": 8, "pixel_values": pixels}
    expected = greedy_by_hand(model, PROMPT, pixels)
    assert torch.equal(model.generate(PROMPT, **settings), expected)
    assert torch.equal(model.generate(input_ids=PROMPT, prompt_lookup_num_tokens=3, **settings), expected)
    found = model.generate(PROMPT, repetition_penalty=1.5, **settings)
    assert torch.equal(found, greedy_by_hand(model, PROMPT, pixels, process=penalized))
    assert not torch.equal(found, expected)
    first = PROMPT.roll(-2, dims=1)  # the image token before all others
    found = model.generate(first, repetition_penalty=1.5, prompt_lookup_num_tokens=2, **settings)
    assert torch.equal(found, greedy_by_hand(model, first, pixels, process=penalized))
    beams = model.generate(PROMPT, no_repeat_ngram_size=2, num_beams=3, num_return_sequences=2, **settings)
    assert torch.equal(beams[:, :8], PROMPT.expand(2, -1))
    alone = model.generate(PROMPT[:, [2]], **settings)
    assert torch.equal(alone, greedy_by_hand(model, PROMPT[:, [2]], pixels))
    # Padding is found by its id where no mask is given; an image beside it is none.
    for text in (PROMPT[:, 2:], PROMPT[:, [2]]):
        padded = torch.cat([torch.zeros_like(PROMPT[:, :3]), text], dim=1)
        found = model.generate(padded, **settings)
        assert torch.equal(found[:, 3:], greedy_by_hand(model, text, pixels))
    # What is in the image's place meanwhile is a token that stands beside it.
    seen = []
    for text in (PROMPT, torch.tensor([[IMAGE, 9, 9, 9]]), torch.tensor([[9, 9, IMAGE]])):
        model.generate(text, logits_processor=[lambda ids, scores: seen.append(ids) or scores], **settings)
        assert set(seen[-8].flatten().tolist()) == set(text.flatten().tolist()) - {IMAGE}


@torch.no_grad()
def test_a_streamer_gets_the_prompt_as_it_was_given_and_each_token(pixels):
    class Streamer(BaseStreamer):
        def __init__(self):
            self.values, self.ended = [], False

        def put(self, value):
            self.values.append(value)

        def end(self):
            self.ended = True

    model, streamer = build(), Streamer()
    found = model.generate(PROMPT, pixel_values=pixels, streamer=streamer, **GREEDY)
    assert streamer.ended and torch.equal(streamer.values[0].reshape(1, -1), PROMPT)
    assert torch.equal(torch.cat([value.flatten() for value in streamer.values]), found[0])


@torch.no_grad()
@pytest.mark.parametrize("assistant", ["the model itself", "a copy", "text only", "other eyes"])
def test_assistants_change_nothing(pixels, assistant):
    model = build(beta=1.0, alpha=0.5)
    helper = {
        "the model itself": lambda: model,
        "a copy": lambda: copy.deepcopy(model),
        "text only": lambda: AutoModelForCausalLM.from_config(configuration().text_config).eval(),
        "other eyes": lambda: build(pool_sizes=[2]),
    }[assistant]()
    found = model.generate(PROMPT, pixel_values=pixels, assistant_model=helper, **GREEDY)
    assert torch.equal(found, greedy_by_hand(model, PROMPT, pixels, new=5))


@torch.no_grad()
def test_a_cache_remembers_what_its_tokens_have_seen(pixels):
    model = build(beta=1.0, alpha=0.5)
    more = torch.tensor([[9, 10], [11, 12]])
    whole = logits(model, torch.cat([IDS, more], dim=1), pixel_values=pixels)[:, -2:]
    first = model(IDS, pixel_values=pixels)
    kept = copy.deepcopy(first.past_key_values)
    steps = [model(piece, past_key_values=first.past_key_values).logits for piece in more.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    # Copied, cropped; with other rows it is not known whose image is whose, unless it is said again.
    torch.testing.assert_close(model(more, past_key_values=copy.deepcopy(kept)).logits, whole)
    cropped = copy.deepcopy(kept)
    cropped.crop(-1)
    torch.testing.assert_close(model(torch.cat([IDS[:, -1:], more], 1), past_key_values=cropped).logits[:, 1:], whole)
    for change in (
        lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([1])),
        lambda cache: cache.batch_repeat_interleave(2),
    ):
        changed = copy.deepcopy(kept)
        change(changed)
        rows = changed.layers[0].keys.shape[0]
        with pytest.raises(ValueError, match="past_key_values: its tokens have seen images, and its rows may have"):
            model(more[:1].expand(rows, -1), past_key_values=changed)
    swapped = copy.deepcopy(kept)
    swapped.reorder_cache(torch.tensor([1, 0]))
    again = model(more.flip(0), past_key_values=swapped, vision_context=first.vision_context.flip(0))
    torch.testing.assert_close(again.logits, whole.flip(0))
    # An emptied cache has seen nothing, and a new image takes the place of the old.
    kept.crop(-5)
    torch.testing.assert_close(model(IDS[1:].expand(2, -1), past_key_values=kept).logits[1:], logits(model, IDS[1:]))
    other = images(1)[0]
    cache = model(IDS[:1], pixel_values=pixels).past_key_values
    model(IDS[:1], past_key_values=cache, pixel_values=other)
    context, _ = model.model.encode_rows(IDS[:1], other)
    said = model(more[:1], past_key_values=copy.deepcopy(cache), vision_context=context)
    torch.testing.assert_close(model(more[:1], past_key_values=cache).logits, said.logits)


@torch.no_grad()
def test_a_sliding_cache_that_lost_its_beginning_asks_for_the_images(pixels):
    model = build("mistral", beta=1.0)
    model.config.text_config.sliding_window = 6
    first = model(IDS, pixel_values=pixels)
    model(IDS[:, :2], past_key_values=first.past_key_values)
    with pytest.raises(ValueError, match="past_key_values: its tokens have seen images"):
        model(IDS[:, :1].clone(), past_key_values=first.past_key_values)
    model(IDS[:, :1], past_key_values=first.past_key_values, vision_context=first.vision_context)


@torch.no_grad()
def test_a_second_turn_needs_the_image_no_more(pixels):
    model = build(beta=1.0, alpha=0.5)
    first = model.generate(PROMPT, pixel_values=pixels, return_dict_in_generate=True, **GREEDY)
    assert torch.equal(first.sequences, greedy_by_hand(model, PROMPT, pixels, new=5))
    turns = torch.cat([first.sequences, torch.tensor([[9, 10, 11]])], dim=1)
    expected = greedy_by_hand(model, turns, pixels, new=5)
    again = {"pixel_values": pixels, "past_key_values": copy.deepcopy(first.past_key_values)}
    assert torch.equal(model.generate(turns, **again, **GREEDY), expected)
    kept = copy.deepcopy(first.past_key_values)
    assert torch.equal(model.generate(turns, past_key_values=first.past_key_values, **GREEDY), expected)
    # A new place for an image needs its image.
    with pytest.raises(ValueError, match="row 0 has an image token, but there is no image"):
        model.generate(torch.cat([turns, PROMPT], dim=1), past_key_values=kept, **GREEDY)


def test_embeddings_come_with_the_class_token_in_place_or_not_at_all(pixels):
    model = build(beta=1.0)
    context, class_embeds = model.model.encode_rows(IDS, pixels)
    embeds = model.model.embed(IDS, class_embeds).detach()
    expected = logits(model, pixel_values=pixels)
    torch.testing.assert_close(logits(model, None, inputs_embeds=embeds, vision_context=context), expected)
    for wrong in ({"pixel_values": pixels}, {"class_embeds": class_embeds, "vision_context": context}):
        for run in (model, model.generate):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))}: got it with inputs_embeds, where the class"):
                run(inputs_embeds=embeds, **wrong)
    blind = build(use_cls_token=False)
    both = torch.cat(images(2))
    ids = IDS.masked_fill(IDS == IMAGE, 9)
    embeds = blind.get_input_embeddings()(ids).detach()
    torch.testing.assert_close(
        logits(blind, None, inputs_embeds=embeds, pixel_values=both), logits(blind, ids, pixel_values=both)
    )


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(pixels):
    model = build(beta=1.0)
    both = torch.cat([IDS[:1], IDS[1:]], dim=1)
    positions = torch.arange(5).repeat(2)[None]
    context, class_embeds = model.model.encode_rows(both, pixels)
    seen = {"vision_context": context, "class_embeds": class_embeds}
    packed = model(both, position_ids=positions, **seen)
    apart = torch.cat([logits(model, row[None], **seen) for row in IDS], dim=1)
    torch.testing.assert_close(packed.logits, apart)
    assert packed.past_key_values is None


@torch.no_grad()
def test_the_compiled_graph_is_whole_and_refuses_images_without_a_row(pixels):
    torch._dynamo.reset()
    model, both = build(beta=1.0), torch.cat(images(2))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    got, expected = compiled(IDS, pixel_values=pixels), model(IDS, pixel_values=pixels)
    torch.testing.assert_close(got.logits, expected.logits)
    got.past_key_values.reorder_cache(torch.tensor([1, 0]))
    for cache, inputs, message in (
        (got.past_key_values, {}, "past_key_values: its tokens have seen images"),
        (None, {"pixel_values": both}, "pixel_values: images and rows differ"),
    ):
        with pytest.raises(RuntimeError, match=message):
            compiled(IDS if cache is None else IDS[:, :1], past_key_values=cache, **inputs)
    torch._dynamo.reset()
    model = build(beta=1.0, use_cls_token=False)
    arguments = {"input_ids": IDS.masked_fill(IDS == IMAGE, 9), "image_mask": torch.tensor([0, 1])}
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    got = compiled(pixel_values=both[1:], **arguments).logits
    torch.testing.assert_close(got, model(pixel_values=both, **arguments).logits)
    torch._dynamo.reset()


def test_rows_and_images_that_differ_fail_in_a_graph_too(pixels, monkeypatch):
    inner, both = build().model, torch.cat(images(2))
    expected = inner.encode_rows(IDS, pixels)
    twice = IDS.masked_fill(IDS == 7, IMAGE)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for got, wanted in zip(inner.encode_rows(IDS, pixels), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    for ids, images_, mask in ((twice, pixels, None), (IDS, both, torch.tensor([1, 1])), (IDS, both, torch.zeros(2))):
        with pytest.raises(RuntimeError, match="input_ids: image tokens and images differ"):
            inner.encode_rows(ids, images_, mask)
    with pytest.raises(RuntimeError, match="pixel_values: images and rows differ"):
        inner.encode_rows(IDS, both)
    with pytest.raises(RuntimeError, match="input_ids: an image token, but no image"):
        inner._check_no_slot(IDS)
    inner._check_no_slot(IDS[1:])


@torch.no_grad()
def test_images_of_another_size_or_form_are_refused():
    inner = build().model
    for shape in ((1, 3, 32, 40), (1, 3, 40, 32), (3, 32, 32)):
        with pytest.raises(ValueError, match=r"pixel_values: got shape .*, expected \(images, 3, 32, 32\)"):
            inner.encode_images(torch.zeros(shape))


@pytest.mark.thorough
def test_the_compiled_graph_gives_the_same_gradients(pixels):
    torch._dynamo.reset()
    plain = build(vision_adapter_dropout=0.0).train()
    other = copy.deepcopy(plain)
    plain(IDS, pixel_values=pixels, labels=IDS).loss.backward()
    other.activation_checkpointing_enable()
    compiled = torch.compile(other, backend="aot_eager")
    compiled(IDS, pixel_values=pixels, labels=IDS, use_cache=False).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-4, atol=1e-6, msg=name)
    torch._dynamo.reset()


@pytest.mark.parametrize("how", ["transformers", "torch"])
def test_recomputed_layers_see_their_own_images_in_another_thread(pixels, how):
    def gradients(checkpointing: bool):
        model = build(vision_adapter_dropout=0.0).train()
        if checkpointing and how == "transformers":
            model.activation_checkpointing_enable()
        elif checkpointing:
            layer = type(model.model.language_model.layers[0])
            apply_activation_checkpointing(model.model.language_model, check_fn=lambda m: isinstance(m, layer))
        loss = model(IDS, pixel_values=pixels, labels=IDS, use_cache=False).loss
        loss = loss + model(IDS[1:], labels=IDS[1:], use_cache=False).loss
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        return [p.grad for p in model.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False))


def test_what_is_set_for_a_part_is_set_for_its_tower(tmp_path, bases, pixels):
    assembled = AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS)
    assembled.save_pretrained(tmp_path / "adapters", adapter_only=True)
    for model in (build(), assembled, AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters")):
        parts = {"vision_config": model.model.vision_tower, "text_config": model.model.language_model}
        for name, part in parts.items():
            assert part.config is getattr(model.config, name)
            model.set_attn_implementation({name: "eager"})
            assert part.config._attn_implementation == "eager"
        model.set_attn_implementation({"vision_config": "sdpa"})
        used = {name: part.config._attn_implementation for name, part in parts.items()}
        assert used == {"vision_config": "sdpa", "text_config": "eager"}


@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model"])
def test_missing_weights_of_a_tower_start_as_the_tower_alone_does(vision):
    wide = {**VISION, "hidden_size": 64, "num_hidden_layers": 9}
    config = AdemVLConfig(
        text_config={"model_type": "llama", **TEXT, "initializer_range": 0.2},
        vision_config={"model_type": vision, **wide},
        **SETTINGS,
    )
    alone = AutoModel.from_config(copy.deepcopy(config.vision_config))
    offsets = {"model.key_offsets": torch.zeros(1, 20, 32)}
    model = AdemVLForConditionalGeneration.from_pretrained(None, config=config, state_dict=offsets)
    weights = {name: p for name, p in model.model.vision_tower.named_parameters() if p.ndim > 1}
    assert len(weights) > 30
    for name, weight in weights.items():
        expected = alone.get_parameter(name).std().item()
        assert weight.std().item() == pytest.approx(expected, rel=0.25), name
    assert model.model.language_model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.2, rel=0.1)


def test_the_head_is_in_the_tensor_parallel_plan():
    plan = build().tp_plan
    assert plan["lm_head"] == "colwise_gather_output"
    assert plan["model.language_model.layers.*.mlp.down_proj"] == "rowwise"


@pytest.mark.parametrize(
    "settings", [{"max_shard_size": "2KB"}, {"variant": "tuned"}, {"variant": "tuned", "max_shard_size": "2KB"}]
)
def test_adapters_load_from_shards_and_variants(tmp_path, bases, pixels, settings):
    model = trained(AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS))
    model.save_pretrained(tmp_path / "adapters", adapter_only=True, **settings)
    files = {path.name for path in (tmp_path / "adapters").glob("*.safetensors")}
    assert (len(files) > 1) == ("max_shard_size" in settings) and "model.safetensors" not in files
    how = {name: value for name, value in settings.items() if name == "variant"}
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters", **how)
    assert torch.equal(logits(loaded, pixel_values=pixels), logits(model, pixel_values=pixels))
    with pytest.raises(OSError, match="other"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters", variant="other")


def test_the_mask_tells_what_the_assistant_said(processor, image):
    chat = functools.partial(
        processor.apply_chat_template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    long, short = turns("what?", "a cat", "why?", "so it is", image=image), turns("why?", "no")
    batch = chat([long, short])
    for ids, mask, said in zip(batch["input_ids"], batch["assistant_masks"], ["a catso it is", "no"], strict=True):
        assert processor.tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]).replace(" ", "") == (
            said.replace(" ", "")
        )
    cut = chat(long, processor_kwargs={"truncation": True, "max_length": 32})
    assert len(cut["input_ids"][0]) == len(cut["assistant_masks"][0]) == 32
    encoded = processor(text=["<image>ab c", "dog"], images=[image], return_offsets_mapping=True)
    for index, text in enumerate(["<image>ab c", "dog"]):
        ids, offsets = encoded["input_ids"][index], encoded["offset_mapping"][index]
        found = [piece.strip("▁") for piece in processor.tokenizer.convert_ids_to_tokens(ids)][-4:]
        places = zip(found, offsets[-4:], strict=True)
        assert found == [text[start:end].strip() if piece else "" for piece, (start, end) in places]
        assert len(ids) == len(offsets) and offsets[0] == (0, 0)
    processor.tokenizer.padding_side = "right"
    encoded = processor(text=["abc d", "e"], padding=True, padding_side="right", return_offsets_mapping=True)
    assert encoded["offset_mapping"][1][-1] == (0, 0) != encoded["offset_mapping"][0][-1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_of_tokens_are_cut_and_padded_as_the_tokens_are(processor, image, side):
    """Of each token of the text where it stands in it, wherever the padding is; nothing of what was cut off."""
    texts, images = ["<image>ab c", "ab dog"], [image]
    whole = processor(text=texts, images=images, padding=False, return_offsets_mapping=True)
    for length in (2, len(whole["input_ids"][0]) - 1, 100):
        cut = processor(
            text=texts, images=images, padding=True, padding_side=side, truncation=True, max_length=length,
            return_offsets_mapping=True,
        )  # fmt: skip
        sizes = [min(length, len(ids)) for ids in whole["input_ids"]]
        for row, size in enumerate(sizes):
            padding = [(0, 0)] * (max(sizes) - size)
            kept = [*whole["offset_mapping"][row]][:size]
            expected = padding + kept if side == "left" else kept + padding
            assert [tuple(place) for place in cut["offset_mapping"][row]] == expected
            assert len(cut["input_ids"][row]) == len(expected)
    first = [place for place in whole["offset_mapping"][0] if place != (0, 0)]
    assert first[0][0] == len("<image>") and first[-1] == (len("<image>ab "), len("<image>ab c"))


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"padding": True}, lambda longest: longest),
        ({"padding": True, "pad_to_multiple_of": 8}, lambda longest: -(-longest // 8) * 8),
        ({"padding": "longest", "pad_to_multiple_of": 5}, lambda longest: -(-longest // 5) * 5),
        ({"padding": "max_length", "max_length": 21}, lambda longest: 21),
        ({"padding": "max_length", "max_length": 21, "pad_to_multiple_of": 4}, lambda longest: 24),
    ],
    ids=["longest", "multiple", "other multiple", "length", "length and multiple"],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_to_what_is_asked_for(processor, image, options, length, side):
    texts, images = ["<image>ab c", "dog"], [image]
    plain = processor(text=texts, images=images, padding=False)["input_ids"]
    padded = processor(text=texts, images=images, padding_side=side, return_tensors="pt", **options)
    expected = length(max(map(len, plain)))
    for row, ids in enumerate(plain):
        missing = expected - len(ids)
        filled = [processor.tokenizer.pad_token_id] * missing
        mask = [0] * missing + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * missing
        assert padded.input_ids[row].tolist() == (filled + ids if side == "left" else ids + filled)
        assert padded.attention_mask[row].tolist() == mask


def by_the_paper(model, ids, pixels):
    """Logits of rows that all have an image, written down from the paper with the towers' layers as they are."""
    config, inner = model.config, model.model
    tower, settings = inner.vision_tower, config.vision_config
    hidden = tower.embeddings(pixels)
    if settings.model_type == "clip_vision_model":
        hidden = tower.pre_layrnorm(hidden)
    depth = config.vision_feature_layer
    depth = depth if depth >= 0 else settings.num_hidden_layers + 1 + depth
    for layer, adapter in zip(tower.encoder.layers[:depth], inner.vision_adapters, strict=False):
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), attention_mask=None)[0]
        n = layer.layer_norm2(hidden)
        mlp = layer.mlp.fc2(layer.mlp.activation_fn(layer.mlp.fc1(n)))
        bottleneck = F.gelu(n @ adapter.fc1.weight.T) @ adapter.fc2.weight.T
        hidden = hidden + mlp + config.vision_adapter_scale * bottleneck
    hidden = tower.post_layernorm(hidden)
    clip = settings.model_type == "clip_vision_model"
    first, patches = (hidden[:, 0], hidden[:, 1:]) if clip else (hidden.mean(1), hidden)
    side = settings.image_size // settings.patch_size
    grid = patches.reshape(len(pixels), side, side, -1)
    pooled = []
    for size in config.pool_sizes:
        edges = [(i * side // size, -((-(i + 1) * side) // size)) for i in range(size)]
        pooled += [grid[:, a:b, c:d].mean((1, 2)) for a, b in edges for c, d in edges]
    features = torch.stack(pooled, dim=1)

    def project(projection, x):
        first, second = projection.fc1, projection.fc2
        return F.silu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias

    seen = config.beta * project(inner.image_projection, features)
    keys, values = F.silu(seen + inner.key_offsets), seen + inner.value_offsets

    decoder = inner.language_model
    embeds = decoder.embed_tokens(ids.clamp(max=config.text_config.vocab_size - 1))
    if config.use_cls_token:
        here = (ids == config.image_token_id)[..., None]
        embeds = torch.where(here, project(inner.class_projection, first)[:, None], embeds)
    hidden, positions = embeds, torch.arange(ids.shape[1])[None]
    rotary = decoder.rotary_emb(hidden, positions)
    causal = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)[None, None]
    for layer in decoder.layers:
        attention = layer.self_attn(layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=causal)
        hidden = hidden + attention[0]
        n = layer.post_attention_layernorm(hidden)
        scores = F.silu(n) @ keys.mT
        drop = int(config.drop_ratio * scores.shape[-1])
        ranks = scores.argsort(-1).argsort(-1)
        fused = torch.where(ranks < drop, 0.0, scores) @ values
        mlp = layer.mlp
        hidden = hidden + mlp.down_proj(F.silu(mlp.gate_proj(n)) * mlp.up_proj(n)) + config.alpha * fused
    return model.lm_head(decoder.norm(hidden))


@torch.no_grad()
@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model"])
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"alpha": 0.37},
        {"beta": 0.8},
        {"beta": 0.8, "drop_ratio": 0.45},
        {"beta": 0.8, "drop_ratio": 0.0},
        {"beta": 0.8, "pool_sizes": [3, 1]},
        {"beta": 0.8, "pool_sizes": [2, 4]},
        {"projector_hidden_size": 5},
        {"vision_adapter_dim": 3, "vision_adapter_scale": 0.9, "beta": 0.8},
        {"vision_feature_layer": -1, "beta": 0.8},
        {"vision_feature_layer": 1, "beta": 0.8},
        {"use_cls_token": False, "beta": 0.8},
        {"image_token_id": 40, "beta": 0.8},
    ],
    ids=str,
)
def test_every_option_is_the_papers(vision, option):
    model = build("llama", vision, alpha=option.pop("alpha", 0.5), **{**option})
    image_token = model.config.image_token_id
    ids = torch.tensor([[1, 5, image_token, 7, 8], [1, image_token, 6, 7, 8]])
    if not model.config.use_cls_token:
        ids = ids.masked_fill(ids == image_token, 9)
    pixels = torch.cat(images(2))
    torch.testing.assert_close(
        logits(model, ids, pixel_values=pixels), by_the_paper(model, ids, pixels), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_bottlenecks_drop_out_in_training_only(pixels):
    model = build(vision_adapter_dropout=1.0, beta=1.0)
    without = build(vision_adapter_scale=0.0, beta=1.0)
    without.load_state_dict(model.state_dict())
    evaluated, off = (m.model.encode_images(pixels).image_embeds for m in (model, without))
    assert not torch.allclose(evaluated, off)
    torch.testing.assert_close(model.train().model.encode_images(pixels).image_embeds, off)


def test_embeddings_and_head_are_those_of_the_decoder_and_can_be_exchanged():
    model = build()
    decoder = model.model.language_model
    assert model.get_input_embeddings() is model.model.get_input_embeddings() is decoder.embed_tokens
    assert model.get_output_embeddings() is model.lm_head and model.get_decoder() is model.model.get_decoder()
    table, head = torch.nn.Embedding(IMAGE, 32), torch.nn.Linear(32, IMAGE, bias=False)
    model.set_input_embeddings(table), model.set_output_embeddings(head)
    assert decoder.embed_tokens is table and model.lm_head is head
    model.model.set_input_embeddings(other := torch.nn.Embedding(IMAGE, 32))
    assert decoder.embed_tokens is other
    assert len(model.model.projections()) == 2 and len(build(use_cls_token=False).model.projections()) == 1


def test_a_processor_says_what_it_makes_and_leaves_the_start_out_where_it_is_told(processor, image):
    assert processor.model_input_names == ["input_ids", "attention_mask", "pixel_values"]
    whole, bare = (processor(text="what?", add_special_tokens=special)["input_ids"][0] for special in (True, False))
    assert whole[0] == processor.tokenizer.bos_token_id and whole[1:] == bare
    batch = np.stack([np.asarray(image)] * 2)
    together = processor(text=["<image>a", "<image>b"], images=batch, return_tensors="pt").pixel_values
    one = processor(text="<image>a", images=image, return_tensors="pt").pixel_values
    assert together.shape[0] == 2 and torch.equal(together[:1], one)
    cut = processor(text="what is it?", truncation=True, max_length=4)["input_ids"][0]
    assert cut == processor(text="what is it?")["input_ids"][0][:4]
    processor.use_cls_token = False
    assert processor.model_input_names[-1] == "image_mask"


def test_adapters_of_another_form_are_refused():
    config = configuration()
    names = {
        "key_offsets": (1, 20, 32),
        "image_projection.fc1.weight": (8, 24),
        "vision_adapters.0.fc1.weight": (4, 24),
    }
    weights = {name: torch.zeros(shape) for name, shape in names.items()}
    found = adapt(weights, copy.deepcopy(config))
    assert (found.projector_hidden_size, found.vision_adapter_dim, found.use_cls_token) == (8, 4, False)
    assert adapt({**weights, "class_projection.fc1.weight": torch.zeros(1)}, copy.deepcopy(config)).use_cls_token
    for change, message in (
        ({"key_offsets": None}, r"no ADEM-VL adapters: key_offsets missing; found \['image_projection"),
        ({"key_offsets": torch.zeros(20, 32)}, "key_offsets, .* have other shapes than 3, 2 and 2 dimensions"),
        ({"key_offsets": torch.zeros(1, 20, 31)}, "made for 31 as the decoder's hidden size, .* have 32"),
        ({"key_offsets": torch.zeros(1, 19, 32)}, "made for 19 as the number of visual tokens, .* have 20"),
        ({"image_projection.fc1.weight": torch.zeros(8, 23)}, "made for 23 as the vision tower's width, .* have 24"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt({n: v for n, v in {**weights, **change}.items() if v is not None}, copy.deepcopy(config))


def test_arguments_of_a_training_become_settings():
    given = {"alpha": "0.2", "beta": 0.03, "drop_ratio": 0, "down_sample_num": "[256, 64]", "no_cls": True, "lr": 1}
    expected = {"alpha": 0.2, "beta": 0.03, "drop_ratio": 0.0, "pool_sizes": [16, 8], "use_cls_token": False}
    assert settings_of(given) == expected and settings_of({}) == {}
    assert settings_of({"down_sample_num": [4], "no_cls": False}) == {"pool_sizes": [2], "use_cls_token": True}
    for name, wrong in (("alpha", "much"), ("beta", None), ("down_sample_num", "["), ("down_sample_num", 3)):
        with pytest.raises(ValueError, match=f"{name}: got .* in the checkpoint's arguments, expected numbers"):
            settings_of({name: wrong})
    with pytest.raises(ValueError, match=r"down_sample_num: got \[256, 65\] .*, expected squares"):
        settings_of({"down_sample_num": [256, 65]})


def test_adapters_go_without_the_quantisation_of_the_language_model(tmp_path, bases):
    model = AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS)
    quantization = {"quant_method": "of somebody", "bits": 4}
    model.config.text_config.quantization_config = quantization
    model.save_pretrained(tmp_path / "adapters", adapter_only=True)
    written = json.loads((tmp_path / "adapters" / "config.json").read_text())
    assert written["adapter_only"] and "quantization_config" not in written["text_config"]
    assert model.config.text_config.quantization_config is quantization and not model.config.adapter_only


def test_a_head_with_a_bias_begins_without_one():
    config = configuration()
    config.text_config.lm_head_bias = True
    head = AdemVLForConditionalGeneration(config).lm_head
    assert not head.bias.any() and head.weight.any()


@pytest.mark.parametrize("keys", [None, torch.zeros(2, 3), torch.zeros(2, 4, 0, 8), "no layers"], ids=str)
def test_whether_the_rows_of_a_cache_without_keys_have_changed_cannot_be_told(keys):
    layers = [] if isinstance(keys, str) else [SimpleNamespace(keys=keys)]
    cache = SimpleNamespace(layers=layers, get_seq_length=lambda: 3)
    fusion_adem_vl.keep_with_cache(cache, SimpleNamespace(image_embeds=torch.ones(1)))
    with pytest.raises(
        ValueError, match="^past_key_values: its tokens have seen images, and its rows may have changed"
    ):
        fusion_adem_vl.seen_with_cache(cache)
    cache.get_seq_length = lambda: 0
    assert fusion_adem_vl.seen_with_cache(cache) is None
    known = SimpleNamespace(layers=[SimpleNamespace(keys=torch.zeros(2, 4, 3, 8))], get_seq_length=lambda: 3)
    fusion_adem_vl.keep_with_cache(known, fusion := SimpleNamespace(image_embeds=torch.ones(1)))
    assert fusion_adem_vl.seen_with_cache(known) is fusion


def test_a_compiler_sees_layers_and_keys_as_they_are(monkeypatch):
    """Nothing is kept from one layer for the next, nothing wrapped, and rows that have changed fail in the graph."""
    fusion = fusion_adem_vl.Fusion({"a": (torch.ones(1, 2, 4), torch.ones(1, 2, 4))})
    hidden, called = torch.zeros(1, 3, 4), []
    monkeypatch.setattr(fusion, "_fitted", lambda *given: called.append(given) or "fitted")
    layer = lambda *given, **named: (given, named)  # noqa: E731
    handing = fusion_adem_vl._HandingOn(lambda run, *given, **named: (run, run(*given, **named)))
    mark = torch.zeros(1, 2, 3)
    cache = SimpleNamespace(adem_seen=fusion_adem_vl._Seen("fusion", mark), get_seq_length=lambda: 1)
    for compiling, times in ((True, 2), (False, 1)):
        called.clear()
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        assert [fusion.of("a", hidden) for _ in range(2)] == ["fitted", "fitted"] and len(called) == times
        with fusion_adem_vl._as_running(fusion_adem_vl._Running("slot", "fusion", None)):
            run, said = handing(layer, 1, use_reentrant=compiling)
        assert (run is layer) == compiling and said == ((1,), {"use_reentrant": compiling})
        for change, error in ((0, None), (1, RuntimeError if compiling else ValueError)):
            monkeypatch.setattr(fusion_adem_vl, "_mark_of_rows", lambda cache, change=change: mark + change)
            if error is None:
                assert fusion_adem_vl.seen_with_cache(cache) == "fusion"
                continue
            with pytest.raises(error, match="its rows may have changed since"):
                fusion_adem_vl.seen_with_cache(cache)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_arrays_of_16_bits_are_pictures(processor, image, order):
    """257 times a value of 8 bits is the same grey in 16."""
    plain = np.asarray(image)
    fine = (plain.astype(np.uint16) * 257).astype(order)
    found, expected = (
        processor(text="<image>a", images=each, return_tensors="pt").pixel_values for each in (fine, plain)
    )
    assert torch.equal(found, expected)


def test_all_that_is_said_in_a_chat_stands_in_its_text(processor, image):
    """Instructions before it, texts alone or in parts, an image in a later turn, and an answer at the end."""
    text = {"type": "text"}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{**text, "text": "What "}, {**text, "text": "now?"}]},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": [{"type": "image", "image": image}, {**text, "text": "And here?"}]},
        {"role": "assistant", "content": [{**text, "text": "A "}, {**text, "text": "cat"}]},
    ]
    said = "Be brief.\nInstruction: What now?\nResponse:No."
    assert processor.apply_chat_template(messages[:3]) == f"Image: N/A{said}"
    said += "\nInstruction: And here?\nResponse:A cat"
    assert processor.apply_chat_template(messages) == f"Image: <image>{said}"


def test_texts_are_cut_where_it_is_asked_for_alone(processor):
    whole = processor(text="what is it?")["input_ids"][0]
    assert processor(text="what is it?", padding="max_length", max_length=4)["input_ids"][0] == whole
    assert processor(text="what is it?", truncation=True)["input_ids"][0] == whole


@pytest.mark.parametrize("special", [True, False])
def test_a_tokenizer_without_a_start_begins_with_what_is_said_of_the_image(processor, image, special):
    processor.tokenizer.bos_token = None
    for text, images, expected in (
        ("what?", None, ("Image: N/A", "what?")),
        ("<image>what?", image, ("Image: ", IMAGE, "what?")),
    ):
        found = processor(text=text, images=images, add_special_tokens=special)["input_ids"]
        assert found == [pieces(processor, *expected)]


def test_places_of_tokens_are_told_without_the_start_too(processor, image):
    of = functools.partial(processor, [image], ["<image>ab c"], return_offsets_mapping=True)
    whole, bare = of(), of(add_special_tokens=False)
    assert bare["offset_mapping"][0] == whole["offset_mapping"][0][1:]
    assert len(bare["offset_mapping"][0]) == len(bare["input_ids"][0])
