"""PyramidDrop over models that this project did not write."""

import copy
import pickle
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    StaticCache,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from hf_effmodels.compression.tokens.pyramid_drop import (
    PyramidDropSettings,
    apply_pyramid_drop,
    pyramid_costs,
    remove_pyramid_drop,
    staged,
    watch_drops,
)
from hf_effmodels.compression.tokens.pyramid_drop.cache import StageLayer
from hf_effmodels.compression.tokens.pyramid_drop.ranking import answer_starts, attention_scores, best
from hf_effmodels.compression.tokens.pyramid_drop.rows import Rows, number_runs
from hf_effmodels.compression.tokens.pyramid_drop.settings import check_decoder
from hf_effmodels.compression.tokens.pyramid_drop.watching import Drop, report
from tests.threads import run_together

from .models import IMAGE, STOCK, make, prompt

LAYERS, RATIOS = [1, 3], [0.5, 0.25]


@pytest.mark.parametrize("name", STOCK)
@torch.no_grad()
def test_ratio_one_is_the_model_itself_to_the_bit(name):
    """The blocks are run here, so that the path is the one of other ratios."""
    model, pixels, tokens = make(name)
    inputs = prompt(name, pixels, tokens)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    options = {"output_hidden_states": True, "labels": labels}
    expected = model(**inputs, **options)
    words = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    apply_pyramid_drop(model, LAYERS, [1.0, 1.0])
    outputs = model(**inputs, **options)
    assert torch.equal(outputs.logits, expected.logits) and torch.equal(outputs.loss, expected.loss)
    assert len(outputs.hidden_states) == len(expected.hidden_states)
    assert all(map(torch.equal, outputs.hidden_states, expected.hidden_states))
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), words)


