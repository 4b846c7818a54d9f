"""What is drawn of a trained classifier."""

import numpy as np

from hf_effmodels.training.tasks.image_classification import reports


def test_a_row_of_the_confusion_matrix_is_a_true_class_and_a_column_a_predicted_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append((figure, file)))
    # Of three cats two are taken for owls; both dogs are right; there is no owl.
    labels, predictions = np.array([0, 1, 0, 1, 0]), np.array([2, 1, 0, 1, 2])
    reports.plot_confusion(predictions, labels, ["cat", "dog", "owl"], tmp_path / "confusion.png")
    [(figure, file)] = drawn
    axes = figure.axes[0]
    assert file == tmp_path / "confusion.png"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    np.testing.assert_allclose(axes.images[0].get_array(), [[1 / 3, 0, 2 / 3], [0, 1, 0], [0, 0, 0]])
    written = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row) -> count
    assert written == {(0, 0): "1", (2, 0): "2", (1, 1): "2"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "owl"]
