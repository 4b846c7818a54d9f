from typing import ClassVar

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.training.data.text.tokenization import train_tokenizer

from ..contract import TaskContract

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "max_position_embeddings": 64}


@pytest.fixture(scope="session")
def pair(tmp_path_factory, text_file):
    """A student of one layer and a wider teacher of two, of one tokenizer."""
    tokenizer = train_tokenizer(text_file.read_text().splitlines(), 300, 64)
    torch.manual_seed(3)
    folders = []
    for layers, width in ((1, 32), (2, 40)):
        folders.append(tmp_path_factory.mktemp("language") / f"layers-{layers}")
        config = LlamaConfig(vocab_size=300, num_hidden_layers=layers, **SIZES | {"hidden_size": width})
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data *= 20  # predictions that are not even
        model.save_pretrained(folders[-1])
        tokenizer.save_pretrained(folders[-1])
    return folders


class TestLanguageDistillation(TaskContract):
    task = "language-distillation"
    predicts = True
    short_quickstart: ClassVar = [
        *("--max_train_documents", "3", "--max_eval_documents", "1", "--block_size", "32"),
    ]
    hard_to_resume: ClassVar = [
        *("--ema_decay", "0.8", "--gradient_accumulation_steps", "2", "--label_weight", "0.3"),
        *("--hidden_states_weight", "0.5", "--divergence", "jsd", "--eval_strategy", "steps", "--eval_steps", "4"),
    ]
    deterministic: ClassVar = ["--label_weight", "0.3", "--hidden_states_weight", "0.5", "--top_k", "20"]
    save_steps, killed_at = 3, 9
    metrics = ("loss", "tokens")
    measured_again = ("loss", "perplexity", "tokens")

    @pytest.fixture(autouse=True)
    def models_of_the_quickstart(self, pair):
        student, teacher = map(str, pair)
        self.short_quickstart = [*self.short_quickstart, "--model", student, "--teacher", teacher]

    @pytest.fixture
    def run(self, pair, text_file):
        student, teacher = map(str, pair)
        return [
            *("--task", "language-distillation", "--model", student, "--teacher", teacher),
            *("--dataset", str(text_file), "--text_unit", "line", "--block_size", "16", "--max_steps", "12"),
            *("--per_device_train_batch_size", "4", "--learning_rate", "0.003"),
            *("--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true"),
        ]

    @pytest.fixture
    def evaluation(self, text_file):
        return ["--dataset", str(text_file), "--text_unit", "line", "--block_size", "16", "--eval_fraction", "0.1"]
