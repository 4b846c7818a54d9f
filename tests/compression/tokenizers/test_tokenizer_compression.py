"""A compressed tokenizer is a whole tokenizer: what stays can be produced, and nothing else changes."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_effmodels.compression import (
    SentencePieceBPE,
    TokenCounts,
    compress_embeddings,
    compress_tokenizer,
    compression_report,
    count_tokens,
    remap_dataset,
    unreachable_ids,
)
from hf_effmodels.compression.tokenizers.dataset_remapping import expansions
from hf_effmodels.compression.tokenizers.embedding_compression import check_vocabulary_size
from hf_effmodels.compression.tokenizers.id_map import IdMap
from hf_effmodels.compression.tokenizers.pieces import Merges, choose, is_special_piece, kept_share
from hf_effmodels.compression.tokenizers.report import _left_out, measure_texts
from hf_effmodels.compression.tokenizers.sentencepiece_bpe import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from hf_effmodels.compression.tokenizers.tokenizer_compression import Vocabulary

from ..conftest import LINES, byte_fallback


@pytest.fixture(scope="module")
def counts(tokenizer, lines):
    return count_tokens(tokenizer, lines, progress=False)


@pytest.mark.parametrize("strategy", ["frequency", "frequency+closure"])
def test_a_compressed_tokenizer_keeps_what_the_old_one_was(tokenizer, counts, strategy, held_out, tmp_path):
    size = 300 + (len(tokenizer) - 300) // 2
    compressed, id_map = compress_tokenizer(tokenizer, counts, size, strategy=strategy)
    assert len(compressed) == len(id_map) == size
    pieces = tokenizer.convert_ids_to_tokens(id_map.kept)
    assert compressed.convert_ids_to_tokens(range(size)) == pieces
    assert compressed.special_tokens_map == tokenizer.special_tokens_map
    # The post-processor puts the same tokens around a text, by their new ids.
    framed = tokenizer.convert_ids_to_tokens(tokenizer("a").input_ids)
    assert compressed.convert_ids_to_tokens(compressed("a").input_ids) == framed
    # A text whose pieces are all kept is encoded as before.
    new_ids, same = id_map.new_ids(), 0
    for line in held_out:
        old = np.asarray(tokenizer(line).input_ids)
        if (new_ids[old] >= 0).all() and strategy == "frequency+closure":
            assert compressed(line).input_ids == new_ids[old].tolist()
            same += 1
    assert same or strategy == "frequency"

    compressed.chat_template, before = compressed.chat_template, tokenizer.chat_template
    compressed.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(held_out).input_ids == compressed(held_out).input_ids
    assert (loaded.chat_template, loaded.padding_side) == (before, tokenizer.padding_side)
    assert loaded.model_max_length == tokenizer.model_max_length


def test_kept_pieces_stay_reachable_and_every_text_can_be_written(byte_level_tokenizer, lines, held_out):
    tokenizer = byte_level_tokenizer
    counts = count_tokens(tokenizer, lines, progress=False)
    reports = {}
    for strategy in ("frequency", "frequency+closure"):
        compressed, id_map = compress_tokenizer(tokenizer, counts, 500, strategy=strategy)
        reports[strategy] = compression_report(tokenizer, compressed, id_map, counts, held_out)
        for text in [*held_out, "žluťoučký 北京 🤖 <|user|>"]:
            assert compressed.decode(compressed(text, add_special_tokens=False).input_ids) == text
    assert reports["frequency"].unreachable and not reports["frequency+closure"].unreachable
    closed = reports["frequency+closure"]
    assert closed.tokens_per_word_before < closed.tokens_per_word_after < reports["frequency"].tokens_per_word_after
    # Reachable in fact, not only in theory: BPE makes the piece of its own text.
    model = compressed.backend_tokenizer.model
    for piece in compressed.get_vocab().keys() - {"<|begin|>", "<|end|>", "<|user|>"}:
        assert [token.value for token in model.tokenize(piece)] == [piece]


def test_unknown_tokens_are_counted_before_and_after_and_warned_of(tokenizer, counts, held_out, caplog):
    """Fewer tokens per word are no gain where whole words become one unknown token each."""
    unknown = tokenizer.unk_token_id
    for coverage in (0.8, 0.6):
        caplog.clear()
        compressed, id_map = compress_tokenizer(tokenizer, counts, coverage=coverage)
        report = compression_report(tokenizer, compressed, id_map, counts, held_out)
        shares = []
        for each in (tokenizer, compressed):
            ids = [number for text in held_out for number in each(text, add_special_tokens=False).input_ids]
            shares.append(0 if unknown is None else np.mean(np.array(ids) == each.unk_token_id))
        assert [report.unknown_before, report.unknown_after] == pytest.approx(shares)
        on_counts = compression_report(tokenizer, compressed, id_map, counts)
        spelt = remap_dataset(
            datasets.Dataset.from_dict({"input_ids": tokenizer(LINES, add_special_tokens=False).input_ids}),
            id_map,
            tokenizer,
            compressed,
        )
        ids = np.concatenate([np.asarray(line, int) for line in spelt["input_ids"]])
        expected = 0 if unknown is None else np.mean(ids == compressed.unk_token_id)
        assert on_counts.unknown_after == pytest.approx(expected)
        assert on_counts.tokens_per_word_after == pytest.approx(len(ids) / sum(len(line.split()) for line in LINES))
        grows = tokenizer.backend_tokenizer.model.__class__.__name__ in ("WordPiece", "Unigram")
        assert grows == ("unknown tokens: " in caplog.text) and grows == (report.unknown_after > 0.005)
        before, after = (f"{100 * share:.2f} %" for share in shares)
        assert grows == (f"unknown tokens: {before} of the text's before, {after} after; a word" in caplog.text)
    assert not grows or report.unknown_after > 0.05


def test_characters_that_a_model_without_an_unknown_token_leaves_out_count_as_unknown(caplog):
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "c": 3}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    compressed, id_map = compress_tokenizer(tokenizer, {0: 5, 1: 5, 2: 9, 3: 1}, 3)
    report = compression_report(tokenizer, compressed, id_map, TokenCounts(np.array([5, 5, 9, 1])), ["abc ab ca"])
    assert (report.unknown_before, report.unknown_after) == (0, pytest.approx(2 / 5))  # ab c ab c a -> ab - ab - a
    assert "unknown tokens: 0.00 % of the text's before, 40.00 % after" in caplog.text


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_whole_model(byte_level_tokenizer, lines, tied):
    sizes = {"vocab_size": 901, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    config = LlamaConfig(**sizes, num_attention_heads=2, bos_token_id=0, eos_token_id=1, tie_word_embeddings=tied)
    counts = count_tokens(byte_level_tokenizer, lines, progress=False)
    compressed, id_map = compress_tokenizer(byte_level_tokenizer, counts, 400)
    report = compression_report(byte_level_tokenizer, compressed, id_map, counts, config=config)
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id) == (901, 0, 1), "which is the caller's"
    model = LlamaForCausalLM(config)
    assert report.parameters_before == model.num_parameters()
    assert report.embedding_parameters_before == 901 * 16 * (1 if tied else 2)
    compress_embeddings(model, id_map)
    assert report.parameters_after == model.num_parameters()
    assert report.embedding_parameters_after == 400 * 16 * (1 if tied else 2)


def test_coverage_stops_at_the_first_piece_that_reaches_it(tokenizer, counts):
    compressed, id_map = compress_tokenizer(tokenizer, counts, coverage=0.9)
    covered = counts.counts[list(id_map.kept)].sum() / counts.total
    assert 0.9 <= covered < 0.92
    assert len(compressed) < len(tokenizer)


def test_pieces_that_are_named_are_kept(tokenizer, counts):
    rare = int(counts.ranking()[-1])
    size = len(compress_tokenizer(tokenizer, counts, coverage=0.9)[0])
    _, id_map = compress_tokenizer(tokenizer, counts, size, keep=[rare, tokenizer.convert_ids_to_tokens(rare)])
    assert rare in id_map.kept


def test_a_size_below_the_byte_alphabet_is_refused(byte_level_tokenizer):
    with pytest.raises(ValueError, match=r"vocab_size: got 200.*256 bytes and 3 special"):
        compress_tokenizer(byte_level_tokenizer, {5: 1}, 200)


@pytest.mark.parametrize(
    "counts, options, message",
    [
        ({}, {"vocab_size": 500}, "corpus has no token"),
        ({5000: 3}, {"vocab_size": 500}, "token id 5000"),
        ({5: 1}, {}, "exactly one"),
        ({5: 1}, {"coverage": 1.5}, "coverage: got 1.5"),
        ({5: 1}, {"vocab_size": 500, "strategy": "best"}, "strategy: got 'best'"),
        ({5: 1}, {"vocab_size": 500, "keep": ["no such"]}, "keep: got 'no such'"),
    ],
)
def test_wrong_input_is_named(byte_level_tokenizer, counts, options, message):
    with pytest.raises(ValueError, match=message):
        compress_tokenizer(byte_level_tokenizer, counts, **options)


def test_special_tokens_behind_dropped_ones_are_found_where_they_move_to():
    """The unknown and the framing tokens are the last of the vocabulary, and most before them go."""
    pieces = [*"abcdefgh", "ab", "cd", "<unk>", "<s>", "</s>"]
    backend = Tokenizer(models.Unigram([(piece, -1.0 - n / 10) for n, piece in enumerate(pieces)], unk_id=10))
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    frame = [("<s>", 11), ("</s>", 12)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    counts = {0: 9, 1: 9, 8: 9}
    for strategy in ("frequency", "frequency+closure"):
        compressed, id_map = compress_tokenizer(tokenizer, counts, 6, strategy=strategy)
        assert id_map.kept == (0, 1, 8, 10, 11, 12)
        assert compressed("abxb").input_ids == [4, 2, 3, 1, 5]  # <s> ab <unk> b </s>
        assert (compressed.unk_token_id, compressed.bos_token_id, compressed.eos_token_id) == (3, 4, 5)


def test_the_published_rule_of_special_pieces():
    special = ["<s>", "[CLS]", "<0x0A>", "[x]", "<a>"]
    assert all(map(is_special_piece, special))
    assert not any(map(is_special_piece, ["<>", "[]", "<", "<s", "s>", "<s]", "[s>", "ab", "a<s>"]))


def test_counts_of_another_tokenizer_are_refused(tokenizer, counts, lines, tmp_path):
    counts.save(tmp_path / "counts.json")
    known = TokenCounts.load(tmp_path / "counts.json")
    assert compress_tokenizer(tokenizer, known, 500)[1] == compress_tokenizer(tokenizer, counts, 500)[1]
    tokenizer(["a"], truncation=True, max_length=3)  # sets the backend, changes no token
    assert compress_tokenizer(tokenizer, known, 500)[1] == compress_tokenizer(tokenizer, counts, 500)[1]
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    other = PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map)
    with pytest.raises(ValueError, match="counts: they are of another tokenizer"):
        compress_tokenizer(other, known, 500)
    others = count_tokens(other, lines, progress=False)
    with pytest.raises(ValueError, match="counts: they are of different tokenizers"):
        known.add(others)


def test_the_published_rule_breaks_ties_in_the_order_first_seen():
    counts = TokenCounts(np.array([1, 3, 1, 0, 1]), first_seen=[4, 1, 0, 2])
    assert counts.ranking().tolist() == [1, 4, 0, 2, 3]


# The model


@pytest.mark.parametrize("kind", ["untied", "tied", "biased head"])
def test_logits_of_kept_ids_stay_the_same(byte_level_tokenizer, lines, kind):
    size = len(byte_level_tokenizer) + 7  # rows without a token, as many models have
    sizes = {"vocab_size": size, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    sizes |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": [1, 900], "pad_token_id": 1}
    if kind == "biased head":
        model = PhiForCausalLM(PhiConfig(**sizes)).eval()
        torch.nn.init.normal_(model.lm_head.bias)
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=kind == "tied")).eval()
    counts = count_tokens(byte_level_tokenizer, lines, progress=False)
    _, id_map = compress_tokenizer(byte_level_tokenizer, counts, 400)
    kept = torch.tensor(id_map.kept)
    new = torch.randint(0, 400, (2, 9))
    expected = model(kept[new]).logits[..., kept]
    before = sum(weight.numel() for weight in model.parameters())
    compress_embeddings(model, id_map)
    torch.testing.assert_close(model(new).logits, expected, rtol=0, atol=1e-6)
    saved = before - sum(weight.numel() for weight in model.parameters())
    assert saved == (size - 400) * {"tied": 16, "untied": 32, "biased head": 33}[kind]
    new_ids = id_map.new_ids()
    for settings in (model.config, model.generation_config):
        assert settings.bos_token_id == new_ids[0] and settings.eos_token_id == [new_ids[1], new_ids[900]]
    assert model.config.vocab_size == model.vocab_size == 400
    assert model(new, labels=new).loss.isfinite()
    assert model.get_input_embeddings().padding_idx == new_ids[1]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (kind == "tied")


def test_settings_that_name_tokens_follow_and_those_of_dropped_tokens_go(byte_level_tokenizer):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=901, hidden_size=16, num_hidden_layers=1, intermediate_size=24,
                                         num_attention_heads=2, bos_token_id=0, eos_token_id=1))  # fmt: skip
    model.model.embed_tokens.max_norm = 3.0
    _, id_map = compress_tokenizer(byte_level_tokenizer, {700: 9, 800: 8, 850: 0}, 400, strategy="frequency")
    new = id_map.new_ids()
    assert new[700] >= 0 and new[800] >= 0 and new[850] < 0
    settings = model.generation_config
    settings.suppress_tokens, settings.begin_suppress_tokens = [700, 850, 800], [850]
    settings.bad_words_ids, settings.force_words_ids = [[700], [850], [800, 850], [700, 800]], [[850]]
    compress_embeddings(model, id_map)
    assert settings.suppress_tokens == [new[700], new[800]] and settings.begin_suppress_tokens == []
    assert settings.bad_words_ids == [[new[700]], [new[700], new[800]]] and settings.force_words_ids is None
    assert model.get_input_embeddings().max_norm == 3.0


def test_the_vocabulary_of_another_model_is_refused(byte_level_tokenizer, llama):
    _, id_map = compress_tokenizer(byte_level_tokenizer, {5: 1}, 400)
    with pytest.raises(ValueError, match="96 tokens, the tokenizer's 901"):
        compress_embeddings(llama, id_map)


def test_tokenised_data_are_remapped_to_the_same_text(tokenizer, counts, held_out):
    compressed, id_map = compress_tokenizer(tokenizer, counts, 300 + (len(tokenizer) - 300) // 2)
    old = [tokenizer(line).input_ids for line in held_out]
    labels = [[-100, *ids[1:]] for ids in old]
    columns = {"input_ids": old, "labels": labels, "attention_mask": [[1] * len(ids) for ids in old]}
    new = remap_dataset(datasets.Dataset.from_dict(columns), id_map, tokenizer, compressed)[:]
    assert sum(map(len, new["input_ids"])) > sum(map(len, old))
    for before, ids, targets, mask in zip(old, new["input_ids"], new["labels"], new["attention_mask"], strict=True):
        assert targets == [-100, *ids[1:]] and mask == [1] * len(ids)
        if compressed.unk_token_id not in ids or compressed.unk_token_id is None:
            assert compressed.decode(ids) == tokenizer.decode(before)


def test_only_bpe_has_unreachable_pieces(tokenizer, counts):
    smaller, _ = compress_tokenizer(tokenizer, counts, 320, strategy="frequency")
    assert bool(unreachable_ids(smaller)) == (smaller.backend_tokenizer.model.__class__.__name__ == "BPE")


def test_a_sentencepiece_file_is_compressed_as_the_published_tool_does(lines, held_out, tmp_path):
    from transformers.utils import sentencepiece_model_pb2_new as schema

    source = byte_fallback()
    pieces = source.convert_ids_to_tokens(range(len(source)))
    merges = json.loads(source.backend_tokenizer.to_str())["model"]["merges"]
    products = {"".join(pair): -float(rank) for rank, pair in enumerate(merges)}
    proto = schema.ModelProto()
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = proto.trainer_spec.BPE, True
    proto.normalizer_spec.add_dummy_prefix, proto.normalizer_spec.remove_extra_whitespaces = True, False
    for number, piece in enumerate(pieces):
        kind = UNKNOWN if number == 0 else CONTROL if number < 3 else BYTE if number < 259 else NORMAL
        proto.pieces.add(piece=piece, score=products.get(piece, -1e6), type=kind)
    file, smaller_file = tmp_path / "tokenizer.model", tmp_path / "smaller.model"
    file.write_bytes(proto.SerializeToString())

    model = SentencePieceBPE.load(file)
    tokenizer = model.to_fast()
    texts = [line.strip() for line in held_out]
    assert [model.encode(text) for text in texts] == tokenizer(texts, add_special_tokens=False).input_ids
    counts = count_tokens(tokenizer, lines, progress=False)
    compressed, id_map = compress_tokenizer(tokenizer, counts, 500)
    SentencePieceBPE.save_compressed(file, id_map, smaller_file)
    smaller = SentencePieceBPE.load(smaller_file)
    assert (smaller.pieces, smaller.scores) == (model.compressed(id_map).pieces, model.compressed(id_map).scores)
    assert smaller.pieces == compressed.convert_ids_to_tokens(range(500))
    written = schema.ModelProto()
    written.ParseFromString(smaller_file.read_bytes())
    assert written.trainer_spec.vocab_size == len(written.pieces) == 500
    # Every character has a piece here: both libraries then write the same.
    assert [smaller.encode(text) for text in texts] == compressed(texts, add_special_tokens=False).input_ids
    file.write_bytes(b"no model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        SentencePieceBPE.load(file)


def test_sentencepiece_joins_unknown_neighbours_and_finds_the_pieces_of_users_first():
    pieces = ["<unk>", "<s>", "▁", "a", "b", "c", "ab", "bc", "aa", "▁ab", "<x>"]
    scores = [0, 0, -9, -9, -9, -9, -3, -2, -1, -4, 0]
    kinds = [UNKNOWN, CONTROL, *[NORMAL] * 8, USER_DEFINED]
    model = SentencePieceBPE(pieces, scores, kinds, byte_fallback=False)
    fast = model.to_fast()
    for text, expected in (
        ("ab<x>qqab", ["▁ab", "<x>", "<unk>", "ab"]),
        ("q<x>qz c", ["▁", "<unk>", "<x>", "<unk>", "▁", "c"]),
        ("aaabc", ["▁", "aa", "a", "bc"]),  # the best pair before others, of equal ones the first
    ):
        assert [pieces[number] for number in model.encode(text)] == expected
        assert fast.convert_ids_to_tokens(fast(text).input_ids) == expected


# Parts


@pytest.mark.parametrize("kept", [(), (2, 1), (1, 1), (-1, 2), (0, 5)])
def test_a_map_of_ids_is_ascending_within_the_old_vocabulary(kept):
    with pytest.raises(ValueError, match="kept: accepted are ascending ids from 0 to 4, at least one"):
        IdMap(kept, 5)


def test_a_map_of_ids_is_read_as_it_was_saved(tmp_path):
    id_map = IdMap.of([4, 0, 2], 6)
    assert id_map.new_ids().tolist() == [0, -1, 1, -1, 2, -1] and len(id_map) == 3
    id_map.save(tmp_path / "id_map.json")
    assert IdMap.load(tmp_path / "id_map.json") == id_map


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"kept": [0]}', '{"kept": ["a"], "old_size": 3}', '{"kept": [3], "old_size": 3}']
)
def test_another_file_is_no_map_of_ids(content, tmp_path):
    (tmp_path / "id_map.json").write_text(content)
    with pytest.raises(ValueError, match="id_map.json: this is not a map of token ids"):
        IdMap.load(tmp_path / "id_map.json")


def test_merges_with_marks_of_words_build_what_bpe_builds():
    """Of marked symbols each but the first continues a word, and the last ends it."""
    merges = [("##b", "##c</w>"), ("a", "##b"), ("a", "##bc</w>"), ("ab", "##d")]
    ids = {piece: n for n, piece in enumerate(["a", "##b", "##c</w>", "##bc</w>", "ab", "abc</w>", "##d", "abd"])}
    rules = Merges(merges, ids, "##", "</w>")
    assert rules.symbols("##ab</w>") == ["##a", "##b</w>"] and rules.symbols("abc") == ["a", "##b", "##c"]
    assert rules.product("a", "##b") == "ab"
    assert rules.ancestors("abc</w>") == {0, 1, 2, 3, 5}  # by bc, which comes before ab
    assert rules.ancestors("abd") == {0, 1, 4, 6, 7} and rules.ancestors("ad") is None
    assert rules.kept(set(ids) - {"##bc</w>"}) == [("a", "##b"), ("ab", "##d")]
    assert rules.unreachable(set(ids) - {"##bc</w>"}) == {"abc</w>"} and rules.unreachable(ids) == set()


def test_a_piece_that_another_merge_gets_in_the_way_of_is_never_built():
    rules = Merges([("b", "c"), ("a", "b"), ("ab", "c")], {piece: n for n, piece in enumerate(["a", "b", "c", "abc"])})
    assert rules.ancestors("abc") is None and rules.ancestors("a") == {0}


@pytest.mark.parametrize("word", ["aa", "aaa", "aaaa", "aaaaa", "aaaaaa", "aba", "abaab"])
@pytest.mark.parametrize(
    "merges",
    [
        [("a", "a"), ("a", "aa")],
        [("a", "a"), ("aa", "a")],
        [("a", "a"), ("aa", "aa"), ("aaaa", "a"), ("aaaa", "aa"), ("aa", "a")],
        [("a", "a"), ("a", "aa"), ("aaa", "aa"), ("aa", "aaa")],
        [("a", "b"), ("b", "a"), ("ab", "a"), ("aba", "ab"), ("a", "a")],
    ],
)
def test_of_equal_merges_the_leftmost_is_applied_first_as_the_library_does(merges, word):
    vocabulary = {piece: n for n, piece in enumerate(dict.fromkeys(["a", "b", *map("".join, merges), word]))}
    backend = Tokenizer(models.BPE(vocabulary, merges))
    found = Merges(merges, vocabulary).ancestors(word)
    assert (found is not None) == (backend.encode(word).tokens == [word])
    if found is not None:  # what is not said to be needed is not needed
        kept = [pair for pair in merges if {*pair, "".join(pair)} <= {p for p, n in vocabulary.items() if n in found}]
        assert Tokenizer(models.BPE(vocabulary, kept)).encode(word).tokens == [word]
        assert {vocabulary[part] for part in word} <= found and vocabulary[word] in found


def test_pieces_are_chosen_by_count_with_what_they_are_built_from_as_long_as_all_fits():
    counts, groups = np.array([1, 9, 8, 7, 0, 2]), {1: {1}, 2: {2, 4, 5}, 3: {3}, 0: None, 4: {4}, 5: {5}}

    def closure(token):
        return None if groups[token] is None else frozenset(groups[token])

    ranking = [1, 2, 3, 5, 0, 4]
    assert choose(ranking, {4}, counts, 3, closure=closure) == {4, 1, 3}, "2 would bring one too many"
    assert choose(ranking, {4}, counts, 4, closure=closure) == {4, 1, 2, 5}
    assert choose(ranking, {4}, counts, 6, closure=closure) == {4, 1, 2, 5, 3}, "0 is never built"
    assert choose(ranking, {5}, counts, 6, needed=11, closure=closure) == {5, 1}, "2 + 9 are enough"
    assert choose(ranking, {5}, counts, 6, needed=12, closure=closure) == {5, 1, 2, 4}
    assert choose(ranking, {4}, counts, 6, needed=19, closure=closure) == {4, 1, 2, 5}, "9 + 8, and 2 of its part"
    assert choose(ranking, (), counts, 3) == {1, 2, 3}
    assert kept_share(counts, [3, 1]) == 16 / 27


def _word_piece():
    """ab, abq and ##bc are spelt with a, ##b and ##c, as far as that goes."""
    vocabulary = {piece: n for n, piece in enumerate(["[UNK]", "a", "##b", "ab", "##bc", "abq", "##c"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_a_dropped_word_piece_is_spelt_with_the_longest_that_are_kept():
    tokenizer = _word_piece()
    compressed, id_map = compress_tokenizer(tokenizer, {1: 9, 2: 9, 6: 9}, 4, strategy="frequency")
    assert id_map.kept == (0, 1, 2, 6)
    assert expansions(tokenizer, compressed, id_map) == [[0], [1], [2], [1, 2], [2, 3], [0], [3]]
    longer, id_map = compress_tokenizer(tokenizer, {1: 9, 3: 9, 2: 8, 6: 9}, 5, strategy="frequency")
    assert expansions(tokenizer, longer, id_map)[5] == [0] and expansions(tokenizer, longer, id_map)[4] == [2, 4]


def _pairs():
    """Tokens a, b, ab and c, of which ab goes."""
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "c": 3}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    return tokenizer, *compress_tokenizer(tokenizer, {0: 5, 1: 5, 3: 5}, 3)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_goes_with_a_dropped_token_is_repeated_for_each_of_its_pieces(streaming):
    tokenizer, compressed, id_map = _pairs()
    columns = {"input_ids": [[2, 3, 2], []], "labels": [[-100, 3, 2], []], "name": ["x", "y"]}
    columns |= {"attention_mask": [[1, 1, 0], []], "token_type_ids": [[0, 1, 1], []]}
    data = datasets.Dataset.from_dict(columns)
    data = data.to_iterable_dataset() if streaming else data
    first, second = remap_dataset(data, id_map, tokenizer, compressed)
    assert first == {
        "input_ids": [0, 1, 2, 0, 1],
        "labels": [-100, -100, 2, 0, 1],
        "name": "x",
        "attention_mask": [1, 1, 1, 0, 0],
        "token_type_ids": [0, 0, 1, 1, 1],
    }
    assert second["input_ids"] == [] and second["name"] == "y"
    # A stream may not know its columns before it is read.
    unknown = datasets.IterableDataset.from_generator(lambda: iter([{"input_ids": [2, 3]}]))
    assert unknown.column_names is None
    assert [*remap_dataset(unknown, id_map, tokenizer, compressed)] == [{"input_ids": [0, 1, 2]}]
    targets = datasets.Dataset.from_dict({"targets": [[2, -100, 3]], "labels": [[2, 2, 2]]})
    (only,) = remap_dataset(targets, id_map, tokenizer, compressed, columns=["targets"])
    assert only == {"targets": [0, 1, -100, 2], "labels": [2, 2, 2]}


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"ids": [[1]]}, "columns: got input_ids, labels, the data set has ids"),
        ({"input_ids": [[1, 4]]}, "dataset: token ids 1 to 4, accepted are 0 to 3"),
        ({"input_ids": [[-1, 1]]}, "dataset: token ids -1 to 1, accepted are 0 to 3"),
        ({"input_ids": [[1, 2]], "labels": [[1]]}, "dataset: labels has 1 ids where the first column has 2"),
        ({"input_ids": [[1, 2]], "labels": [[1, 3]]}, "dataset: labels is another text than the first column"),
    ],
)
def test_data_of_another_vocabulary_are_not_remapped(columns, message):
    tokenizer, compressed, id_map = _pairs()
    with pytest.raises(ValueError, match=message):
        remap_dataset(datasets.Dataset.from_dict(columns), id_map, tokenizer, compressed)


