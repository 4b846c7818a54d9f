"""A tokenizer and a transformer small enough for tests."""

import torch
from diffusers import VQModel
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.pipelines.delvm.convert_delvm import DELVM_LLAMA, without_special_tokens


def tiny_vqvae(seed: int = 0) -> VQModel:
    """16×16 pixels, or any multiple of 2: one token for 2×2 of them, 32 codes."""
    torch.manual_seed(seed)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=32,
        sample_size=16,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    ).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model.requires_grad_(False)


def tiny_language_model(seed: int = 0, vocab_size: int = 32, **fields) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config |= {"max_position_embeddings": 1024, "initializer_range": 0.3, **DELVM_LLAMA, **fields}
    return without_special_tokens(LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **config)).eval())
