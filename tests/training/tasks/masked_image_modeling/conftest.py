import pytest

VIT = (
    "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, patch_size: 4, "
    "hidden_dropout_prob: 0.0}"
)


@pytest.fixture
def masked_run():
    """Arguments of a run of ten steps of FastMIM over a ViT, without `--output_dir`."""
    return [
        *("--task", "masked-image-modeling", "--model", "vit", "--model_config", VIT, "--method", "fastmim"),
        *("--method_config", "{block_size: 4, hog_cell: 4, decoder_hidden_size: 16, decoder_num_hidden_layers: 1}"),
        *("--image_size", "16", "--num_channels", "1", "--dataset", "digits", "--max_train_samples", "40"),
        *("--max_eval_samples", "11", "--per_device_train_batch_size", "8", "--num_train_epochs", "2"),
        *("--learning_rate", "0.02", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2"),
        *("--disable_tqdm", "true"),
    ]