@pytest.mark.parametrize("name", STOCK)
@torch.no_grad()
def test_generation_with_a_cache_is_that_without(name):
    """What follows a prompt sees the tokens that the prompt was left with: whoever ranks by another token sees others.
    So the pass without a cache is told which stay."""
    model, pixels, tokens = make(name, torch.float64)
    inputs = prompt(name, pixels, tokens)
    stock = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    with watch_drops() as drops:
        found = model.generate(
            **inputs, max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    assert [len(drop.kept) for drop in drops] == [int(tokens * ratio) for ratio in RATIOS]
    lengths = [layer.get_seq_length() for layer in found.past_key_values.layers]
    length, gone = inputs["input_ids"].shape[1] + 5, [tokens - len(drop.kept) for drop in drops]
    assert lengths == [length] + [length - gone[0]] * 2 + [length - gone[1]] * 2
    assert not torch.equal(found.sequences, stock), "dropping tokens changed nothing: the test proves nothing"
    assert torch.equal(found.sequences, _without_cache(model, inputs, found, drops))


def _without_cache(model, inputs, found, drops):
    """Each word by a pass over everything before it, with the choice of the prompt in place of the ranking."""
    ids = inputs["input_ids"]
    for _ in range(found.sequences.shape[1] - ids.shape[1]):
        chosen = [drop.kept for drop in drops]
        grown = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "mm_token_type_ids" in inputs:
            grown["mm_token_type_ids"] = (ids == IMAGE).int()
        with mock.patch.object(staged, "best", side_effect=chosen):
            logits = model(**grown, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("name", STOCK)
@torch.no_grad()
def test_scores_are_the_attention_that_the_next_block_pays(name):
    """transformers' own attention, from the last word to the image, in the mean over the heads."""
    model, pixels, tokens = make(name)
    model.set_attn_implementation("eager")
    inputs = prompt(name, pixels, tokens)
    paid = model(**inputs, output_attentions=True).attentions[2][0].mean(0)[-1]
    apply_pyramid_drop(model, [2], [0.5])
    with watch_drops() as drops:
        model(**inputs)
    image = inputs["input_ids"][0] == IMAGE
    torch.testing.assert_close(drops[0].scores, paid[image], rtol=1e-4, atol=1e-6)
    assert torch.equal(drops[0].kept, paid[image].topk(tokens // 2).indices.sort().values)


@pytest.mark.parametrize("name", ["image_token_id", "image_token_index", "video_token_id", "video_token_index"])
def test_images_and_frames_are_found_by_any_name_of_their_token(name):
    ids = staged.visual_token_ids
    assert ids(SimpleNamespace(**{name: 7})) == [7] and ids(SimpleNamespace(**{name: 0})) == [0]
    both = {"image_token_id": 9, "video_token_id": 8}
    assert ids(SimpleNamespace(**both | {name: 7})) == sorted({**both, name: 7}.values())
    left = [number for key, number in both.items() if key != name]
    assert ids(SimpleNamespace(**both | {name: None})) == sorted(left)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
@torch.no_grad()
def test_frames_of_a_video_leave_as_pictures_do(name):
    model, pixels, tokens = make(name)
    inputs = prompt(name, pixels, tokens)
    frames = {
        key.replace("pixel_values", "pixel_values_videos").replace("image_", "video_"): value
        for key, value in inputs.items()
    }
    is_frame = inputs["input_ids"] == IMAGE
    frames["input_ids"] = inputs["input_ids"].masked_fill(is_frame, model.config.video_token_id)
    frames["mm_token_type_ids"] = 2 * is_frame.int()
    expected = model(**frames).logits
    apply_pyramid_drop(model, LAYERS, RATIOS)
    with watch_drops() as drops:
        found = model(**frames).logits
    assert [len(drop.kept) for drop in drops] == [int(tokens * ratio) for ratio in RATIOS]
    assert not torch.allclose(found[:, -1], expected[:, -1])


@torch.no_grad()
def test_at_ratio_zero_the_text_alone_goes_on():
    model, pixels, tokens = make("llava", torch.float64)
    inputs = prompt("llava", pixels, tokens)
    apply_pyramid_drop(model, [1, 2], [0.5, 0.0])
    found = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert [layer.get_seq_length() for layer in found.past_key_values.layers] == [27, 19, 11, 11, 11]


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_vl"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_rows_of_a_padded_batch_are_those_of_single_prompts(name, attention):
    """One image, two images and none; both kinds of attention, in prefill and decoding."""
    # transformers' eager attention makes NaN of rows of padding in float64, with and without PyramidDrop.
    model, pixels, tokens = make(name, torch.float64 if attention == "sdpa" else torch.float32)
    model.set_attn_implementation(attention)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    rows = [prompt(name, pixels, tokens, images) for images in (1, 2, 0)]
    width = max(row["input_ids"].shape[1] for row in rows)

    def padded(key):
        return torch.cat([F.pad(row[key], (width - row[key].shape[1], 0)) for row in rows])

    batch = {key: padded(key) for key in ("input_ids", "attention_mask")}
    for key in rows[0].keys() - batch.keys():
        batch[key] = padded(key) if key == "mm_token_type_ids" else torch.cat([row[key] for row in rows[:2]])
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    together = model.generate(**batch, **options)
    for index, row in enumerate(rows):
        row = {k: v for k, v in row.items() if index < 2 or k in ("input_ids", "attention_mask")}
        alone = model.generate(**row, **options)
        assert torch.equal(alone.sequences[0, -4:], together.sequences[index, -4:])
        for a, b in zip(alone.logits, together.logits, strict=True):
            torch.testing.assert_close(a[0], b[index], rtol=0, atol=1e-5 if attention == "sdpa" else 1e-3)


@torch.no_grad()
def test_images_are_ranked_together_or_each_by_itself():
    model, pixels, tokens = make("llava")
    inputs = prompt("llava", pixels, tokens, images=2)
    kept = {}
    for scope in ("joint", "image"):
        apply_pyramid_drop(model, [2], [0.3], scope=scope)
        with watch_drops() as drops:
            model(**inputs)
        kept[scope] = torch.cat([drop.tokens for drop in drops]).sort().values
        scores = [drop.scores for drop in drops]
        if scope == "joint":
            [joint] = scores
        else:
            assert torch.equal(torch.cat(scores), joint)
    # Eight of 0.3 · 32 tokens' worth of places: nine together, four of each image alone.
    image_places = (inputs["input_ids"][0] == IMAGE).nonzero()[:, 0]
    assert torch.equal(kept["joint"], image_places[joint.topk(9).indices.sort().values])
    single = torch.cat([joint[:16].topk(4).indices.sort().values, 16 + joint[16:].topk(4).indices.sort().values])
    assert torch.equal(kept["image"], image_places[single])


@torch.no_grad()
def test_positions_are_numbered_anew_or_kept():
    """The rotation sees differences of positions only: what the last block takes tells them apart."""
    model, pixels, tokens = make("llava")
    inputs, seen = prompt("llava", pixels, tokens), {}
    model.model.language_model.layers[2].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    rotary = model.model.language_model.rotary_emb
    for mode in ("renumber", "keep"):
        apply_pyramid_drop(model, [2], [0.25], position_mode=mode)
        with watch_drops() as drops:
            found = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
        gone = set(range(3, 3 + tokens)) - set(drops[0].tokens.tolist())
        stays = torch.tensor([p for p in range(inputs["input_ids"].shape[1]) if p not in gone])
        expected = torch.arange(len(stays)) if mode == "renumber" else stays
        assert torch.equal(seen["position_embeddings"][0], rotary(torch.zeros(1), expected[None])[0])
        # And of the next token.
        last = torch.tensor([[5]])
        model(
            last,
            past_key_values=found.past_key_values,
            attention_mask=torch.ones(1, len(stays) + len(gone) + 1).long(),
        )
        following = expected[-1:] + 1
        assert torch.equal(seen["position_embeddings"][0], rotary(torch.zeros(1), following[None])[0])


@torch.no_grad()
def test_the_rest_of_a_prompt_may_come_after_its_image_in_one_piece_or_many():
    """Words after a cached prompt, three at once or one by one; a cache that is cut back goes on as if nothing was."""
    model, pixels, tokens = make("llava", torch.float64)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    inputs, more = prompt("llava", pixels, tokens), torch.tensor([[7, 8, 9]])
    caches = [DynamicCache(), DynamicCache(config=model.config.get_text_config())]
    for cache in caches:
        model(**inputs, past_key_values=cache, use_cache=True)
    at_once = model(more, past_key_values=caches[0]).logits
    one_by_one = torch.cat([model(more[:, i : i + 1], past_key_values=caches[1]).logits for i in range(3)], dim=1)
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=1e-6)
    caches[0].crop(-2)
    torch.testing.assert_close(model(more[:, 1:], past_key_values=caches[0]).logits, at_once[:, 1:], rtol=0, atol=1e-6)


@torch.no_grad()
def test_beam_search_takes_what_is_padding_along():
    model, pixels, tokens = make("llava", torch.float64)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    one, two = prompt("llava", pixels, tokens), prompt("llava", pixels, tokens, images=2)
    missing = two["input_ids"].shape[1] - one["input_ids"].shape[1]
    batch = {key: torch.cat([F.pad(one[key], (missing, 0)), two[key]]) for key in ("input_ids", "attention_mask")} | {
        "pixel_values": torch.cat([one["pixel_values"], two["pixel_values"]])
    }
    options = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False, "num_return_sequences": 2}
    together = model.generate(**batch, **options)
    alone = [model.generate(**row, **options) for row in (one, two)]
    assert torch.equal(together[:, -5:], torch.cat([rows[:, -5:] for rows in alone]))


def test_training_sees_the_labels_of_the_tokens_that_stay():
    """The loss from the returned logits and the labels, cut by hand where the drops say; all weights get gradients."""
    model, pixels, tokens = make("llava", torch.float64)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    inputs = prompt("llava", pixels, tokens, rows=2)
    labels = inputs["input_ids"].clone()
    labels[:, : 3 + tokens + 2] = -100
    with watch_drops() as drops:
        outputs = model.train()(**inputs, labels=labels)
    assert outputs.logits.shape[1] == 9 + int(0.25 * tokens)
    rows = []
    for row in range(2):
        stays = torch.ones(labels.shape[1], dtype=torch.bool)
        stays[3 : 3 + tokens] = False
        stays[[drop.tokens for drop in drops if drop.row == row][-1]] = True
        rows.append(labels[row, stays])
    cut = torch.stack(rows)
    expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), cut[:, 1:].flatten())
    torch.testing.assert_close(outputs.loss.double(), expected, rtol=1e-6, atol=0)
    outputs.loss.backward()
    decoder = model.model.language_model
    assert all(p.grad is not None and p.grad.any() for p in decoder.layers.parameters())
    # The tokens before the answers rank, in mean over them: a row without an answer keeps its tokens.
    with watch_drops() as drops:
        model(**inputs, labels=torch.full_like(labels, -100).index_copy(0, torch.tensor([1]), labels[1:]))
    assert {drop.row for drop in drops} == {1}


