from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestMaskedImageModeling(TaskContract):
    task = "masked-image-modeling"
    short_quickstart: ClassVar = ["--max_train_samples", "130", "--max_eval_samples", "9", "--shown_images", "1"]

    @pytest.fixture
    def run(self, masked_run):
        return masked_run

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits", "--max_eval_samples", "11"]