def test_a_map_of_other_tokenizers_is_refused():
    tokenizer, compressed, id_map = _pairs()
    for pair, wrong in (((tokenizer, tokenizer), id_map), ((tokenizer, compressed), IdMap(id_map.kept, 5))):
        with pytest.raises(ValueError, match="id_map: it leads from"):
            expansions(*pair, wrong)


@pytest.mark.parametrize(
    "rows, tokens, goes",
    [(2024, 1000, True), (2025, 1000, False), (20000, 18000, True), (20000, 17999, False), (999, 1000, False)],
)
def test_a_vocabulary_may_have_a_tenth_or_1024_rows_without_a_token(rows, tokens, goes):
    config = LlamaConfig(vocab_size=rows)
    if goes:
        check_vocabulary_size(config, tokens)
    else:
        with pytest.raises(ValueError, match=f"has {rows} tokens, the tokenizer's.* {tokens}: they do not belong"):
            check_vocabulary_size(config, tokens)


def _tiny_llama(**changed):
    sizes = {"vocab_size": 6, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    special = {"num_attention_heads": 1, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    return LlamaForCausalLM(LlamaConfig(**sizes | special | changed))


def test_special_ids_of_a_model_have_to_be_kept_and_its_rows_to_be_there():
    id_map = IdMap((0, 1, 4), 6)
    # 8 is one of the rows that no token has.
    for wrong, number in (([1, 3], 3), (8, 8), ([1, 6], 6)):
        with pytest.raises(ValueError, match=f"id_map: the model's eos_token_id {number} is not kept"):
            compress_embeddings(_tiny_llama(vocab_size=10, eos_token_id=wrong), id_map)
    generating = _tiny_llama()
    generating.generation_config.pad_token_id = 5
    with pytest.raises(ValueError, match="id_map: the model's pad_token_id 5 is not kept"):
        compress_embeddings(generating, id_map)
    short = _tiny_llama()
    short.set_input_embeddings(torch.nn.Embedding(5, 8))
    with pytest.raises(ValueError, match="model: its embedding has 5 rows, the tokenizer has 6 tokens"):
        compress_embeddings(short, id_map)


def test_frozen_rows_stay_frozen_and_unset_ids_unset():
    model = _tiny_llama(pad_token_id=-1, eos_token_id=4).eval()
    model.generation_config.pad_token_id = None
    model.get_input_embeddings().weight.requires_grad_(False)
    compress_embeddings(model, IdMap((0, 1, 4), 6))
    assert not model.get_input_embeddings().weight.requires_grad and model.lm_head.weight.requires_grad
    assert not model.get_input_embeddings().training and not model.lm_head.training
    assert model.config.pad_token_id == -1 and model.config.eos_token_id == 2
    padded = compress_embeddings(_tiny_llama(pad_token_id=4), IdMap((0, 1, 4), 6))
    assert padded.model.padding_idx == padded.model.embed_tokens.padding_idx == 2


def test_only_fast_tokenizers_of_known_models_are_compressed():
    with pytest.raises(ValueError, match="tokenizer: got object, accepted are fast tokenizers"):
        compress_tokenizer(object(), {0: 1}, 1)
    backend = SimpleNamespace(to_str=lambda: json.dumps({"model": {"type": "Neural"}}))
    with pytest.raises(ValueError, match="its model is Neural, accepted are BPE, Unigram, WordPiece, WordLevel"):
        compress_tokenizer(SimpleNamespace(backend_tokenizer=backend), {0: 1}, 1)


def test_what_is_named_to_keep_is_kept_with_all_that_it_is_built_of():
    """abc is made of ab, a, b and c: five tokens, and not one less."""
    pieces = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "d": 5, "e": 6}
    tokenizer = _of_words(models.BPE(pieces, [("a", "b"), ("ab", "c")]))
    counts = [0, 0, 0, 0, 0, 9, 8]
    assert compress_tokenizer(tokenizer, counts, 5, keep=["abc"])[1].kept == (0, 1, 2, 3, 4)
    assert compress_tokenizer(tokenizer, counts, 6, keep=[4])[1].kept == (0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="vocab_size: got 4, accepted are sizes from 5"):
        compress_tokenizer(tokenizer, counts, 4, keep=["abc"])
    assert compress_tokenizer(tokenizer, counts, 1, strategy="frequency", keep=["abc"])[1].kept == (4,)
    # All of the counted tokens may be asked for.
    assert compress_tokenizer(tokenizer, [0, 0, 0, 3, 0, 9, 8], coverage=1.0)[1].kept == (0, 1, 3, 5, 6)


def test_pieces_that_are_lost_are_those_that_no_merge_of_what_is_kept_builds():
    """Of all, or of those that a map keeps; bytes are written without merges."""
    pieces = {"<unk>": 0, "<0x41>": 1, "a": 2, "b": 3, "ab": 4}
    tokenizer = _of_words(models.BPE(pieces, [("a", "b")], byte_fallback=True, unk_token="<unk>"))
    assert unreachable_ids(tokenizer) == []
    assert unreachable_ids(tokenizer, IdMap((0, 1, 2, 4), 5)) == [4]
    assert unreachable_ids(tokenizer, IdMap((0, 1, 2, 3), 5)) == []


def test_bytes_are_kept_whether_they_come_of_the_normaliser_or_of_what_cuts_words():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    for part, step in (("normalizer", normalizers.ByteLevel()), ("pre_tokenizer", pre_tokenizers.ByteLevel())):
        pieces = {piece: number for number, piece in enumerate([*letters, "ab", "cd"])}
        tokenizer = _of_words(models.BPE(pieces, [("a", "b"), ("c", "d")]))
        setattr(tokenizer.backend_tokenizer, part, step)
        _, id_map = compress_tokenizer(tokenizer, {256: 1, 257: 5}, 257)
        assert id_map.kept == (*range(256), 257)
        with pytest.raises(ValueError, match=r"vocab_size: got 3, .*\(256 bytes and 0 special"):
            compress_tokenizer(tokenizer, {256: 1, 257: 5}, 3)


def test_what_a_post_processor_puts_around_a_text_is_kept_though_nothing_calls_it_special():
    tokenizer = _of_words(models.WordLevel({"?": 0, "a": 1, "begin": 2, "b": 3}, unk_token="?"))
    frame = processors.TemplateProcessing(single="begin $A", special_tokens=[("begin", 2)])
    tokenizer.backend_tokenizer.post_processor = frame
    compressed, id_map = compress_tokenizer(tokenizer, [0, 4, 0, 5], 3, strategy="frequency")
    assert id_map.kept == (0, 2, 3) and compressed("b").input_ids == [1, 2]


def test_a_piece_that_goes_on_a_word_is_kept_with_its_characters_as_they_go_on():
    tokenizer = _word_piece()
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.closure(4) == {4, 2, 6}, "##bc with ##b and ##c"
    assert vocabulary.closure(5) == {5, 1, 2} and vocabulary.closure(2) == {2}


def test_what_is_named_to_keep_has_to_fit(byte_level_tokenizer):
    piece = byte_level_tokenizer.convert_ids_to_tokens(800)
    _, id_map = compress_tokenizer(byte_level_tokenizer, {5: 1}, 400, keep=[piece, 850], strategy="frequency")
    assert id_map.new_ids()[[800, 850]].min() >= 0
    with pytest.raises(ValueError, match="vocab_size: got 259, accepted are sizes from 260"):
        compress_tokenizer(byte_level_tokenizer, {5: 1}, 259, keep=[piece], strategy="frequency")
    with pytest.raises(ValueError, match="keep: got 901, which"):
        compress_tokenizer(byte_level_tokenizer, {5: 1}, 400, keep=[901])


def test_words_without_parts_are_kept_by_count_alone():
    vocabulary = {"<unk>": 0, "one": 1, "two": 2, "three": 3}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "<unk>")), unk_token="<unk>"
    )
    _, id_map = compress_tokenizer(tokenizer, [0, 1, 5, 3], 3)
    assert id_map.kept == (0, 2, 3) and unreachable_ids(tokenizer, id_map) == []


