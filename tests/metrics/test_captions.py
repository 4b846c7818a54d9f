"""BLEU, CIDEr and MME against values worked out on paper."""

import math

import pytest

from hf_effmodels import metrics
from hf_effmodels.metrics.captions import check_pairs, ngrams, words

from .modules import metric


def test_captions_become_the_words_that_coco_caption_counts():
    assert words("A man's T-shirt isn't red, is it?") == ["a", "man", "'s", "t-shirt", "is", "n't", "red", "is", "it"]
    assert words('The "STOP" sign at 10:30 costs $3.50!') == [
        "the",
        "stop",
        "sign",
        "at",
        "10:30",
        "costs",
        "$",
        "3.50",
    ]
    assert words("the boys’ kites -- cannot fly (yet) ...") == [
        *("the", "boys", "kites", "can", "not", "fly", "-lrb-", "yet", "-rrb-")
    ]
    assert words(" \n") == []


def test_bleu_clips_counts_over_the_references_and_takes_the_closest_length():
    predictions = ["the the the cat sat on the mat", "a dog"]
    references = [["the cat sat on the mat", "a cat is on the mat now ok fine"], ["a dog runs", "a"]]
    # Caption 1: "the" counts twice of four, the rest once: 6 of 8 words; caption 2: 2 of 2.
    # Pairs: the-cat cat-sat sat-on on-the the-mat of 7, a-dog of 1. Triples: 4 of 6, and 0. Quadruples: 3 of 5, and 0.
    shares = [8 / 10, 6 / 8, 4 / 6, 3 / 5]
    # Closest lengths: 9 is as near to 8 as nothing else (6 is 2 off); of 3 and 1 the shorter. 10 words of 10.
    results = metric("bleu_4").compute(predictions=predictions, references=references)
    assert set(results) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4"}
    for n in range(1, 5):
        assert results[f"bleu_{n}"] == pytest.approx(math.prod(shares[:n]) ** (1 / n), rel=1e-6)
    short = metric("bleu_4").compute(predictions=["a dog"], references=[["a dog runs fast"]])
    assert short["bleu_1"] == pytest.approx(math.exp(1 - 4 / 2), rel=1e-6)
    assert short["bleu_2"] == pytest.approx(math.exp(1 - 4 / 2), rel=1e-6)
    # Of runs that the caption has none of, 1e-15 of 1e-9 match: coco-caption's constants.
    for n in (3, 4):
        assert short[f"bleu_{n}"] == pytest.approx(math.exp(1 - 4 / 2) * (1e-6) ** ((n - 2) / n), rel=1e-6)


def test_captions_longer_than_their_references_are_not_rewarded_for_it():
    # 6 words against 4: no factor for brevity, and 4 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples.
    pairs = {"predictions": ["a dog runs fast and far"], "references": [["a dog runs fast"]]}
    results, shares = metric("bleu_4").compute(**pairs), [4 / 6, 3 / 5, 2 / 4, 1 / 3]
    for n in range(1, 5):
        assert results[f"bleu_{n}"] == pytest.approx(math.prod(shares[:n]) ** (1 / n), rel=1e-6)
    # Lengths are summed over all captions: a long one makes up for a short one.
    pairs = {
        "predictions": ["a dog runs fast and far", "a cat"],
        "references": [["a dog runs fast"], ["a cat sits on"]],
    }
    assert metric("bleu_4").compute(**pairs)["bleu_1"] == pytest.approx(6 / 8, rel=1e-6)
    # 8 words of 10: exp(1 - 10 / 8).
    pairs["references"] = [["a dog runs fast"], ["a cat sits on the mat"]]
    expected = math.exp(1 - 10 / 8) * 6 / 8
    assert metric("bleu_4").compute(**pairs)["bleu_1"] == pytest.approx(expected, rel=1e-6)


def test_the_reference_that_is_closest_in_length_counts_the_shorter_of_two():
    pairs = {"predictions": ["a b c d"], "references": [["a b c d e", "a b c", "a b c d e f g"]]}
    assert metric("bleu_4").compute(**pairs)["bleu_1"] == pytest.approx(1.0)  # 3 words, not 5
    pairs = {"predictions": ["a b c d"], "references": [["a b c d e", "a"]]}
    assert metric("bleu_4").compute(**pairs)["bleu_1"] == pytest.approx(math.exp(1 - 5 / 4), rel=1e-6)  # not 1
    pairs = {"predictions": ["a b c d"], "references": [["a b c d e", "a b"]]}
    assert metric("bleu_4").compute(**pairs)["bleu_1"] == pytest.approx(math.exp(1 - 5 / 4), rel=1e-6)


