"""How many parameters a decoder has, and which shape to give one (https://arxiv.org/abs/2402.02791, section 3)."""

from dataclasses import dataclass

from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig, PreTrainedConfig

from ..modeling.pangu_pi.configuration_pangu_pi import PanguPiConfig

CONFIGS = {"llama": LlamaConfig, "pangu_pi": PanguPiConfig}
#: Embedding and head should be less than this share of all parameters.
MOST_EMBEDDING_SHARE = 0.2
#: Widths of the feed-forward are 8/3 of the hidden size, rounded up to a multiple of this.
FEED_FORWARD_MULTIPLE = 256


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a causal language model.

    Attributes:
        embedding: of the token embedding.
        head: of the language modelling head, 0 where it is the embedding.
        layer: of one block.
        layers: of all blocks.
        total: of everything, the last norm included.
    """

    embedding: int
    head: int
    layer: int
    layers: int
    total: int

    @property
    def embedding_share(self) -> float:
        """Share of embedding and head in all parameters."""
        return (self.embedding + self.head) / self.total


def count_parameters(config: PreTrainedConfig) -> ParameterCount:
    """Parameters of the causal language model of a LLaMA-layout or PanGu-π configuration; nothing is built.

    Raises:
        ValueError: another architecture.
    """
    if config.model_type not in ("llama", "mistral", "pangu_pi"):
        raise ValueError(f"config: got {config.model_type!r}, accepted are 'llama', 'mistral' and 'pangu_pi'.")
    hidden, intermediate = config.hidden_size, config.intermediate_size
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    layer = 2 * hidden * (queries + keys) + 3 * hidden * intermediate + 2 * hidden
    if getattr(config, "attention_bias", False):
        layer += queries + 2 * keys + hidden
    if getattr(config, "mlp_bias", False):
        layer += 2 * intermediate + hidden
    if config.model_type == "pangu_pi":
        layer += 2 * len(config.series_activations) * intermediate
        layer += config.num_augmented_shortcuts * 2 * hidden * config.augmented_shortcut_size
    embedding = config.vocab_size * hidden
    head = 0 if config.tie_word_embeddings else embedding
    layers = config.num_hidden_layers * layer
    return ParameterCount(embedding, head, layer, layers, embedding + head + layers + hidden)


@dataclass(frozen=True)
class Shape:
    """A configuration and what it costs."""

    config: PreTrainedConfig
    parameters: ParameterCount

    @property
    def aspect(self) -> float:
        """Hidden size over number of layers: low is deep and thin."""
        return self.config.hidden_size / self.config.num_hidden_layers

    def row(self) -> dict:
        config, parameters = self.config, self.parameters
        return {
            "parameters": parameters.total,
            "num_hidden_layers": config.num_hidden_layers,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "embedding_share": parameters.embedding_share,
        }


def suggest_config(target_params: float, vocab_size: int, depth_first: bool = True, **options) -> PreTrainedConfig:
    """The configuration for a number of parameters: the first of `list_shapes`, which see."""
    return list_shapes(target_params, vocab_size, depth_first, **options)[0].config


def list_shapes(
    target_params: float,
    vocab_size: int,
    depth_first: bool = True,
    *,
    model_type: str = "llama",
    tolerance: float = 0.05,
    max_layers: int | None = None,
    head_dim: int | None = None,
    kv_groups: int = 1,
    **fields,
) -> list[Shape]:
    """Shapes that have a number of parameters, the recommended one first.

    The findings that are applied: depth matters most (Spearman 0.53 with quality, width -0.53), the expansion of the
    feed-forward hardly (8/3 is kept), nor the number of heads; deeper is slower, and about 20 layers at 1 B parameters
    is the paper's choice, its models have 21 and 22; embedding and head should take less than 20 %.

    Args:
        target_params: parameters, embedding and head included.
        vocab_size: number of tokens.
        depth_first: recommend the deepest shape of at most `max_layers`. Otherwise the shape nearest to LLaMA's
            proportion, a hidden size of 128 per layer.
        model_type: "llama" or "pangu_pi".
        tolerance: how far from the target the number of parameters may be, as a share of it.
        max_layers: None for 22 up to 1.5 B parameters and 22 (target / 1.5 B)^(1/4) above. (The paper looked at 1 B
            and 1.5 B; that exponent is ours and gives 32 at 7 B.)
        head_dim: None for 128 from a hidden size of 1024, 64 from 256, else 32.
        kv_groups: query heads that share a key and value head.
        fields: more fields of the configuration, such as `tie_word_embeddings=True`.

    Raises:
        ValueError: nothing has that size with this vocabulary.
    """
    for name, value, least in (
        ("target_params", target_params, 1),
        ("vocab_size", vocab_size, 1),
        ("kv_groups", kv_groups, 1),
    ):
        if not least <= value < float("inf"):
            raise ValueError(f"{name}: got {value}, accepted are numbers from {least}.")
    if model_type not in CONFIGS:
        raise ValueError(f"model_type: got {model_type!r}, accepted are {', '.join(map(repr, CONFIGS))}.")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: got {tolerance}, accepted are shares between 0 and 1.")
    if head_dim is not None and (head_dim < 2 or head_dim % 2):
        raise ValueError(f"head_dim: got {head_dim}, accepted are even numbers: the rotary embedding turns pairs.")
    if max_layers is None:
        max_layers = round(22 * max(1.0, target_params / 1.5e9) ** 0.25)
    shapes = []
    for hidden in _widths(target_params, head_dim, kv_groups):
        shape = _of_width(hidden, target_params, vocab_size, model_type, head_dim, kv_groups, fields)
        if shape is None or shape.config.num_hidden_layers > 4 * max_layers:  # threads, not networks
            continue
        if abs(shape.parameters.total / target_params - 1) <= tolerance:
            shapes.append(shape)
    if not shapes:
        raise ValueError(
            f"target_params: no {model_type} with {vocab_size} tokens has {target_params:.4g} parameters within "
            f"{100 * tolerance:g} %; {_ways(head_dim, kv_groups, fields)}."
        )
    # From thin to wide, which is from deep to shallow: the wider the layers, the fewer. Of those of one depth the
    # thinner has the smaller share of embedding and head.
    if depth_first:
        best = next((shape for shape in shapes if shape.config.num_hidden_layers <= max_layers), shapes[-1])
    else:
        best = min(shapes, key=lambda shape: abs(shape.aspect - 128))
    return [best, *(shape for shape in shapes if shape is not best)]


def _ways(head_dim: int | None, kv_groups: int, fields: dict) -> str:
    """What may be asked for instead."""
    ways = ["a smaller vocabulary", "a wider tolerance"]
    if head_dim is not None or kv_groups > 1:  # few widths hold whole groups of whole heads
        ways.append("heads of another width or in other groups")
    if not fields.get("tie_word_embeddings"):
        ways.append("tie_word_embeddings=True")
    return f"take {', '.join(ways[:-1])} or {ways[-1]}"


def _head_dim(hidden: int, head_dim: int | None) -> int:
    return head_dim or (128 if hidden >= 1024 else 64 if hidden >= 256 else 32)


def _widths(target_params: float, head_dim: int | None, kv_groups: int) -> list[int]:
    """Hidden sizes that whole groups of heads fill; one layer must fit."""
    most = int((target_params / 12) ** 0.5) + 1
    return [
        hidden
        for hidden in range(32, min(most, 16384) + 1, 32)
        if hidden % (_head_dim(hidden, head_dim) * kv_groups) == 0
    ]


def feed_forward_size(hidden_size: int) -> int:
    """8/3 of the hidden size, up to a multiple of 256 (of 32 for hidden sizes below 256)."""
    multiple = FEED_FORWARD_MULTIPLE if hidden_size >= 256 else 32
    return -(-(8 * hidden_size) // (3 * multiple)) * multiple


def _of_width(hidden, target, vocab_size, model_type, head_dim, kv_groups, fields) -> Shape | None:
    heads = hidden // _head_dim(hidden, head_dim)
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": feed_forward_size(hidden),
        "num_attention_heads": heads,
        "num_key_value_heads": heads // kv_groups,
        "head_dim": hidden // heads,
        "rms_norm_eps": 1e-5,
        **fields,
    }
    try:
        one = count_parameters(CONFIGS[model_type](num_hidden_layers=1, **sizes))
    except (ValueError, StrictDataclassError):  # such as an odd head_dim, which cannot be rotated
        return None
    layers = round((target - one.total + one.layer) / one.layer)
    if layers < 1:
        return None
    config = CONFIGS[model_type](num_hidden_layers=layers, **sizes)
    return Shape(config, count_parameters(config))


def table(shapes: list[Shape]) -> str:
    """The shapes as text, the recommended one marked."""
    lines = ["  parameters  layers  hidden  feed-forward  heads  kv heads  embedding+head  hidden/layers"]
    for number, shape in enumerate(shapes):
        c, share = shape.config, shape.parameters.embedding_share
        lines.append(
            f"{'*' if number == 0 else ' '} {shape.parameters.total:>10,}  {c.num_hidden_layers:>6}  "
            f"{c.hidden_size:>6}  {c.intermediate_size:>12}  {c.num_attention_heads:>5}  {c.num_key_value_heads:>8}  "
            f"{100 * share:>12.2f} %  {shape.aspect:>13.1f}{'  above 20 %' if share >= MOST_EMBEDDING_SHARE else ''}"
        )
    return "\n".join(lines)
