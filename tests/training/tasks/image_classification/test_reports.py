"""What is drawn of a trained classifier."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import precision_recall_fscore_support
from transformers import EvalPrediction

from hf_effmodels.training import evaluate
from hf_effmodels.training.tasks.image_classification import reports
from hf_effmodels.training.tasks.image_classification.quality import (
    Predictions,
    as_csv,
    calibration,
    per_class,
    worst_mistakes,
)
from hf_effmodels.training.tasks.image_classification.task import compute_metrics

FOUND = Predictions(
    predicted=np.array([0, 0, 1, 1, 0, 1]),
    labels=np.array([0, 0, 0, 1, 1, 1]),
    confidence=np.array([0.9, 0.5, 0.8, 0.7, 0.95, 0.55]),
)


@pytest.mark.draws
def test_a_row_of_the_confusion_matrix_is_a_true_class_and_a_column_a_predicted_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append((figure, file)))
    # Of three cats two are taken for owls; both dogs are right; the only owl is taken for a dog; there is no bee.
    labels, predictions = np.array([0, 1, 0, 1, 0, 2]), np.array([2, 1, 0, 1, 2, 1])
    reports.plot_confusion(predictions, labels, ["cat", "dog", "owl", "bee"], tmp_path / "confusion.png")
    [(figure, file)] = drawn
    axes = figure.axes[0]
    assert file == tmp_path / "confusion.png"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    np.testing.assert_allclose(axes.images[0].get_array(), [[1 / 3, 0, 2 / 3, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0] * 4])
    written = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row) -> count
    assert written == {(0, 0): "1", (2, 0): "2", (1, 1): "2", (1, 2): "1"}
    assert {text.get_position(): text.get_color() for text in axes.texts} == {
        **{(0, 0): "black", (2, 0): "white"},  # a third and two thirds
        **{(1, 1): "white", (1, 2): "white"},
    }
    assert axes.images[0].get_clim() == (0, 1)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["cat", "dog", "owl", "bee"]


def test_precision_recall_and_f1_are_those_of_the_definition_and_nothing_where_there_is_nothing():
    rows = per_class(FOUND, ["cat", "dog", "owl"])
    expected = precision_recall_fscore_support(FOUND.labels, FOUND.predicted, labels=[0, 1])
    for number in range(2):
        values = [rows[number][name] for name in ("precision", "recall", "f1", "support")]
        np.testing.assert_allclose(values, [part[number] for part in expected])
    assert rows[2] == {"class": "owl", "precision": None, "recall": None, "f1": None, "support": 0}
    table = list(csv.DictReader(as_csv(rows).splitlines()))
    assert table[0]["precision"] == "0.666667" and table[2]["f1"] == "" and table[1]["support"] == "3"


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy_in_a_bin():
    # Bins of a half: (0, 0.5] holds one right answer at 0.5, (0.5, 1] five at 0.78 on average, three of them right.
    error, bins = calibration(FOUND, bins=2)
    assert [count for *_, count in bins] == [1, 5]
    assert error == pytest.approx((1 * abs(1 - 0.5) + 5 * abs(3 / 5 - 0.78)) / 6)
    sure = Predictions(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 1.0]))
    assert calibration(sure) == (0.0, [(1.0, 1.0, 2)])


def test_the_worst_mistakes_are_the_surest_ones():
    assert worst_mistakes(FOUND, 5).tolist() == [4, 2] and worst_mistakes(FOUND, 1).tolist() == [4]


def test_a_picture_of_mistakes_goes_where_there_are_none_any_more(tmp_path):
    (tmp_path / "mistakes.png").write_bytes(b"of another run")
    right = Predictions(np.array([0, 1]), np.array([0, 1]), np.array([0.9, 0.8]))
    for _ in range(2):
        reports.plot_mistakes(right, None, ["cat", "dog"], tmp_path / "mistakes.png")
        assert not (tmp_path / "mistakes.png").exists()


@pytest.mark.draws
def test_an_evaluation_writes_its_reports_on_demand(convnext_folder, tmp_path):
    arguments = ["--model", str(convnext_folder), "--dataset", "digits", "--max_eval_samples", "40"]
    arguments += ["--output", str(tmp_path / "measured.json")]
    plain = evaluate(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"]
    results = evaluate([*arguments, "--reports", "true"])
    pictures = ("confusion_matrix.png", "calibration.png", "mistakes.png")
    files = {f"measured_{name}" for name in ("per_class.csv", *pictures)}
    assert {path.name for path in tmp_path.iterdir()} == {"measured.json", *files}
    assert 0 <= results.pop("expected_calibration_error") <= 1
    assert {**results, "arguments": None} == {**plain, "arguments": None}
    rows = list(csv.DictReader((tmp_path / "measured_per_class.csv").read_text().splitlines()))
    supports = [int(row["support"]) for row in rows]
    right = sum(float(row["recall"] or 0) * support for row, support in zip(rows, supports, strict=True))
    assert sum(supports) == 40 and right / 40 == pytest.approx(results["accuracy"], abs=1e-5)
    assert "expected_calibration_error" in json.loads((tmp_path / "measured.json").read_text())


def test_the_pictures_that_were_taken_for_something_else_are_shown_with_both_names(tmp_path, monkeypatch):
    """The surest first, in rows; without more of a name than what stands before its comma."""
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append((figure, file)))
    pictures = [np.full((4, 6, 3), 20 * number, np.uint8) for number in range(6)]
    asked = []

    def read(number, channels):
        asked.append((number, channels))
        return Image.fromarray(pictures[number])

    dataset = SimpleNamespace(source=SimpleNamespace(read=read), num_channels=3)
    names = ["cat, felis", "dog $5 " + 30 * "x"]
    reports.plot_mistakes(FOUND, dataset, names, tmp_path / "mistakes.png")
    [(figure, file)] = drawn
    assert file == tmp_path / "mistakes.png" and asked == [(4, 3), (2, 3)]
    shown = [axes for axes in figure.axes if axes.images]
    assert [int(np.asarray(axes.images[0].get_array())[0, 0, 0]) for axes in shown] == [80, 40]
    dog = "dog \\$5 " + 17 * "x"
    assert [axes.get_title() for axes in shown] == [f"{dog}\ntaken for cat, 95 %", f"cat\ntaken for {dog}, 80 %"]
    assert not any(axes.axison for axes in figure.axes)


def test_accuracy_is_drawn_over_confidence_beside_the_diagonal(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append((figure, file)))
    bins = [(0.25, 0.5, 10), (0.75, 0.6, 40)]
    reports.plot_calibration(0.1234, bins, tmp_path / "x.png")
    [(figure, file)] = drawn
    (axes,) = figure.axes
    diagonal, line = axes.lines
    assert file == tmp_path / "x.png" and diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert line.get_xydata().tolist() == axes.collections[0].get_offsets().tolist() == [[0.25, 0.5], [0.75, 0.6]]
    small, large = axes.collections[0].get_sizes()
    assert small < large  # more pictures
    assert 0 < axes.collections[0].get_alpha() < 1  # the diagonal and smaller ones are seen beneath
    assert axes.get_title() == "expected calibration error 12.3 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence", "accuracy")
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))


def test_of_what_is_taken_for_a_class_and_of_what_is_one_the_shares_are_told_apart():
    """As scikit-learn has them; nothing is said where nothing is taken for a class, or nothing is one."""
    labels, said = np.array([0, 0, 0, 0, 1, 1, 2, 4]), np.array([0, 1, 1, 0, 1, 0, 0, 3])
    rows = per_class(Predictions(said, labels, np.ones(8)), [*"abcdef"])
    expected = precision_recall_fscore_support(labels, said, labels=range(6), zero_division=np.nan)
    for number, (row, *values) in enumerate(zip(rows, *expected, strict=True)):
        precision, recall, f1 = (None if np.isnan(value) else pytest.approx(value) for value in values[:3])
        assert row["class"] == "abcdef"[number] and row["support"] == values[3]
        assert (row["precision"], row["recall"], row["f1"]) == (precision, recall, f1)
    assert (rows[0]["precision"], rows[0]["recall"]) == (0.5, 0.5)
    assert (rows[1]["precision"], rows[1]["recall"]) == (pytest.approx(1 / 3), 0.5)
    assert [row["precision"] for row in rows[2:]] == [None, 0, None, None]
    assert [row["recall"] for row in rows[2:]] == [0, None, 0, None]


def test_a_classifier_is_measured_by_the_mean_over_its_pictures():
    ranked = np.array([[1, 0, 2, 3, 4], [0, 1, 2, 3, 4], [2, 3, 4, 1, 5], [3, 2, 1, 0, 5]])
    losses, labels = np.array([0.5, 1.5, 2.0, 4.0], dtype=np.float32), np.array([1, 1, 0, 3])
    found = compute_metrics(EvalPrediction((ranked, losses, np.ones(4)), labels))
    assert found == {"accuracy": 0.5, "top_5_accuracy": 0.75, "loss": 2.0, "samples": 4}