def test_pieces_that_a_model_takes_without_merging_stay_alone():
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "cd": 3}, [("a", "b")], ignore_merges=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert compress_tokenizer(tokenizer, [1, 1, 8, 9], 1)[1].kept == (3,)
    assert compress_tokenizer(tokenizer, [1, 1, 8, 0], 3)[1].kept == (0, 1, 2)


def test_what_frames_and_pads_a_text_moves_with_its_tokens():
    """A sequence of post-processors, the padding of the backend, and more special tokens of the user's."""
    pieces = [*"abcdefgh", "<pad>", "<s>", "<more>"]
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, []))
    backend.add_special_tokens(pieces[8:])
    frame = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 9)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame])
    backend.enable_padding(pad_id=8, pad_token="<pad>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", extra_special_tokens=["<more>"],
        truncation_side="left", split_special_tokens=True, clean_up_tokenization_spaces=True,
    )  # fmt: skip
    compressed, id_map = compress_tokenizer(tokenizer, {0: 9, 1: 9}, 5)
    assert id_map.kept == (0, 1, 8, 9, 10)
    assert json.loads(compressed.backend_tokenizer.to_str())["padding"]["pad_id"] == 2
    assert compressed(["ab", "b"], padding=True).input_ids == [[3, 0, 1], [3, 1, 2]]
    assert [encoded.ids for encoded in compressed.backend_tokenizer.encode_batch(["ab", "b"])] == [
        [3, 0, 1],
        [3, 1, 2],
    ]
    assert compressed.all_special_ids == [3, 2, 4] and compressed.truncation_side == "left"
    assert compressed.split_special_tokens and compressed.clean_up_tokenization_spaces


