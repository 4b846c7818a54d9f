"""How good a classifier is, class by class, and whether its probabilities can be believed."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of an evaluation set.

    Attributes:
        predicted: (n,) the likeliest class of each sample; `labels`: (n,) the true one.
        confidence: (n,) the probability of the likeliest.
    """

    predicted: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        return self.predicted == self.labels


def per_class(found: Predictions, names: Sequence[str]) -> list[dict]:
    """Precision, recall and F1 of each class, with the number of its samples (`support`); None where there is nothing
    to divide by."""
    rows = []
    for number, name in enumerate(names):
        support, taken = (found.labels == number), (found.predicted == number)
        hits = int((support & taken).sum())
        precision = hits / taken.sum() if taken.any() else None
        recall = hits / support.sum() if support.any() else None
        both = int(support.sum() + taken.sum())
        f1 = 2 * hits / both if both else None
        rows.append({"class": name, "precision": precision, "recall": recall, "f1": f1, "support": int(support.sum())})
    return rows


def as_csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow("" if v is None else f"{v:.6f}" if isinstance(v, float) else v for v in row.values())
    return text.getvalue()


def calibration(found: Predictions, bins: int = BINS) -> tuple[float, list[tuple[float, float, int]]]:
    """The expected calibration error (Guo et al., https://arxiv.org/abs/1706.04599, equation 3), and of each bin of
    equal width the mean confidence, the accuracy and the number of samples; bins without any are left out."""
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.digitize(found.confidence, edges[1:-1], right=True), 0, bins - 1)
    table = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            table.append(
                (float(found.confidence[inside].mean()), float(found.correct[inside].mean()), int(inside.sum()))
            )
    error = sum(count * abs(accuracy - confidence) for confidence, accuracy, count in table) / len(found.labels)
    return float(error), table


def worst_mistakes(found: Predictions, count: int) -> np.ndarray:
    """Numbers of the wrong samples that the classifier was surest of, the surest first."""
    wrong = np.flatnonzero(~found.correct)
    return wrong[np.argsort(-found.confidence[wrong], kind="stable")][:count]
