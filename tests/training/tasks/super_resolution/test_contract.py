from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestSuperResolution(TaskContract):
    task = "super-resolution"
    # Three steps an epoch, saved every two: killed while saving step 4, it goes on within the first epoch.
    hard_to_resume: ClassVar = ["--lr_decay_steps", "3", "--dataloader_num_workers", "1"]
    metrics = ("psnr_y", "ssim_y")
    measured_again = ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "bicubic_psnr_y")

    @pytest.fixture
    def run(self, short_run, table):
        return [*short_run, "--dataset", str(table), "--structure_maps", "true"]

    @pytest.fixture
    def evaluation(self, table, tmp_path):
        return [
            *("--dataset", str(table), "--eval_holdout", "2", "--eval_size", "32", "--num_inference_steps", "2"),
            *("--seed", "42", "--cache_dir", str(tmp_path / "cache")),
        ]
