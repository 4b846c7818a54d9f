"""Recall of pairs, and which found boxes are counted: at the ends of what counts."""

import numpy as np
import pytest

from hf_effmodels.metrics import retrieval
from hf_effmodels.metrics.coco_ap import Detections, as_metrics, average_precision, confusion
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


def squares(*corners_and_sides) -> np.ndarray:
    return np.array([[x, y, x + side, y + side] for x, y, side in corners_and_sides], dtype=float).reshape(-1, 4)


def test_average_precision_tells_sizes_thresholds_and_numbers_of_boxes_apart():
    """Twelve small objects, all found, the last with an overlap of 0.64, and one of medium size that is missed."""
    places = [(12 * i, 0, 10) for i in range(12)]
    truth = Detections(squares(*places, (0, 20, 50)), np.zeros(13, dtype=int))
    boxes = squares(*places[:11], (132, 0, 8))
    found = Detections(boxes, np.zeros(12, dtype=int), np.linspace(0.9, 0.3, 12))
    measured = average_precision([truth], [found], ["thing", "nothing"])
    # Precision is 1 up to a recall of k / n: so many of the recalls 0, 0.01, ..., 1. Three of ten thresholds are met.
    all_of_12, eleven = 93 / 101, 85 / 101
    # Of the small ones alone recall reaches 1, and 11 / 12 at the others.
    expected = {"map": 0.3 * all_of_12 + 0.7 * eleven, "map_50": all_of_12, "map_75": eleven}
    expected |= {"map_small": 0.3 + 0.7 * 92 / 101, "map_medium": 0.0}
    expected |= {"mar_1": 1 / 13, "mar_10": 10 / 13, "mar_100": (0.3 * 12 + 0.7 * 11) / 13}
    expected |= {"mar_small": (0.3 * 12 + 0.7 * 11) / 12, "mar_medium": 0.0}
    assert measured.metrics == pytest.approx(expected)  # nothing large was there to find
    assert measured.per_class["thing"] == pytest.approx(expected["map"]) and np.isnan(measured.per_class["nothing"])
    assert measured.curves["thing"].shape == (101,) and measured.curves["thing"].sum() == pytest.approx(93)
    assert as_metrics(measured) == pytest.approx({name: expected[name] for name in ("map", "map_50", "map_75")})
    assert as_metrics(measured, ["map_large"]) == {"map_large": 0.0}
    # An area that is given, as of a mask, wins over that of the box.
    large = Detections(squares((0, 0, 10)), np.zeros(1, dtype=int), area=np.array([5000.0]))
    hit = Detections(squares((0, 0, 10)), np.zeros(1, dtype=int), np.ones(1))
    assert {"map_small", "map_medium"} & average_precision([large], [hit], ["thing"]).metrics.keys() == {"map_medium"}
    # Of the second class alone.
    second = [Detections(hit.boxes, np.ones(1, dtype=int), hit.scores)]
    assert average_precision(second, second, ["a", "b"]).per_class["b"] == pytest.approx(1)
    with pytest.raises(ValueError, match="found: got 2 images, accepted are as many as of truth, 1"):
        average_precision([truth], [found, found], ["thing"])


def test_boxes_without_a_true_one_are_false_in_images_with_and_without_objects():
    true = Detections(squares((0, 0, 10)), np.array([0]))
    none = Detections(squares(), np.zeros(0, dtype=int))
    two = Detections(squares((0, 0, 10), (0, 0, 10)), np.array([0, 0]), np.array([0.9, 0.8]))
    assert confusion([true, none], [two, two], 1).tolist() == [[1, 0], [3, 0]]
    missed = Detections(squares(), np.zeros(0, dtype=int), np.zeros(0))
    assert confusion([true], [missed], 1).tolist() == [[0, 1], [0, 0]]


