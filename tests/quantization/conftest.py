"""A tiny language model and its texts, for all quantisers."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a model whose first norm has channels far above the others, as trained models do; bfloat16."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.1, tie_word_embeddings=True))
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[5] = 30.0
    folder = tmp_path_factory.mktemp("dense")
    model.bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture
def dense(checkpoint):
    return lambda dtype=torch.bfloat16: LlamaForCausalLM.from_pretrained(checkpoint, dtype=dtype)


@pytest.fixture(scope="session")
def samples():
    return torch.randint(96, (8, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def held_out():
    return torch.randint(96, (4, 24), generator=torch.Generator().manual_seed(2))
