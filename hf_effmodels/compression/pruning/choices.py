"""What can be chosen of pruning, and which models it knows, by name: for those who ask before torch is there."""

from collections.abc import Collection

#: Language models all of whose weights are in the table of `structures`.
LANGUAGE_MODELS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "pangu_pi")
#: Vision transformers all of whose weights are in that of `vision`, and which read a head's width from `head_dim`.
VISION_TRANSFORMERS = ("vit", "deit", "vit_msn", "ijepa", "beit")
#: What may get smaller for a budget: all sizes but the number of layers, that number alone, or all.
WAYS = ("width", "depth", "any")
#: Which statistic of weights and gradients a method sums up. All are additive over the weights of a structure.
STATISTICS = ("l1", "l2", "taylor")
#: By what structures are chosen.
METHODS = (*STATISTICS, "activation", "learned")


def check_choice(name: str, value: str, accepted: Collection[str]) -> None:
    """ValueError unless an argument is one of these names."""
    if value not in accepted:
        raise ValueError(f"{name}: got {value!r}, accepted are {', '.join(map(repr, accepted))}.")


def check_type(name: str, model_type: str, accepted: Collection[str]) -> None:
    """ValueError unless a model is of one of these types; `name` is the argument."""
    if model_type not in accepted:
        raise ValueError(
            f"{name}: got the architecture {model_type!r}, accepted are {', '.join(map(repr, accepted))}."
        )
