"""LightCLIP's own: CLIP's numbers with other towers, what trains them and leaves again, its Hub folder."""

import logging
import math
from functools import partial

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutput

from hf_effmodels import LightClipConfig, LightClipForPreTraining, LightClipModel
from hf_effmodels.hub import export
from hf_effmodels.hub.convert import ConversionError, convert_state_dict
from hf_effmodels.modeling.light_clip.softened_contrastive import softened_contrastive_loss
from hf_effmodels.modeling.light_clip.token_matching import token_matching_loss
from hf_effmodels.registry import ARCHITECTURES

from ..threads import run_together
from .tiny import tiny_config, tiny_fields

LIGHT_CLIP = ARCHITECTURES["light_clip"]
TEXT = tiny_fields(LIGHT_CLIP)["text_config"]
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
VIT |= {"image_size": 32, "patch_size": 8}
#: Four towers that this project did not write, and two that it did -> how many places a 32×32 image has.
TOWERS = {
    "resnet": (tiny_fields(LIGHT_CLIP)["vision_config"], 16),
    "convnext": ({"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, 16),
    "vit": ({"model_type": "vit", **VIT}, 16),
    "swin": (
        {"model_type": "swin", "image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
        | {"window_size": 4},
        16,
    ),
    "ghostnetv3": (
        {"model_type": "ghostnetv3", "stem_size": 8, "final_size": 16, "head_size": 8, "image_size": 32}
        | {"stages": (((3, 8, 8, 0, 1),), ((3, 16, 12, 0, 2),)), "num_conv_branches": 2},
        64,
    ),
    "tinyvit": (
        {"model_type": "tinyvit", "embed_dims": [8, 16], "depths": [1, 1], "num_heads": [2], "window_sizes": [3]}
        | {"image_size": 32, "downsample_strides": [2]},
        16,
    ),
}


def build(kind=LightClipForPreTraining, **overrides) -> LightClipModel:
    torch.manual_seed(1)
    model = kind(tiny_config(LIGHT_CLIP, **overrides)).eval()
    for fusion in getattr(model, "fusions", {}).values():  # they begin as nothing
        torch.nn.init.normal_(fusion.out_proj.weight, std=0.3)
    return model


def inputs(masked: bool = True) -> dict[str, torch.Tensor]:
    """Three pairs of two to five words, one word of each masked."""
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.full((3, 7), 98)
    for row, words in enumerate((2, 5, 3)):
        input_ids[row, 0] = 97
        input_ids[row, 1 : 1 + words] = torch.randint(1, 90, (words,), generator=generator)
    attention_mask = torch.arange(7) < torch.tensor([4, 7, 5])[:, None]
    given = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
    given["pixel_values"] = torch.randn(3, 3, 32, 32, generator=generator)
    if masked:
        places = torch.arange(7)[None] == torch.tensor([1, 4, 2])[:, None]
        given["mlm_input_ids"] = torch.where(places, 99, input_ids)
        given["mlm_labels"] = torch.where(places, input_ids, -100)
    return given


def tokenizer() -> CLIPTokenizer:
    letters = [*"abcdefghijklmnopqrstuvwxyz.", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz.")]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    return CLIPTokenizer(vocab=vocabulary | {"<|startoftext|>": 97, "<|endoftext|>": 98}, merges=[])


def processor() -> CLIPProcessor:
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return CLIPProcessor(CLIPImageProcessorPil(**size), tokenizer())


def test_with_a_clip_tower_it_is_clip(tmp_path):
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=12)).eval()
    config = LightClipConfig(text_config=TEXT, vision_config={"model_type": "clip_vision_model", **VIT})
    config.projection_dim = 12
    ours = LightClipModel(config).eval()
    ours.load_state_dict(clip.state_dict())
    given = inputs(masked=False)
    with torch.no_grad():
        expected = clip(**given, return_loss=True, output_hidden_states=True)
        got = ours(**given, return_loss=True, output_hidden_states=True)
        assert type(got) is type(expected)
        for name in ("loss", "logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
            torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)
        for part in ("text_model_output", "vision_model_output"):
            assert got[part].keys() == expected[part].keys()
            torch.testing.assert_close(got[part].hidden_states, expected[part].hidden_states)
        text = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"]}
        torch.testing.assert_close(
            ours.get_text_features(**text).pooler_output, clip.get_text_features(**text).pooler_output
        )
        pixels = torch.randn(2, 3, 48, 40)
        larger = [model.get_image_features(pixels, interpolate_pos_encoding=True) for model in (ours, clip)]
        torch.testing.assert_close(larger[0].pooler_output, larger[1].pooler_output)
    assert isinstance(ours(**given, return_dict=False), tuple)


@pytest.mark.parametrize("name", TOWERS)
def test_any_image_tower_learns_with_the_text_tower(name, tmp_path):
    fields, places = TOWERS[name]
    model = build(vision_config=fields)
    outputs = model.train()(**inputs(), softening=0.1)
    assert outputs.patch_embeds.shape == (3, places, 12) and outputs.word_mask.sum(1).tolist() == [2, 5, 3]
    assert outputs.mlm_logits.shape == (3, 99)
    outputs.loss.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in unused if "classifier" not in name]
    model.eval().save_pretrained(tmp_path)
    kept = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(kept) is LightClipForPreTraining and kept.config.vision_hidden_size
    alone = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**inputs())
        torch.testing.assert_close(kept(**inputs()).loss, expected.loss)
        torch.testing.assert_close(alone(**inputs(masked=False)).logits_per_image, expected.logits_per_image)


