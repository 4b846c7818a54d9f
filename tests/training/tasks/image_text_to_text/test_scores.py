"""What generated answers are worth."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers import EvalPrediction

from hf_effmodels.training.data.errors import SampleError
from hf_effmodels.training.tasks.image_text_to_text.prompts import science_qa_choice
from hf_effmodels.training.tasks.image_text_to_text.samples import Sample, Samples
from hf_effmodels.training.tasks.image_text_to_text.scores import score
from hf_effmodels.training.tasks.image_text_to_text.trainer import compute_metrics


def asked(reference, **facts):
    return Sample((("Q", "A"),), references=(reference,), facts=facts)


def question(right, subject="natural science", grade=3, has_text=False, has_image=False, choices=3):
    facts = {"subject": subject, "grade": grade, "has_text": has_text, "has_image": has_image, "choices": choices}
    return asked(right, **facts)


def test_science_qa_has_the_columns_of_the_papers_table():
    samples = [
        question("A", grade=6),
        question("B", subject="social science", grade=7, has_text=True),
        question("C", subject="language science", grade=12, has_image=True),
        question("A", grade=1, has_text=True, has_image=True),
        question("B", grade=7, choices=2),
    ]
    answers = ["A.", " B", "none of them", " (B)", "C"]
    results = score("science_qa", samples, answers)
    assert results == {
        "accuracy_natural_science": pytest.approx(1 / 3),
        "accuracy_social_science": 1.0,
        "accuracy_language_science": 0.0,
        "accuracy_text_context": 0.5,
        "accuracy_image_context": 0.0,
        "accuracy_no_context": 0.5,
        "accuracy_grades_1_6": 0.5,
        "accuracy_grades_7_12": pytest.approx(1 / 3),
        "accuracy": 0.4,
        "unanswered": 2,
    }


@pytest.mark.parametrize(
    "text, choice", [(" B", 1), ("the C.", 2), ("b", None), ("", None), ("E", 4), ("F or A", None), ("Zebra A", None)]
)
def test_the_first_capital_letter_is_the_choice(text, choice):
    assert science_qa_choice(text) == choice


def test_answers_of_tables_are_compared_without_blanks_around_them():
    samples = [asked("red"), asked("blue "), asked("Green"), asked("red"), asked("red")]
    assert score("table", samples, [" red\n", "blue", "green", "redder", "re"]) == {"accuracy": 0.4}
    assert score("instructions", samples, ["a"] * 4) == {}


def test_captions_are_compared_with_all_references_behind_their_phrase():
    samples = [
        Sample((("Q", "A"),), references=("a red cat", "a cat")),
        Sample((("Q", "A"),), references=("two dogs in a park",)),
    ]
    results = score("coco_captions", samples, ["a picture of a red cat", "two dogs in a park"])
    assert results["bleu_1"] == pytest.approx(1.0) and results["cider"] > 4
    assert score("coco_captions", samples, ["a blue cat", "nothing"])["bleu_1"] < 0.5
    # Any of the references is as good as the first.
    asked_twice = [Sample((("Q", "A"),), references=(text, "seven red birds")) for text in ("a cat", "two dogs")]
    assert score("coco_captions", asked_twice, ["seven red birds"] * 2)["bleu_1"] == pytest.approx(1.0)


def test_mme_is_scored_by_category_and_image():
    samples = [asked("Yes", category="color", image="a"), asked("No", category="color", image="a")]
    assert score("mme", samples, ["yes", "yes"])["score_color"] == 50
    assert score("mme", samples, ["yes", "no"])["score_color"] == 200


def test_samples_are_held_out_at_random_and_limited_evenly():
    samples = Samples.of(list(range(40)), lambda row: asked(str(row)), "mine/train")
    rest, held_out = samples.held_out(10)
    chosen = held_out.numbers.tolist()
    assert held_out.split == "mine/train (held out)" and sorted([*rest.numbers, *chosen]) == list(range(40))
    assert len(chosen) == 10 and chosen == samples.held_out(10)[1].numbers.tolist()
    assert min(chosen) < 8 and max(chosen) > 31 and len({n // 10 for n in chosen}) == 4
    assert samples.evenly(4).numbers.tolist() == [0, 13, 26, 39] and samples.evenly(None) is samples
    assert [s.references[0] for s in samples.select([3, 5]).without_images()] == ["3", "5"]


@pytest.mark.parametrize("number, images", [(1, 1), (4, 1), (5, 1), (6, 2), (10, 2), (13, 3), (95, 19)])
def test_rows_of_one_image_are_held_out_together_and_no_more_images_than_are_needed(number, images):
    groups = [f"{n // 5}.jpg" for n in range(100)]
    samples = Samples.of(list(range(100)), lambda row: asked(str(row)), "mine/train", groups=groups)
    rest, held_out = samples.held_out(number)
    assert len(held_out) == 5 * images and sorted([*rest.numbers, *held_out.numbers]) == list(range(100))
    of_rest, of_held_out = ({groups[n] for n in part.numbers} for part in (rest, held_out))
    assert len(of_held_out) == images and not of_rest & of_held_out
    assert held_out.numbers.tolist() == samples.held_out(number)[1].numbers.tolist()


def test_something_is_left_to_train_on():
    """Of two images one, whichever number of their questions is asked for."""
    two = Samples.of([*range(10)], lambda row: asked("x"), "mine/train", groups=["a"] * 5 + ["b"] * 5)
    for number in (1, 5, 6, 9):
        rest, held_out = two.held_out(number)
        assert [len(rest), len(held_out)] == [5, 5] and abs(rest.numbers.mean() - held_out.numbers.mean()) == 5
    with pytest.raises(ValueError, match="mine/train is about one image: nothing would be left"):
        Samples.of([1, 2], lambda row: asked("x"), "mine/train", groups=["a", "a"]).held_out(1)


def test_what_is_wrong_with_a_row_is_said_with_its_place():
    """A run that meets it in its midst ends with this line."""
    rows = [{"answer": "x", "image": None}, {}, {"answer": "y", "image": b"no picture"}]
    samples = Samples.of(rows, lambda row: Sample((("Q", row["answer"]),), row["image"]), "mine/train")
    samples.read_image(0)
    for look, message in (
        (lambda: samples[1], "row 1 of mine/train: there is no 'answer'"),
        (lambda: samples.read_image(2), "row 2 of mine/train: "),
    ):
        with pytest.raises((SampleError, OSError), match=message):
            look()
    with pytest.raises(ValueError, match="mine is empty"):
        Samples.of([], lambda row: row, "mine")
    # What they are known by: texts and pictures, not the places of their parts.
    first, second = (Samples.of([turns], lambda row: Sample(row), "x") for turns in (
        (("Q", "A"), ("B", "C")), (("Q", "A"), ("BC", ""))
    ))  # fmt: skip
    assert first.facts() != second.facts()
    plain = Sample((("Q", "A"),), Image.new("RGB", (2, 2)))
    others = (replace(plain, turns=(("Q", "B"),)), replace(plain, image=Image.new("RGB", (2, 2), "red")))
    known = [Samples.of([sample], lambda row: row, "x").facts() for sample in (plain, *others)]
    differing = [{name for name in known[0] if other[name] != known[0][name]} for other in known[1:]]
    assert differing == [{"texts"}, {"pictures"}]


@pytest.mark.parametrize(
    "turns, ask, question",
    [
        ((("Q", "A"),), None, "Q"),
        ((("Q1", "A1"), ("Q2", "A2")), None, "Q1A1Q2"),
        ((("Q1", "A1"), ("Q2", "A2"), ("Q3", "A3")), None, "Q1A1Q2A2Q3"),
        ((("Q1", "A1"), ("Q2", "A2")), "a picture of", "a picture of"),
        ((("Q", "A"),), "", ""),
    ],
)
def test_a_question_is_the_last_prompt_behind_all_that_was_said(turns, ask, question):
    assert Sample(turns, ask=ask).question == question


def test_of_samples_that_are_chosen_samples_can_be_chosen():
    samples = Samples.of(list(range(40)), lambda row: asked(str(row)), "mine/train")
    few = samples.select([30, 4, 17, 9, 22])
    assert few.select([4, 1]).numbers.tolist() == [22, 4] and few.evenly(3).numbers.tolist() == [30, 17, 22]
    assert few[3].references == ("9",) and "row 22" in few.where(4, few[4])
    rest, held_out = few.held_out(2)
    assert sorted([*rest.numbers, *held_out.numbers]) == [4, 9, 17, 22, 30] and len(held_out) == 2
    assert samples.evenly(40).numbers.tolist() == list(range(40)) == samples.evenly(99).numbers.tolist()
    groups = [n // 10 for n in range(40)]
    grouped = Samples.of(list(range(40)), lambda row: asked(str(row)), "mine/train", groups=groups).select(few.numbers)
    rest, held_out = grouped.held_out(1)
    assert {groups[n] for n in rest.numbers}.isdisjoint({groups[n] for n in held_out.numbers})


def test_a_loss_is_the_mean_over_learned_tokens_however_they_are_spread():
    losses, counts = np.array([6.0, 1.0, 0.0], dtype=np.float32), np.array([3, 1, 0])
    found = compute_metrics(EvalPrediction(predictions=(losses, counts), label_ids=None))
    assert found == {"loss": 7 / 4, "samples": 3}
    nothing = (np.zeros(2, np.float32), np.zeros(2, int))
    assert compute_metrics(EvalPrediction(predictions=nothing, label_ids=None)) == {"loss": 0, "samples": 2}
