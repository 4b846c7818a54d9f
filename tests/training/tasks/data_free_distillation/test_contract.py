from typing import ClassVar

import numpy as np
import pytest

from ..contract import TaskContract, history


class TestDataFreeDistillation(TaskContract):
    task = "data-free-distillation"
    predicts = True
    # Saved between two steps of the generator, with a schedule that both optimizers follow.
    hard_to_resume: ClassVar = [
        *("--ema_decay", "0.8", "--gradient_accumulation_steps", "2", "--dataloader_num_workers", "1"),
        *(
            "--lr_scheduler_type",
            "step",
            "--lr_scheduler_kwargs",
            "{decay_epochs: 1, decay_rate: 0.5, warmup_epochs: 0}",
        ),
        *("--model_config", "{hidden_sizes: [4, 4, 8], depths: [1, 1], classifier_dropout: 0.2}"),
        *("--eval_strategy", "steps", "--eval_steps", "3"),
    ]
    save_steps, killed_at = 3, 9
    metrics = ("loss", "accuracy", "samples")
    measured_again = ("accuracy",)

    @pytest.fixture(autouse=True)
    def without_batches(self, teachers, plain_student):
        self.short_quickstart = [
            *("--teachers", *teachers, "--model_config", "{hidden_sizes: [4, 4, 8], depths: [1, 1]}"),
            *("--max_eval_samples", "7", "--per_device_train_batch_size", "4", "--student_steps", "1"),
        ]
        # Adam amplifies the rounding of gradients that are zero, as of biases before a batch norm.
        self.deterministic = [
            *("--teachers", teachers[0], "--model", plain_student, "--model_config", "{}"),
            *("--generator_learning_rate", "1e-5"),
        ]

    def test_two_processes_follow_the_trajectory_of_one(self, run, tmp_path):
        super().test_two_processes_follow_the_trajectory_of_one(run, tmp_path)
        self.generators_agree(tmp_path / "two", tmp_path / "one", steps=2)

    def test_eight_small_batches_give_the_gradient_of_one_large(self, run, tmp_path):
        self.deterministic = [*self.deterministic, "--student_steps", "1"]
        super().test_eight_small_batches_give_the_gradient_of_one_large(run, tmp_path)
        self.generators_agree(tmp_path / "8x1", tmp_path / "1x8", steps=2)

    def generators_agree(self, first, second, steps: int):
        keys = ("generator_grad_norm", "generator_statistics", "generator_disagreement")
        logged = [history(folder, *keys) for folder in (first, second)]
        assert len(logged[0]) == steps and (logged[0] > 0).all()
        np.testing.assert_allclose(*logged, rtol=self.rtol)

    @pytest.fixture
    def run(self, data_free_run):
        return data_free_run

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits", "--max_eval_samples", "11"]
