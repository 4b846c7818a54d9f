"""Adding a quantiser to transformers from outside."""

from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

PACKAGE = "hf_effmodels"


def register(method: str, config_class: type, quantizer_class: type) -> None:
    """Make the quantisation `method` known to transformers' `from_pretrained`.

    A folder from the Hub carries a copy of this code: copies step back where the method is known already, by this
    package or by another copy, and the package takes the place of a copy.
    """
    if method in AUTO_QUANTIZER_MAPPING and __name__.partition(".")[0] != PACKAGE:
        return
    AUTO_QUANTIZATION_CONFIG_MAPPING[method] = config_class
    AUTO_QUANTIZER_MAPPING[method] = quantizer_class
