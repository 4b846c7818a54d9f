"""Configuration of ADEM-VL (https://arxiv.org/abs/2410.17779) and its published variants."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from ...architecture import Preset, Published

VISION_MODEL_TYPES = ("clip_vision_model", "siglip_vision_model")


@strict
class AdemVLConfig(PreTrainedConfig):
    r"""
    Configuration of an ADEM-VL model. The defaults are the paper's with LLaMA-7B and CLIP ViT-L/14.

    Args:
        vision_config: a CLIP or SigLIP vision configuration of transformers.
        text_config: any decoder of the LLaMA layout: its layers add `mlp(norm(h))` to h.
        alpha: factor of the fusion before it is added to the feed-forward network's output (section 3.1).
        beta: factor of the projected image features (section 3.1).
        drop_ratio: fraction of the visual tokens, those of the lowest score, that each text token ignores (3.3).
        pool_sizes: sides of the grids the patch features are averaged to; all of them together are the visual tokens
            (3.2). The grid's own side passes the features through.
        projector_hidden_size: width between the two layers of a projection.
        vision_adapter_dim: width of the bottleneck beside each feed-forward network of the vision tower.
        vision_adapter_scale: factor of the bottlenecks' output.
        vision_adapter_dropout: dropout in the bottlenecks, in training.
        vision_feature_layer: the hidden state of the vision tower that is used, counted as in its `hidden_states`.
            Later layers are not built.
        use_cls_token: the projected class token (for SigLIP, which has none: the mean of the patches) stands in the
            text in place of the image token.
        image_token_id: id of the image token in the text; may lie outside the decoder's vocabulary. None only without
            `use_cls_token`.
        text_model_name_or_path, vision_model_name_or_path: where the frozen parts are; needed by folders that hold
            the trained weights only.
        adapter_only: the folder beside this configuration holds the trained weights only.
    """

    model_type = "adem_vl"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "vision_context"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "patch_size": 14,
                "image_size": 224,
                "projection_dim": 768,
            },
        ),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    alpha: float | int = 0.1
    beta: float | int = 0.01
    drop_ratio: float | int = 0.1
    pool_sizes: list[int] | tuple[int, ...] = (16, 8)
    projector_hidden_size: int = 128
    vision_adapter_dim: int = 12
    vision_adapter_scale: float | int = 0.1
    vision_adapter_dropout: float | int = 0.1
    vision_feature_layer: int = -2
    use_cls_token: bool = True
    image_token_id: int | None = 32000
    text_model_name_or_path: str | None = None
    vision_model_name_or_path: str | None = None
    adapter_only: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.pool_sizes = list(self.pool_sizes)
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)

    @property
    def num_vision_tokens(self) -> int:
        return sum(size * size for size in self.pool_sizes)

    @property
    def vision_grid_size(self) -> int:
        """Patches along a side of the image."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def vision_depth(self) -> int:
        """Layers of the vision tower that are run."""
        layers = self.vision_config.num_hidden_layers
        return self.vision_feature_layer + (layers + 1 if self.vision_feature_layer < 0 else 0)

    def validate_architecture(self):
        """Checks across fields; called by `__init__`."""
        if self.vision_config.model_type not in VISION_MODEL_TYPES:
            raise ValueError(
                f"vision_config: got model_type {self.vision_config.model_type!r}, accepted are "
                f"{', '.join(VISION_MODEL_TYPES)} (of a full CLIP configuration, its vision_config)."
            )
        layers = self.vision_config.num_hidden_layers
        if not 1 <= self.vision_depth <= layers:
            raise ValueError(
                f"vision_feature_layer: got {self.vision_feature_layer} for a tower of {layers} layers, accepted are "
                f"1 to {layers}, or -{layers} to -1."
            )
        if not self.pool_sizes or not all(1 <= size <= self.vision_grid_size for size in self.pool_sizes):
            raise ValueError(
                f"pool_sizes: got {self.pool_sizes}, accepted are sides from 1 to that of the grid of patches, "
                f"{self.vision_grid_size}."
            )
        if not 0 <= self.drop_ratio < 1:
            raise ValueError(f"drop_ratio: got {self.drop_ratio}, accepted are values from 0 to below 1.")
        if self.use_cls_token and self.image_token_id is None:
            raise ValueError("image_token_id: got None, but with use_cls_token the class token needs a place.")
        for name in ("logits_scaling", "logit_scale", "residual_multiplier"):
            if getattr(self.text_config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"text_config: decoders with {name} ({self.text_config.model_type}) are not supported."
                )


IMAGENET_PROCESSOR = {
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
CLIP_PROCESSOR = {
    **IMAGENET_PROCESSOR,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

_LLAMA_13B = {
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
_RELEASES = "https://github.com/Hao840/ADEM-VL/releases"
_NOTE = (
    "The official repository has no licence file; treat the weights as research use. LLaMA weights carry Meta's "
    "licence."
)


def _preset(image_processor: dict, text_config: dict | None, parameters: float, trainable: float, **more) -> Preset:
    return Preset(
        model_type="adem_vl",
        config={} if text_config is None else {"text_config": text_config},
        image_processor=image_processor,
        parameters=parameters,
        trainable_parameters=trainable,
        weights_license_note=_NOTE,
        **{"weights": _RELEASES, **more},
    )


#: name -> what is published. `parameters` (millions) counts all that is built, `trainable_parameters` the adapters.
#: The image statistics differ by task: ImageNet's for ScienceQA and instructions, CLIP's for captions.
PRESETS: dict[str, Preset] = {
    "adem_vl-7b-scienceqa": _preset(
        IMAGENET_PROCESSOR,
        None,
        7033.53,
        4.530432,
        published=(
            Published("accuracy", 93.85, "ScienceQA", "paper"),
            Published("accuracy", 94.01, "ScienceQA", "released weights"),
        ),
    ),
    "adem_vl-7b-caption": _preset(
        CLIP_PROCESSOR,
        None,
        7033.53,
        4.530432,
        published=(
            Published("BLEU-4", 38.5, "COCO captions", "released weights"),
            Published("CIDEr", 130.1, "COCO captions", "released weights"),
        ),
    ),
    "adem_vl-7b-instruction": _preset(
        IMAGENET_PROCESSOR,
        None,
        7033.53,
        4.530432,
        published=(
            Published("MME perception", 969.7, "MME", "released weights"),
            Published("MME cognition", 258.9, "MME", "released weights"),
        ),
    ),
    "adem_vl-13b": _preset(
        IMAGENET_PROCESSOR,
        _LLAMA_13B,
        13311.90,
        5.449984,
        published=(
            Published("accuracy", 94.55, "ScienceQA", "paper"),
            Published("BLEU-4", 38.5, "COCO captions", "paper"),
            Published("CIDEr", 133.2, "COCO captions", "paper"),
        ),
        weights=None,
    ),
}
