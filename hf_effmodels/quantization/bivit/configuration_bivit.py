"""How a vision transformer is trained with binary layers: `quantization_config` of its `config.json`."""

from dataclasses import dataclass, field

from ..stored import StoredConfig


@dataclass
class BiVitConfig(StoredConfig):
    """BiViT (https://arxiv.org/abs/2211.07091): weights of one bit, and queries, keys, values and attention, too.

    Args:
        scale: of the weights of each output: "learned", or "mean" of |W|.
        binary_inputs: the layers see the signs of their inputs.
        attention: the blocks compute the softmax-aware binary attention.
        skip: parts of names of layers that stay real, beside all that stands outside of the blocks.
    """

    scale: str = "learned"
    binary_inputs: bool = False
    attention: bool = True
    skip: list[str] = field(default_factory=list)
    #: What transformers looks for in a checkpoint.
    quant_method: str = field(default="bivit")

    def __post_init__(self):
        if self.scale not in ("learned", "mean"):
            raise ValueError(f"scale: got {self.scale!r}, accepted are 'learned', 'mean'.")
        for name in ("binary_inputs", "attention"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, accepted are true and false.")
        if isinstance(self.skip, str) or not all(isinstance(name, str) for name in self.skip or ()):
            raise ValueError(f"skip: got {self.skip!r}, accepted are lists of names.")
        self.skip = list(self.skip or ())
