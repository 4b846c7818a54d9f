"""A pipeline of a preset with random weights."""

from collections.abc import Mapping

import torch
from diffusers import VQModel
from transformers import LlamaConfig, LlamaForCausalLM

from .configuration_delvm import PRESETS
from .convert_delvm import without_special_tokens
from .pipeline_delvm import DelvmPipeline


def create_pipeline(
    preset: str = "delvm-300m",
    *,
    vqvae: Mapping | None = None,
    language_model: Mapping | None = None,
    image_size: int | None = None,
) -> DelvmPipeline:
    """The pipeline of `preset` with random weights, in evaluation mode.

    Args:
        preset: see `PRESETS`.
        vqvae, language_model: fields of the parts' configurations that shall differ from the preset's.
        image_size: see `DelvmPipeline`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    known = PRESETS[preset].config
    tokenizer = VQModel(**known["vqvae"] | dict(vqvae or {})).eval()
    codes = tokenizer.quantize.embedding.weight
    torch.nn.init.uniform_(codes, -1 / len(codes), 1 / len(codes))  # as the official one begins
    model = LlamaForCausalLM(LlamaConfig(**known["language_model"] | dict(language_model or {}))).eval()
    return DelvmPipeline(tokenizer, without_special_tokens(model), image_size)