def test_what_trains_the_towers_leaves_without_a_word(tmp_path, caplog):
    build(token_projection="own").save_pretrained(tmp_path)
    caplog.set_level(logging.WARNING)
    model, found = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is LightClipModel and not any(found.values()) and not caplog.records
    names = {name.partition(".")[0] for name in model.state_dict()}
    assert names == {"text_model", "vision_model", "visual_projection", "text_projection", "logit_scale"}
    # The other way round they begin anew.
    model.save_pretrained(tmp_path / "alone")
    again, found = LightClipForPreTraining.from_pretrained(tmp_path / "alone", output_loading_info=True)
    assert {name.partition(".")[0] for name in found["missing_keys"]} == {
        *("fusions", "mlm_head", "patch_projection", "word_projection", "mask_embedding")
    }
    assert all(torch.isfinite(parameter).all() for parameter in again.parameters())
    assert not any(fusion.out_proj.weight.any() for fusion in again.fusions.values())
    assert 0.15 < again.patch_projection.weight.std() < 0.35  # width^-0.5


def test_the_pipeline_labels_images_by_their_names(tmp_path, caplog):
    torch.manual_seed(4)
    export(build(LightClipModel), processor(), tmp_path / "out", license="mit")
    caplog.set_level(logging.WARNING)
    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path / "out"))
    image = Image.linear_gradient("L").convert("RGB")
    found = pipe([image, image], candidate_labels=["cat", "a dog", "bird"], hypothesis_template="this is {}.")
    assert not [record for record in caplog.records if "torchvision" not in record.getMessage()]
    given = processor()(images=image, text=["this is cat.", "this is a dog.", "this is bird."], padding=True)
    with torch.no_grad():
        probabilities = pipe.model(**given.convert_to_tensors("pt")).logits_per_image.softmax(-1)[0]
    for scores in found:
        assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in scores} == dict(
            zip(("cat", "a dog", "bird"), probabilities.tolist(), strict=True)
        )
    assert type(AutoProcessor.from_pretrained(tmp_path / "out")) is CLIPProcessor
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: zero-shot-image-classification" in card and "candidate_labels" in card
    with pytest.raises(ValueError, match="takes images and text; give a CLIPProcessor of transformers"):
        export(build(LightClipModel), processor().image_processor, tmp_path / "half")


