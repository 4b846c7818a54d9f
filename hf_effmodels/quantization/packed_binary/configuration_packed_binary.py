"""Which layers of a model are packed to bits: `quantization_config` of its `config.json`."""

from dataclasses import dataclass, field

from ...modeling.layers.binary import ACTIVATION_RULES
from ..stored import StoredConfig


@dataclass
class PackedBinaryConfig(StoredConfig):
    """Binary layers with weights of one bit.

    `pack_binary` and `deploy()` make one; a checkpoint that they led to has one. Given to `from_pretrained` of a
    binary network that is not packed, it folds and packs the loaded model.

    Args:
        layers: name of each packed layer -> the rule of its inputs, one of `ACTIVATION_RULES`.
        unpacked: name of each binary layer that has no packed form -> the rules of its weights and its inputs.
        attention: the attention function that the model was given together with its layers, or None for its own.
    """

    layers: dict[str, str] = field(default_factory=dict)
    unpacked: dict[str, list[str]] = field(default_factory=dict)
    attention: str | None = None
    #: What transformers looks for in a checkpoint.
    quant_method: str = field(default="packed_binary")

    def __post_init__(self):
        for argument in ("layers", "unpacked"):
            if not isinstance(getattr(self, argument), dict):
                given = getattr(self, argument)
                raise ValueError(f"{argument}: got {given!r}, accepted are names of layers with their rules.")
        for argument, rules in (("layers", self.layers), ("unpacked", {n: r[-1] for n, r in self.unpacked.items()})):
            for name, rule in rules.items():
                if rule not in ACTIVATION_RULES:
                    accepted = ", ".join(map(repr, ACTIVATION_RULES))
                    raise ValueError(f"{argument}: got {rule!r} for {name}, accepted are {accepted}.")
