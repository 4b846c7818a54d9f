from typing import ClassVar

import pytest

from ..contract import TaskContract

HARD_LOSSES = (
    "{adaptconf: {warmup: 0.9, weight: 0.5}, dkd: {temperature: 2}, ofa: {stages: [1, 2]}, "
    "fitnet: {stages: [1, 2]}, crd: {num_negatives: 7, embed_dim: 4}}"
)


class TestDistillation(TaskContract):
    task = "distillation"
    predicts = True
    short_quickstart: ClassVar = ["--max_train_samples", "130", "--max_eval_samples", "7"]
    # Labels mixed, weights that grow, projectors and memories: the state of each is restored or not there.
    hard_to_resume: ClassVar = [
        *("--num_train_epochs", "3", "--optim", "lamb", "--ema_decay", "0.8", "--mixup", "0.2", "--cutmix", "1"),
        *("--losses", HARD_LOSSES, "--warmup_steps", "3"),
        *("--eval_strategy", "steps", "--eval_steps", "4", "--dataloader_num_workers", "1"),
    ]
    save_steps, killed_at = 4, 12
    deterministic: ClassVar = [
        *("--train_crop", "random_resized", "--losses", "{kd: {temperature: 2}, fitnet: {stages: [1, 2]}}"),
    ]
    metrics = ("loss", "accuracy", "samples")
    measured_again = ("loss", "accuracy", "samples")

    @pytest.fixture(autouse=True)
    def teacher_of_the_quickstart(self, teacher):
        self.short_quickstart = [*self.short_quickstart, "--teacher", str(teacher)]

    @pytest.fixture
    def run(self, distilled_run):
        return distilled_run

    def test_two_processes_follow_the_trajectory_of_one(self, run, tmp_path):
        memories = "{fitnet: {stages: [1, 2]}, crd: {num_negatives: 7, embed_dim: 4}}"
        # A rate of 0.05 is too large for the contrast: the projector's maps explode in four steps.
        self.deterministic = ["--train_crop", "random_resized", "--losses", memories, "--learning_rate", "0.002"]
        super().test_two_processes_follow_the_trajectory_of_one(run, tmp_path)

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits", "--max_eval_samples", "11"]
