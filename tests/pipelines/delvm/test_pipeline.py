"""Prompts of pairs: the ids are those of plain generation, however computed; what is drawn; what is refused."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaForCausalLM

from hf_effmodels.pipelines import DelvmPipeline
from hf_effmodels.pipelines.delvm import llama_steps, pipeline_delvm
from hf_effmodels.pipelines.delvm.create import create_pipeline
from hf_effmodels.pipelines.delvm.factorized_embedding import factorize_embedding
from hf_effmodels.pipelines.delvm.llama_steps import is_plain
from hf_effmodels.pipelines.delvm.pipeline_delvm import _chooser, _GrowingLayer

from ...threads import run_together
from .tiny import tiny_language_model, tiny_vqvae

TOKENS = 64


class OtherLlama(LlamaForCausalLM):
    """A LLaMA whose steps are not computed in the short way."""


def picture(number: int, width: int = 16, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PAIRS = [(picture(1), picture(2)), (picture(3, 40, 24), picture(4, 40, 24))]


@pytest.fixture(scope="module")
def pipe():
    return quiet(DelvmPipeline(tiny_vqvae(), lively_language_model()))


def lively_language_model(seed: int = 0, **fields) -> LlamaForCausalLM:
    """One whose greedy ids do not run in circles, and with biases."""
    model = tiny_language_model(seed, initializer_range=1.0, **fields)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model.double()


def quiet(pipe: DelvmPipeline) -> DelvmPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def expected(pipe, pairs, query, number: int = TOKENS) -> torch.Tensor:
    """One image after the other through the tokenizer, and transformers' own generation."""
    images = [*(part for pair in pairs for part in pair), query]
    ids = torch.cat([pipe.image_tokenizer.encode(image) for image in images], 1)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": number, "do_sample": False}
    return pipe.language_model.generate(ids, **options)[:, ids.shape[1] :]


@pytest.mark.parametrize("cache", ["growing", "static"])
@pytest.mark.parametrize("model_class", [LlamaForCausalLM, OtherLlama])
def test_the_answers_are_those_of_plain_generation(pipe, cache, model_class):
    model = model_class(pipe.language_model.config).eval().double()
    model.load_state_dict(pipe.language_model.state_dict())
    assert is_plain(model) == (model_class is LlamaForCausalLM)
    other = quiet(DelvmPipeline(pipe.vqvae, model))
    queries = [picture(5), picture(6, 17, 20)]
    result = other(prompt_images=PAIRS, image=queries, cache=cache)
    ids = torch.cat([expected(pipe, PAIRS, query) for query in queries])
    assert torch.equal(result.token_ids, ids) and len(ids.unique()) > 4
    for image, row in zip(result.images, ids, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(pipe.image_tokenizer.decode(row)[0]))
    each = [PAIRS[:1], PAIRS[1:]]
    ids = torch.cat([expected(pipe, *both) for both in zip(each, queries, strict=True)])
    assert torch.equal(other(prompt_images=each, image=queries, cache=cache).token_ids, ids)


def test_grouped_heads_more_biases_and_a_factorised_embedding_are_stepped_through_alike(pipe):
    model = lively_language_model(1, num_key_value_heads=1, num_attention_heads=4, mlp_bias=True)
    factorize_embedding(model, torch.randn(32, 5), std=1.0)
    assert is_plain(model)
    other = quiet(DelvmPipeline(pipe.vqvae, model))
    ids = other(prompt_images=PAIRS[:1], image=picture(7)).token_ids
    assert torch.equal(ids, expected(other, PAIRS[:1], picture(7))) and len(ids.unique()) > 4


def test_large_layers_are_stepped_through_as_small_ones_are(pipe, monkeypatch):
    small = pipe(PAIRS, picture(7)).token_ids
    monkeypatch.setattr(llama_steps, "_SMALL", 0)
    assert torch.equal(pipe(PAIRS, picture(7)).token_ids, small) and len(small.unique()) > 4


def test_hooked_and_changed_layers_are_called_and_not_passed_by(pipe):
    model = tiny_language_model()
    layer = model.model.layers[1].mlp.up_proj
    calls = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    assert not is_plain(model)
    quiet(DelvmPipeline(pipe.vqvae, model)).generate_ids(*torch.zeros(2, 1, 4, dtype=torch.long), 3)
    assert len(calls) == 3
    handle.remove()
    handle = layer.register_forward_pre_hook(lambda *_: calls.append(2))
    assert not is_plain(model)
    quiet(DelvmPipeline(pipe.vqvae, model)).generate_ids(*torch.zeros(2, 1, 4, dtype=torch.long), 3)
    assert calls == [1] * 3 + [2] * 3
    handle.remove()
    assert is_plain(model) and not is_plain(model.train())
    model.eval().model.layers[0].mlp.up_proj = torch.nn.Sequential(layer)
    assert not is_plain(model)