def _model_file(file, pieces, **changed):
    from transformers.utils import sentencepiece_model_pb2_new as schema

    proto = schema.ModelProto()
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = proto.trainer_spec.BPE, False
    proto.normalizer_spec.add_dummy_prefix, proto.normalizer_spec.remove_extra_whitespaces = True, False
    for name, value in changed.items():
        spec = proto.trainer_spec if name == "model_type" else proto.normalizer_spec
        setattr(spec, name, value)
    for piece, score, kind in pieces:
        proto.pieces.add(piece=piece, score=score, type=kind)
    file.write_bytes(proto.SerializeToString())
    return file


@pytest.mark.parametrize(
    "changed, kind, message",
    [
        ({"model_type": 1}, NORMAL, "of another type, accepted is BPE"),
        ({"precompiled_charsmap": b"nfkc"}, NORMAL, "its normaliser changes texts"),
        ({"remove_extra_whitespaces": True}, NORMAL, "its normaliser changes texts"),
        ({"add_dummy_prefix": False}, NORMAL, "its normaliser changes texts"),
        ({}, UNUSED, "piece 1 is marked unused"),
    ],
)
def test_a_sentencepiece_model_of_another_kind_is_named(changed, kind, message, tmp_path):
    file = _model_file(tmp_path / "tokenizer.model", [("<unk>", 0, UNKNOWN), ("a", -1, kind)], **changed)
    with pytest.raises(ValueError, match=f"tokenizer.model: .*{message}"):
        SentencePieceBPE.load(file)


