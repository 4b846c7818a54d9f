"""Tables of tokens: rows in their order, whatever is encoded at a time, and files that belong together."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hf_effmodels.training.data import token_tables
from hf_effmodels.training.data.token_tables import encode_rows, is_table, read_settings, read_table


class Pairs:
    task, names = "denoise", [f"{number}.png" for number in range(20)]

    def __len__(self) -> int:
        return 20


class Tokens:
    """An image is a number here, and its tokens are that number and twice it."""

    tokens_per_image = 2

    def __init__(self):
        self.sizes = []

    def encode(self, images: list[int]) -> torch.Tensor:
        self.sizes.append(len(images))
        return torch.tensor([[image, 2 * image] for image in images])


def test_rows_are_all_pairs_as_they_are_and_then_each_copy_encoded_a_few_at_a_time(monkeypatch):
    asked = []

    def expanded(pairs, copies, seed, index, copy):
        asked.append((copies, seed, index, copy))
        return index + 100 * copy, -index

    monkeypatch.setattr(token_tables, "expanded", expanded)
    tokens, numbers = Tokens(), [*range(35), 3]
    found = encode_rows(tokens, Pairs(), 2, 7, numbers)
    assert asked == [(2, 7, number % 20, number // 20) for number in numbers]
    images = [number % 20 + 100 * (number // 20) for number in numbers]
    assert found.images.tolist() == [[image, 2 * image] for image in images] and found.images.dtype == np.int32
    assert found.answers.tolist() == [[-(number % 20), -2 * (number % 20)] for number in numbers]
    assert (found.task, found.names) == ("denoise", [f"{number % 20}.png" for number in numbers])
    assert tokens.sizes == [32, 4, 32, 4]
    none = encode_rows(tokens, Pairs(), 0, 0, [])
    assert none.images.shape == none.answers.shape == (0, 2) and none.names == [] and none.images.dtype == np.int32


@pytest.fixture
def folder(tmp_path):
    """Two files of training rows, of two tasks, and one of a test without the second task."""
    (tmp_path / "data").mkdir()
    settings = {"tasks": ["b", "a"], "shards": {"train": 2, "test": 1}}
    (tmp_path / "visual_sentences.json").write_text(json.dumps(settings))
    for name, tasks, first in (("train-0", "ab", 0), ("train-1", "ba", 2), ("test-0", "b", 9)):
        numbers = range(first, first + len(tasks))
        rows = {"task": [*tasks], "name": [f"{n}.png" for n in numbers]}
        rows |= {"image_ids": [[n, n] for n in numbers], "answer_ids": [[n + 50] for n in numbers]}
        pq.write_table(pa.table(rows), tmp_path / "data" / f"{name}.parquet")
    return tmp_path


def test_a_table_gives_the_pairs_of_each_task_over_all_of_its_files(folder):
    second, first = read_table(str(folder), "train")
    assert (second.task, second.names) == ("b", ["1.png", "2.png"])
    assert (first.task, first.names) == ("a", ["0.png", "3.png"])
    assert second.images.tolist() == [[1, 1], [2, 2]] and second.answers.tolist() == [[51], [52]]
    assert second.images.dtype == second.answers.dtype == np.int32
    assert [len(task.names) for task in read_table(str(folder), "test")] == [1, 0]
    (folder / "data" / "train-1.parquet").unlink()
    with pytest.raises(ValueError, match=f"--dataset: {folder} has 1 files of train, expected 2; prepare it again"):
        read_table(str(folder), "train")


def test_another_folder_is_no_table(folder, tmp_path):
    assert is_table(str(folder)) and not is_table(str(folder / "data"))
    assert read_settings(str(folder))["tasks"] == ["b", "a"]
    with pytest.raises(ValueError, match=f"--dataset: {folder}/data is no table of tokens"):
        read_settings(str(folder / "data"))
    (folder / "visual_sentences.json").write_text("{")
    with pytest.raises(ValueError, match=f"--dataset: {folder} is no table of tokens"):
        read_settings(str(folder))
