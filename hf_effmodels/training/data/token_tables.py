"""Tables of tokens that `hf-effmodels prepare visual-sentences` writes: which image tokenizer, and pairs by task."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .image_pairs import ImagePairs, expanded
from .token_pairs import TokenPairs

SETTINGS_FILE = "visual_sentences.json"
TASK, NAME, IMAGE_IDS, ANSWER_IDS = "task", "name", "image_ids", "answer_ids"


def encode_rows(tokenizer, pairs: ImagePairs, copies: int, seed: int, numbers: Sequence[int]) -> TokenPairs:
    """Rows by number, tokenised: all pairs as they are, then all of the first augmented copy, and so on."""
    read = [expanded(pairs, copies, seed, *reversed(divmod(number, len(pairs)))) for number in numbers]
    if not read:
        empty = np.empty((0, tokenizer.tokens_per_image), dtype=np.int32)
        return TokenPairs(pairs.task, [], empty, empty)
    images, answers = (
        np.concatenate(
            [
                tokenizer.encode([pair[part] for pair in read[first : first + 32]]).cpu().numpy().astype(np.int32)
                for first in range(0, len(read), 32)
            ]
        )
        for part in (0, 1)
    )
    return TokenPairs(pairs.task, [pairs.names[number % len(pairs)] for number in numbers], images, answers)


def is_table(folder: str) -> bool:
    """Whether a data set is such a table."""
    return (Path(folder) / SETTINGS_FILE).is_file()


def read_settings(folder: str) -> dict:
    """What a table was made with; ValueError where it cannot be read."""
    try:
        return json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--dataset: {folder} is no table of tokens ({error}).") from error


def read_table(folder: str, split: str) -> list[TokenPairs]:
    """The pairs of each task of a split.

    Raises:
        ValueError: files are missing.
    """
    import pyarrow.parquet as pq

    found = sorted((Path(folder) / "data").glob(f"{split}-*.parquet"))
    settings = read_settings(folder)
    if len(found) != settings["shards"][split]:
        raise ValueError(
            f"--dataset: {folder} has {len(found)} files of {split}, expected {settings['shards'][split]}; prepare it "
            "again."
        )
    tables = [pq.read_table(file).to_pydict() for file in found]
    rows = {name: [value for table in tables for value in table[name]] for name in (TASK, NAME, IMAGE_IDS, ANSWER_IDS)}
    tasks = []
    for task in settings["tasks"]:
        chosen = [number for number, name in enumerate(rows[TASK]) if name == task]
        images, answers = (
            np.array([rows[name][number] for number in chosen], dtype=np.int32) for name in (IMAGE_IDS, ANSWER_IDS)
        )
        tasks.append(TokenPairs(task, [rows[NAME][number] for number in chosen], images, answers))
    return tasks
