from typing import ClassVar

import pytest

from ..contract import TaskContract

#: A segmenter without batch norms, in which nothing depends on how samples are batched: each canvas has both classes,
#: so that the masks of a batch are twice its images.
DTOP = [
    *("--segmenter", "dtop", "--image_size", "48"),
    "--model_config",
    "{backbone_config: {image_size: 48, patch_size: 8, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 2, "
    "num_attention_heads: 2, hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}, out_indices: [0, 1], "
    "thresholds: [0.51], head_num_layers: 1, head_num_attention_heads: 2, head_dropout: 0.1, drop_path_rate: 0.1}",
]
WITHOUT_DROPOUT = [
    word.replace("head_dropout: 0.1, drop_path_rate: 0.1", "head_dropout: 0, drop_path_rate: 0") for word in DTOP
]


class TestSemanticSegmentation(TaskContract):
    task = "semantic-segmentation"
    predicts = True
    short_quickstart: ClassVar = ["--max_train_samples", "32", "--max_eval_samples", "3", "--eval_strategy", "no"]
    short_quickstart += ["--load_best_model_at_end", "false", "--save_strategy", "no"]
    deterministic: ClassVar = WITHOUT_DROPOUT[-2:]
    metrics = ("miou", "pixel_accuracy", "samples")
    measured_again = ("miou", "pixel_accuracy", "samples")

    @pytest.fixture
    def run(self):
        return [
            *("--task", "semantic-segmentation", *DTOP, "--dataset", "digits", "--class_names", "ground", "ink"),
            *("--max_train_samples", "22", "--max_eval_samples", "5", "--scale_range", "0.4", "0.5"),
            *("--max_class_share", "1", "--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "4"),
            *("--num_train_epochs", "2", "--learning_rate", "0.01", "--logging_steps", "1"),
            *("--eval_strategy", "steps", "--eval_steps", "2", "--save_strategy", "no"),
            *("--load_best_model_at_end", "false", "--eval_pictures", "1"),
        ]

    @pytest.fixture
    def evaluation(self):
        return ["--dataset", "digits", "--class_names", "ground", "ink", "--max_eval_samples", "5"]
