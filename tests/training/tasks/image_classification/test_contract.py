from typing import ClassVar

import pytest

from ..contract import TaskContract
from .test_image_classification import GHOSTNET


class TestImageClassification(TaskContract):
    task = "image-classification"
    predicts = True
    short_quickstart: ClassVar = ["--max_train_samples", "130", "--max_eval_samples", "7"]
    # Five steps an epoch: killed in the third epoch, goes on in the midst of the second. Dropout, augmentation and
    # mixing draw from generators of their own.
    hard_to_resume: ClassVar = [
        *(*GHOSTNET, "--num_train_epochs", "3", "--optim", "lamb", "--weight_decay", "0.05", "--ema_decay", "0.8"),
        *("--eval_strategy", "steps", "--eval_steps", "4", "--randaugment", "rand-m9-mstd0.5-inc1"),
        *("--random_erasing", "0.5", "--mixup", "0.2", "--cutmix", "1", "--label_smoothing_factor", "0.1"),
        *("--warmup_steps", "3", "--dataloader_num_workers", "1"),
    ]
    save_steps, killed_at = 4, 12
    # Pairs are mixed within a batch: not here.
    deterministic: ClassVar = ["--train_crop", "random_resized", "--random_erasing", "0.5"]
    metrics = ("loss", "accuracy", "samples")
    measured_again = ("loss", "accuracy", "samples")

    @pytest.fixture
    def run(self, digits_run):
        return digits_run

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits", "--max_eval_samples", "11"]
