"""Adding a quantiser to transformers from outside."""

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer

PACKAGE = "hf_effmodels"


class TrainedQuantizer(HfQuantizer):
    """Of layers whose weights are stored in full precision, and whose training goes on."""

    requires_calibration = False

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True


def register(method: str, config_class: type, quantizer_class: type) -> None:
    """Make the quantisation `method` known to transformers' `from_pretrained`.

    A folder from the Hub carries a copy of this code: copies step back where the method is known already, by this
    package or by another copy, and the package takes the place of a copy.
    """
    if method in AUTO_QUANTIZER_MAPPING and __name__.partition(".")[0] != PACKAGE:
        return
    AUTO_QUANTIZATION_CONFIG_MAPPING[method] = config_class
    AUTO_QUANTIZER_MAPPING[method] = quantizer_class
