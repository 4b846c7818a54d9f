from itertools import islice

import datasets
import numpy as np
import pytest
import torch

from hf_effmodels.training.data.text.packing import Block, Encoder, PackedBlocks, Separators
from hf_effmodels.training.data.text.streaming import PackedStream, read_state, write_state
from hf_effmodels.training.data.text.tokenization import train_tokenizer

TEXTS = [f"Document {n} of the stream." * (n % 4) for n in range(150)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300, max_length=64)


def stream_of(tokenizer, window, texts=TEXTS, seed=0):
    separators = Separators.of(tokenizer)
    source = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=3).skip(1)
    return PackedStream(source, Encoder(tokenizer, separators), Block(16, separators, False), window=window, seed=seed)


def blocks(stream, count):
    return torch.stack([sample["input_ids"] for sample in islice(stream, count)])


def test_a_stream_gives_the_blocks_of_the_prepared_text_and_goes_on_with_its_beginning(tokenizer):
    separators = Separators.of(tokenizer)
    packed = PackedBlocks(
        datasets.Dataset.from_dict({"text": TEXTS[1:] * 2}),
        Encoder(tokenizer, separators),
        Block(16, separators, False),
    )
    streamed = blocks(stream_of(tokenizer, window=1), len(packed))
    assert torch.equal(streamed, torch.stack([packed[i]["input_ids"] for i in range(len(packed))]))


def test_a_window_holds_the_same_blocks_in_an_order_of_the_seed(tokenizer):
    plain, one, two = (blocks(stream_of(tokenizer, w, seed=s), 64) for w, s in ((1, 0), (32, 0), (32, 1)))
    assert not torch.equal(one, two) and not torch.equal(one, plain)
    for window in (slice(0, 32), slice(32, 64)):
        assert sorted(one[window].tolist()) == sorted(plain[window].tolist())


def test_each_window_has_an_order_of_its_own(tokenizer):
    plain, shuffled = (blocks(stream_of(tokenizer, window), 64).tolist() for window in (1, 16))
    orders = [
        [plain[start : start + 16].index(block) for block in shuffled[start : start + 16]] for start in (0, 16, 32, 48)
    ]
    assert (
        orders == [np.random.default_rng((0, start)).permutation(16).tolist() for start in (0, 16, 32, 48)]
        and len({*map(tuple, orders)}) == 4
    )


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("where", [3, 8, 75, 190])
def test_a_stream_goes_on_from_a_checkpoint_with_the_very_same_blocks(tokenizer, tmp_path, window, where):
    # 75 lies in the first pass over the text, 190 in the second.
    stream = stream_of(tokenizer, window)
    expected, seen = blocks(stream_of(tokenizer, window), where + 40), iter(stream)
    for number in range(where + 3):  # what was read ahead of the checkpoint
        next(seen)
        stream.forget(min(number, where))
    write_state(stream, where, tmp_path)
    again = stream_of(tokenizer, window)
    again.resume(read_state(tmp_path))
    assert torch.equal(blocks(again, 40), expected[where:])


@pytest.mark.parametrize("empty", [0, 1, 63, 64, 65, 200])
def test_a_text_is_looked_at_until_a_document_has_text(tokenizer, empty):
    """However many are empty before it; a text of these alone is told before the training."""
    assert stream_of(tokenizer, 4, ["", *[""] * empty, "Document", *[""] * 3]).check() is None
    with pytest.raises(
        ValueError,
        match="^--dataset: the text is empty: no document has text, or all of them are held out .--eval_documents",
    ):
        stream_of(tokenizer, 4, ["", *[""] * (empty + 3)]).check()


def test_a_place_that_is_forgotten_or_not_reached_is_not_made_up(tokenizer, tmp_path):
    stream = stream_of(tokenizer, window=4)
    seen = iter(stream)
    for _ in range(12):
        next(seen)
    assert [stream.state(number)["window_start"]["blocks"] for number in (0, 3, 4, 5, 12)] == [0, 0, 4, 4, 8]
    stream.forget(9)
    for number in (0, 7, 13):
        with pytest.raises(ValueError, match=f"the stream has no record of block {number}"):
            stream.state(number)
    assert stream.state(8)["blocks"] == 8
    (tmp_path / "text_stream.json").write_text("{")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            ValueError, match=f"--resume_from_checkpoint: {folder} does not say where in the text it was"
        ):
            read_state(folder)


def test_a_stream_is_not_read_by_workers(tokenizer):
    loader = torch.utils.data.DataLoader(stream_of(tokenizer, window=1), batch_size=None, num_workers=1)
    with pytest.raises(ValueError, match="--dataloader_num_workers: a stream is read by a thread of the training"):
        next(iter(loader))


def test_a_stream_without_text_is_refused_before_training(tokenizer):
    with pytest.raises(ValueError, match="no document has text"):
        stream_of(tokenizer, 8, texts=["", "", None]).check()


def test_a_text_that_is_shuffled_is_read_in_another_order_each_time(tokenizer):
    texts = [f"text {n}." for n in range(12)]
    source = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset().shuffle(seed=3, buffer_size=12)
    separators = Separators.of(tokenizer)
    stream = PackedStream(source, Encoder(tokenizer, separators), Block(9, separators, False), window=1, seed=0)
    tokens = torch.cat([sample["input_ids"][:-1] for sample in islice(stream, 40)]).tolist()
    read = tokenizer.decode(tokens).split(tokenizer.eos_token)[1:25]
    expected = []
    for epoch in (0, 1):
        source.set_epoch(epoch)
        expected += [row["text"] for row in source]
    assert read == expected and expected[:12] != expected[12:] and sorted(expected) == sorted(2 * texts)


def test_a_stream_counts_its_documents_and_says_how_often_it_has_read_the_text(tokenizer, caplog):
    caplog.set_level("INFO", logger="hf_effmodels")
    stream = stream_of(tokenizer, 1, texts=["first is skipped", "some text", "", None, "more text"])
    for _ in islice(stream, 30):
        pass
    told = [record.getMessage() for record in caplog.records if "the text has been read" in record.getMessage()]
    assert told[:3] == [f"the text has been read {n} times ({2 * n} documents so far)" for n in (1, 2, 3)]
    place = stream.state(29)["window_start"]
    assert place["documents"] == place["empty_documents"] == 2 * place["epoch"] and place["blocks"] == 29