def test_a_sentencepiece_file_is_compressed_by_its_own_map_alone(tmp_path):
    file = _model_file(tmp_path / "tokenizer.model", [("<unk>", 0, UNKNOWN), ("a", -1, NORMAL), ("b", -2, NORMAL)])
    assert not SentencePieceBPE.load(file).byte_fallback
    with pytest.raises(ValueError, match="it has 3 pieces, the map of ids is for 4"):
        SentencePieceBPE.save_compressed(file, IdMap((0, 1), 4), tmp_path / "smaller.model")
    assert not (tmp_path / "smaller.model").exists()


def test_sentencepiece_writes_bytes_and_joins_words_where_a_piece_does():
    pieces = ["<unk>", "<s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "a▁", "a▁b"]
    kinds = [UNKNOWN, CONTROL, BYTE, BYTE, *[NORMAL] * 5]
    model = SentencePieceBPE(pieces, [0, 0, 0, 0, -9, -9, -9, -2, -3], kinds)
    assert [pieces[number] for number in model.encode("a bé")] == ["▁", "a▁b", "<0xC3>", "<0xA9>"]
    assert model.encode("") == []
    fast = model.to_fast()
    assert fast.convert_ids_to_tokens(fast("a bé").input_ids) == ["▁", "a▁b", "<0xC3>", "<0xA9>"]
    assert fast.decode(fast("a bé").input_ids) == "a bé"
    assert (fast.bos_token, fast.eos_token, fast.unk_token) == ("<s>", None, "<unk>")
    assert [pieces[number] for number in model.encode("a b")] == ["▁", "a▁b"]
    smaller = model.compressed(IdMap.of({0, 2, 3, 4, 5, 6, 7}, 9))
    assert [smaller.pieces[number] for number in smaller.encode("a b")] == ["▁", "a▁", "b"]


@pytest.mark.parametrize(
    "marks, word, lost",
    [
        ({}, "abcc", 2),
        ({}, "a b", 0),  # white space aside
        # The marks of tokens are no characters of the text: "w", "<" and "#" are in no token.
        ({"end_of_word_suffix": "</w>"}, "wb", 1),
        ({"end_of_word_suffix": "</w>"}, "a<b", 1),
        ({"continuing_subword_prefix": "##"}, "a#b", 1),
    ],
)
def test_characters_are_lost_that_are_in_no_token(marks, word, lost):
    names = ["a", "b", "b</w>", "a</w>", "##a", "##b"]
    backend = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [], **marks))
    assert _left_out(backend, word) == lost