@torch.no_grad()
def test_the_loss_of_a_padded_batch_counts_the_labels_of_its_rows_alone():
    """One image and two: rows of other lengths before and after the drops."""
    model, pixels, tokens = make("llava", torch.float64)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    rows, losses, counts = [prompt("llava", pixels, tokens, images) for images in (1, 2)], [], []
    width = max(row["input_ids"].shape[1] for row in rows)
    for row in rows:
        row["labels"] = row["input_ids"].clone()
        row["labels"][:, :-4] = -100
        losses.append(model(**row).loss.double())
        counts.append(4)

    def padded(key, value):
        return torch.cat([F.pad(row[key], (0, width - row[key].shape[1]), value=value) for row in rows])

    batch = {"input_ids": padded("input_ids", 0), "attention_mask": padded("attention_mask", 0)}
    pictures = torch.cat([row["pixel_values"] for row in rows])
    loss = model(**batch, pixel_values=pictures, labels=padded("labels", -100)).loss
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_the_trainer_trains_and_checkpointing_changes_nothing(tmp_path):
    losses = {}
    for checkpointing in (False, True):
        model, pixels, tokens = make("llava")
        apply_pyramid_drop(model, LAYERS, RATIOS)
        inputs = prompt("llava", pixels, tokens, rows=4)
        inputs["labels"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
        data = [{key: value[row] for key, value in inputs.items()} for row in range(4)]
        arguments = TrainingArguments(
            tmp_path,
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            gradient_checkpointing=checkpointing,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
        trainer.train()
        losses[checkpointing] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        losses[checkpointing].append(trainer.evaluate()["eval_loss"])
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_it_runs_in_the_pipeline():
    """One image and two, in one batch: the words of the pipeline are those of `generate` by hand."""
    model, _, _ = make("llava")
    words = {f"w{number}": number for number in range(99)}
    vocabulary = {("<image>" if n == IMAGE else w): n for w, n in words.items()}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="w0",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor = LlavaProcessor(
        images,
        fast,
        patch_size=6,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,  # CLIP's class token, which the model leaves out
    )
    drawn = np.random.default_rng(0).integers(0, 256, (3, 24, 30, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in drawn]
    texts = ["w5 <image> w6 w7", "w8 <image> w9 <image> w10"]
    grouped = [pictures[:1], pictures[1:]]
    pipe = pipeline("image-text-to-text", model=apply_pyramid_drop(model, LAYERS, RATIOS), processor=processor)
    options = {"max_new_tokens": 4, "do_sample": False}
    with watch_drops() as drops:
        found = pipe(images=grouped, text=texts, batch_size=2, generate_kwargs=options, return_full_text=False)
    assert {len(drop.kept) for drop in drops} == {8, 4, 16}
    for answer, text, own in zip(found, texts, grouped, strict=True):
        inputs = processor(images=own, text=text, return_tensors="pt")
        expected = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
        answer = answer[0] if isinstance(answer, list) else answer
        assert answer["generated_text"].split() == fast.decode(expected, skip_special_tokens=True).split()


@torch.no_grad()
def test_threads_do_not_see_each_others_images():
    model, pixels, tokens = make("llava")
    apply_pyramid_drop(model, LAYERS, RATIOS)
    prompts = [prompt("llava", pixels, tokens, images) for images in (1, 2, 3)]

    def call(inputs):
        with torch.no_grad(), watch_drops() as drops:
            return model(**inputs).logits, [drop.tokens for drop in drops]

    expected = [call(inputs) for inputs in prompts]
    answers = run_together(model, [lambda inputs=inputs: call(inputs) for inputs in prompts])
    for (logits, kept), (expected_logits, expected_kept) in zip(answers, expected, strict=True):
        torch.testing.assert_close(logits, expected_logits)
        assert all(map(torch.equal, kept, expected_kept)) and len(kept) == 2


@torch.no_grad()
def test_it_goes_with_copies_and_folders_and_off_again(tmp_path):
    model, pixels, tokens = make("llava")
    stock, inputs = type(model), prompt("llava", pixels, tokens)
    pickled = pickle.dumps(apply_pyramid_drop(model, LAYERS, RATIOS, scope="image"))
    plain = remove_pyramid_drop(model)(**inputs).logits
    apply_pyramid_drop(model, LAYERS, RATIOS, scope="image")
    dropped = model(**inputs).logits
    assert isinstance(model, stock) and type(model).__name__ == stock.__name__ and dropped.shape[1] < plain.shape[1]
    for copied in (copy.deepcopy(model), pickle.loads(pickled)):
        copied.model.language_model.layers[0].mlp.up_proj.weight.zero_()
        assert copied(**inputs).logits.shape == dropped.shape
    assert torch.equal(model(**inputs).logits, dropped), "a copy runs the weights of the original"
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is stock and loaded.config.architectures == ["LlavaForConditionalGeneration"]
    torch.testing.assert_close(loaded(**inputs).logits, plain)
    torch.testing.assert_close(apply_pyramid_drop(loaded)(**inputs).logits, dropped)
    assert loaded.config.pyramid_drop["scope"] == "image"
    apply_pyramid_drop(model, [2], [1.0])  # another one takes the place of the first
    assert torch.equal(model(**inputs).logits, plain)
    assert type(remove_pyramid_drop(model)) is stock and not hasattr(model.config, "pyramid_drop")
    assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize(
    "now, then",
    [
        ({}, {}),
        ({"scope": "joint"}, {"scope": "joint"}),
        ({"position_mode": "renumber"}, {"position_mode": "renumber"}),
        ({"ratios": [0.75, 0.5]}, {"ratios": [0.75, 0.5]}),
        ({"ratios": [0.75, 0.5], "scope": "joint"}, {"ratios": [0.75, 0.5], "scope": "joint"}),
        # With layers of its own a call begins anew.
        ({"layers": [2]}, {"layers": [2], "ratios": [0.5], "scope": "joint", "position_mode": None}),
        (
            {"layers": [2], "ratios": [0.25], "scope": "image"},
            {"layers": [2], "ratios": [0.25], "scope": "image", "position_mode": None},
        ),
    ],
)
def test_what_a_call_says_counts_before_what_the_model_was_saved_with(now, then):
    model, _, _ = make("llava")
    before = {"layers": [1, 3], "ratios": [0.5, 0.25], "scope": "image", "position_mode": "keep"}
    apply_pyramid_drop(model, **before)
    assert model.config.pyramid_drop == before
    apply_pyramid_drop(model, **now)
    assert model.config.pyramid_drop == before | then
    assert model.model.language_model.pyramid_drop.to_dict() == before | then


def test_defaults_are_the_papers_four_stages():
    model, _, _ = make("llava", num_hidden_layers=32)
    apply_pyramid_drop(model)
    assert model.config.pyramid_drop == {
        "layers": [8, 16, 24],
        "ratios": [0.5, 0.25, 0.125],
        "scope": "joint",
        "position_mode": None,
    }
    shallow, _, _ = make("llava", num_hidden_layers=2)
    assert apply_pyramid_drop(shallow).config.pyramid_drop["layers"] == [1]
    with pytest.raises(ValueError, match=r"layers: got \(\), accepted is a list"):
        apply_pyramid_drop(make("llava", num_hidden_layers=1)[0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layers": [5], "ratios": [0.5]}, r"layers: got \[5\] of 5 blocks.* accepted are 1 to 4"),
        ({"layers": [0, 2], "ratios": [0.5, 0.2]}, r"layers: got \[0, 2\], accepted are ascending whole numbers"),
        ({"layers": [2, 2], "ratios": [0.5, 0.2]}, "layers: got"),
        ({"layers": [1, 2], "ratios": [0.5]}, "ratios: got 1 for 2 layers"),
        ({"layers": [1, 2], "ratios": [0.2, 0.5]}, r"ratios: got \[0.2, 0.5\], accepted are shares .* never rising"),
        ({"layers": [1], "ratios": [1.5]}, "ratios: got"),
        ({"layers": "12", "ratios": [0.5]}, "layers: got '12', accepted is a list"),
        ({"layers": [1], "ratios": [0.5], "scope": "row"}, "scope: got 'row', accepted are joint, image"),
        ({"layers": [1], "ratios": [0.5], "position_mode": "new"}, "position_mode: got 'new'"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_the_model_is_left_alone(options, message):
    model, _, _ = make("llava")
    before = type(model)
    with pytest.raises(ValueError, match=message):
        apply_pyramid_drop(model, **options)
    assert type(model) is before


def test_rows_of_a_cache_after_a_drop_are_repeated_chosen_and_cut_with_their_padding():
    layer = StageLayer(torch.tensor([[False, True], [True, True]]))
    keys = torch.arange(8.0).view(2, 1, 2, 2)
    layer.update(keys, keys)
    layer.append(torch.tensor([[True], [False]]))
    layer.update(keys[:, :, :1] + 10, keys[:, :, :1] + 10)
    layer.batch_repeat_interleave(2)
    assert layer.valid.tolist() == [[False, True, True]] * 2 + [[True, True, False]] * 2
    layer.batch_select_indices(torch.tensor([3, 0, 1]))
    assert layer.valid.tolist() == [[True, True, False], [False, True, True], [False, True, True]]
    assert layer.keys[:, 0, 0, 0].tolist() == [4, 0, 0]
    layer.reorder_cache(torch.tensor([1, 0, 2]))
    assert layer.valid.tolist() == [[False, True, True], [True, True, False], [False, True, True]]
    layer.crop(-1)
    assert layer.valid.tolist() == [[False, True], [True, True], [False, True]] and layer.get_seq_length() == 2
    with pytest.raises(ValueError, match="past_key_values: .* cannot be emptied; make a new DynamicCache"):
        layer.reset()


def test_sequences_are_cut_padded_and_numbered():
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 0, 0]]).bool()
    assert number_runs(mask).tolist() == [[1, 1, 0, 2, 0, 3], [0, 1, 1, 1, 0, 0]]
    rows = Rows(
        torch.arange(12.0).view(2, 6, 1), torch.ones(2, 6).bool(), torch.arange(6).expand(2, 6) + 10,
        number_runs(mask), torch.arange(6).expand(2, 6), torch.arange(12).view(2, 6),
    )  # fmt: skip
    kept = [torch.tensor([0, 3, 4]), torch.tensor([5])]
    cut = rows.keep(kept, left=True, renumber=False)
    assert cut.hidden_states[..., 0].tolist() == [[0, 3, 4], [0, 0, 11]]
    assert cut.valid.tolist() == [[True] * 3, [False, False, True]]
    assert cut.position_ids.tolist() == [[10, 13, 14], [0, 0, 15]] and cut.images.tolist() == [[1, 2, 0], [0, 0, 0]]
    assert cut.places.tolist() == [[0, 3, 4], [0, 0, 5]] and cut.labels.tolist() == [[0, 3, 4], [-100, -100, 11]]
    right = rows.keep(kept, left=False, renumber=True)
    assert right.valid.tolist() == [[True] * 3, [True, False, False]]
    assert right.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]] and right.labels.tolist()[1] == [11, -100, -100]
    assert rows.keep(kept, left=True, renumber=True).position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]


