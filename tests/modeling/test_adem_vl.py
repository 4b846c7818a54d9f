"""What is ADEM-VL's own: rows with and without images, generation, adapter folders, conversion, processor."""

import argparse
import copy
import functools

import numpy as np
import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import load_file
from transformers import (
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

import hf_effmodels  # noqa: F401
from hf_effmodels import hub
from hf_effmodels.adapters.adem import convert_to_peft
from hf_effmodels.hub.convert import ConversionError
from hf_effmodels.modeling.adem_vl.configuration_adem_vl import CLIP_PROCESSOR, PRESETS, AdemVLConfig
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


@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model"])
def test_each_row_is_what_it_is_alone(pixels, vision):
    model = build("llama", vision)
    together = logits(model, pixel_values=pixels)
    torch.testing.assert_close(together[:1], logits(model, IDS[:1], pixel_values=pixels))
    torch.testing.assert_close(together[1:], logits(model, IDS[1:]))
    both = torch.cat([pixels, torch.zeros_like(pixels)])
    mask = torch.tensor([1, 0])
    assert torch.equal(logits(model, pixel_values=both, image_mask=mask), together)


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
        found = model.generate(ids, attention_mask=mask, pixel_values=pixels, **more, **GREEDY)[:, 6:]
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


def test_full_models_save_and_load_with_float32_adapters_in_half_precision(tmp_path, pixels):
    model = build()
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(logits(loaded, pixel_values=pixels), logits(model, pixel_values=pixels))
    trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ADAPTER_NAMES.match(name)}
    half = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    dtypes = {bool(ADAPTER_NAMES.match(name)): p.dtype for name, p in half.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
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
    loaded.save_pretrained(tmp_path / "full")
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "full")
    torch.testing.assert_close(logits(whole, pixel_values=pixels), logits(model, pixel_values=pixels))
    with pytest.raises(ValueError, match=r"config.text_model_name_or_path: got None"):
        build().save_pretrained(tmp_path / "nowhere", adapter_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_frozen_parts_that_do_not_fit_are_refused(tmp_path, bases, pixels):
    model = AdemVLForConditionalGeneration.from_base_models(*bases, **SETTINGS)
    model.save_pretrained(tmp_path / "adapters", adapter_only=True)
    wide = copy.deepcopy(configuration().text_config)
    wide.hidden_size = 64
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path / "wide")
    config = AdemVLConfig.from_pretrained(tmp_path / "adapters")
    config.text_model_name_or_path = str(tmp_path / "wide")
    config.save_pretrained(tmp_path / "adapters")
    with pytest.raises(ValueError, match="trained for a text model with hidden_size 32, .*wide has 64"):
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
        assert all(adapter.fc1.weight.any() for adapter in inner.vision_adapters)


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


def test_texts_and_images_that_do_not_correspond_are_refused(processor, image, pixels):
    for arguments, message in (
        ({"text": "<image>what?"}, r"images: got 0, but the texts have 1 place\(s\) for one. Begin each text"),
        ({"text": "what?", "images": image}, r"images: got 1, but the texts have 0 place"),
        ({"text": ["<image>a", "b"], "images": [[], [image]]}, "images: got 0, but text 0 has 1"),
        ({"text": "<image><image>", "images": [image] * 2}, "2 image tokens; the model looks at one image per text"),
        ({"text": "what <image>", "images": image}, "write <image> at its start"),
        ({"images": image}, "text: got None"),
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
        ({"drop_ratio": 1.0}, "drop_ratio: got 1.0"),
        ({"vision": "vit"}, "vision_config: got model_type 'vit', accepted are clip_vision_model"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            configuration(**settings)
    with pytest.raises(ValueError, match=r"vision_context: got \(1, 3, 32\), expected \(rows, 20, 32\)"):
        model(IDS[1:], vision_context=torch.zeros(1, 3, 32))
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