def test_marks_of_words_alone_are_built_of_nothing():
    merges = Merges([], {"##": 0, "</w>": 1, "a": 2}, prefix="##", suffix="</w>")
    assert merges.symbols("##") == [] and merges.ancestors("##") is None and merges.ancestors("") is None
    assert merges.ancestors("a") == frozenset({2}) and merges.symbols("</w>") == ["<", "##/", "##w", "##>"]


def with_gap(added: int) -> PreTrainedTokenizerFast:
    """Ids 0 and 5 of the model, and one more that is added."""
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 5}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    tokenizer.add_tokens(["<x>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<x>") == added
    return tokenizer


def test_a_token_that_the_library_numbers_by_itself_is_named():
    """Of ids 0, 2 and 5 the third is left, and the library gives an added token the first id after the others."""
    tokenizer = with_gap(2)
    counts = TokenCounts.of([0, 5, 2], 6)
    with pytest.raises(ValueError, match="^tokenizer: the id of its piece '(a|<x>)' cannot be moved by"):
        compress_tokenizer(tokenizer, counts, 3)


def test_ids_that_stand_for_no_token_become_nothing():
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 2, "ab": 4}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    kept = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    compressed = PreTrainedTokenizerFast(tokenizer_object=kept, unk_token="[UNK]")
    assert expansions(tokenizer, compressed, IdMap((0, 2), 5)) == [[0], [], [1], [], [0]]