@torch.no_grad()
def test_the_base_model_alone_drops_too_and_packed_rows_are_refused():
    model, pixels, tokens = make("llava")
    inputs = prompt("llava", pixels, tokens)
    apply_pyramid_drop(model, LAYERS, RATIOS)
    with watch_drops() as drops:
        assert model.model(**inputs).last_hidden_state.shape[1] == 9 + tokens // 4
    assert [drop.layer for drop in drops] == LAYERS
    packed = {name: value for name, value in inputs.items() if name != "attention_mask"}
    packed["position_ids"] = torch.cat([torch.arange(20), torch.arange(5)])[None]
    with pytest.raises(ValueError, match="position_ids: got packed sequences, accepted is one sequence a row"):
        model(**packed)


def test_models_and_inputs_that_cannot_be_are_refused():
    model, pixels, tokens = make("llava")
    inputs = prompt("llava", pixels, tokens)
    with pytest.raises(ValueError, match="model: got LlamaForCausalLM, accepted is a vision-language model"):
        apply_pyramid_drop(LlamaForCausalLM(model.config.text_config))
    with pytest.raises(ValueError, match="model: got LlavaModel, accepted is a vision-language model with a head"):
        apply_pyramid_drop(model.model)
    falcon, _, _ = make("llava")
    falcon.model.language_model.config.model_type = "falcon"
    with pytest.raises(ValueError, match="model: got a decoder of type 'falcon', accepted are llama, mistral"):
        apply_pyramid_drop(falcon)
    windowed, _, _ = make("llava_next")
    windowed.model.language_model.config.sliding_window = 8
    with pytest.raises(ValueError, match="sliding_window=8"):
        apply_pyramid_drop(windowed)
    qwen, _, _ = make("qwen2_vl")
    with pytest.raises(ValueError, match="position_mode: got 'renumber', accepted for positions with three axes"):
        apply_pyramid_drop(qwen, [1], [0.5], position_mode="renumber")
    add_hook_to_module(qwen.model.language_model, ModelHook())  # as a device map does
    with pytest.raises(ValueError, match="model: the forward of its Qwen2VLTextModel is wrapped"):
        apply_pyramid_drop(qwen, [1], [0.5])
    apply_pyramid_drop(model, LAYERS, RATIOS)
    static = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    with pytest.raises(
        ValueError, match="past_key_values: got StaticCache of StaticLayer, accepted is a DynamicCache"
    ):
        model(**inputs, past_key_values=static)
    with pytest.raises(ValueError, match=r"pixel_values: got none, but input_ids have \d+ image tokens"):
        model(inputs["input_ids"])
    with pytest.raises(ValueError, match="input_ids: got none"):
        model(inputs_embeds=torch.zeros(1, 4, 32))
    cache = DynamicCache()
    model(torch.tensor([[5, 6]]), past_key_values=cache)
    with pytest.raises(ValueError, match="image tokens after a cached prompt"):
        model(inputs["input_ids"], pixel_values=inputs["pixel_values"], past_key_values=cache)
    with pytest.raises(ValueError, match=r"attention_mask: got \(1, 1, 25, 25\), accepted is \(batch, length\)"):
        model(**inputs | {"attention_mask": torch.ones(1, 1, 25, 25)})


