"""MME's yes/no scoring as a module of the `evaluate` library."""

import datasets
import evaluate

_DESCRIPTION = """
MME (Fu et al., 2023): of each category the accuracy over questions and accuracy+ over images (both, or all, of an
image's questions right), in per cent; their sum is the category's score, 200 at best. Perception is the sum of ten
categories, cognition that of four.
"""

_INPUTS = """
Args:
    predictions (list of str): generated answers; "yes" or "no" within the first four letters counts, the former first,
        anything else is wrong.
    references (list of str): "Yes" or "No".
    categories (list of str): of each question; names that MME does not have only enter the total.
    images (list of str): the image each question is about, unique within its category.

Returns:
    acc_<category>, acc_plus_<category>, score_<category> (float); perception and cognition, where there is one of
    their categories; total (float), the sum of all scores; other (int), answers that were neither yes nor no.

Example:
    >>> load("mme").compute(
    ...     predictions=["Yes", "no."], references=["Yes", "Yes"], categories=["color"] * 2, images=["a", "a"]
    ... )["score_color"]
    50.0
"""

PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class MME(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text, "categories": text, "images": text}),
        )

    def _compute(self, predictions, references, categories, images):
        wrong = [reference for reference in references if reference.strip().lower() not in ("yes", "no")]
        if wrong:
            raise ValueError(f"references: got {wrong[0]!r}, accepted are Yes and No.")
        answers = [yes_or_no(prediction) for prediction in predictions]
        right: dict[str, dict[str, list[bool]]] = {}
        for answer, reference, category, image in zip(answers, references, categories, images, strict=True):
            by_image = right.setdefault(category, {})
            by_image.setdefault(image, []).append(answer == reference.strip().lower())
        results = {}
        for category, by_image in right.items():
            questions = [is_right for answers_of_image in by_image.values() for is_right in answers_of_image]
            accuracy = 100 * sum(questions) / len(questions)
            plus = 100 * sum(map(all, by_image.values())) / len(by_image)
            results |= {f"acc_{category}": accuracy, f"acc_plus_{category}": plus}
            results[f"score_{category}"] = accuracy + plus
        for name, group in (("perception", PERCEPTION), ("cognition", COGNITION)):
            scores = [results[f"score_{category}"] for category in group if category in right]
            if scores:
                results[name] = sum(scores)
        results["total"] = sum(results[f"score_{category}"] for category in right)
        return {**results, "other": answers.count(None)}


def yes_or_no(answer: str) -> str | None:
    """What the first four letters of an answer say."""
    start = answer.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)
