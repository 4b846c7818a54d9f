"""Sentences of pairs: of one task, the own pair last, others before it, drawn anew in every epoch."""

import numpy as np

from hf_effmodels.training.data.token_pairs import DrawnSentences, TokenPairs, joined_sentences


def pairs(task: str, first: int, number: int) -> TokenPairs:
    ids = np.arange(first, first + 4 * number).reshape(number, 4)
    return TokenPairs(task, [str(index) for index in range(number)], ids[:, :2], ids[:, 2:])


TASKS = [pairs("a", 0, 5), pairs("b", 100, 3)]


def test_a_sentence_ends_with_its_own_pair_after_others_of_the_task():
    sentences = DrawnSentences(TASKS, 3, seed=0)
    assert len(sentences) == 8
    for index in range(8):
        ids = sentences[index]["input_ids"].numpy().reshape(3, 4)
        first = 4 * index if index < 5 else 100 + 4 * (index - 5)
        assert ids[-1].tolist() == [first, first + 1, first + 2, first + 3]
        assert len({tuple(row) for row in ids}) == 3 and (ids >= 100).all() == (index >= 5)
        assert (np.diff(ids, axis=1) == 1).all()
    drawn = {tuple(sentences[epoch * 8].pop("input_ids").tolist()) for epoch in range(9)}
    assert len(drawn) > 4


def test_labels_are_the_next_ids():
    sample = DrawnSentences(TASKS, 2, seed=0)[6]
    assert sample["labels"].tolist() == [*sample["input_ids"][1:].tolist(), -100]
    assert sample["shift_labels"].equal(sample["labels"])


def test_prompts_of_an_evaluation_are_fixed_and_may_be_those_of_another_task():
    sentences = DrawnSentences(TASKS, 3, prompts=[pairs("a", 1000, 2), pairs("b", 2000, 9)])
    assert sentences[1]["input_ids"].equal(sentences[1]["input_ids"])
    own, other = sentences.prompt(1), sentences.prompt(1, task=1)
    assert ((own >= 1000) & (own < 2000)).all() and (other >= 2000).all() and len(own) == len(other) == 8
    back = sentences.prompt(6, task=0)  # the first task's, for a pair of the second
    assert ((back >= 1000) & (back < 2000)).all()
    assert len({tuple(sentences.prompt(index, task=1).tolist()) for index in range(5)}) > 2, "one for each pair"
    few = DrawnSentences([pairs("a", 0, 1)], 4, seed=0)[0]["input_ids"]
    assert len(few) == 16  # with the only pair there is


def test_sentences_are_joined_within_tasks():
    joined = joined_sentences(TASKS, 2)
    assert [len(row) for row in joined] == [8, 8, 4, 8, 4]
    assert joined[2].tolist() == [16, 17, 18, 19] and joined[3].tolist() == list(range(100, 108))


def test_pairs_are_drawn_twice_only_where_there_are_too_few():
    """Beside the own pair there are four others: three or four of them are all different, of five one stands twice."""
    for number, different in ((4, 3), (5, 4), (6, None), (7, None)):
        sentences = DrawnSentences([pairs("a", 0, 5)], number, seed=0)
        for epoch in range(6):
            ids = sentences[5 * epoch + 2]["input_ids"].numpy().reshape(number, 4)
            others = {tuple(row) for row in ids[:-1]}
            assert ids[-1].tolist() == [8, 9, 10, 11] and (8, 9, 10, 11) not in others
            assert len(others) == different if different else len(others) < number - 1
