"""How a network is trained with ternary weights: `quantization_config` of its `config.json`."""

from dataclasses import dataclass, field

from ..stored import StoredConfig


@dataclass
class BitNet158Config(StoredConfig):
    """BitNet b1.58: weights of -1, 0 and 1, one scale for each.

    Args:
        scale: "mean" or "median" of |W|.
        activation_bits: of the inputs of the layers; None leaves them as they are.
        norm_before: normalise the inputs of each layer, as the first BitNet does.
        modules_to_not_convert: names of linear layers that stay as they are, beside the head.
    """

    scale: str = "mean"
    activation_bits: int | None = 8
    norm_before: bool = False
    modules_to_not_convert: list[str] | None = None
    #: What transformers looks for in a checkpoint.
    quant_method: str = field(default="bitnet158")

    def __post_init__(self):
        if self.scale not in ("mean", "median"):
            raise ValueError(f"scale: got {self.scale!r}, accepted are 'mean', 'median'.")
        if self.activation_bits not in (None, *range(2, 17)):
            raise ValueError(f"activation_bits: got {self.activation_bits}, accepted are none and 2 to 16.")
