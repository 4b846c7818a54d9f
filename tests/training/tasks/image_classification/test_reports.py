"""What is drawn of a trained classifier."""

import csv
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
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
from hf_effmodels.training.tasks.image_classification.task import (
    ImageClassificationTrainer,
    compute_metrics,
    ranked_classes,
)

from ..recorders import Calls
from ..test_rare_preparations import patched

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


@pytest.mark.parametrize("saves, plots", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("several", [True, False])
def test_a_trained_classifier_has_its_curves_its_quality_and_its_card(several, saves, plots, monkeypatch):
    """Of the classes as they are numbered, with what was measured on the split that was evaluated on."""
    calls = Calls()
    patched(
        monkeypatch,
        reports,
        save_results=calls.of("save", "all"),
        has_matplotlib=lambda: plots,
        plot_curves=calls.of("curves"),
        write_quality=calls.of("quality"),
        write_card=calls.of("card"),
        training_summary=calls.of("summary", "the summary"),
    )
    metrics = {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_runtime": 3.0}
    metrics |= {"eval_top_5_accuracy": 0.9} if several else {}
    measured, args = SimpleNamespace(metrics=metrics), SimpleNamespace(output_dir="out", should_save=saves)

    class Data(list):
        source = SimpleNamespace(split="some/folder/holidays")

    trainer = SimpleNamespace(
        args=args,
        network=SimpleNamespace(config=SimpleNamespace(num_labels=2, id2label={1: "b", 0: "a"})),
        state=SimpleNamespace(log_history="history"),
        eval_dataset=Data([{"pixel_values": "first"}]),
        get_total_train_batch_size=lambda given: 96 if given is args else None,
    )
    data_args, model_args = SimpleNamespace(dataset="some/folder"), SimpleNamespace(model="a-model")
    assert reports.write_results(trainer, "train", measured, "config", model_args, data_args) == "all"
    assert calls.pop("save") == [((trainer, "train", metrics), {})]
    if not saves:
        assert not calls
        return
    panels = {
        "cross entropy": {"loss": "training (smoothed, augmented)", "eval_loss": "evaluation"},
        "accuracy": {"eval_accuracy": "top-1", "eval_top_5_accuracy": "top-5"},
    }
    curves = [(("history", Path("out/training_curve.png"), panels), {})]
    assert calls.get("curves", []) == (curves if plots else [])
    assert calls["quality"] == [((measured, trainer.eval_dataset, ["a", "b"], Path("out")), {})]
    assert calls["summary"] == [(("config", reports.HYPER_PARAMETERS, 96), {})]
    [(given, card)] = calls["card"]
    assert given == (trainer, {"accuracy": 0.75, **({"top_5_accuracy": 0.9} if several else {})})
    assert card == {
        "split": "holidays", "dataset": "some/folder", "model": "a-model", "pipeline_tag": "image-classification",
        "sample": "first", "training": "the summary",
    }  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_an_evaluation_tells_where_it_was_measured_and_its_reports_are_named_after_its_file(
    asked, first, monkeypatch, capsys
):
    calls = Calls()
    patched(
        monkeypatch,
        reports,
        write_quality=calls.of("quality", 0.125),
        write_results_file=calls.of("file", lambda output, results, call: {**results, "written": output}),
    )
    trainer = SimpleNamespace(
        network=SimpleNamespace(config=SimpleNamespace(num_labels=1, id2label={0: "a"})),
        eval_dataset=SimpleNamespace(source=SimpleNamespace(split="some/test")),
        is_world_process_zero=lambda: first,
    )
    metrics = {"eval_accuracy": 0.5, "eval_top_5_accuracy": 0.75, "eval_loss": 2.0, "eval_samples": 8, "eval_x": 1}
    measured, call = SimpleNamespace(metrics=metrics), {"model": "m", "dataset": "d", "split": "none of it"}
    args = SimpleNamespace(output="there/e.json", reports=asked)
    results = {"model": "m", "dataset": "d", "split": "some/test", "loss": 2.0, "samples": 8}
    results |= {"accuracy": 0.5, "top_5_accuracy": 0.75}
    found = reports.write_evaluation(trainer, measured, args, call)
    if not first:
        assert found == results and not calls and not capsys.readouterr().out
        return
    error = {"expected_calibration_error": 0.125} if asked else {}
    assert found == {**results, **error, "written": "there/e.json"}
    assert calls["file"] == [(("there/e.json", {**results, **error}, call), {})]
    quality = [((measured, trainer.eval_dataset, ["a"], Path("there")), {"prefix": "e_"})]
    assert calls.get("quality", []) == (quality if asked else [])
    assert capsys.readouterr().out == "top-1 50.000 %  top-5 75.000 %  n 8\n"


@pytest.mark.parametrize("plots", [True, False])
def test_the_quality_of_a_classifier_is_that_of_its_first_class_and_drawn_where_it_can_be(
    plots, tmp_path, monkeypatch
):
    calls = Calls()
    drawn = {name: calls.of(name) for name in ("plot_confusion", "plot_calibration", "plot_mistakes")}
    patched(monkeypatch, reports, has_matplotlib=lambda: plots, **drawn)
    ranked = np.stack([FOUND.predicted, 1 - FOUND.predicted], axis=1)
    measured = SimpleNamespace(predictions=(ranked, "losses", FOUND.confidence), label_ids=FOUND.labels)
    error = reports.write_quality(measured, "pictures", ["cat", "dog"], tmp_path, prefix="e_")
    expected, bins = calibration(FOUND)
    assert error == expected and [file.name for file in tmp_path.iterdir()] == ["e_per_class.csv"]
    assert (tmp_path / "e_per_class.csv").read_text() == as_csv(per_class(FOUND, ["cat", "dog"]))
    if not plots:
        assert not calls
        return
    [((predicted, labels, *given), _)] = calls["plot_confusion"]
    assert predicted is not labels and predicted.tolist() == FOUND.predicted.tolist()
    assert labels is FOUND.labels and given == [["cat", "dog"], tmp_path / "e_confusion_matrix.png"]
    assert calls["plot_calibration"] == [((error, bins, tmp_path / "e_calibration.png"), {})]
    [((found, *given), _)] = calls["plot_mistakes"]
    assert given == ["pictures", ["cat", "dog"], tmp_path / "e_mistakes.png"]
    assert all(np.array_equal(getattr(found, f.name), getattr(FOUND, f.name)) for f in fields(Predictions))


@pytest.mark.parametrize("mistakes, shown, rows", [(5, 5, 1), (6, 6, 2), (40, 25, 5)])
def test_of_many_mistakes_the_first_twenty_five_are_shown_five_in_a_row(mistakes, shown, rows, monkeypatch):
    drawn, read = [], []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append(figure))
    source = SimpleNamespace(read=lambda number, channels: read.append(number) or Image.new("RGB", (2, 2)))
    confidence = np.linspace(0.9, 0.1, mistakes)
    found = Predictions(np.zeros(mistakes, int), np.ones(mistakes, int), confidence)
    reports.plot_mistakes(found, SimpleNamespace(source=source, num_channels=3), ["a", "b"], Path("x.png"))
    [figure] = drawn
    assert read == [*range(shown)] and len(figure.axes) == 5 * rows


@pytest.mark.parametrize("classes, top5", [(2, False), (5, False), (6, True)])
def test_of_more_than_five_classes_it_is_told_whether_one_is_among_the_first_five(classes, top5):
    """Of five and fewer each is. A network that returns more than logits returns these first."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(40, classes, generator=generator), torch.arange(40) % classes
    ranked, losses, confidence = ranked_classes((logits, torch.zeros(40, 9)), labels)
    values = logits.double().numpy()
    probabilities = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    np.testing.assert_allclose(losses, -np.log(probabilities[np.arange(40), labels]), rtol=1e-4)
    np.testing.assert_allclose(confidence, probabilities.max(1), rtol=1e-5)
    order = np.argsort(-values, axis=1)
    assert ranked.tolist() == order[:, : 5 if top5 else 1].tolist()
    found = compute_metrics(EvalPrediction((ranked.numpy(), losses.numpy(), confidence.numpy()), labels.numpy()))
    expected = {
        "accuracy": np.mean(order[:, 0] == labels.numpy()),
        "samples": 40,
        "loss": losses.double().mean().item(),
    }
    if top5:
        expected["top_5_accuracy"] = np.mean((order[:, :5] == labels.numpy()[:, None]).any(1))
    assert found == pytest.approx(expected)
    trainer = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(num_labels=classes)))
    assert set(ImageClassificationTrainer.metric_names(trainer)) == set(found)


def test_a_classifier_is_measured_by_the_mean_over_its_pictures():
    ranked = np.array([[1, 0, 2, 3, 4], [0, 1, 2, 3, 4], [2, 3, 4, 1, 5], [3, 2, 1, 0, 5]])
    losses, labels = np.array([0.5, 1.5, 2.0, 4.0], dtype=np.float32), np.array([1, 1, 0, 3])
    found = compute_metrics(EvalPrediction((ranked, losses, np.ones(4)), labels))
    assert found == {"accuracy": 0.5, "top_5_accuracy": 0.75, "loss": 2.0, "samples": 4}