def test_cider_weighs_rare_words_and_punishes_other_lengths():
    # Two images: a word of both has weight log(2/2) = 0, a word of one log 2.
    predictions = ["red cat", "a dog runs"]
    references = [["red cat", "big cat a"], ["a dog runs"]]
    # Image 1, reference 1: the same two words and one pair: cosine 1 for n = 1, 2; nothing for n = 3, 4: 2 / 4.
    # Reference 2 ("a" is in both images): one of two weighted words in common, 1 / (√2 √2), for n = 1; other pairs;
    # one word more: factor exp(-1 / 72).
    first = 10 * (2 / 4 + 0.5 * math.exp(-1 / 72) / 4) / 2
    # Image 2: n = 1, 2, 3 agree.
    second = 10 * 3 / 4
    value = metric("cider").compute(predictions=predictions, references=references)["cider"]
    assert value == pytest.approx((first + second) / 2, rel=1e-9)
    # A word said twice counts once where the reference has it once: min(2, 1) · 1 / (2 · 1); one pair of words more.
    twice = metric("cider").compute(predictions=["cat cat", "dog"], references=[["cat"], ["dog"]])["cider"]
    assert twice == pytest.approx(10 * (0.5 * math.exp(-1 / 72) / 4 + 1 / 4) / 2, rel=1e-9)


def test_cider_of_three_images_is_the_definition():
    predictions = ["a man rides a horse", "a cat", "dogs in the park"]
    references = [
        ["a man on a horse", "a man rides a brown horse"],
        ["a cat on the mat"],
        ["two dogs in the park", "dogs play"],
    ]

    def grams(text, n):
        tokens = text.split()
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    def weights(text, n):
        found = {}
        for gram in grams(text, n):
            images = sum(any(gram in grams(t, n) for t in texts) for texts in references)
            found[gram] = grams(text, n).count(gram) * math.log(3 / max(1, images))
        return found

    scores = []
    for prediction, texts in zip(predictions, references, strict=True):
        total = 0.0
        for text in texts:
            gap = len(prediction.split()) - len(text.split())
            for n in range(1, 5):
                ours, theirs = weights(prediction, n), weights(text, n)
                norms = math.sqrt(sum(v * v for v in ours.values())) * math.sqrt(sum(v * v for v in theirs.values()))
                product = sum(min(value, theirs.get(gram, 0)) * theirs.get(gram, 0) for gram, value in ours.items())
                total += math.exp(-(gap**2) / 72) * product / norms if norms else 0.0
        scores.append(10 * total / (4 * len(texts)))
    value = metric("cider").compute(predictions=predictions, references=references)["cider"]
    assert value == pytest.approx(sum(scores) / 3, rel=1e-9) and value > 1


def test_yes_and_no_count_within_the_first_four_letters():
    answers = [
        "yes",
        "No",
        "it is: yes",
        "Well, no",
        " nope",
        "none",
        "y es",
        "YES!",
        "\nno",
        "oyes",
        "abcyes",
        "abyes",
    ]
    expected = [True, False, None, None, False, False, None, True, False, True, None, None]
    for answer, said in zip(answers, expected, strict=True):
        results = metric("mme").compute(predictions=[answer], references=["Yes"], categories=["color"], images=["a"])
        assert (results["acc_color"] == 100, results["other"]) == (said is True, int(said is None)), answer


@pytest.mark.parametrize(
    "space", ["", "     ", "\n\n\n\n", "\t \r\n ", "\u00a0" * 5], ids=["none", "spaces", "lines", "both", "hard"]
)
@pytest.mark.parametrize("word", ["yes", "No"])
def test_space_around_an_answer_says_nothing(word, space):
    for answer in (space + word, word + space, f"{space}{word}.{space}"):
        found = metric("mme").compute(
            predictions=[answer], references=[word.lower()], categories=["color"], images=["a"]
        )
        assert (found["acc_color"], found["other"]) == (100, 0), repr(answer)


@pytest.mark.parametrize("reference", ["Yes", "yes", "YES ", " Yes\n", "No\n", "\tno", " NO "])
def test_space_around_a_reference_and_its_case_say_nothing(reference):
    for answer in ("Yes", "No"):
        found = metric("mme").compute(predictions=[answer], references=[reference], categories=["color"], images=["a"])
        assert found["acc_color"] == 100 * (answer.upper() == reference.strip().upper())


