"""Stock vision-language models, tiny and random, with prompts that have images."""

from collections.abc import Callable
from functools import partial

import torch
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3Config,
)

IMAGE = 95
_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.3,
}
_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 6,
}


def _llava(text_class=LlamaConfig, **text):
    config = LlavaConfig(
        text_config=text_class(**_TEXT | text),
        vision_config=CLIPVisionConfig(**_CLIP),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config), lambda n: {"pixel_values": torch.randn(n, 3, 24, 24)}, 16


def _llava_next():
    config = LlavaNextConfig(
        text_config=MistralConfig(**_TEXT, sliding_window=None, head_dim=8),
        vision_config=CLIPVisionConfig(**_CLIP),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[24, 48], [48, 24]],
    )
    # The whole picture, and two halves side by side with the tokens that end their rows: 16 + 4 · (8 + 1).
    return (
        LlavaNextForConditionalGeneration(config),
        lambda n: {"pixel_values": torch.randn(n, 3, 3, 24, 24), "image_sizes": torch.tensor([[24, 48]] * n)},
        52,
    )


def _idefics3():
    config = Idefics3Config(
        text_config=LlamaConfig(**_TEXT),
        vision_config=_CLIP | {"model_type": "idefics3_vision"},
        image_token_id=IMAGE,
        scale_factor=1,
    )
    return Idefics3ForConditionalGeneration(config), lambda n: {"pixel_values": torch.randn(n, 1, 3, 24, 24)}, 16


def _internvl():
    config = InternVLConfig(
        text_config=Qwen2Config(**_TEXT),
        vision_config=_CLIP | {"model_type": "internvl_vision", "image_size": [24, 24], "patch_size": [6, 6]},
        image_token_id=IMAGE,
        downsample_ratio=1.0,
    )
    return InternVLForConditionalGeneration(config), lambda n: {"pixel_values": torch.randn(n, 3, 24, 24)}, 16


def _qwen(config_class, model_class, vision: dict):
    config = config_class(
        text_config=_TEXT
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        vision_config={"depth": 1, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, **vision},
        image_token_id=IMAGE,
        vision_start_token_id=96,
        vision_end_token_id=97,
        video_token_id=98,
    )

    def picture(n: int) -> dict[str, torch.Tensor]:
        grid = torch.tensor([[1, 8, 8]] * n)
        return {"pixel_values": torch.randn(64 * n, 3 * 2 * 4 * 4), "image_grid_thw": grid}

    return model_class(config), picture, 16


#: Model -> a function that makes it, pixels for a number of images, and how many tokens an image has.
STOCK: dict[str, Callable] = {
    "llava": _llava,
    # Norms of queries and keys; heads that are wider than the hidden size's share.
    "llava_qwen3": partial(_llava, Qwen3Config, head_dim=16),
    "llava_next": _llava_next,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "qwen2_vl": lambda: _qwen(Qwen2VLConfig, Qwen2VLForConditionalGeneration, {"embed_dim": 16, "hidden_size": 32}),
    "qwen2_5_vl": lambda: _qwen(
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 16, "window_size": 16},
    ),
}


def make(name: str, dtype: torch.dtype = torch.float32, **options) -> tuple[PreTrainedModel, Callable, int]:
    torch.manual_seed(4)
    model, pixels, tokens = STOCK[name](**options)
    return model.to(dtype).eval(), pixels, tokens


def prompt(name: str, pixels: Callable, tokens: int, images: int = 1, rows: int = 1) -> dict[str, torch.Tensor]:
    """Rows of words, `images` images each with a word between them, and words."""
    generator = torch.Generator().manual_seed(rows * 10 + images)
    words = torch.randint(2, 90, (rows, 8 + images), generator=generator)
    parts = [words[:, :3]]
    for number in range(images):
        parts += [torch.full((rows, tokens), IMAGE), words[:, 3 + number : 4 + number]]
    ids = torch.cat([*parts, words[:, 3 + images :]], dim=1)
    torch.manual_seed(images)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels(images * rows)}
    if name.startswith("qwen"):
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    return inputs
