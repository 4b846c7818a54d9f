"""transformers' way to load models that are trained with ternary weights: `quant_method: bitnet158`."""

from transformers.quantizers.base import HfQuantizer

from ..registration import register
from .configuration_bitnet158 import BitNet158Config
from .replacement import heads, replace_linears


class BitNet158HfQuantizer(HfQuantizer):
    """Builds `BitLinear` layers; their weights are stored in full precision, and training goes on."""

    requires_calibration = False
    quantization_config: BitNet158Config

    def _process_model_before_weight_loading(self, model, **kwargs):
        config = self.quantization_config
        if not self.pre_quantized:
            config.modules_to_not_convert = sorted({*(config.modules_to_not_convert or []), *heads(model)})
        replace_linears(model, config, config.modules_to_not_convert or heads(model))

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return True


register("bitnet158", BitNet158Config, BitNet158HfQuantizer)
