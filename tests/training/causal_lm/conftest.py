"""Networks and texts so small that a run takes a second."""

import pytest

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
def run(text_file):
    """Arguments of a run of twelve steps, without `--output_dir`."""
    return [
        *("--task", "causal-lm", "--model", "pangu-pi-15m", "--model_config", SIZES, "--tokenizer", "train:300"),
        *("--dataset", str(text_file), "--text_unit", "line", "--block_size", "16", "--max_steps", "12"),
        *("--per_device_train_batch_size", "4", "--learning_rate", "0.003", "--adam_beta2", "0.95"),
        *("--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no", "--disable_tqdm", "true"),
    ]
