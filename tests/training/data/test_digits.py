import numpy as np
from sklearn.datasets import load_digits

from hf_effmodels.training.data.arguments import SplitArguments
from hf_effmodels.training.data.digits import load_image_splits


def test_the_digits_are_all_there_once_as_bytes_with_a_fifth_of_each_class_for_testing():
    splits = load_image_splits(SplitArguments(dataset="digits"), None)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1438, "test": 359}
    rows = [*splits["train"], *splits["test"]]
    expected = {np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images}
    assert {np.asarray(row["image"]).tobytes() for row in rows} == expected
    labels = np.bincount([int(row["label"]) for row in splits["test"]])
    assert labels.tolist() == [round(0.2 * count) for count in np.bincount(load_digits().target)]
