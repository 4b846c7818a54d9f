"""Packed sentences: what sees what, what is predicted, and that nothing is lost but the last incomplete pack."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.training.data.visual_sentences import PackedSentences, sentence_order


def sentences(*lengths: int) -> list[np.ndarray]:
    starts = np.cumsum([0, *lengths])
    return [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]


def test_every_id_of_every_whole_pack_is_there_once_in_the_order_of_the_shuffling():
    rows = sentences(5, 9, 3, 12, 7)
    packs = PackedSentences(rows, [len(row) for row in rows], 8, 4)
    laid = np.concatenate([rows[number] for number in sentence_order(5)])
    assert np.array_equal(np.concatenate([packs.pack(n).tokens for n in range(len(packs))]), laid[: len(packs) * 8])
    assert len(packs) == 36 // 8 and not np.array_equal(sentence_order(5), sentence_order(5, 7))
    assert np.array_equal(sentence_order(5, None), np.arange(5))


def test_a_context_counts_from_where_the_sentence_enters_the_pack():
    rows = sentences(11)
    packs = PackedSentences(rows, [11], 5, 4, seed=None)
    pack = packs.pack(1)  # ids 5 to 9
    assert pack.positions.tolist() == [0, 1, 2, 3, 0] and pack.boundaries.tolist() == [0, 4, 5]
    assert pack.labels.tolist() == [6, 7, 8, 9, 10]  # the last one's next id is in no pack


def test_the_loss_of_a_pack_is_that_of_its_stretches_alone():
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    ).eval()
    rows = sentences(6, 10, 7)
    packs = PackedSentences(rows, [6, 10, 7], 20, 8, seed=None)
    sample, pack = packs[0], packs.pack(0)
    with torch.no_grad():
        ids, labels = sample["input_ids"][None], sample["shift_labels"][None]
        packed = model(
            ids, position_ids=sample["position_ids"][None], labels=ids, shift_labels=labels, use_cache=False
        )
        sums, count = 0.0, 0
        for start, end in zip(pack.boundaries[:-1], pack.boundaries[1:], strict=True):
            alone = model(ids[:, start:end]).logits[0]
            targets = labels[0, start:end]
            sums += torch.nn.functional.cross_entropy(alone, targets, reduction="sum", ignore_index=-100)
            count += int((targets != -100).sum())
    assert count == 18 and pack.boundaries.tolist() == [0, 6, 14, 16, 20]
    torch.testing.assert_close(packed.loss, sums / count)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="packed_length: got 8, but there are only 5 ids"):
        PackedSentences(sentences(5), [5], 8)
    with pytest.raises(ValueError, match="sentences: number 1 is empty"):
        PackedSentences(sentences(5, 0), [5, 0], 2)
    with pytest.raises(ValueError, match="context: got 0"):
        PackedSentences(sentences(5), [5], 2, 0)
    with pytest.raises(IndexError):
        PackedSentences(sentences(5), [5], 2)[2]


def test_a_pack_may_begin_where_a_sentence_does():
    sentences = [np.arange(10, 14), np.arange(20, 24), np.arange(30, 32)]
    packs = PackedSentences(sentences, [4, 4, 2], packed_length=4, seed=None)
    assert len(packs) == 2
    for number, first in enumerate((10, 20)):
        pack = packs.pack(number)
        assert pack.tokens.tolist() == list(range(first, first + 4))
        assert pack.labels.tolist() == [*range(first + 1, first + 4), -100]
        assert pack.positions.tolist() == [0, 1, 2, 3] and pack.boundaries.tolist() == [0, 4]
