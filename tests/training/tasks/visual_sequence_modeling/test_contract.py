from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestVisualSequenceModeling(TaskContract):
    task = "visual-sequence-modeling"
    short_quickstart: ClassVar = [
        *("--tokenizer_steps", "2", "--task_samples", "{invert: 20, segment: 20}", "--max_eval_samples", "3"),
        *("--answered_images", "2", "--shown_images", "1"),
    ]
    metrics = ("loss", "perplexity", "token_accuracy")
    measured_again = ("loss", "token_accuracy")

    @pytest.fixture
    def run(self, visual_run):
        return visual_run

    @pytest.fixture
    def evaluation(self):
        return [
            *("--dataset", "digits", "--task_samples", "{invert: 20, segment: 20}", "--pairs_per_sentence", "2"),
            *("--max_eval_samples", "5", "--answered_images", "0"),
        ]
