"""A language model and a CLIP, so small that a run takes seconds, in folders as `--text_model` and `--vision_model`
take them, and pictures of four colours with questions about some of them."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel

from hf_effmodels.training.data.text.tokenization import train_tokenizer
from hf_effmodels.training.tasks.image_text_to_text.models import SPECIAL_TOKENS

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "gray": (90, 90, 90)}


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bases")
    tokenizer = train_tokenizer(
        ["Instruction: Which colour is it?\nResponse:", *COLOURS], 300, special_tokens=SPECIAL_TOKENS, at_most=True
    )
    text = AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=300
    )
    AutoModelForCausalLM.from_config(text).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, patch_size=8, image_size=32
    )
    CLIPVisionModel(vision).save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """A folder with pictures, and `table.jsonl`: 16 rows, every fourth without an image."""
    folder = tmp_path_factory.mktemp("colours")
    rows = []
    for number in range(16):
        name = list(COLOURS)[number % 4]
        Image.new("RGB", (40, 30), tuple(min(255, c + number) for c in COLOURS[name])).save(folder / f"{number}.png")
        question = "Which colour is it?" if number % 4 else "Which colour has a mouse?"
        rows.append({"image": f"{number}.png" if number % 4 else None, "question": question, "answer": name})
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def model_arguments(bases):
    return [
        *("--task", "image-text-to-text", "--model", "adem_vl-7b-instruction"),
        *("--text_model", str(bases / "llm"), "--vision_model", str(bases / "clip")),
        *(
            "--model_config",
            '{"pool_sizes": [4, 2], "projector_hidden_size": 8, "vision_adapter_dim": 4, "beta": 0.5}',
        ),
    ]


@pytest.fixture
def colour_run(model_arguments, colours, tmp_path):
    """Arguments of a run of eight steps, without `--output_dir`."""
    return [
        *model_arguments,
        *("--dataset", "json", "--data_files", str(colours / "table.jsonl"), "--data_format", "table"),
        *(
            "--cache_dir",
            str(tmp_path / "cache"),
            "--image_column",
            "image",
            "--image_folder",
            str(colours),
            "--eval_fraction",
            "0.25",
        ),
        *("--max_length", "96", "--max_new_tokens", "3", "--per_device_train_batch_size", "3"),
        *("--num_train_epochs", "2", "--logging_steps", "1", "--learning_rate", "0.01", "--disable_tqdm", "true"),
    ]