def _of_words(model) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"a": 0, "b": 1, "?": 2, "c": 3}, unk_token="?"),
        models.WordPiece({"a": 0, "b": 1, "?": 2, "c": 3}, unk_token="?"),
        models.BPE({"a": 0, "b": 1, "?": 2, "c": 3}, [], unk_token="?"),
        models.Unigram([("a", -1.0), ("b", -1.0), ("?", -9.0), ("c", -1.0)], unk_id=2),
    ],
    ids=["words", "word pieces", "bpe", "unigram"],
)
def test_what_stands_for_unknown_words_is_kept_whatever_its_name(model):
    tokenizer = _of_words(model)
    assert not tokenizer.added_tokens_encoder
    compressed, id_map = compress_tokenizer(tokenizer, np.array([5, 7, 0, 6]), 3, strategy="frequency")
    assert id_map.kept == (1, 2, 3) and compressed.convert_ids_to_tokens(range(3)) == ["b", "?", "c"]
    assert compressed("x").input_ids == [1] and compressed("c").input_ids == [2]


def test_an_unknown_piece_may_be_the_first():
    tokenizer = _of_words(models.Unigram([("?", -9.0), ("b", -1.0), ("a", -1.0), ("c", -1.0)], unk_id=0))
    compressed, id_map = compress_tokenizer(tokenizer, np.array([0, 5, 7, 6]), 3, strategy="frequency")
    assert id_map.kept == (0, 2, 3) and compressed("x").input_ids == [0]


def test_a_rare_piece_that_has_been_made_special_is_kept():
    tokenizer = _of_words(models.WordLevel({"a": 0, "b": 1, "pad": 2, "c": 3}, unk_token="a"))
    tokenizer.pad_token = "pad"
    compressed, id_map = compress_tokenizer(tokenizer, np.array([5, 7, 0, 6]), 2, strategy="frequency")
    assert id_map.kept == (0, 2) and (compressed.pad_token, compressed.pad_token_id, len(compressed)) == ("pad", 1, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_max_length", 7),
        ("padding_side", "left"),
        ("truncation_side", "left"),
        ("clean_up_tokenization_spaces", True),
        ("split_special_tokens", True),
        ("model_input_names", ["input_ids"]),
    ],
)
def test_what_a_tokenizer_has_been_set_to_stays_whether_it_was_made_so_or_changed_since(name, value, tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2, "c": 3}, unk_token="?"))
    made, changed = (PreTrainedTokenizerFast(tokenizer_object=words, **how) for how in ({name: value}, {}))
    assert getattr(changed, name) != value
    setattr(changed, name, value)
    for number, tokenizer in enumerate((made, changed)):
        compressed, _ = compress_tokenizer(tokenizer, np.array([5, 7, 0, 6]), 3)
        assert getattr(compressed, name) == value
        compressed.save_pretrained(tmp_path / str(number))
        assert getattr(AutoTokenizer.from_pretrained(tmp_path / str(number)), name) == value


def test_a_compressed_tokenizer_of_bert_tells_two_texts_apart():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    compressed, id_map = compress_tokenizer(tokenizer, [0, 0, 0, 0, 0, 5, 0, 6], 7)
    assert id_map.kept == (0, 1, 2, 3, 4, 5, 7)
    assert dict(compressed("a", "c")) == {
        "input_ids": [2, 5, 3, 6, 3], "token_type_ids": [0, 0, 0, 1, 1], "attention_mask": [1] * 5
    }  # fmt: skip


PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "A"]


def test_a_compressed_tokenizer_is_of_its_class_with_what_that_was_made_with(tmp_path):
    tokenizer = BertTokenizer(
        vocab={piece: n for n, piece in enumerate(PIECES)}, do_lower_case=False, padding_side="left"
    )
    compressed, _ = compress_tokenizer(tokenizer, [0, 0, 0, 0, 0, 5, 0, 6, 7], 8)
    compressed.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "BertTokenizer" and settings["do_lower_case"] is False
    assert not {"name_or_path", "is_local", "local_files_only"} & settings.keys()
    for one in (compressed, AutoTokenizer.from_pretrained(tmp_path), BertTokenizer.from_pretrained(tmp_path)):
        assert type(one) is BertTokenizer and one.padding_side == "left"
        assert one("a A b")["input_ids"] == [2, 5, 7, 1, 3] and one.convert_ids_to_tokens(6) == "c"


def test_a_class_that_would_make_another_tokenizer_of_the_file_is_left():
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)})
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("x", "c")  # which the class does not make anew
    compressed, _ = compress_tokenizer(tokenizer, [0, 0, 0, 0, 0, 5, 0, 6, 7], 8)
    assert type(compressed) is PreTrainedTokenizerFast
    assert compressed("x")["input_ids"] == [2, 6, 3]


@pytest.mark.parametrize("changed", [{}, {"cls_token": "[SEP]"}, {"padding_side": "left"}], ids=str)
def test_a_class_that_would_change_special_tokens_or_settings_is_left(changed, monkeypatch):
    """And of the folder in which that was tried nothing stays, nor of where the old vocabulary lies."""
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(PIECES)})
    tokenizer.init_kwargs["vocab_file"] = "/somewhere/vocab.txt"
    read, places = BertTokenizer.from_pretrained, []

    def changing(folder):
        found = read(folder)
        places.append(folder)
        settings = json.loads(Path(folder, "tokenizer_config.json").read_text())
        assert "vocab_file" not in settings and settings["tokenizer_class"] == "BertTokenizer"
        for name, value in changed.items():
            setattr(found, name, value)
        return found

    monkeypatch.setattr(BertTokenizer, "from_pretrained", changing)
    compressed, _ = compress_tokenizer(tokenizer, [0, 0, 0, 0, 0, 5, 0, 6, 7], 8)
    assert type(compressed) is (PreTrainedTokenizerFast if changed else BertTokenizer)
    assert len(places) == 1 and compressed.name_or_path == ""
    assert (compressed.cls_token, compressed.padding_side) == ("[CLS]", "right")


