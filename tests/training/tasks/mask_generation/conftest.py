"""A teacher of another size, mean and deviation than the student's, and a run of a few steps."""

import pytest
import torch
from transformers import SamImageProcessorPil

from ....pipelines.hierarchical_mask_generation.models import build

VISION = "{image_size: 32, patch_size: 8, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, "
VISION += "window_size: 2, global_attn_indexes: [0], output_channels: 16, num_pos_feats: 8, initializer_range: 0.02}"
PARTS = "prompt_encoder_config: {image_size: 32, patch_size: 8, hidden_size: 16, mask_input_channels: 4}, "
PARTS += "mask_decoder_config: {hidden_size: 16, mlp_dim: 16, num_attention_heads: 2, iou_head_hidden_dim: 8}"
DATA = ["--prompts_per_picture", "2", "--shapes_per_picture", "3", "--eval_pictures", "5"]


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A SAM for pictures of 64 pixels."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("teacher")
    model, _ = build("sam")
    model.save_pretrained(folder)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    SamImageProcessorPil(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4], **sizes).save_pretrained(folder)
    return folder


@pytest.fixture
def sam_run(teacher):
    """Arguments of a run of six steps, without `--output_dir`."""
    return [
        *("--task", "mask-generation", "--model", "sam", "--teacher", str(teacher)),
        *("--model_config", f"{{vision_config: {VISION}, {PARTS}}}", "--train_pictures", "16", *DATA),
        *("--hard_prompt_rounds", "2", "--per_device_train_batch_size", "4", "--num_train_epochs", "3"),
        *("--learning_rate", "0.01", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "2"),
        *("--shown_pictures", "0", "--report_to", "none"),
    ]
