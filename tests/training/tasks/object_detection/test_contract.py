from typing import ClassVar

import pytest

from ..contract import TaskContract

#: A detector without batch norms or dropout, in which nothing depends on how samples are batched.
YOLOS = [
    *("--detector", "yolos", "--image_size", "32"),
    "--model_config",
    "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16, image_size: [32, 32], "
    "patch_size: 16, num_detection_tokens: 6, layer_norm_eps: 0.01}",
]


class TestObjectDetection(TaskContract):
    task = "object-detection"
    predicts = True
    short_quickstart: ClassVar = ["--max_train_samples", "32", "--max_eval_samples", "3", "--eval_strategy", "no"]
    short_quickstart += ["--load_best_model_at_end", "false", "--save_strategy", "no"]
    # Three steps an epoch: killed in the second one.
    hard_to_resume: ClassVar = ["--ema_decay", "0.8", "--gradient_accumulation_steps", "2", "--ema_ramp", "3"]
    hard_to_resume += ["--mosaic", "1", "--mixup", "0.5", "--num_train_epochs", "3"]
    deterministic: ClassVar = ["--learning_rate", "0.001"]
    save_steps, killed_at = 2, 4
    # DETR's loss of the classes is a mean in which "nothing" weighs a tenth: of two halves not that of the whole.
    rtol = 1e-3
    metrics = ("top_score", "map", "samples")
    measured_again = ("top_score", "map", "samples")

    @pytest.fixture
    def run(self):
        return [
            *("--task", "object-detection", *YOLOS, "--dataset", "digits", "--max_train_samples", "22"),
            *("--max_eval_samples", "5", "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4"),
            *("--num_train_epochs", "2", "--learning_rate", "0.01", "--logging_steps", "1", "--scale", "0.3"),
            *("--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "no"),
            *("--load_best_model_at_end", "false", "--eval_pictures", "1", "--eval_threshold", "0"),
        ]

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits", "--max_eval_samples", "5", "--eval_threshold", "0"]