def test_mme_sums_questions_and_images():
    rows = [
        # prediction, reference, category, image
        ("Yes, it is.", "Yes", "color", "a"),
        (" no", "No", "color", "a"),
        ("Yes", "Yes", "color", "b"),
        ("yes", "No", "color", "b"),
        ("maybe", "Yes", "code_reasoning", "a"),
        ("No", "No", "code_reasoning", "a"),
        ("No", "No", "mine", "a"),
    ]
    predictions, references, categories, images = zip(*rows, strict=True)
    results = metric("mme").compute(
        predictions=predictions, references=references, categories=categories, images=images
    )
    assert (results["acc_color"], results["acc_plus_color"], results["score_color"]) == (75, 50, 125)
    assert (results["perception"], results["cognition"], results["score_mine"], results["total"]) == (
        125,
        50,
        200,
        375,
    )
    assert results["other"] == 1


def test_wrong_pairs_are_named():
    for name in ("bleu_4", "cider"):
        with pytest.raises(ValueError, match="references: number 1 has no caption"):
            metric(name).compute(predictions=["a", "b"], references=[["a"], []])
    with pytest.raises(ValueError, match="predictions: there are none"):
        check_pairs([], [])
    with pytest.raises(ValueError, match="references: got 'maybe', accepted are Yes and No"):
        metric("mme").compute(predictions=["a"], references=["maybe"], categories=["c"], images=["i"])


def test_a_metric_that_is_not_here_is_answered_with_those_that_are_in_order():
    with pytest.raises(ValueError, match="name: got 'bleu', accepted are ") as refused:
        metrics.load("bleu")
    named = [name.strip(" '.") for name in str(refused.value).partition("accepted are ")[2].split(",")]
    assert named == sorted(named) and {"accuracy", "bleu_4", "cider", "mme", "psnr", "ssim"} <= set(named)


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("A U.S. flag, 1,000 stars", ["a", "u.s.", "flag", "1,000", "stars"]),
        ("I'm sure they've said we'll go, he'd won't", "i 'm sure they 've said we 'll go he 'd wo n't".split()),
        ("She’s here; you’re not!", ["she", "'s", "here", "you", "'re", "not"]),
        ("rock'n'roll at o'clock", ["rock'n'roll", "at", "o'clock"]),
        ("gonna gotta wanna gimme lemme", "gon na got ta wan na gim me lem me".split()),
        ("[a] {b}", ["-lsb-", "a", "-rsb-", "-lcb-", "b", "-rcb-"]),
        ("half 1/2 & 50% #1 a@b", ["half", "1/2", "&", "50", "%", "#", "1", "a", "@", "b"]),
        ("“quoted” `word' … – —", ["quoted", "word"]),
        ("at&t under_score", ["at&t", "under", "score"]),
        ("über-großes Café", ["über-großes", "café"]),
    ],
)
def test_words_are_those_of_the_penn_treebank_without_punctuation(caption, expected):
    assert words(caption) == expected


def test_runs_of_words_are_counted_up_to_the_longest():
    text = "a b a b".split()
    assert ngrams(text, 2) == {("a",): 2, ("b",): 2, ("a", "b"): 2, ("b", "a"): 1}
    assert ngrams(text, 9)[tuple(text)] == 1 and max(map(len, ngrams(text, 3))) == 3
    assert ngrams([], 4) == {}


def test_an_image_with_many_questions_is_right_where_all_are_and_empty_groups_are_not_told():
    rows = [("yes", "Yes"), ("no", "no"), ("yes", " NO ")]
    predictions, references = zip(*rows, strict=True)
    found = metric("mme").compute(
        predictions=predictions, references=references, categories=["OCR"] * 3, images=["a", "b", "b"]
    )
    assert found["acc_OCR"] == pytest.approx(200 / 3) and found["acc_plus_OCR"] == 50
    assert "cognition" not in found and found["perception"] == found["total"] == pytest.approx(200 / 3 + 50)


@pytest.mark.parametrize(
    "name, categories",
    [
        ("perception", "existence count position color posters celebrity scene landmark artwork OCR"),
        ("cognition", "commonsense_reasoning numerical_calculation text_translation code_reasoning"),
    ],
)
def test_mme_has_ten_categories_of_perception_and_four_of_cognition(name, categories):
    """Those of the paper's table; each scores 200 where all is right."""
    names = categories.split()
    found = metric("mme").compute(
        predictions=["yes"] * len(names), references=["Yes"] * len(names), categories=names, images=["a"] * len(names)
    )
    assert found[name] == found["total"] == 200 * len(names) == 200 * {"perception": 10, "cognition": 4}[name]
    assert len(found.keys() & {"perception", "cognition"}) == 1