def test_a_prompt_may_be_empty_and_an_answer_several_images(pipe):
    query = picture(8)
    result = pipe(prompt_images=[], image=query, num_answer_images=2)
    ids = expected(pipe, [], query, 2 * TOKENS)
    assert torch.equal(result.token_ids, ids) and [len(row) for row in result.images] == [2]
    for index, image in enumerate(result.images[0]):
        single = pipe.image_tokenizer.decode(ids[:, index * TOKENS : (index + 1) * TOKENS])[0]
        assert np.array_equal(np.asarray(image), np.asarray(single))
    arrays = pipe([], query, num_answer_images=2, output_type="np", return_dict=False)[0]
    tensors = pipe([], query, num_answer_images=2, output_type="pt").images
    assert arrays.shape == (1, 2, 16, 16, 3) and np.allclose(tensors.permute(0, 1, 3, 4, 2), arrays)


def test_what_a_cache_gives_is_all_that_was_written_one_after_the_other():
    layer, written = _GrowingLayer(9), []
    assert (layer.get_seq_length(), layer.get_max_length(), layer.get_mask_sizes(4)) == (0, 9, (4, 0))
    for number, count in enumerate((3, 1, 4)):
        keys = torch.full((2, 3, count, 5), float(number)) + torch.arange(count)[:, None] / 8
        values = torch.full((2, 3, count, 7), -float(number))
        written.append((keys, values))
        found = layer.update(keys, values)
        for whole, parts in zip(found, zip(*written, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts, 2))
    assert (layer.get_seq_length(), layer.get_max_length(), layer.get_mask_sizes(1)) == (8, 9, (9, 0))
    before = layer.keys[:, :, :8].clone()
    layer.repeat(2)
    assert torch.equal(layer.keys[:, :, :8], before[[0, 0, 1, 1]]) and len(layer.values) == 4


def test_drawn_ids_follow_temperature_top_k_and_top_p():
    logits = torch.tensor([3.0, 1.0, 2.0, -1.0, 0.5])
    rows = logits.expand(20_000, -1)
    plain = (logits / 2).softmax(-1)
    of_top_k = torch.tensor([plain[0], plain[1], plain[2], 0, 0]) / plain[:3].sum()
    # 0.48 + 0.29 of the two likeliest are below 0.8, with the third above it
    kept = torch.where(torch.isin(torch.arange(5), torch.tensor([0, 1, 2])), plain, torch.zeros(()))
    # Of the three likeliest by themselves, 0.51 + 0.31 of two are above it.
    of_both = torch.tensor([plain[0], 0, plain[2], 0, 0]) / (plain[0] + plain[2])
    for options, probabilities in (
        ((2.0, None, None), plain),
        ((2.0, 3, None), of_top_k),
        ((2.0, None, 0.8), kept / kept.sum()),
        ((2.0, 3, 0.8), of_both),
    ):
        ids = _chooser(*options, torch.Generator().manual_seed(0))(rows)
        found = torch.bincount(ids, minlength=5) / len(rows)
        assert torch.allclose(found, probabilities, atol=0.015), options
        assert not found[probabilities == 0].any()


def test_an_id_of_no_probability_is_not_drawn_by_the_smallest_number_either(monkeypatch):
    monkeypatch.setattr(pipeline_delvm, "_uniform", lambda rows, *_: torch.zeros(rows, 1, dtype=torch.float64))
    choose = _chooser(1.0, 2, None, None)
    # Of each row the two likeliest are left; the number 0 draws the first of these.
    assert choose(torch.tensor([[0.0, 1.0, 3.0, 2.0], [3.0, 0.0, 2.0, 1.0]])).tolist() == [2, 0]


def test_an_id_of_no_probability_is_not_drawn_by_the_largest_number_either(monkeypatch):
    """The probabilities of a row add up to 1 but for their rounding: to a little less in some, and more in others."""
    largest = 1 - 2.0**-53
    monkeypatch.setattr(
        pipeline_delvm, "_uniform", lambda rows, *_: torch.full((rows, 1), largest, dtype=torch.float64)
    )
    logits = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))
    logits[:, 30:] = -10  # never among the eight likeliest
    likeliest = logits.topk(8).indices.tolist()
    drawn = _chooser(1.0, 8, None, None)(logits).tolist()
    assert [max(ids) for ids in likeliest] == drawn