def test_costs_are_those_of_the_paper_and_of_what_runs():
    """LLaVA-1.5-7B in four equal stages, and what the cache of a model holds."""
    settings = PyramidDropSettings([8, 16, 24], [0.5, 0.25, 0.125])
    costs = pyramid_costs(LlamaConfig(), settings, 576, 64)
    assert costs.lengths == (640,) * 8 + (352,) * 8 + (208,) * 8 + (136,) * 8
    assert costs.cache_values / costs.full_cache_values == pytest.approx((640 + 352 + 208 + 136) / 4 / 640)
    # 4·n·d² + 2·n²·d + 3·n·d·m of a block.
    assert costs.full_macs == 32 * (4 * 640 * 4096**2 + 2 * 640**2 * 4096 + 3 * 640 * 4096 * 11008)
    # The paper's table: 3.82 and 1.78 teraflops (its word for multiply-adds), of the image tokens alone.
    images = pyramid_costs(LlamaConfig(), settings, 576, 0)
    assert images.full_macs / 1e12 == pytest.approx(3.82, abs=5e-3)
    assert (images.macs - images.ranking_macs) / 1e12 == pytest.approx(1.78, abs=5e-3)
    # Of each drop the keys of what is there, one query, and their product.
    assert images.ranking_macs == 4096**2 * (576 + 288 + 144 + 3) + 4096 * (576 + 288 + 144)
    five = PyramidDropSettings([6, 12, 19, 25], [0.5, 0.25, 0.125, 0.0625])
    assert pyramid_costs(LlamaConfig(), five, 576, 0).macs < images.macs
    model, pixels, tokens = make("llava")
    apply_pyramid_drop(model, LAYERS, RATIOS)
    cache = DynamicCache()
    with torch.no_grad():
        model(**prompt("llava", pixels, tokens), past_key_values=cache)
    settings = PyramidDropSettings(**model.config.pyramid_drop)
    costs = pyramid_costs(model.config, settings, tokens, 9)
    assert [layer.get_seq_length() for layer in cache.layers] == list(costs.lengths)
    assert sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers) == costs.cache_values