def test_texts_that_say_the_same_are_right_for_each_other_and_ties_count_against_the_right_one():
    images = np.array([[1.0, 0], [0, 1], [0.6, 0.8]])
    texts = np.array([[0.6, 0.8], [0, 1], [1.0, 0]])  # the first and the last are changed over
    assert retrieval_recall(images, texts, ks=(1,)) == {
        "image_to_text_recall_at_1": pytest.approx(1 / 3),
        "text_to_image_recall_at_1": pytest.approx(1 / 3),
    }
    assert set(retrieval_recall(images, texts, np.array([7, 2, 7]), ks=(1,)).values()) == {1.0}
    same = np.tile([[1.0, 0.0]], (4, 1))
    assert set(retrieval_recall(same, same, ks=(1, 3)).values()) == {0.0}
    assert set(retrieval_recall(same, same)) == {f"{way}_recall_at_1" for way in ("image_to_text", "text_to_image")}
    ten = np.eye(10)
    assert len(retrieval_recall(ten, ten)) == 6
    for wrong in ((ten, ten[:3]), (ten[:0], ten[:0])):
        with pytest.raises(ValueError, match="texts: got shape .*accepted is that of images, .*and not none"):
            retrieval_recall(*wrong)


def test_a_crowd_is_neither_missed_nor_are_boxes_in_it_false():
    """In precision and recall, and in the counts of what was taken for what: two people, and a crowd of them."""
    boxes = squares((0, 0, 10), (100, 0, 10), (200, 0, 100))
    truth = Detections(boxes, np.zeros(3, dtype=int), crowd=np.array([False, False, True]))
    # Both people, two in the crowd, one half in it, and something of another class in it.
    places = squares((0, 0, 10), (100, 0, 10), (210, 10, 10), (250, 50, 20), (295, 40, 10), (220, 60, 10))
    labels, scores = np.array([0, 0, 0, 0, 0, 1]), np.array([0.5, 0.6, 0.9, 0.8, 0.45, 0.7])
    assert confusion([truth], [Detections(places, labels, scores)], 2).tolist() == [[2, 0, 0], [0, 0, 0], [1, 1, 0]]
    none = Detections(squares(), np.zeros(0, dtype=int), np.zeros(0))
    assert confusion([truth], [none], 2).tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]
    inside = Detections(places[:4], labels[:4], scores[:4])
    measured = average_precision([truth], [inside], ["person", "dog"])
    assert measured.metrics["map"] == pytest.approx(1) and measured.metrics["mar_100"] == pytest.approx(1)
    # The same boxes where the crowd is an object like others: two are false, and one is missed.
    plain = Detections(boxes, truth.labels)
    assert confusion([plain], [inside], 2).tolist() == [[2, 0, 1], [0, 0, 0], [2, 0, 0]]
    assert average_precision([plain], [inside], ["person", "dog"]).metrics["map"] < 0.5


def test_what_is_found_in_one_image_is_no_hit_in_another():
    here, there = (Detections(squares((x, 0, 10)), np.zeros(1, dtype=int), np.ones(1)) for x in (0, 50))
    assert confusion([here, there], [there, here], 1).tolist() == [[0, 2], [2, 0]]
    assert average_precision([here, there], [there, here], ["thing"]).metrics["map"] == 0
    assert average_precision([here, there], [here, there], ["thing"]).metrics["map"] == pytest.approx(1)
    # Of a thing that is in one image alone the mean is over the images together, not over each by itself.
    nothing = Detections(squares(), np.zeros(0, dtype=int), np.zeros(0))
    assert average_precision([here, nothing], [here, nothing], ["thing"]).metrics["map"] == pytest.approx(1)


def test_vectors_in_half_precision_are_compared_in_whole():
    """Their products differ by less than half precision tells apart: the nearest would tie with others."""
    generator = np.random.default_rng(0)
    images = (1 + generator.normal(size=(6, 64)) * 1e-2).astype(np.float16) / np.float16(8)
    exact = images.astype(np.float64)
    similar = exact @ exact.T
    wrong = [(row >= row[number]).sum() - 1 for number, row in enumerate(similar)]
    found = retrieval_recall(images, images, ks=(1, 2, 3))
    for k in (1, 2, 3):
        assert found[f"image_to_text_recall_at_{k}"] == np.mean([count < k for count in wrong])
    assert len({*(images @ images.T).ravel().tolist()}) < len({*similar.ravel().round(12).tolist()})
