"""A network without batch norm, so small that a run takes a second, in a folder as `--model` takes it."""

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