def test_the_loss_is_the_sum_of_its_weighted_parts():
    options = {"token_loss_weight": 0.3, "mlm_loss_weight": 0.7, "uniform_softening": True, "token_top_k": 2}
    model = build(**options, token_projection="own")
    given = inputs()
    outputs = model(**given, softening=0.2)
    images, texts = outputs.vision_model_output, outputs.text_model_output
    factor = math.exp(2.6592)
    instance = softened_contrastive_loss(images.pooler_output, texts.pooler_output, factor, 0.2, uniform=True)
    places = images.last_hidden_state.flatten(2).transpose(1, 2) @ model.patch_projection.weight.T
    words = texts.last_hidden_state @ model.word_projection.weight.T
    mask = torch.zeros(3, 7, dtype=torch.bool)
    for row, count in enumerate((2, 5, 3)):
        mask[row, 1 : 1 + count] = True
    token = token_matching_loss(places, words, mask, factor, top_k=2)
    masked = F.cross_entropy(outputs.mlm_logits, given["input_ids"][[0, 1, 2], [1, 4, 2]])
    torch.testing.assert_close(outputs.instance_loss, instance, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.token_loss, token, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.mlm_loss, masked)
    torch.testing.assert_close(outputs.loss, instance + 0.3 * token + 0.7 * masked, rtol=1e-4, atol=1e-5)
    strict = build(**{**options, "token_top_k": 1}, token_matching="one_to_one", token_projection="own")
    expected = token_matching_loss(places, words, mask, factor, matching="one_to_one")
    torch.testing.assert_close(strict(**given).token_loss, expected, rtol=1e-4, atol=1e-5)
    shared = build()(**given)
    torch.testing.assert_close(
        shared.patch_embeds,
        shared.vision_model_output.last_hidden_state.flatten(2).transpose(1, 2) @ build().visual_projection.weight.T,
    )
    nothing_masked = model(**{**given, "mlm_labels": torch.full_like(given["mlm_labels"], -100)}, softening=0.2)
    assert nothing_masked.mlm_loss == 0
    torch.testing.assert_close(nothing_masked.loss, instance + 0.3 * token, rtol=1e-4, atol=1e-5)
    plain = build(token_loss_weight=0, mlm_loss_weight=0, token_projection="own")
    assert plain.patch_projection is None and plain.word_projection is None  # nothing would train them
    assert plain(**inputs(masked=False)).loss == plain(**inputs(masked=False)).instance_loss
    assert not [name for name, _ in plain.named_parameters() if "fusion" in name or "mlm" in name or "mask" in name]


def test_fusion_is_attention_from_words_to_places_added_to_the_words():
    model = build(fusion_layers=[1], fusion_num_attention_heads=4)
    fusion, states, places = model.fusions["1"], torch.randn(2, 5, 16), 3 * torch.randn(2, 9, 16) + 1
    with torch.no_grad():
        got = fusion(states, places)

        def normed(values):  # the scales of fresh layer norms are one and zero
            return (values - values.mean(-1, keepdim=True)) / (
                values.var(-1, keepdim=True, unbiased=False) + 1e-5
            ).sqrt()

        query = normed(states) @ fusion.q_proj.weight.T
        key, value = (normed(places) @ layer.weight.T for layer in (fusion.k_proj, fusion.v_proj))
        heads = []
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            weights = (query[..., part] @ key[..., part].transpose(1, 2) / 2).softmax(-1)
            heads.append(weights @ value[..., part])
        expected = states + torch.cat(heads, -1) @ fusion.out_proj.weight.T
    torch.testing.assert_close(got, expected)


