"""What is drawn of a detector that was measured: the numbers, where they belong."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hf_effmodels.metrics.coco_ap import Detections
from hf_effmodels.training.tasks.object_detection import reports
from hf_effmodels.training.tasks.object_detection.evaluation import best_found


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: figures.append((figure, file)))
    return figures


@pytest.mark.parametrize("classes", [2, 14])
def test_precision_is_drawn_over_recall_for_each_class_that_there_is_and_in_the_mean(classes, drawn, tmp_path):
    curves = {f"c{n}": np.linspace(1, n / classes, 101) for n in range(classes)} | {"nowhere": np.full(101, -1.0)}
    measured = SimpleNamespace(precision=SimpleNamespace(curves=curves))
    reports.plot_precision_recall(measured, tmp_path / "x.png")
    [(figure, file)] = drawn
    (axes,) = figure.axes
    assert file == tmp_path / "x.png" and len(axes.lines) == classes + 1
    for number, line in enumerate(axes.lines[:-1]):
        np.testing.assert_allclose(line.get_xdata(), np.arange(101) / 100)
        np.testing.assert_allclose(line.get_ydata(), curves[f"c{number}"])
        assert (line.get_label() == f"c{number}") == (classes <= 12)
    mean = np.mean([np.linspace(1, n / classes, 101) for n in range(classes)], axis=0)
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), mean)
    assert axes.lines[-1].get_label() == f"mean, AP50 {mean.mean():.3f}" and axes.get_legend() is not None
    assert axes.lines[-1].get_linewidth() > axes.lines[0].get_linewidth()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xlim()) == ("recall", "precision", (0, 1))
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= 1
    reports.plot_precision_recall(SimpleNamespace(precision=SimpleNamespace(curves={"a": -np.ones(101)})), file)
    assert not drawn[1][0].axes[0].lines


@pytest.mark.parametrize("classes", [2, 29, 30])
def test_a_row_of_the_confusion_matrix_is_what_was_there_and_a_column_what_was_found(classes, drawn, tmp_path):
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    counts[0, 0], counts[0, 1], counts[classes, 0] = 1, 3, 2
    names = [f"c{n}" for n in range(classes)]
    reports.plot_confusion(counts, names, tmp_path / "x.png")
    axes = drawn[0][0].axes[0]
    expected = np.zeros_like(counts, dtype=float)
    expected[0, 0], expected[0, 1], expected[classes, 0] = 0.25, 0.75, 1
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.images[0].get_clim()) == ("found", "true", (0, 1))
    if classes == 30:  # with "nothing" more than can be read
        assert not axes.texts
        return
    assert {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts} == {
        (0, 0): ("1", "black"), (1, 0): ("3", "white"), (0, classes): ("2", "white"),
    }  # fmt: skip
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [*names, "nothing"]


def test_true_boxes_are_green_on_the_left_and_found_ones_red_on_the_right(tmp_path):
    """Of two pictures of 60 × 40 pixels, drawn four times as large beside each other; the third is not asked for."""
    pictures = [{"image": np.full((40, 60, 3), 10 * number, np.uint8)} for number in range(3)]

    def boxes(*corners, scores=None):
        return Detections(
            np.array(corners, float).reshape(-1, 4), np.zeros(len(corners), np.int64),
            None if scores is None else np.array(scores),
        )  # fmt: skip

    measured = SimpleNamespace(
        truth=[boxes([10, 10, 30, 30]), boxes(), boxes()],
        found=[boxes([20, 5, 50, 35], scores=[0.9]), boxes([1, 1, 9, 9], scores=[0.01]), boxes(scores=[])],
    )
    reports.draw_predictions(measured, pictures, ["cat"], tmp_path / "x.png", 2)
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size == (4 * 244, 164)
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    tiles = [pixels[:160, 244 * n : 244 * n + 240] for n in range(4)]
    green, red = (np.all(np.abs(pixels - colour) < 3, -1) for colour in ((0, 190, 0), (230, 30, 30)))
    for number, (tile, value) in enumerate(zip(tiles, (0, 0, 10, 10), strict=True)):
        there = slice(244 * number, 244 * number + 240)
        assert (green[:, there].any(), red[:, there].any()) == (number == 0, number == 1)
        assert (tile[-1, -1] == value).all()
    assert green[40, 40] and green[120, 120] and green[100, 40] and not green[39, 40:120].any()
    assert red[20, 244 + 80] and red[140, 244 + 200] and not red[141, 244:].any()


def test_boxes_are_shown_with_a_score_above_the_threshold_alone():
    boxes = Detections(np.arange(12.0).reshape(3, 4), np.array([5, 6, 7]), np.array([0.5, 0.75, 0.25]))
    nothing = Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    found, none = best_found([boxes, nothing], 0.5)
    assert (found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()) == ([[4, 5, 6, 7]], [6], [0.75])
    assert not len(none.boxes)


@pytest.mark.parametrize("prefix", ["", "night_"])
@pytest.mark.parametrize("plots, pictures", [(True, 3), (False, 3), (True, 0)])
def test_figures_of_an_evaluation_are_called_after_its_results(prefix, plots, pictures, tmp_path, monkeypatch):
    written = []
    for name in ("plot_precision_recall", "plot_confusion", "draw_predictions"):
        monkeypatch.setattr(reports, name, lambda *given, name=name: written.append((name, given)))
    monkeypatch.setattr(reports, "has_matplotlib", lambda: plots)
    measured, folder = SimpleNamespace(confusion="counts"), tmp_path / "new"
    reports.write_figures(measured, "pictures", ["a"], folder, pictures, prefix)
    expected = [
        ("plot_precision_recall", (measured, folder / f"{prefix}precision_recall.png")),
        ("plot_confusion", ("counts", ["a"], folder / f"{prefix}confusion_matrix.png")),
    ] * plots
    file = folder / f"{prefix}predictions.png"
    expected += [("draw_predictions", (measured, "pictures", ["a"], file, pictures))] * bool(pictures)
    assert written == expected and folder.is_dir()


def test_a_class_of_which_nothing_is_found_counts_in_the_mean_curve(drawn, tmp_path):
    curves = {"found": np.ones(101), "missed": np.zeros(101), "nowhere": np.full(101, -1.0)}
    reports.plot_precision_recall(SimpleNamespace(precision=SimpleNamespace(curves=curves)), tmp_path / "x.png")
    lines = drawn[0][0].axes[0].lines
    assert len(lines) == 3 and lines[-1].get_label() == "mean, AP50 0.500"


def test_of_fewer_pictures_than_are_asked_for_all_are_drawn(tmp_path):
    """Four tiles in a row: of three pictures the third stands below the first."""
    pictures = [{"image": np.full((16, 256, 3), 50 * number, np.uint8)} for number in range(3)]
    nothing = Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
    reports.draw_predictions(
        SimpleNamespace(truth=[nothing] * 3, found=[nothing] * 3), pictures, ["a"], tmp_path / "x.png", 8
    )
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size == (4 * 260, 2 * 20)
        shown = [[sheet.getpixel((260 * column + 9, 20 * row + 9))[0] for column in range(4)] for row in range(2)]
    assert shown == [[0, 0, 50, 50], [100, 100, 255, 255]]
