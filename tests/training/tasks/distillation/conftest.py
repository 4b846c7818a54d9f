"""A teacher for digits, of another size, mean and deviation than the student's."""

import pytest
import torch
from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("teacher")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=10, layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)
    processor = ConvNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_pct=0.875, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    )
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def distilled_run(digits_run, teacher):
    """Arguments of a run of ten steps, without `--output_dir`."""
    return ["--task", "distillation", "--teacher", str(teacher), *digits_run]
