import pytest


@pytest.fixture
def adapted_run(convnext_folder):
    """Arguments of a run of three rounds of four steps, without `--output_dir`."""
    return [
        *("--task", "source-free-adaptation", "--model", str(convnext_folder), "--dataset", "digits-inverted"),
        *("--max_train_samples", "60", "--max_eval_samples", "11", "--train_crop", "random_padded"),
        *("--per_device_train_batch_size", "8", "--samples_per_class", "2", "--steps_per_round", "4"),
        *("--min_samples_per_class", "2", "--num_train_epochs", "3", "--optim", "sgd", "--learning_rate", "0.01"),
        *("--logging_steps", "1", "--disable_tqdm", "true"),
    ]
