"""The published variants of DeLVM: their networks, their numbers and where they come from.

Plain data: importing it loads neither torch nor diffusers.
"""

from collections.abc import Mapping

from ...architecture import Preset, Published

#: The tokenizer, 16×16 tokens of 8192 codes for 256×256 pixels. Codes and their width are the paper's; the widths of
#: its stages are those of the aMUSEd tokenizer, as the released one is believed to have: a conversion reads them from
#: the weights.
VQVAE: Mapping[str, object] = {
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "block_out_channels": [128, 256, 256, 512, 768],
    "layers_per_block": 2,
    "latent_channels": 64,
    "sample_size": 256,
    "num_vq_embeddings": 8192,
    "vq_embed_dim": 64,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}
#: What makes a LLaMA one of DeLVM's. The default ids of the special tokens would be codes of the images.
DELVM_LLAMA: Mapping[str, object] = {
    "attention_bias": True,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _language_model(hidden_size: int, num_attention_heads: int, intermediate_size: int) -> dict[str, object]:
    return {
        "vocab_size": 8192,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": 22,
        "num_attention_heads": num_attention_heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,  # as the official conversion to the released layout writes it; training has 1e-5
        **DELVM_LLAMA,
    }


def _preset(language_model: Mapping, parameters: float, macs: float, **more) -> Preset:
    return Preset(
        model_type="delvm",
        config={"vqvae": VQVAE, "language_model": language_model},
        parameters=round(parameters + 146.24, 2),
        part_parameters={"vqvae": 146.24, "language_model": parameters},
        macs=macs,
        part_macs={"encoder": 108_166.9, "decoder": 238_676.9},
        weights_license_note="the official README has a badge of MIT, the repository no licence file",
        **more,
    )


def _quality(**values: tuple[float, float]) -> tuple[Published, ...]:
    """Token accuracy and perplexity by data set, of the models trained on several tasks."""
    names = {"segmentation": "SA-1B", "pose": "COCO-Pose", "derain": "Rain13K"}
    return tuple(
        Published(metric, value, names[task], "ICML poster")
        for task, pair in values.items()
        for metric, value in zip(("token accuracy", "perplexity"), pair, strict=True)
    )


#: Parameters in millions; `macs`: multiply-adds in millions of one token (linear layers), those of the tokenizer's
#: halves for one image in `part_macs`. The 80M model's sizes are not published.
PRESETS: dict[str, Preset] = {
    "delvm-300m": _preset(
        _language_model(1024, 8, 2816),
        299.50,
        290.98,
        published=_quality(segmentation=(18.84, 106.81), pose=(20.32, 139.27), derain=(11.93, 269.04)),
        weights="https://github.com/ggjy/DeLVM/releases",
    ),
    "delvm-1b": _preset(
        _language_model(2048, 16, 5632),
        1164.19,
        1147.14,
        published=_quality(segmentation=(19.72, 94.75), pose=(20.77, 129.95), derain=(12.20, 245.33)),
        weights="https://github.com/ggjy/DeLVM",
    ),
}
