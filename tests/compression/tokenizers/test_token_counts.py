"""Counting gives the same table however it is done."""

import copy
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_effmodels.compression import TokenCounts, count_tokens
from hf_effmodels.compression.tokenizers import count_batch, token_counts
from hf_effmodels.compression.tokenizers.token_counts import tokenizer_fingerprint


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
        (["a"], {"batch_size": 0}, "batch_size: got 0"),
        (["a"], {"max_samples": 0}, "max_samples: got 0"),
        ([[1, -2]], {}, "token id -2, the tokenizer has 0 to 900"),
        ([[1, 901]], {}, "token id 901, the tokenizer has 0 to 900"),
        (
            datasets.Dataset.from_dict({"body": ["a"], "number": [1]}),
            {"column": "content"},
            "column: got 'content', the data set has 'body', 'number'",
        ),
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


def test_only_fast_tokenizers_count():
    with pytest.raises(ValueError, match="tokenizer: got object, accepted are fast tokenizers"):
        count_tokens(object(), ["a"])


def test_a_named_column_is_counted_and_its_last_id_too(byte_level_tokenizer):
    data = datasets.Dataset.from_dict({"body": [[900, 5], [5]], "text": [[7], [7]]})
    counted = count_tokens(byte_level_tokenizer, data, column="body", progress=False)
    assert (counted.counts[[5, 7, 900]] == [2, 0, 1]).all() and counted.first_seen == [900, 5]


def test_a_source_that_can_skip_is_not_read_again(byte_level_tokenizer, tmp_path):
    """What has no positions of its own is asked to skip what the state holds already."""

    class Source:
        def __init__(self, texts):
            self.texts = texts

        def __iter__(self):
            for text in self.texts:
                if text is None:
                    raise Killed
                yield text

        def skip(self, number):
            return Source([[8]] * 3) if number == 2 else self

    state, options = tmp_path / "counts.json", {"batch_size": 1, "batches_per_save": 1, "progress": False}
    with pytest.raises(Killed):
        count_tokens(byte_level_tokenizer, Source([[5], [6], None]), state_file=state, **options)
    counted = count_tokens(byte_level_tokenizer, Source([None]), state_file=state, **options)
    assert (counted.counts[[5, 6, 8]] == [1, 1, 3]).all() and counted.samples == 5


def test_a_state_is_saved_after_so_many_batches(byte_level_tokenizer, tmp_path):
    state = tmp_path / "counts.json"

    def texts():
        yield from [[5]] * 7
        raise Killed

    with pytest.raises(Killed):
        count_tokens(byte_level_tokenizer, texts(), state_file=state, batch_size=1, batches_per_save=3, progress=False)
    assert json.loads(state.read_text())["samples"] == 6


def test_counts_in_any_form_are_the_same_table():
    table = TokenCounts.of({3: 2, 1: 0, 0: 5}, 6)
    assert table.counts.tolist() == [5, 0, 0, 2, 0, 0] and table.first_seen == [3, 0]
    assert TokenCounts.of([5, 0, 0, 2], 6).counts.tolist() == [5, 0, 0, 2, 0, 0]
    # Rows behind the vocabulary go where nothing is counted in them.
    assert TokenCounts.of([5, 0, 0, 2, 0, 0, 0], 4).counts.tolist() == [5, 0, 0, 2]
    kept = TokenCounts.of(TokenCounts(np.array([1]), [0], 4, 5, "known"), 2)
    assert (kept.first_seen, kept.words, kept.samples, kept.tokenizer) == ([0], 4, 5, "known")
    first, second = TokenCounts(np.array([1, 0, 2]), [2, 0], 3, 1), TokenCounts(np.array([4, 1, 0]), [1, 0], 5, 2)
    first.add(second)
    assert first.counts.tolist() == [5, 1, 2] and first.first_seen == [2, 0, 1]
    assert (first.words, first.samples, first.total) == (8, 3, 8)


@pytest.mark.parametrize(
    "counts, message",
    [([1, -3], "counts: got -3"), ([0, 0], "has no token"), ([1, 2, 3], "token id 2 is counted, .* end at 1")],
)
def test_counts_that_are_none_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        TokenCounts.of(counts, 2)


def test_counts_of_other_sizes_are_not_added():
    with pytest.raises(ValueError, match="counts: they are of 3 and of 2 tokens"):
        TokenCounts(np.zeros(2, np.int64)).add(TokenCounts(np.zeros(3, np.int64)))


