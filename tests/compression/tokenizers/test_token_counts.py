"""Counting gives the same table however it is done."""

import copy

import datasets
import numpy as np
import pytest

from hf_effmodels.compression import TokenCounts, count_tokens
from hf_effmodels.compression.tokenizers import count_batch


class Killed(Exception):
    pass


def same(first: TokenCounts, second: TokenCounts):
    assert (first.counts == second.counts).all()
    assert first.first_seen == second.first_seen
    assert (first.words, first.samples) == (second.words, second.samples)


@pytest.fixture(scope="module")
def expected(byte_level_tokenizer, lines):
    ids = byte_level_tokenizer(lines, add_special_tokens=False).input_ids
    flat = [token for sample in ids for token in sample]
    counts = np.bincount(flat, minlength=len(byte_level_tokenizer))
    return TokenCounts(counts, list(dict.fromkeys(flat)), sum(len(line.split()) for line in lines), len(lines))


def test_several_processes_count_what_one_counts(byte_level_tokenizer, lines, expected):
    data = datasets.Dataset.from_dict({"text": lines, "number": range(len(lines))})
    same(count_tokens(byte_level_tokenizer, data, num_proc=2, batch_size=500, progress=False), expected)


def test_token_ids_count_as_their_text_does(byte_level_tokenizer, lines, expected):
    ids = byte_level_tokenizer(lines, add_special_tokens=False).input_ids
    counted = count_tokens(byte_level_tokenizer, ids, batch_size=300, progress=False)
    assert (counted.counts == expected.counts).all() and counted.first_seen == expected.first_seen


def test_the_first_so_many_texts_are_counted_whole_whatever_the_tokenizer_cuts(byte_level_tokenizer, lines):
    cutting = copy.deepcopy(byte_level_tokenizer)
    cutting.backend_tokenizer.enable_truncation(2)
    cutting.backend_tokenizer.enable_padding(length=99)
    counted = count_tokens(cutting, lines, max_samples=7, batch_size=3, progress=False)
    ids = sum(byte_level_tokenizer(lines[:7], add_special_tokens=False).input_ids, [])
    assert (counted.counts == np.bincount(ids, minlength=len(counted.counts))).all() and counted.samples == 7


@pytest.mark.parametrize("kind", ["sequence", "table", "stream"])
def test_a_killed_count_goes_on_to_the_same_table(byte_level_tokenizer, lines, expected, tmp_path, kind, monkeypatch):
    state, options = tmp_path / "counts.json", {"batch_size": 200, "batches_per_save": 1, "progress": False}
    table = datasets.Dataset.from_dict({"text": lines})
    whole = {"sequence": lines, "table": table, "stream": table.to_iterable_dataset(num_shards=3)}[kind]
    count, batches = count_batch.count, []

    def killed(texts):
        if len(batches) == 3:
            raise Killed
        batches.append(texts)
        return count(texts)

    monkeypatch.setattr(count_batch, "count", killed)
    with pytest.raises(Killed):
        count_tokens(byte_level_tokenizer, whole, state_file=state, **options)
    with pytest.raises(ValueError, match="600 texts are counted"):
        TokenCounts.load(state)
    monkeypatch.setattr(count_batch, "count", lambda texts: batches.append(texts) or count(texts))
    same(count_tokens(byte_level_tokenizer, whole, state_file=state, **options), expected)
    assert sum(map(len, batches)) == len(lines)  # nothing was counted twice
    same(TokenCounts.load(state), expected)
    same(count_tokens(byte_level_tokenizer, whole, state_file=state, **options), expected)
    assert sum(map(len, batches)) == len(lines)


def test_the_state_of_another_tokenizer_is_refused(byte_level_tokenizer, lines, tmp_path):
    state = tmp_path / "counts.json"
    count_tokens(byte_level_tokenizer, lines[:5], state_file=state, progress=False)
    with pytest.raises(ValueError, match="another max_samples"):
        count_tokens(byte_level_tokenizer, lines, state_file=state, max_samples=3, progress=False)
    with pytest.raises(ValueError, match="another dataset"):
        count_tokens(byte_level_tokenizer, lines[5:10], state_file=state, progress=False)


@pytest.mark.parametrize(
    "data, options, message",
    [
        ([], {}, "it is empty"),
        (["", ""], {}, "2 texts without a token"),
        ([{"content": "a"}], {}, "column: got 'text', sample 0 has 'content'"),
        ([[1, 10**6]], {}, "token id 1000000"),
        (["a"], {"num_proc": 0}, "num_proc: got 0"),
        (["a", None], {}, "column: sample 1 of 'text' is NoneType, accepted are texts and lists of token ids"),
        ([{"text": "a"}, {"text": 3}], {}, "column: sample 1 of 'text' is int, accepted are texts and lists"),
        ([[1, 2], [1.5]], {}, "column: sample 1 of 'text' is list, accepted are texts and lists of token ids"),
        ([[[1, 2]]], {}, "column: sample 0 of 'text' is list"),
        (iter([[[1, 2], [3]]]), {}, "column: sample 0 of 'text' is list"),
    ],
)
def test_wrong_input_is_named(byte_level_tokenizer, data, options, message):
    with pytest.raises(ValueError, match=message):
        count_tokens(byte_level_tokenizer, data, progress=False, **options)
