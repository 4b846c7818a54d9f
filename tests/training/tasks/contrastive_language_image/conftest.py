import pytest

TEXT = (
    "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2, "
    "max_position_embeddings: 32}"
)
#: Without batch norms, whose statistics are those of a batch.
VIT = "{model_type: vit, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
VIT += "patch_size: 8, hidden_dropout_prob: 0.0}"
MODEL = f"{{vision_config: {VIT}, text_config: {TEXT}, projection_dim: 12}}"


@pytest.fixture
def model_arguments():
    """Two tiny towers and a tokenizer of their captions."""
    return ["--model", "light_clip-resnet-18", "--model_config", MODEL, "--tokenizer", "train:540"] + [
        *("--image_size", "16"),
    ]


@pytest.fixture
def digit_arguments():
    return [
        *("--dataset", "digits", "--max_eval_samples", "11", "--class_names", "{'0': zero, '1': one}"),
        *("--caption_templates", "the digit {}", "a {} by hand", "--eval_templates", "a drawn {}"),
    ]


@pytest.fixture
def contrastive_run(model_arguments, digit_arguments):
    """Arguments of a run of ten steps with all losses, without `--output_dir`."""
    return [
        *("--task", "contrastive-language-image", *model_arguments, *digit_arguments, "--max_train_samples", "40"),
        *("--per_device_train_batch_size", "8", "--num_train_epochs", "2", "--learning_rate", "0.02"),
        *("--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2", "--eval_group", "4"),
        *("--disable_tqdm", "true"),
    ]