def test_of_equal_scores_the_first_stay():
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0])
    for count, kept in ((0, []), (1, [1]), (2, [1, 3]), (4, [1, 2, 3, 4]), (9, [0, 1, 2, 3, 4])):
        assert best(scores, count).tolist() == kept
    assert best(torch.zeros(100), 3).tolist() == [0, 1, 2]


def test_an_answer_starts_after_a_token_without_a_label():
    none = -100
    assert answer_starts(torch.tensor([none, none, 5, 6, none, 7, none])).tolist() == [1, 4]
    assert answer_starts(torch.tensor([5, 6, none])).tolist() == answer_starts(torch.tensor([none] * 3)).tolist() == []


@torch.no_grad()
def test_several_tokens_that_ask_are_ranked_by_in_the_mean_and_padding_is_not_seen():
    """Of a block with two query heads for each key head and norms of both, a pair at a time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
    layer = Qwen3DecoderLayer(Qwen3Config(**sizes, head_dim=6), 0).double().eval()
    for norm in (layer.input_layernorm, layer.self_attn.q_norm, layer.self_attn.k_norm):
        norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
    hidden, valid = torch.randn(7, 16, dtype=torch.float64), torch.tensor([False, *[True] * 6])
    angles = torch.rand(7, 3, dtype=torch.float64).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    asking = [3, 6]
    found = attention_scores(layer, hidden, (cos, sin), valid, torch.tensor(asking))
    assert found.dtype == torch.float32

    attention, normed = layer.self_attn, layer.input_layernorm(hidden)

    def head(projection, norm, place, number):
        x = norm(projection(normed[place]).view(-1, 6)[number])
        turned = torch.cat([-x[3:], x[:3]])
        return x * cos[place] + turned * sin[place]

    expected = torch.zeros(7, dtype=torch.float64)
    for place in asking:
        for number in range(4):
            query = head(attention.q_proj, attention.q_norm, place, number)
            seen = [key for key in range(place + 1) if valid[key]]
            logits = [query @ head(attention.k_proj, attention.k_norm, key, number // 2) / 6**0.5 for key in seen]
            expected[seen] += torch.stack(logits).softmax(0) / (4 * len(asking))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert found.sum().item() == pytest.approx(1) and found[0] == 0


def test_who_watches_within_another_sees_the_drops_of_its_own_time():
    drops = [Drop(number, 0, *[torch.zeros(1)] * 3) for number in range(4)]
    with watch_drops() as outer:
        report(drops[0])
        with watch_drops() as inner:
            report(drops[1])
        report(drops[2])
    report(drops[3])
    assert [drop.layer for drop in outer] == [0, 2] and [drop.layer for drop in inner] == [1]


def test_of_tokens_that_are_no_whole_share_the_rest_leaves():
    settings = PyramidDropSettings([1, 2, 3], [0.5, 0.3, 0.0])
    assert [[settings.kept(tokens, stage) for stage in range(3)] for tokens in (7, 10, 1)] == [
        [3, 2, 0],
        [5, 3, 0],
        [0, 0, 0],
    ]
    assert settings.to_dict() == {
        **{"layers": [1, 2, 3], "ratios": [0.5, 0.3, 0.0]},
        **{"scope": "joint", "position_mode": None},
    }


@pytest.mark.parametrize(
    "config, refused",
    [
        (MistralConfig(sliding_window=8), True),
        (MistralConfig(sliding_window=None), False),
        (Qwen3Config(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]), True),
        (Qwen3Config(num_hidden_layers=2, layer_types=["full_attention"] * 2), False),
        (LlamaConfig(), False),
    ],
    ids=["mistral", "mistral without a window", "one layer of two", "none of two", "llama"],
)
def test_decoders_with_windows_are_refused(config, refused):
    settings = PyramidDropSettings([1], [0.5])
    if refused:
        with pytest.raises(
            ValueError, match="model: got a decoder with sliding windows .*, accepted is full attention"
        ):
            check_decoder(config, settings)
    else:
        check_decoder(config, settings)
