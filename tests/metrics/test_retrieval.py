"""Recall of pairs, and which found boxes are counted: at the ends of what counts."""

import numpy as np

from hf_effmodels.metrics import retrieval
from hf_effmodels.metrics.coco_ap import Detections, confusion
from hf_effmodels.metrics.retrieval import retrieval_recall


def test_recall_at_as_many_as_there_are_is_told_and_pieces_of_the_table_change_nothing(monkeypatch):
    embeddings = np.random.default_rng(0).normal(size=(2, 5, 4))
    images, texts = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    found = retrieval_recall(images, texts, ks=(1, 5, 6))
    assert found["image_to_text_recall_at_5"] == found["text_to_image_recall_at_5"] == 1 and len(found) == 4
    similar = images @ texts.T
    assert found["image_to_text_recall_at_1"] == np.mean(similar.argmax(1) == np.arange(5))
    monkeypatch.setattr(retrieval, "_ROWS", 2)
    assert retrieval_recall(images, texts, ks=(1, 5, 6)) == found


def test_boxes_count_above_the_thresholds_and_the_best_takes_what_it_overlaps():
    true = Detections(np.array([[0.0, 0, 10, 10]]), np.array([1]))
    boxes = np.array([[0.0, 0, 10, 8], [0, 0, 10, 10], [0, 0, 10, 5]])

    def counted(scores, **thresholds) -> list:
        return confusion([true], [Detections(boxes, np.array([0, 1, 1]), np.array(scores))], 2, **thresholds).tolist()

    # The surest box takes the true one, although another lies better; a score at the threshold is none.
    assert counted([0.9, 0.8, 0.4]) == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert counted([0.3, 0.3, 0.9]) == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]  # an overlap of a half is none
    assert counted([0.3, 0.3, 0.9], iou_threshold=0.4) == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
