from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestMaskGeneration(TaskContract):
    task = "mask-generation"
    short_quickstart: ClassVar = ["--eval_pictures", "3", "--train_pictures", "16", "--shown_pictures", "1"]
    metrics = ("loss", "miou_point", "miou_box")
    measured_again = ("miou_point", "miou_box")

    @pytest.fixture(autouse=True)
    def teacher_of_the_quickstart(self, teacher):
        # Its embeddings have other channels than the quickstart's student.
        weights = ["--embedding_weight", "0", "--token_weight", "0"]
        self.short_quickstart = [*self.short_quickstart, "--teacher", str(teacher), *weights]

    @pytest.fixture
    def run(self, sam_run):
        return sam_run

    @pytest.fixture
    def evaluation(self):
        return ["--prompts_per_picture", "2", "--shapes_per_picture", "3", "--eval_pictures", "5"]
