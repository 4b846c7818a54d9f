"""How the adder layers of a model are quantised: `quantization_config` of its `config.json`."""

from dataclasses import dataclass, field

from ..stored import StoredConfig
from .algorithm import check_bits, check_keep_ratio


@dataclass
class AdderQuantConfig(StoredConfig):
    """AdderNet's post-training quantisation (https://arxiv.org/abs/2212.10200).

    `quantize_adder` makes one; a checkpoint that it led to has one.

    Args:
        bits: of the weights, 2 to 8.
        activation_bits: of the inputs, 2 to 8; None is as many as the weights have.
        n_groups: groups of filters with a scale each.
        keep_ratio: quantile of the inputs above which they are cut off.
        layers: names of the quantised layers.
    """

    bits: int = 8
    activation_bits: int | None = None
    n_groups: int = 4
    keep_ratio: float = 0.9997
    layers: list[str] = field(default_factory=list)
    #: What transformers looks for in a checkpoint.
    quant_method: str = field(default="adder")

    def __post_init__(self):
        check_bits("bits", self.bits)
        if self.activation_bits is None:
            self.activation_bits = self.bits
        check_bits("activation_bits", self.activation_bits)
        if type(self.n_groups) is not int or not 1 <= self.n_groups <= 256:
            raise ValueError(f"n_groups: got {self.n_groups!r}, accepted are whole numbers from 1 to 256.")
        check_keep_ratio(self.keep_ratio)
