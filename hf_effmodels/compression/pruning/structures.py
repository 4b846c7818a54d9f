"""Which dimension of which weight belongs to which structure of a decoder in LLaMA's layout (or Phi's), or of PanGu-π.

Scores, masks and slices are all computed from this one table. The axes:

    hidden      channels of the residual stream, the same in every layer
    queries     rows of whole query heads        (units: heads)
    keys        rows of whole key/value heads    (units: groups)
    ffn         neurons of the feed-forward
    bottleneck  units of one of PanGu-π's augmented shortcuts
"""

import re
from dataclasses import dataclass

from transformers import PreTrainedConfig

from .choices import LANGUAGE_MODELS, check_type

#: weight -> the axis of each of its dimensions, None for one that is not sliced
_AXES = {
    r"embed_tokens\.weight": (None, "hidden"),
    r"lm_head\.weight": (None, "hidden"),
    r"(score|qa_outputs)\.weight": (None, "hidden"),
    r"(lm_head|score|qa_outputs)\.bias": (None,),
    r"norm\.weight": ("hidden",),
    r"(input|post_attention|final)_layernorm\.(weight|bias)": ("hidden",),
    r"self_attn\.[qk]_(norm|layernorm)\.(weight|bias)": (None,),
    r"self_attn\.q_proj\.weight": ("queries", "hidden"),
    r"self_attn\.[kv]_proj\.weight": ("keys", "hidden"),
    r"self_attn\.(o_proj|dense)\.weight": ("hidden", "queries"),
    r"self_attn\.q_proj\.bias": ("queries",),
    r"self_attn\.[kv]_proj\.bias": ("keys",),
    r"(self_attn\.(o_proj|dense)|mlp\.(down_proj|fc2))\.bias": ("hidden",),
    r"mlp\.(gate_proj|up_proj|fc1)\.weight": ("ffn", "hidden"),
    r"mlp\.(gate_proj|up_proj|fc1)\.bias": ("ffn",),
    r"mlp\.(down_proj|fc2)\.weight": ("hidden", "ffn"),
    r"mlp\.act_fn\.(scale|bias)": (None, "ffn"),
    r"augmented_shortcuts\.\d+\.down_proj\.weight": ("bottleneck", "hidden"),
    r"augmented_shortcuts\.\d+\.up_proj\.weight": ("hidden", "bottleneck"),
}
_RULES = [(re.compile(rf"(^|\.)({pattern})$"), axes) for pattern, axes in _AXES.items()]
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_SHORTCUT = re.compile(r"augmented_shortcuts\.(\d+)\.")


@dataclass(frozen=True)
class Axis:
    """One dimension of a weight: which structure, of which layer (None for the residual stream)."""

    kind: str
    layer: int | None = None
    shortcut: int | None = None


def axes_of(name: str) -> tuple[Axis | None, ...]:
    """The axes of a weight by its name.

    Raises:
        ValueError: a weight that these architectures do not have.
    """
    for pattern, kinds in _RULES:
        if pattern.search(name):
            layer = _LAYER.search(name)
            shortcut = _SHORTCUT.search(name)
            number = None if layer is None else int(layer[1])
            return tuple(_axis(kind, number, None if shortcut is None else int(shortcut[1])) for kind in kinds)
    raise ValueError(f"model: it has a weight {name!r}, which a decoder in LLaMA's layout does not have.")


def _axis(kind: str | None, layer: int | None, shortcut: int | None) -> Axis | None:
    if kind is None:
        return None
    if kind == "hidden":
        return Axis(kind)
    return Axis(kind, layer, shortcut if kind == "bottleneck" else None)


def check_architecture(config: PreTrainedConfig, name: str = "model") -> None:
    """Raises ValueError for a configuration of anything but a LLaMA-layout or PanGu-π decoder; `name` is whose."""
    check_type(name, config.model_type, LANGUAGE_MODELS)
    if getattr(config, "is_heterogeneous", False):
        differing = ", ".join(sorted(config.per_layer_attributes)) or "what they skip"
        raise ValueError(
            f"{name}: its layers differ in {differing} (per_layer_config), accepted are layers of one size: those of "
            f"transformers' {config.model_type} do not read what differs."
        )


@dataclass(frozen=True)
class Sizes:
    """Sizes of a decoder that inheritance can change."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    bottleneck: int
    head_dim: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "Sizes":
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            getattr(config, "augmented_shortcut_size", 0),
            head_dim,
        )

    def units(self, kind: str) -> int:
        """Number of structures along an axis."""
        return {
            "hidden": self.hidden_size,
            "queries": self.num_attention_heads,
            "keys": self.num_key_value_heads,
            "ffn": self.intermediate_size,
            "bottleneck": self.bottleneck,
        }[kind]

    def rows(self, kind: str) -> int:
        """Rows or columns of a weight that one structure has."""
        return self.head_dim if kind in ("queries", "keys") else 1
