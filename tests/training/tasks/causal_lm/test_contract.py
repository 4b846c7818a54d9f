from typing import ClassVar

import pytest

from ..contract import TaskContract


class TestCausalLM(TaskContract):
    task = "causal-lm"
    predicts = True
    short_quickstart: ClassVar = [
        *("--max_train_documents", "3", "--max_eval_documents", "1", "--tokenizer", "train:300", "--block_size", "32"),
        *("--model_config", "{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2}"),
    ]
    hard_to_resume: ClassVar = [
        *("--ema_decay", "0.8", "--gradient_accumulation_steps", "2", "--weight_decay", "0.1", "--bf16", "true"),
        *("--eval_strategy", "steps", "--eval_steps", "4"),
    ]
    save_steps, killed_at = 3, 9
    metrics = ("loss", "tokens")
    measured_again = ("loss", "perplexity", "tokens")

    @pytest.fixture
    def run(self, text_run):
        return text_run

    @pytest.fixture
    def evaluation(self, text_file):
        return ["--dataset", str(text_file), "--text_unit", "line", "--block_size", "16", "--eval_fraction", "0.1"]