@pytest.mark.parametrize("changed", [{"first_seen": [4]}, {"first_seen": [-1]}, {"counts_int64_zlib_base64": "bm8="}])
def test_a_damaged_file_of_counts_is_named(tmp_path, changed):
    file = tmp_path / "counts.json"
    TokenCounts(np.array([1, 0, 2, 0]), [2, 0]).save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(ValueError, match="counts.json: these are not the counts that count_tokens writes"):
        TokenCounts.load(file)


def test_what_waits_to_be_counted_when_reading_fails_is_not_counted_any_more(monkeypatch):
    asked, cancelled = [], []

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, count, texts):
            asked.append(texts)
            return SimpleNamespace(result=lambda: (texts, 1, 1, 1), cancel=lambda: cancelled.append(texts))

    def batches():
        yield "a", 1
        yield "b", 2
        yield "c", 3
        raise OSError("the disk is gone")

    monkeypatch.setattr(token_counts, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(token_counts, "TokenCounts", lambda *values: values)
    found = token_counts._counted(batches(), "backend", 5, 1)
    assert next(found) == (("a", 1, 1, 1), 1)  # of three, two wait for one process
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    assert asked == ["a", "b", "c"] and cancelled == ["b", "c"]


def test_equal_counts_are_ranked_as_they_were_first_seen_and_what_was_never_seen_comes_last():
    counts = TokenCounts(np.array([2, 5, 5, 0, 1, 0, 2]), [6, 2, 1, 4, 0])
    assert counts.ranking().tolist() == [2, 1, 6, 0, 4, 3, 5]
    many = np.random.default_rng(0).permutation(500)
    twice = sorted(many.tolist(), key=lambda token: token % 3)
    assert TokenCounts(9 - np.arange(500) % 3, many.tolist()).ranking().tolist() == twice
    # Counts of which no order is known: by id.
    assert TokenCounts(np.array([1, 3, 1, 3])).ranking().tolist() == [1, 3, 0, 2]


def test_counts_are_added_where_they_are_of_one_tokenizer_or_it_is_not_known():
    def of(tokenizer) -> TokenCounts:
        return TokenCounts(np.array([1, 2]), [1, 0], tokenizer=tokenizer)

    for first, second in (("a", "a"), (None, "a"), ("a", None), (None, None)):
        both = of(first)
        both.add(of(second))
        assert both.counts.tolist() == [2, 4] and both.first_seen == [1, 0] and both.tokenizer == first
    with pytest.raises(ValueError, match="counts: they are of different tokenizers"):
        of("a").add(of("b"))


def test_a_tokenizer_is_known_by_what_it_makes_of_a_text_alone(byte_level_tokenizer):
    known = tokenizer_fingerprint(byte_level_tokenizer)
    framed, other, normal = (copy.deepcopy(byte_level_tokenizer) for _ in range(3))
    backend = framed.backend_tokenizer
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    token = byte_level_tokenizer.convert_ids_to_tokens(5)
    backend.post_processor = processors.BertProcessing((token, 5), (token, 5))
    assert tokenizer_fingerprint(framed) == known
    other.add_tokens(["a token of its own"])
    normal.backend_tokenizer.normalizer = normalizers.Lowercase()
    spaces = copy.deepcopy(byte_level_tokenizer)
    spaces.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert len({known, *(tokenizer_fingerprint(each) for each in (other, normal, spaces))}) == 4


def test_the_counts_of_another_column_or_tokenizer_are_not_gone_on_with(byte_level_tokenizer, tmp_path):
    state, table = tmp_path / "counts.json", datasets.Dataset.from_dict({"text": ["a"], "body": ["b"]})
    counted = count_tokens(byte_level_tokenizer, table, state_file=state, progress=False)
    with pytest.raises(ValueError, match="state_file: .*counts.json was counted with another column"):
        count_tokens(byte_level_tokenizer, table, column="body", state_file=state, progress=False)
    other = copy.deepcopy(byte_level_tokenizer)
    other.add_tokens(["a token of its own"])
    with pytest.raises(ValueError, match="state_file: .*counts.json was counted with another tokenizer"):
        count_tokens(other, table, state_file=state, progress=False)
    # More texts than there are may be asked for; words are those between white space.
    counted = count_tokens(byte_level_tokenizer, ["a  b\nc", "d"], max_samples=9, batch_size=1, progress=False)
    assert (counted.samples, counted.words) == (2, 4)
    counted = count_tokens(byte_level_tokenizer, iter(["a b", "c", "d"]), max_samples=2, progress=False)
    assert (counted.samples, counted.words) == (2, 3)


def test_a_text_of_no_tokens_is_a_text_too(byte_level_tokenizer):
    for texts in (
        [[5, 6], [], [5]],
        [np.array([5, 6]), np.array([]), (5,)],
        [{"text": [5, 6]}, {"text": []}, {"text": [5]}],
    ):
        counted = count_tokens(byte_level_tokenizer, texts, progress=False)
        assert (counted.samples, counted.total, counted.words) == (3, 3, 0) and counted.first_seen == [5, 6]
    counted = count_tokens(byte_level_tokenizer, ["a b", "", " "], batch_size=2, progress=False)
    assert (counted.samples, counted.words) == (3, 2)


@pytest.mark.parametrize("most, total", [(None, 5), (3, 3), (5, 5), (9, 5)])
def test_a_bar_goes_from_what_is_counted_to_what_is_to_be(byte_level_tokenizer, tmp_path, monkeypatch, most, total):
    """Of a stream nobody knows how long it is; of a killed count the bar begins where that had come to."""
    bars, real = [], token_counts.tqdm

    class Bar(real):
        def __init__(self, **options):
            bars.append({name: options[name] for name in ("total", "initial", "disable")})
            super().__init__(**{**options, "disable": True})

    monkeypatch.setattr(token_counts, "tqdm", Bar)
    texts, state = [[5], [6], [7], [8], [9]], tmp_path / "counts.json"
    options = {"batch_size": 1, "batches_per_save": 1, "max_samples": most, "state_file": state}
    count, done = count_batch.count, []

    def killed(part):
        if len(done) == 2:
            raise Killed
        done.append(part)
        return count(part)

    monkeypatch.setattr(count_batch, "count", killed)
    with pytest.raises(Killed):
        count_tokens(byte_level_tokenizer, texts, **options)
    monkeypatch.setattr(count_batch, "count", count)
    counted = count_tokens(byte_level_tokenizer, texts, **options, progress=False)
    assert counted.samples == total
    count_tokens(byte_level_tokenizer, iter(texts), max_samples=most)
    assert bars == [
        {"total": total, "initial": 0, "disable": False},
        {"total": total, "initial": 2, "disable": True},
        {"total": None, "initial": 0, "disable": False},
    ]


class Positions:
    """A stream that knows where it is, and counts what is read of it; it is killed at its end, unless it is whole."""

    def __init__(self, texts, whole=True):
        self.texts, self.whole, self.at, self.read = texts, whole, 0, 0

    def __iter__(self):
        while self.at < len(self.texts):
            self.at, self.read = self.at + 1, self.read + 1
            yield self.texts[self.at - 1]
        if not self.whole:
            raise Killed

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.mark.parametrize("batch_size, killed_after, counted", [(1, 4, 4), (2, 5, 4), (3, 6, 6), (4, 3, 0)])
def test_a_stream_that_knows_its_place_goes_on_there(
    byte_level_tokenizer, tmp_path, batch_size, killed_after, counted
):
    """What was read and not yet counted is read again, and nothing else."""
    texts = [[5 + n % 3, 5] for n in range(9)]
    options = {"batch_size": batch_size, "batches_per_save": 1, "state_file": tmp_path / "c.json", "progress": False}
    with pytest.raises(Killed):
        count_tokens(byte_level_tokenizer, Positions(texts[:killed_after], whole=False), **options)
    stream = Positions(texts)
    same(
        count_tokens(byte_level_tokenizer, stream, **options),
        count_tokens(byte_level_tokenizer, texts, progress=False),
    )
    assert stream.read == len(texts) - counted


def test_counts_reach_to_the_largest_id_of_a_vocabulary_with_gaps():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 5, "b": 9}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    counted = count_tokens(tokenizer, ["a b", "b c"], progress=False)
    assert counted.counts.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 2] and counted.first_seen == [5, 9, 0]
    counted = count_tokens(tokenizer, [[9, 5], [9]], progress=False)
    assert counted.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
