"""What of a model is quantised, and how: `quantization_config` of its `config.json`."""

from dataclasses import dataclass, field

from ..stored import StoredConfig


@dataclass
class TwinUniformConfig(StoredConfig):
    """TinySAM's post-training quantisation (https://arxiv.org/abs/2312.13789): linear layers, products of attention.

    `quantize_promptable` makes one; a checkpoint that it wrote has one.

    Args:
        weight_bits, activation_bits: 2 to 8, 2 to 16.
        linears: name of each quantised linear layer -> [row groups, column groups, input groups, its inputs follow a
            GELU].
        products: name of each attention whose products are quantised -> its heads.
        shifted: see `quantize_after_softmax`.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    linears: dict[str, list] = field(default_factory=dict)
    products: dict[str, int] = field(default_factory=dict)
    shifted: bool = False
    #: What transformers looks for in a checkpoint.
    quant_method: str = field(default="twin_uniform")

    def __post_init__(self):
        for name, most in (("weight_bits", 8), ("activation_bits", 16)):
            value = getattr(self, name)
            if type(value) is not int or not 2 <= value <= most:
                raise ValueError(f"{name}: got {value!r}, accepted are whole numbers from 2 to {most}.")
