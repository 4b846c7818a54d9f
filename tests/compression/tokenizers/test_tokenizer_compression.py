"""A compressed tokenizer is a whole tokenizer: what stays can be produced, and nothing else changes."""

import json

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import (
    AutoTokenizer,
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
from hf_effmodels.compression.tokenizers.pieces import is_special_piece
from hf_effmodels.compression.tokenizers.sentencepiece_bpe import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
)

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