def test_masked_words_see_the_image_and_both_sides_and_no_layer_is_left_out():
    given = inputs()
    model = build(fusion_layers=[0, 2])
    with torch.no_grad():
        before = model(**given).mlm_logits
        other = {**given, "pixel_values": given["pixel_values"] + torch.randn(3, 3, 32, 32)}
        assert (model(**other).mlm_logits - before).abs().max() > 1e-3
        # A later word tells of an earlier one, unless masked texts are read in one direction.
        later = {**given, "mlm_input_ids": given["mlm_input_ids"].clone()}
        later["mlm_input_ids"][0, 2] = 90
        changed = (model(**later).mlm_logits - before).abs().amax(1)
        assert changed[0] > 1e-4 and changed[1:].max() == 0
        causal = build(fusion_layers=[0, 2], mlm_causal=True)
        assert torch.equal(causal(**later).mlm_logits, causal(**given).mlm_logits)
        padded = {**given, "mlm_input_ids": given["mlm_input_ids"].clone()}
        padded["mlm_input_ids"][0, 5:] = 7  # behind the end
        torch.testing.assert_close(model(**padded).mlm_logits, before)
        # Nor does a place in the middle that the mask takes out tell of what comes after it, in either direction.
        holes = {**given, "attention_mask": given["attention_mask"].clone()}
        holes["attention_mask"][1, 2] = 0
        others = {**holes, "mlm_input_ids": holes["mlm_input_ids"].clone()}
        others["mlm_input_ids"][1, 2] = 91
        for one in (model, causal):
            for options in ({}, {"output_hidden_states": True}):
                found = [one(**which, **options).mlm_logits for which in (holes, others, given)]
                torch.testing.assert_close(found[0], found[1])
                assert not torch.allclose(found[0][1], found[2][1])
        # Without fusion and unmasked, the causal pass is the text tower's own.
        bare = build(mlm_causal=True)
        for fusion in bare.fusions.values():
            fusion.out_proj.weight.zero_()
        expected = bare.text_model(given["input_ids"], given["attention_mask"]).last_hidden_state[:, 1]
        got = bare.masked_words(
            given["input_ids"], torch.randn(3, 4, 16), torch.arange(7).expand(3, 7) == 1, given["attention_mask"]
        )
        torch.testing.assert_close(got, bare.mlm_head(expected, bare.text_model.get_input_embeddings().weight))
        head, table = bare.mlm_head, bare.text_model.get_input_embeddings().weight
        head.bias.normal_()
        by_hand = F.layer_norm(F.gelu(expected @ head.dense.weight.T + head.dense.bias), (16,)) @ table.T + head.bias
        torch.testing.assert_close(head(expected, table), by_hand)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded, causal", [(True, False), (False, True)])
def test_both_texts_at_once_are_what_they_are_one_after_the_other(attention, padded, causal):
    model = build(fusion_layers=[0, 2], mlm_causal=causal, fusion_detach=False).double()
    model.text_model.set_attn_implementation(attention)
    given = inputs()
    given["pixel_values"] = given["pixel_values"].double()
    if not padded:
        del given["attention_mask"]
    given["position_ids"] = torch.arange(7).roll(1).expand(3, 7)
    found = []
    for together in (True, False):
        # What a call is asked to show beyond the losses it computes with the text tower's own code.
        outputs = model(**given, softening=0.1, **({} if together else {"output_hidden_states": True}))
        assert (outputs.text_model_output.hidden_states is None) == together
        model.zero_grad()
        outputs.loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append([outputs.text_embeds, outputs.word_embeds, outputs.mlm_logits, outputs.loss, *gradients])
    assert len(found[0]) == len(found[1]) > 30
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("detached", [True, False])
def test_the_image_tower_learns_from_masked_words_only_where_it_is_told_to(detached):
    model = build(fusion_detach=detached)
    model(**inputs()).mlm_loss.backward()
    learns = model.vision_model.embedder.embedder.convolution.weight.grad
    assert (learns is None or not learns.any()) == detached
    assert model.mask_embedding.grad.any() and model.text_model.get_input_embeddings().weight.grad.any()


def test_places_and_words_are_told_from_what_stands_beside_them():
    model = build(vision_config={"model_type": "vit", **VIT})
    hidden = torch.randn(2, 1 + 24, 16)
    assert torch.equal(model.image_tokens(hidden, (48, 32)), hidden[:, 1:])
    oblong = build(LightClipForPreTraining, vision_config={"model_type": "vit", **VIT, "patch_size": [16, 8]})
    assert torch.equal(oblong.image_tokens(hidden[:, :13], (48, 32)), hidden[:, 1:13])
    registers = {**VIT, "model_type": "dinov2_with_registers", "num_register_tokens": 3, "mlp_ratio": 1}
    assert torch.equal(build(vision_config=registers).image_tokens(hidden[:, :20], (32, 32)), hidden[:, 4:20])
    assert torch.equal(build().image_tokens(torch.ones(2, 16, 3, 5), (12, 20)), torch.ones(2, 15, 16))
    ids = torch.tensor([[97, 5, 98, 98], [5, 6, 7, 98]])
    assert model.word_mask(ids).tolist() == [[False, True, False, False], [True, True, True, False]]
    hidden_word = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]])
    assert model.word_mask(ids, hidden_word)[1].tolist() == [True, False, True, False]
    old = build(text_config={**TEXT, "eos_token_id": 2, "bos_token_id": 0})
    assert old.word_mask(torch.tensor([[0, 5, 6, 98, 1]])).tolist() == [[False, True, True, False, False]]


