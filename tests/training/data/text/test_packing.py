from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import hf_effmodels
from hf_effmodels.training.data.text.packing import (
    IGNORED,
    Block,
    Encoder,
    PackedBlocks,
    Separators,
    _pieces,
)
from hf_effmodels.training.data.text.tokenization import train_tokenizer

TEXTS = ["One two three.", "", "Four five six seven eight nine ten.", None, "Eleven ünd twelve!", "13"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for text in TEXTS if text], 260, max_length=64)


def row_of(tokenizer, separators):
    """The row of tokens as the module's text describes it."""
    row = []
    for text in filter(None, TEXTS):
        row += [separators.begin, *tokenizer(text)["input_ids"]]
        row += [] if separators.are_one else [separators.end]
    return row + ([separators.end] if separators.are_one else [])


@pytest.mark.parametrize("separators", [Separators(0, 0), Separators(258, 259)], ids=["one token", "two tokens"])
@pytest.mark.parametrize("size", [2, 7, 16])
def test_every_token_is_predicted_exactly_once_and_what_is_dropped_is_counted(tokenizer, separators, size):
    row = row_of(tokenizer, separators)
    texts = datasets.concatenate_datasets([datasets.Dataset.from_dict({"text": TEXTS[i : i + 2]}) for i in (0, 2, 4)])
    for keep_tail in (False, True):
        packed = PackedBlocks(
            texts, Encoder(tokenizer, separators), Block(size, separators, False), keep_tail=keep_tail
        )
        counts = packed.counts
        assert (counts.documents, counts.empty_documents, counts.tokens) == (4, 2, len(row))
        assert counts.bytes == sum(len(text.encode()) for text in TEXTS if text)
        blocks = [packed[number] for number in range(len(packed))]
        predicted = torch.cat([block["labels"][1:] for block in blocks])
        predicted = predicted[predicted != IGNORED].tolist()
        kept = row[1 : len(row) - counts.dropped_tokens]
        assert predicted == [t for t in kept if separators.are_one or t != separators.begin]
        assert counts.dropped_tokens < size - 1 and (not keep_tail or counts.dropped_tokens == 0)
        for before, after in zip(blocks, blocks[1:], strict=False):
            assert after["input_ids"][0] == before["input_ids"][-1]


@pytest.mark.parametrize(
    "begin, end, row",
    [
        (1, 2, [1, 7, 8, 2, 1, 9, 2]),  # begin and end around each
        (None, 2, [2, 7, 8, 2, 9, 2]),  # one token for both
        (2, 2, [2, 7, 8, 2, 9, 2]),
        (0, 2, [0, 7, 8, 2, 0, 9, 2]),  # the token of number 0 is one as any other
    ],
)
def test_documents_stand_between_the_tokens_that_their_tokenizer_has_for_begin_and_end(begin, end, row):
    words = {"a": [7, 8], "b": [9], "": []}

    class Tokenizer(SimpleNamespace):
        def __call__(self, texts, **options):
            return {"input_ids": [words[text] for text in texts]}

    tokenizer = Tokenizer(bos_token_id=begin, eos_token_id=end)
    separators = Separators.of(tokenizer)
    encode = Encoder(tokenizer, separators)
    assert sum(encode(["a", "", "b"]), []) + encode.last == row
    labels = Block(len(row), separators, separate=False).sample(np.array(row))["labels"].tolist()
    two = begin not in (None, end)
    assert labels == [IGNORED if two and token == begin else token for token in row]
    assert separators.are_one != two


@pytest.mark.parametrize("chosen", [range(1, 4), range(3, 6), range(0, 2), [5, 0, 4]])
def test_of_a_part_of_a_table_the_part_alone_is_packed(tokenizer, chosen):
    separators = Separators.of(tokenizer)
    table = datasets.Dataset.from_dict({"text": [f"text {n}" for n in range(6)]}).select(chosen)
    packed = PackedBlocks(table, Encoder(tokenizer, separators), Block(4, separators, False))
    row = [token for n in chosen for token in (separators.begin, *tokenizer(f"text {n}")["input_ids"])]
    row.append(separators.end)
    assert packed.counts.tokens == len(row) and packed.tokens(0, len(row)).tolist() == row
    assert packed.tokens(3, 9).tolist() == row[3:9]
    if not isinstance(chosen, range):
        return
    # Its tokens may lie in the midst of a longer table, too.
    tokens = datasets.Dataset.from_dict({"input_ids": [[n] * (n + 1) for n in range(6)]}).select(chosen)
    assert np.concatenate(_pieces(tokens)).tolist() == [n for n in chosen for _ in range(n + 1)]


def test_there_are_no_blocks_beyond_the_last(tokenizer):
    separators = Separators.of(tokenizer)
    packed = PackedBlocks(
        datasets.Dataset.from_dict({"text": TEXTS}), Encoder(tokenizer, separators), Block(8, separators, False)
    )
    assert len(list(packed)) == len(packed)
    for number in (-1, len(packed)):
        with pytest.raises(IndexError, match=f"block {number} of {len(packed)}"):
            packed[number]


def test_too_little_text_is_named_and_what_became_of_a_text_is_told(tokenizer, caplog):
    separators, encode = Separators(258, 259), Encoder(tokenizer, Separators(258, 259))

    def pack(texts, size, **options):
        texts = datasets.Dataset.from_dict({"text": texts})
        return PackedBlocks(texts, encode, Block(size, separators, False), **options)

    with pytest.raises(ValueError, match="--dataset: the text is empty: 2 documents, none with text"):
        pack(["", None], 4)
    with pytest.raises(ValueError, match="--block_size: got 5, but mine has only 4 tokens, not enough for one block"):
        pack(["13"], 5, name="mine")
    assert (len(pack(["13"], 5, keep_tail=True)), len(pack(["13"], 4)), pack(["13"], 4, split="dev").split) == (
        1,
        1,
        "dev",
    )
    with caplog.at_level("INFO", "hf_effmodels"):
        pack(["13" * 1000, ""], 4).counts.log("training")
    assert "training text: 1 documents, 1 empty documents, 2,000 bytes" in caplog.text


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ["pangu_pi", "llama"])
def test_separate_documents_do_not_see_each_other(tokenizer, model_type, attention):
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = (
        hf_effmodels.get_config("pangu-pi-15m", **sizes, num_attention_heads=2)
        if model_type == "pangu_pi"
        else LlamaConfig(**sizes, num_attention_heads=2)
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    separators = Separators.of(tokenizer)
    row = np.asarray(row_of(tokenizer, separators))
    sample = Block(len(row), separators, separate=True).sample(row)
    assert [int(p) for p in sample["position_ids"][:3]] == [0, 1, 2]
    begins = [*np.flatnonzero(row == separators.begin), len(row)]
    with torch.no_grad():
        ids, positions = sample["input_ids"][None], sample["position_ids"][None]
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
        for first, last in zip(begins, begins[1:], strict=False):
            alone = model(input_ids=ids[:, first:last]).logits[0]
            torch.testing.assert_close(packed[first:last], alone, rtol=1e-4, atol=1e-5)


def test_what_fills_up_a_block_is_no_document():
    sample = Block(7, Separators(0, 0), separate=True).sample(np.array([0, 5, 0, 6]))
    assert sample["input_ids"].tolist() == [0, 5, 0, 6, 0, 0, 0]
    assert sample["labels"].tolist() == [0, 5, 0, 6, IGNORED, IGNORED, IGNORED]
    assert sample["position_ids"].tolist() == [0, 1, 0, 1, 2, 3, 4]