def test_numbers_are_drawn_where_their_generator_is_and_else_where_the_network_is(monkeypatch):
    asked = []

    def rand(*shape, generator, device, dtype):
        asked.append((shape, generator, device, dtype))
        return torch.zeros(shape, dtype=dtype)

    monkeypatch.setattr(pipeline_delvm.torch, "rand", rand)
    place, elsewhere = torch.device("cpu"), SimpleNamespace(device="cuda:1")
    assert pipeline_delvm._uniform(3, elsewhere, place).shape == (3, 1)
    assert pipeline_delvm._uniform(3, None, place).shape == (3, 1)
    assert pipeline_delvm._uniform(2, [elsewhere, elsewhere], place).shape == (2, 1)
    double = torch.float64
    assert asked == [
        ((3, 1), elsewhere, "cuda:1", double),
        ((3, 1), None, place, double),
        *[((1, 1), elsewhere, "cuda:1", double)] * 2,
    ]


def test_a_generator_for_each_answer_makes_batches_what_single_answers_are(pipe):
    queries, seeds = [picture(9), picture(10)], range(4)
    options = {"prompt_images": PAIRS[:1], "num_images_per_prompt": 2}
    together = pipe(image=queries, generator=[torch.Generator().manual_seed(s) for s in seeds], **options).token_ids
    assert len({tuple(row.tolist()) for row in together}) == 4
    for number in seeds:
        generator = torch.Generator().manual_seed(number)
        alone = pipe(PAIRS[:1], queries[number // 2], temperature=1.0, generator=generator).token_ids
        assert torch.equal(alone[0], together[number])
    again = pipe(image=queries, generator=torch.Generator().manual_seed(5), **options).token_ids
    assert torch.equal(again, pipe(image=queries, generator=torch.Generator().manual_seed(5), **options).token_ids)
    cold = pipe(image=queries, temperature=1e-4, **options).token_ids
    assert torch.equal(cold[::2], cold[1::2])  # nearly the likeliest ids


def test_only_allowed_ids_come_and_never_ids_that_are_no_codes(pipe):
    ids = pipe(PAIRS, picture(11), allowed_ids=[3, 17]).token_ids
    assert set(ids.unique().tolist()) <= {3, 17}
    wide = tiny_language_model(vocab_size=40)
    torch.nn.init.zeros_(wide.lm_head.weight)
    wide.lm_head.weight.data[[33, 35]] = 9.0
    ids = quiet(DelvmPipeline(pipe.vqvae, wide))([], picture(11)).token_ids
    assert ids.max() < 32


def test_threads_share_a_pipeline(pipe):
    queries = [picture(number) for number in range(12, 15)]
    alone = [pipe(PAIRS, query).token_ids for query in queries]
    together = run_together(pipe.vqvae, [lambda query=query: pipe(PAIRS, query).token_ids for query in queries])
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_wrong_input_is_named(pipe):
    query = picture(5)
    for arguments, words in (
        ((([picture(1), picture(2), picture(3)],), query), "prompt_images: number 0 is 3 entries"),
        (([(picture(1), picture(2, 16, 20))], query), "pair 0 has an image of 16×16 pixels and an answer of 16×20"),
        (([picture(1)], query), "prompt_images: number 0 is Image, accepted are pairs (image, answer)"),
        (([PAIRS, PAIRS[:1]], [query, query]), "got 1 and 2 pairs, accepted are as many for each image"),
        (([PAIRS], [query, query]), "got 1 entries for 2 images"),
        ((PAIRS * 4, query), "got 8 pairs, accepted are up to 7 with 1 image(s) as answer"),
        ((PAIRS, []), "image: got an empty list"),
    ):
        with pytest.raises(ValueError) as error:
            pipe(*arguments)
        assert words in str(error.value)
    assert pipe.most_pairs == 7
    for options, words in (
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: got 0"),
        ({"num_answer_images": 1.5}, "num_answer_images: got 1.5"),
        ({"temperature": -1}, "temperature: got -1"),
        ({"top_k": 0, "temperature": 1}, "top_k: got 0"),
        ({"top_p": 1.5}, "top_p: got 1.5, accepted are numbers above 0 up to 1"),
        ({"allowed_ids": [32]}, "accepted are the codes 0 to 31"),
        ({"allowed_ids": []}, "allowed_ids: got none"),
        ({"cache": "dynamic"}, "cache: got 'dynamic', accepted are 'growing', 'static'"),
        ({"output_type": "latent"}, "output_type: got 'latent'"),
        ({"num_images_per_prompt": 2, "generator": [torch.Generator()]}, "got 1 generators for 2 answers"),
    ):
        with pytest.raises(ValueError) as error:
            pipe(PAIRS, query, **options)
        assert words in str(error.value)
    with pytest.raises(ValueError, match="language_model: it has 31 tokens, accepted are as many as .* codes, 32"):
        DelvmPipeline(pipe.vqvae, tiny_language_model(vocab_size=31))
    for image in (None, "photo.jpg"):
        with pytest.raises(ValueError, match=f"image: got {image!r}, accepted are PIL images"):
            pipe(PAIRS, image)
    for part in ("encoder", "decoder"):
        torn = copy.deepcopy(pipe)
        next(getattr(torn.vqvae, part).parameters()).data.fill_(torch.nan)
        with pytest.raises(ValueError, match="vqvae: what it computes is not finite, in torch.float32"):
            torn(PAIRS, query)
    broken = tiny_language_model()
    broken.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="language_model: what it predicts is not finite, in torch.float32"):
        quiet(DelvmPipeline(pipe.vqvae, broken))(PAIRS, query)


def test_a_preset_begins_with_its_own_sizes_and_those_that_are_given():
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"block_out_channels": [32] * 5, "layers_per_block": 1, "num_vq_embeddings": 64, "vq_embed_dim": 8}
    for vqvae, language_model in ((tokens, small), (tokens, {**small, "hidden_size": 32})):
        pipe = create_pipeline("delvm-300m", vqvae=vqvae, language_model=language_model, image_size=128)
        codes = pipe.vqvae.quantize.embedding.weight
        assert codes.shape == (64, 8) and pipe.vqvae.config.latent_channels == 64  # the preset's
        assert 0.9 / 64 < codes.abs().max() <= 1 / 64 and codes.min() < 0 < codes.max()  # uniform, to both sides
        config = pipe.language_model.config
        assert (config.hidden_size, config.num_hidden_layers) == (language_model["hidden_size"], 1)
        assert config.vocab_size == 8192 and config.attention_bias and config.bos_token_id is None
        assert not pipe.vqvae.training and not pipe.language_model.training
    with pytest.raises(ValueError, match="preset: got 'delvm-7b', accepted are 'delvm-300m', 'delvm-1b'"):
        create_pipeline("delvm-7b")