def test_checkpoints_of_clip_convert_with_their_older_names():
    model = build(token_projection="own")
    older = {
        name.replace("text_model.", "text_model.text_model."): value for name, value in model.state_dict().items()
    }
    older["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    converted, ignored = convert_state_dict(LIGHT_CLIP, tiny_config(LIGHT_CLIP), older)
    assert {"text_model.embeddings.position_ids", "mask_embedding", "mlm_head.bias"} <= set(ignored)
    assert {"patch_projection.weight", "word_projection.weight"} <= set(ignored)
    with torch.no_grad():
        expected = model(**inputs()).logits_per_image
        torch.testing.assert_close(converted(**inputs(masked=False)).logits_per_image, expected)
    del older["text_projection.weight"]
    with pytest.raises(ConversionError, match="1 missing: text_projection.weight"):
        convert_state_dict(LIGHT_CLIP, tiny_config(LIGHT_CLIP), older)


def test_the_factor_of_the_cosines_stays_below_a_hundred():
    model = build()
    with torch.no_grad():
        model.logit_scale.fill_(5.0)
    model.clamp_logit_scale()
    assert model.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)
    with torch.no_grad():
        model.logit_scale.fill_(-1.0)  # cosines may be made smaller, too
    model.clamp_logit_scale()
    assert model.logit_scale.item() == -1
    assert build(logit_scale_init_value=1.5).logit_scale.item() == 1.5


def test_a_folded_tower_stays_folded(tmp_path):
    model = build(LightClipModel, vision_config=TOWERS["ghostnetv3"][0])
    with torch.no_grad():
        expected = model(**inputs(masked=False)).logits_per_image
        model.reparameterize().save_pretrained(tmp_path)
        loaded = LightClipModel.from_pretrained(tmp_path)
        assert loaded.config.reparameterized and loaded.config.vision_config.reparameterized
        torch.testing.assert_close(loaded(**inputs(masked=False)).logits_per_image, expected, atol=1e-4, rtol=1e-4)
    assert not [module for module in loaded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with pytest.raises(RuntimeError, match="folded for deployment and cannot be trained"):
        loaded.train()
    plain = build(LightClipModel)
    assert not plain.reparameterize().config.reparameterized and plain.train().training  # nothing to fold


def test_gradient_checkpointing_gives_the_same_gradients_and_statistics():
    results = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**inputs()).loss.backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append((gradients, list(model.buffers())))
    torch.testing.assert_close(results[0], results[1])


def test_initialisation_follows_the_seed_and_rises_from_meta():
    first, second = build(), build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    wide = build(LightClipModel, initializer_factor=3.0).visual_projection.weight.std()
    assert 2 < wide / build(LightClipModel).visual_projection.weight.std() < 4.5
    projection = build(LightClipModel, projection_dim=512).visual_projection
    assert projection.weight.std().item() == pytest.approx(projection.in_features**-0.5, rel=0.05)
    with torch.device("meta"):
        assert all(p.is_meta for p in LightClipForPreTraining(tiny_config(LIGHT_CLIP)).parameters())


def test_the_stock_trainer_trains_and_evaluates_it(tmp_path):
    rows = [{name: value[row] for name, value in inputs().items()} for row in range(3)]
    args = TrainingArguments(str(tmp_path), max_steps=2, report_to=[], use_cpu=True, per_device_train_batch_size=3)
    model = build()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    with torch.no_grad():
        assert trainer.evaluate()["eval_loss"] == pytest.approx(model(**inputs()).loss.item(), rel=1e-5)


