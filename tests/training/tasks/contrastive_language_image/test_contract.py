from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestContrastiveLanguageImage(TaskContract):
    task = "contrastive-language-image"
    predicts = True
    short_quickstart: ClassVar = ["--max_train_samples", "130", "--max_eval_samples", "9"]
    metrics = ("loss", "accuracy", "top_5_accuracy")
    measured_again = ("loss", "accuracy", "top_5_accuracy")

    @pytest.fixture
    def run(self, contrastive_run):
        return contrastive_run

    @pytest.fixture
    def evaluation(self, digit_arguments):
        return [*digit_arguments, "--eval_group", "4"]
