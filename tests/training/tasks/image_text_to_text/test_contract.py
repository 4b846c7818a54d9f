from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestImageTextToText(TaskContract):
    task = "image-text-to-text"
    short_quickstart: ClassVar = ["--max_train_samples", "70", "--max_eval_samples", "5"]
    hard_to_resume: ClassVar = [
        *("--gradient_checkpointing", "true", "--augmentation", "captions", "--warmup_steps", "2"),
        *("--weight_decay", "0.02", "--base_precision", "bfloat16", "--eval_strategy", "steps", "--eval_steps", "3"),
    ]
    save_steps, killed_at = 3, 6
    # Without the bottlenecks' dropout, which depends on the batch.
    deterministic: ClassVar = [
        *("--learning_rate", "0.5", "--train", "adapters+vision", "--gradient_checkpointing", "true"),
        *("--model_config", "{pool_sizes: [4, 2], projector_hidden_size: 8, vision_adapter_dim: 4, "),
    ]
    deterministic[-1] += "vision_adapter_dropout: 0}"
    rtol = 2e-3
    measured_again = ("accuracy", "samples")

    @pytest.fixture
    def run(self, colour_run):
        return colour_run

    @pytest.fixture
    def evaluation(self, colours, tmp_path):
        return [
            *("--dataset", "json", "--data_files", str(colours / "table.jsonl"), "--data_format", "table"),
            *("--cache_dir", str(tmp_path / "cache"), "--image_column", "image", "--image_folder", str(colours)),
            *("--eval_fraction", "0.25", "--max_length", "96", "--max_new_tokens", "3"),
        ]
