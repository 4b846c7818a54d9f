"""transformers' way to load models that are trained with ternary weights: `quant_method: bitnet158`."""

from ..registration import TrainedQuantizer, register
from .configuration_bitnet158 import BitNet158Config
from .replacement import heads, replace_linears


class BitNet158HfQuantizer(TrainedQuantizer):
    """Builds `BitLinear` layers; their weights are stored in full precision, and training goes on."""

    quantization_config: BitNet158Config

    def _process_model_before_weight_loading(self, model, **kwargs):
        config = self.quantization_config
        if not self.pre_quantized:
            config.modules_to_not_convert = sorted({*(config.modules_to_not_convert or []), *heads(model)})
        replace_linears(model, config, config.modules_to_not_convert or heads(model))


register("bitnet158", BitNet158Config, BitNet158HfQuantizer)