def checked(pipe, pairs: int = 0, queries: int = 1, **options) -> None:
    given = {"num_images_per_prompt": 1, "num_answer_images": 1, "temperature": 0.0, "generator": None}
    given |= {"top_k": None, "top_p": None, "allowed_ids": None, "cache": "growing", "output_type": "pil", **options}
    prompts = [[(picture(1), picture(2))] * pairs]
    pipe.check_inputs(pipe.image_tokenizer, prompts, [picture(3)] * queries, **given)


def test_a_context_is_filled_to_its_end_and_no_further(pipe):
    """It has 1024 places, an image 64: sixteen images, of which the query and its answers are some."""
    for pairs, answers in ((7, 1), (6, 3), (0, 15)):
        checked(pipe, pairs, num_answer_images=answers)
        with pytest.raises(ValueError, match=rf"^prompt_images: got {pairs} pairs, accepted are up to \d+ with"):
            checked(pipe, pairs, num_answer_images=answers + 1)
    with pytest.raises(ValueError, match="accepted are up to 6 with 2 image"):
        checked(pipe, 7, num_answer_images=2)
    with pytest.raises(ValueError, match="got 0 pairs, accepted are up to 0 with 20 image"):
        checked(pipe, 0, num_answer_images=20)


@pytest.mark.parametrize("cache", ["growing", "static"])
def test_the_ends_of_what_is_accepted_are_accepted(pipe, cache):
    for options in ({"top_p": 1}, {"top_p": 1e-9}, {"top_k": 1}, {"temperature": 1e9}, {"allowed_ids": [0, 31]}):
        checked(pipe, cache=cache, **options)
    for options in ({"allowed_ids": torch.tensor([[3], [4]])}, {"output_type": "np"}, {"num_images_per_prompt": 9}):
        checked(pipe, cache=cache, **options)
    # Without a temperature nothing is drawn; with one each answer has a generator of its own, or all share one.
    checked(pipe, generator=[torch.Generator()] * 5)
    checked(pipe, queries=2, temperature=1.0, num_images_per_prompt=3, generator=[torch.Generator()] * 6)
    checked(pipe, queries=2, temperature=1.0, generator=torch.Generator())


