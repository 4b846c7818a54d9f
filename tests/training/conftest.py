"""Networks, pictures and texts so small that a run takes a second."""

import pytest
import torch
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessorPil


@pytest.fixture(scope="session")
def convnext_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("convnext")
    config = ConvNextConfig(
        patch_size=2, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=16, num_labels=10
    )
    ConvNextForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.875).save_pretrained(folder)
    return folder


@pytest.fixture
def digits_run(convnext_folder, tmp_path):
    """Arguments of a run of ten steps, without `--output_dir`."""
    return [
        *("--model", str(convnext_folder), "--dataset", "digits", "--train_crop", "random_padded"),
        *("--max_train_samples", "40", "--max_eval_samples", "11", "--per_device_train_batch_size", "8"),
        *("--num_train_epochs", "2", "--logging_steps", "1", "--optim", "sgd", "--learning_rate", "0.05"),
        *("--disable_tqdm", "true"),
    ]


SIZES = "{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2}"
MIXTURE = (
    "{hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2, num_local_experts: 4}"
)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """Forty documents, one a line, of different lengths."""
    lines = [f"Line {n} tells of {n * n} things, and then of {n} more." * (1 + n % 3) for n in range(40)]
    file = tmp_path_factory.mktemp("text") / "lines.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def text_run(text_file):
    """Arguments of a run of twelve steps, without `--output_dir`."""
    return [
        *("--task", "causal-lm", "--model", "pangu-pi-15m", "--model_config", SIZES, "--tokenizer", "train:300"),
        *("--dataset", str(text_file), "--text_unit", "line", "--block_size", "16", "--max_steps", "12"),
        *("--per_device_train_batch_size", "4", "--learning_rate", "0.003", "--adam_beta2", "0.95"),
        *("--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true"),
    ]
