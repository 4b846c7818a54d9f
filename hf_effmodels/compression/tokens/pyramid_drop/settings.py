"""When image tokens leave, and how many."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedConfig

#: Decoders whose blocks are run here: one residual stream, full attention with rotary positions, no other path for
#: what the images say. Model type of the text configuration -> whether its positions have three axes (M-RoPE).
DECODERS = {
    "llama": False,
    "mistral": False,
    "qwen2": False,
    "qwen2_5_vl_text": True,
    "qwen2_vl_text": True,
    "qwen3": False,
}
SCOPES = ("joint", "image")
POSITION_MODES = ("renumber", "keep")


@dataclass(frozen=True)
class PyramidDropSettings:
    """What `apply_pyramid_drop` was asked for; `model.config.pyramid_drop` has it as a mapping.

    Attributes:
        layers: after so many blocks image tokens leave, ascending; the block that follows ranks them.
        ratios: share of the *original* image tokens that stays after each drop; int(tokens · ratio) stay.
        scope: "joint" ranks all image tokens of a row together, "image" those of each image (each unbroken run of
            image tokens) by themselves.
        position_mode: "renumber" lets the tokens that stay slide together, as the paper's code does; "keep" leaves
            each its position; None is "keep" where positions have three axes (Qwen2-VL), else "renumber".
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    scope: str = "joint"
    position_mode: str | None = None

    def __post_init__(self):
        for name in ("layers", "ratios"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise ValueError(f"{name}: got {value!r}, accepted is a list of numbers with at least one.")
            object.__setattr__(self, name, tuple(value))
        if len(self.layers) != len(self.ratios):
            raise ValueError(
                f"ratios: got {len(self.ratios)} for {len(self.layers)} layers, accepted is one for each layer."
            )
        whole = all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 1 for layer in self.layers)
        if not whole or sorted(set(self.layers)) != list(self.layers):
            raise ValueError(f"layers: got {list(self.layers)}, accepted are ascending whole numbers from 1.")
        falling = all(a >= b for a, b in zip((1.0, *self.ratios), self.ratios, strict=False))
        if not falling or not all(0 <= ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"ratios: got {list(self.ratios)}, accepted are shares from 1 down to 0, never rising.")
        if self.scope not in SCOPES:
            raise ValueError(f"scope: got {self.scope!r}, accepted are {', '.join(SCOPES)}.")
        if self.position_mode not in (None, *POSITION_MODES):
            raise ValueError(
                f"position_mode: got {self.position_mode!r}, accepted are {', '.join(POSITION_MODES)} or none."
            )

    def kept(self, tokens: int, stage: int) -> int:
        """How many of `tokens` image tokens stay after drop number `stage` (from 0)."""
        return int(tokens * self.ratios[stage])

    def to_dict(self) -> dict:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def default_layers(num_layers: int) -> tuple[int, ...]:
    """Three drops that cut the network into four equal stages: 8, 16 and 24 of 32 blocks, as published. Networks of
    fewer than four blocks have fewer."""
    layers = {math.ceil(num_layers * share / 4) for share in (1, 2, 3)}
    return tuple(sorted(layer for layer in layers if layer < num_layers))


#: Half of the image tokens leave at each drop.
DEFAULT_RATIOS = (0.5, 0.25, 0.125)


def check_decoder(config: PreTrainedConfig, settings: PyramidDropSettings) -> None:
    """A ValueError says why the decoder of this configuration cannot be run with these settings."""
    if config.model_type not in DECODERS:
        raise ValueError(f"model: got a decoder of type {config.model_type!r}, accepted are {', '.join(DECODERS)}.")
    if settings.layers[-1] >= config.num_hidden_layers:
        raise ValueError(
            f"layers: got {list(settings.layers)} of {config.num_hidden_layers} blocks; the last drop needs a block "
            f"after it, accepted are 1 to {config.num_hidden_layers - 1}."
        )
    # Mistral has no `layer_types`: its window is for all blocks.
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = config.model_type == "mistral" and config.sliding_window is not None
    if windowed or set(kinds) != {"full_attention"}:
        raise ValueError(
            f"model: got a decoder with sliding windows (sliding_window={config.sliding_window}), accepted is full "
            "attention; where prompts are shorter than the window, load it with sliding_window=None."
        )
    if DECODERS[config.model_type] and settings.position_mode == "renumber":
        raise ValueError("position_mode: got 'renumber', accepted for positions with three axes is 'keep'.")