@pytest.mark.parametrize(
    "options, said",
    [
        ({"top_p": 0}, "top_p: got 0, accepted are numbers above 0 up to 1"),
        ({"top_p": 1.01}, "top_p: got 1.01"),
        ({"temperature": float("inf")}, "temperature: got inf, accepted are numbers from 0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"top_k": True}, "top_k: got True, accepted are whole numbers from 1"),
        ({"num_answer_images": 0}, "num_answer_images: got 0"),
        ({"num_images_per_prompt": True}, "num_images_per_prompt: got True"),
        ({"allowed_ids": [-1]}, "input_ids: got -1 to -1, accepted are the codes 0 to 31"),
        ({"temperature": 1.0, "queries": 2, "generator": [None] * 3}, "generator: got 3 generators for 2"),
        ({"temperature": 1.0, "queries": 0, "generator": [torch.Generator()]}, "image: got an empty list"),
    ],
)  # fmt: skip
def test_what_is_beyond_them_is_named(pipe, options, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        checked(pipe, **options)


def test_of_one_answer_the_likeliest_ids_are_taken_and_several_are_drawn(pipe, monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline_delvm, "_chooser", lambda *given: asked.append(given) or (lambda x: x.argmax(-1)))
    made = torch.Generator()
    pipe([], picture(5))
    pipe([], picture(5), num_images_per_prompt=2, top_k=3, top_p=0.5, generator=made)
    pipe([], picture(5), num_images_per_prompt=2, temperature=0.25)
    assert asked == [(0.0, None, None, None), (1.0, 3, 0.5, made), (0.25, None, None, None)]


@pytest.mark.parametrize("cache", ["growing", "static"])
def test_a_query_that_is_read_once_has_as_many_answers_as_were_asked_for(pipe, cache):
    """In order: all of the first query, then all of the second; whether they share their prompt or have their own."""
    random = torch.Generator().manual_seed(0)
    queries = torch.randint(32, (2, 6), generator=random)
    for prompts in (torch.randint(32, (rows, length), generator=random) for rows, length in ((1, 4), (2, 4), (1, 0))):
        several = pipe.generate_ids(prompts, queries, 5, 2, cache=cache)
        ids = torch.cat([prompts.expand(2, -1), queries], 1)
        how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False}
        alone = pipe.language_model.generate(ids, **how)[:, ids.shape[1] :]
        assert torch.equal(several, alone.repeat_interleave(2, 0)) and not torch.equal(*alone)


def test_many_images_go_through_the_tokenizer_a_few_at_a_time(pipe, monkeypatch):
    sizes, tokenizer = [], type(pipe.image_tokenizer)
    encode, decode = tokenizer.encode, tokenizer.decode
    monkeypatch.setattr(tokenizer, "encode", lambda self, part: sizes.append(len(part)) or encode(self, part))
    monkeypatch.setattr(
        tokenizer, "decode", lambda self, part, kind: sizes.append(len(part)) or decode(self, part, kind)
    )
    monkeypatch.setattr(type(pipe), "generate_ids", lambda self, pairs, asked, *_, **__: asked.flip(0))
    queries = [picture(number) for number in range(17)]
    result = pipe(PAIRS[:1], queries, output_type="np")
    assert sizes == [16, 3, 16, 1] and result.images.shape == (17, 16, 16, 3)
    assert torch.equal(result.token_ids[16], encode(pipe.image_tokenizer, queries[:1])[0])


def test_numbers_of_pairs_that_differ_are_told_from_the_least_to_the_most(pipe):
    given = {"num_images_per_prompt": 1, "num_answer_images": 1, "temperature": 0.0, "generator": None}
    given |= {"top_k": None, "top_p": None, "allowed_ids": None, "cache": "growing", "output_type": "pil"}
    prompts = [[(picture(1), picture(2))] * count for count in (3, 8, 1)]
    with pytest.raises(ValueError, match="^prompt_images: got 1 and 8 pairs, accepted are as many for each image"):
        pipe.check_inputs(pipe.image_tokenizer, prompts, [picture(3)] * 3, **given)


@pytest.mark.parametrize("part", ["self_attn", "mlp", "input_layernorm", "post_attention_layernorm"])
def test_a_layer_with_a_part_of_another_kind_is_not_stepped_through(part):
    model = tiny_language_model()
    assert is_plain(model)
    setattr(model.model.layers[1], part, torch.nn.Identity())
    assert not is_plain(model)
