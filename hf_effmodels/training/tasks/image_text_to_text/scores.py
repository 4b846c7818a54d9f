"""What the generated answers are worth, per format of the data."""

from collections.abc import Callable, Sequence

from .... import metrics
from .prompts import OPTIONS, caption_of, science_qa_choice
from .samples import Sample

#: Columns of the paper's ScienceQA table: subject, modality of the context, grades, all.
SCIENCE_QA_GROUPS: dict[str, tuple[str, Callable[[dict], bool]]] = {
    "NAT": ("accuracy_natural_science", lambda facts: facts["subject"] == "natural science"),
    "SOC": ("accuracy_social_science", lambda facts: facts["subject"] == "social science"),
    "LAN": ("accuracy_language_science", lambda facts: facts["subject"] == "language science"),
    "TXT": ("accuracy_text_context", lambda facts: facts["has_text"]),
    "IMG": ("accuracy_image_context", lambda facts: facts["has_image"]),
    "NO": ("accuracy_no_context", lambda facts: not facts["has_text"] and not facts["has_image"]),
    "G1-6": ("accuracy_grades_1_6", lambda facts: facts["grade"] <= 6),
    "G7-12": ("accuracy_grades_7_12", lambda facts: facts["grade"] >= 7),
    "Avg": ("accuracy", lambda facts: True),
}


def score(kind: str, samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """Metrics of `kind` (a data format); none for instructions, whose answers have no one right form."""
    return {
        "science_qa": score_science_qa,
        "coco_captions": score_captions,
        "table": score_exact,
        "mme": score_mme,
        "instructions": lambda samples, answers: {},
    }[kind](samples, answers)


def score_science_qa(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """Accuracy of each column of the paper's table that has questions; an answer without a letter of one of the
    choices is wrong, and counted as `unanswered`."""
    chosen = [science_qa_choice(answer) for answer in answers]
    chosen = [
        None if choice is None or choice >= sample.facts["choices"] else OPTIONS[choice]
        for sample, choice in zip(samples, chosen, strict=True)
    ]
    right = [choice == sample.references[0] for sample, choice in zip(samples, chosen, strict=True)]
    results = {}
    for name, is_in in SCIENCE_QA_GROUPS.values():
        group = [r for sample, r in zip(samples, right, strict=True) if is_in(sample.facts)]
        if group:
            results[name] = sum(group) / len(group)
    return {**results, "unanswered": chosen.count(None)}


def score_captions(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """BLEU-1 to 4 and CIDEr against all captions of each image, as coco-caption has them."""
    pairs = {
        "predictions": [caption_of(answer) for answer in answers],
        "references": [list(sample.references) for sample in samples],
    }
    bleu, cider = metrics.load("bleu_4").compute(**pairs), metrics.load("cider").compute(**pairs)
    return {**bleu, **cider}


def score_exact(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """Share of the answers that equal the reference, blanks around them aside."""
    right = [answer.strip() == sample.references[0].strip() for sample, answer in zip(samples, answers, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def score_mme(samples: Sequence[Sample], answers: Sequence[str]) -> dict[str, float]:
    """Accuracy and accuracy+ of each category in per cent, their sums, and those of perception and cognition."""
    return metrics.load("mme").compute(
        predictions=list(answers),
        references=[sample.references[0] for sample in samples],
        categories=[sample.facts["category"] for sample in samples],
        images=[sample.facts["image"] for sample in samples],
    )