@torch.no_grad()
def test_threads_share_a_model():
    model = build()
    calls = [partial(model, **{**inputs(), "pixel_values": torch.randn(3, 3, 32, 32)}) for _ in range(3)]
    alone = [call().loss for call in calls]
    together = run_together(model, calls)
    assert all(torch.equal(a, b.loss) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"text_config": CLIPConfig()}, "text_config: got model_type 'clip', accepted is 'clip_text_model'"),
        (
            {"vision_config": {"model_type": "clip"}},
            "vision_config: got model_type 'clip', which is more than an image",
        ),
        ({"fusion_layers": [8]}, r"fusion_layers: got \[8\], accepted are rising numbers from 0 to 7"),
        ({"fusion_layers": [4, 2]}, r"fusion_layers: got \[4, 2\]"),
        ({"fusion_num_attention_heads": 7}, "fusion_num_attention_heads: got 7, which does not divide .* 512"),
        ({"token_matching": "greedy"}, "token_matching: got 'greedy', accepted are 'relaxed' and 'one_to_one'"),
        ({"token_matching": "one_to_one", "token_top_k": 2}, "token_top_k: got 2, accepted is 1 with one_to_one"),
        ({"token_projection": "none"}, "token_projection: got 'none', accepted are 'shared' and 'own'"),
        ({"mlm_loss_weight": -1.0}, "mlm_loss_weight: got -1.0, accepted are numbers from 0"),
        ({"projection_dim": 0}, "projection_dim: got 0"),
        ({"reparameterized": True}, "reparameterized: got True, but an image tower 'resnet' has nothing to fold"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(fields, words):
    with pytest.raises(Exception, match=words):
        LightClipConfig(**fields)


def test_what_cannot_be_compared_is_said():
    model, given = build(), inputs(masked=False)
    with pytest.raises(ValueError, match="batch of one"):
        model(**{name: value[:1] for name, value in given.items()})
    with pytest.raises(ValueError, match="image_embeds, text_embeds: got the shapes"):
        model(**{**given, "pixel_values": given["pixel_values"][:2]})
    assert model(**{**given, "pixel_values": given["pixel_values"][:2]}, return_loss=False).logits_per_image.shape == (
        *(2, 3),
    )
    with pytest.raises(ValueError, match="mlm_labels: got None"):
        model(**given, mlm_input_ids=given["input_ids"])
    with pytest.raises(ValueError, match=r"expected \(batch, 3, height, width\)"):
        model(**{**given, "pixel_values": torch.zeros(3, 1, 32, 32)})
    empty = {**given, "input_ids": torch.tensor([[97, 98]] * 3), "attention_mask": None}
    with pytest.raises(ValueError, match="text 0 has no word"):
        model(**empty)
    with pytest.raises(
        ValueError, match="vision_config: got model_type 'clap_audio_model', accepted are vision models"
    ):
        LightClipModel(tiny_config(LIGHT_CLIP, vision_config={"model_type": "clap_audio_model"}))
    for kind in ("bert", "wav2vec2"):
        with pytest.raises(ValueError, match=f"vision_config: got model_type '{kind}', which takes no images"):
            LightClipModel(tiny_config(LIGHT_CLIP, vision_config={"model_type": kind}))


def test_a_tower_that_is_a_backbone_only_and_one_of_which_nothing_is_said_are_taken():
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = build(LightClipModel, vision_config={"model_type": "rt_detr_resnet", **small})
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = model.get_image_features(pixels)
    hidden = model.vision_model(pixels).feature_maps[-1]
    torch.testing.assert_close(found.pooler_output, model.visual_projection(hidden.mean((2, 3))))
    assert torch.equal(found.last_hidden_state, hidden)
    said = LightClipConfig(vision_config={"depths": [1, 1, 1, 1]}).vision_config
    assert (said.model_type, said.depths, said.hidden_sizes) == ("resnet", [1, 1, 1, 1], [64, 128, 256, 512])
    table = torch.nn.Embedding(99, 16)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table is model.text_model.get_input_embeddings()


def test_what_a_configuration_does_not_say_follows_from_its_towers():
    def config(layers, **fields):
        return LightClipConfig(text_config={**TEXT, "num_hidden_layers": layers}, **fields)

    # Before every second layer from the third on, and before the last one where that would be none.
    assert [config(n).fusion_layers for n in (1, 2, 3, 4, 8)] == [[0], [1], [2], [2], [2, 4, 6]]
    assert config(3).fusion_num_attention_heads == 2 and config(3, fusion_num_attention_heads=4)
    assert (config(3).image_size, config(3).num_channels, config(3).mask_token_id) == (224, 3, 99)
    tower = {"model_type": "convnext", "image_size": 64, "num_channels": 1}
    assert (config(3, vision_config=tower).image_size, config(3, vision_config=tower).num_channels) == (64, 1)
    assert LightClipConfig().text_config.num_hidden_layers == 8
    foldable = TOWERS["ghostnetv3"][0]
    for folded in (
        config(3, vision_config=foldable, reparameterized=True),
        config(3, vision_config={**foldable, "reparameterized": True}),
    ):
        assert folded.reparameterized is True and folded.vision_config.reparameterized is True
    assert config(3, vision_config=foldable).reparameterized is False
    assert config(3, vision_hidden_size=1).vision_hidden_size == 1
    unsaid = config(3, vision_config={"model_type": "resnet", "image_size": None})
    assert unsaid.image_size == 224
    # A tower that takes images of one size only is looked at with one of that size.
    oblong = LightClipModel(config(3, vision_config={"model_type": "vit", **VIT, "image_size": [32, 48]}))
    assert oblong.config.image_size == [32, 48] and oblong.config.vision_hidden_size == 16


def test_of_a_tower_that_pools_nothing_the_mean_over_its_places_stands_for_the_image():
    class Tower(torch.nn.Module):
        def __init__(self, hidden):
            super().__init__()
            self.hidden = hidden

        def forward(self, pixel_values, return_dict=None):
            return BaseModelOutput(last_hidden_state=self.hidden)

    tokens = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
    model = build(LightClipModel)
    for hidden in (tokens, tokens.mT.reshape(2, 16, 2, 3)):
        model.vision_model = Tower(hidden)
        found = model.get_image_features(torch.zeros(2, 3, 8, 8)).pooler_output
        torch.testing.assert_close(found, model.visual_projection(tokens.mean(1)))


def test_a_tower_is_asked_only_for_what_it_takes():
    class Tower(torch.nn.Module):
        def forward(self, pixel_values, output_hidden_states=None, return_dict=None):
            hidden = pixel_values.new_ones(len(pixel_values), 16, 2, 2)
            return BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,) if output_hidden_states else None)

    model = build(LightClipModel)
    model.vision_model = Tower()
    found = model.get_image_features(
        torch.zeros(2, 3, 8, 8), output_hidden_states=True, output_attentions=True, interpolate_pos_encoding=True
    )
    assert len(found.hidden_states) == 1 and found.attentions is None
    torch.testing.assert_close(found.pooler_output, model.visual_projection(torch.ones(2, 16)))

    class Any(torch.nn.Module):
        def forward(self, pixel_values, return_dict=None, **kwargs):
            hidden = pixel_values.new_ones(len(pixel_values), 16, 2, 2)
            asked.append(kwargs)
            return BaseModelOutput(last_hidden_state=hidden, attentions=(hidden, hidden))

    model.vision_model, asked = Any(), []
    found = model.get_image_features(torch.zeros(2, 3, 8, 8), output_attentions=True, output_hidden_states=None)
    assert asked == [{"output_attentions": True}] and len(found.attentions) == 2  # what is not said stays unsaid


def test_one_row_of_places_in_the_text_is_for_all_texts():
    model, given = build().double(), inputs()
    given["pixel_values"] = given["pixel_values"].double()
    places = torch.arange(7).roll(1)
    for count in (3, 2):
        some = {name: value[:count] for name, value in given.items()}
        with torch.no_grad():
            one, each = (model(**some, position_ids=p) for p in (places[None], places.expand(count, 7)))
        torch.testing.assert_close(one.loss, each.loss)
        torch.testing.assert_close(one.mlm_logits, each.mlm_logits)