def test_pieces_of_control_are_not_found_in_a_text_and_not_taken_for_others():
    pieces = ["<unk>", "<s>", "▁", "a", "<", "s", ">", "<pad>"]
    fast = SentencePieceBPE(pieces, [0, 0, *[-9] * 6], [UNKNOWN, CONTROL, *[NORMAL] * 6]).to_fast()
    assert fast.convert_ids_to_tokens(fast("a<s>").input_ids) == ["▁", "a", "<", "s", ">"]
    assert (fast.bos_token, fast.pad_token) == ("<s>", None), "a piece like others, whatever its name"


def test_the_one_space_that_stands_before_a_text_is_taken_away_again():
    model = SentencePieceBPE(["<unk>", "▁", "a", "▁a"], [0, -9, -9, -1], [UNKNOWN, *[NORMAL] * 3])
    fast = model.to_fast()
    for pieces, text in ((["▁a"], "a"), (["▁", "▁a"], " a"), (["▁", "▁", "▁a", "▁"], "  a "), (["a", "▁"], "a ")):
        assert fast.decode([model.ids[piece] for piece in pieces]) == text


def test_a_warning_tells_which_share_was_unknown_before_and_which_is_after(caplog):
    backend = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    counts = np.array([0, 5, 1])
    compressed, id_map = compress_tokenizer(tokenizer, counts, 2, strategy="frequency")
    report = compression_report(tokenizer, compressed, id_map, counts, ["a b x"])
    assert (report.unknown_before, report.unknown_after) == (1 / 3, 2 / 3)
    assert (report.tokens_before, report.tokens_after, report.coverage) == (3, 2, 5 / 6)
    assert (report.tokens_per_word_before, report.tokens_per_word_after) == (1, 1)
    assert "unknown tokens: 33.33 % of the text's before, 66.67 % after; " in caplog.text
    caplog.clear()
    compression_report(tokenizer, compressed, id_map, counts, ["a x"])
    assert not caplog.text, "as many as before"
    # Without words to measure on, what was counted is: of its nine tokens three were unknown already.
    for texts in ((), ["", " \n"]):
        known = TokenCounts(np.array([3, 5, 1]), words=6)
        report = compression_report(tokenizer, compressed, id_map, known, texts)
        assert (report.unknown_before, report.unknown_after) == (3 / 9, 4 / 9)
        assert (report.tokens_per_word_before, report.tokens_per_word_after) == (9 / 6, 9 / 6)


def test_a_token_of_which_nothing_is_left_is_an_unknown_one_in_the_report():
    """A model without a token for the unknown leaves out what it cannot write any more."""
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2, "ab": 3, "ca": 4}, [("a", "b"), ("c", "a")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    counts = TokenCounts(np.array([5, 3, 2, 7, 1]), [0, 1, 2, 3, 4], words=4)
    compressed, id_map = compress_tokenizer(tokenizer, counts, 3, strategy="frequency")
    assert id_map.kept == (0, 1, 3)
    report = compression_report(tokenizer, compressed, id_map, counts)
    # Of c nothing is left; of ca the a.
    assert report.unknown_before == 0 and report.unknown_after == 2 / 18
    assert (report.tokens_per_word_before, report.tokens_per_word_after) == (18 / 4, 18 / 4)
    assert report.coverage == 15 / 18 and (report.tokens_before, report.tokens_after) == (5, 3)


@pytest.mark.parametrize(
    "texts, tokens, left_out",
    [(["c c a c"], 4, 3), (["ac ac", "ac"], 6, 3), (["a a"], 2, 0), (["cc", "a cc"], 5, 4), (["b", ""], 1, 0)],
)
def test_what_cannot_be_written_counts_as_often_as_it_stands_there(texts, tokens, left_out):
    backend = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    found = measure_texts(PreTrainedTokenizerFast(tokenizer_object=backend), texts)
    assert found == (tokens, left_out / tokens)
    backend.normalizer = normalizers.Lowercase()  # what it has changed is what is written
    upper = [text.upper() for text in texts]
    assert measure_texts(PreTrainedTokenizerFast(tokenizer_object=backend), upper) == found


@pytest.mark.parametrize("own", [*itertools.permutations(["<n>", "<n><n>", "<n><n><n>"])])
def test_of_pieces_of_users_the_longest_that_fits_is_found(own):
    pieces = ["<unk>", "<s>", "▁", "a", *own]
    model = SentencePieceBPE(pieces, [0, 0, -9, -9, 0, 0, 0], [UNKNOWN, CONTROL, NORMAL, NORMAL, *[USER_DEFINED] * 3])
    for text, expected in (
        ("a<n><n>a", ["▁", "a", "<n><n>", "a"]),
        ("a<n>a<n><n><n><n>", ["▁", "a", "<n>", "a", "<n><n><n>", "<n>"]),
    ):
        assert [pieces[number] for number in model.encode(text)] == expected
        fast = model.to_fast()
        assert fast.convert_ids_to_tokens(fast(text).input_ids) == expected


@pytest.mark.parametrize("strategy", ["frequency", "frequency+closure"])
def test_a_compressed_tokenizer_has_all_settings_of_the_old_one(byte_level_tokenizer, strategy):
    settings = {
        "model_max_length": 123,
        "padding_side": "left",
        "truncation_side": "left",
        "clean_up_tokenization_spaces": True,
        "split_special_tokens": True,
        "model_input_names": ["input_ids"],
    }
    named = byte_level_tokenizer.special_tokens_map
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer.backend_tokenizer, add_prefix_space=True, **settings, **named
    )
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    compressed, _ = compress_tokenizer(tokenizer, {700: 1}, 400, strategy=strategy)
    assert {name: getattr(compressed, name) for name in settings} == settings
    assert compressed.init_kwargs["add_prefix_space"] is True and compressed.special_tokens_map == named
    assert compressed.chat_template == tokenizer.chat_template
    # What was set later on is the tokenizer's own, too.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.model_max_length = 77
    compressed, _ = compress_tokenizer(tokenizer, {700: 1}, 400, strategy=strategy)
    found = compressed.padding_side, compressed.truncation_side, compressed.model_max_length
    assert found == ("right", "right", 77)


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_rows_that_are_kept_are_trained_as_they_were(byte_level_tokenizer, training, trainable):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "num_attention_heads": 2}
    model = PhiForCausalLM(PhiConfig(vocab_size=901, bos_token_id=0, eos_token_id=1, **sizes)).train(training)
    model.requires_grad_(trainable).to(torch.bfloat16)
    _, id_map = compress_tokenizer(byte_level_tokenizer, {700: 1}, 400)
    compress_embeddings(model, id_map)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    assert {end.training for end in ends} == {training}
    weights = [weight for end in ends for weight in end.parameters()]
    assert [tuple(weight.shape) for weight in weights] == [(400, 16), (400, 16), (400,)]
    assert {(weight.requires_grad, weight.dtype) for weight in weights} == {(trainable, torch.bfloat16)}
