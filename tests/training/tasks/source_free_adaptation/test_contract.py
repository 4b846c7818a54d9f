import json
from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestSourceFreeAdaptation(TaskContract):
    task = "source-free-adaptation"
    predicts = True
    # Saved in the midst of a round: its labels are those of weights that are gone by then.
    hard_to_resume: ClassVar = [
        *("--num_train_epochs", "3", "--ema_decay", "0.8", "--gradient_accumulation_steps", "2"),
        *(
            "--per_device_train_batch_size",
            "4",
            "--dataloader_num_workers",
            "1",
            "--lr_scheduler_type",
            "inverse_decay",
        ),
        *("--eval_strategy", "steps", "--eval_steps", "3", "--augmented_features", "true"),
    ]
    save_steps, killed_at = 3, 9
    deterministic: ClassVar = ["--random_erasing", "0.5"]
    metrics = ("loss", "accuracy", "samples")
    measured_again = ("loss", "accuracy", "samples")

    @pytest.fixture(autouse=True)
    def classifier_of_the_quickstart(self, convnext_folder):
        self.short_quickstart = [
            *("--model", str(convnext_folder), "--max_train_samples", "130", "--max_eval_samples", "7"),
            *("--min_samples_per_class", "2"),
        ]

    @pytest.fixture
    def run(self, adapted_run):
        return adapted_run

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits-inverted", "--max_eval_samples", "11"]

    def test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(self, run, tmp_path):
        super().test_a_killed_run_goes_on_to_the_same_weights_bit_for_bit(run, tmp_path)
        whole, killed = (json.loads((tmp_path / name / "adaptation.json").read_text()) for name in ("whole", "killed"))
        assert whole["rounds"] == killed["rounds"] and [entry["round"] for entry in killed["rounds"]] == [1, 2, 3]
