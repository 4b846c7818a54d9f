"""transformers' way to load vision transformers that are trained with binary layers: `quant_method: bivit`."""

from ...modeling.layers.bivit import ATTENTION, register_attention
from ..registration import TrainedQuantizer, register
from .configuration_bivit import BiVitConfig
from .replacement import begin_scales, make_binary


class BiVitHfQuantizer(TrainedQuantizer):
    """Builds `BiVitLinear` layers; their weights are stored in full precision, and training goes on."""

    quantization_config: BiVitConfig

    def update_attn_implementation(self, config):
        if self.quantization_config.attention:
            register_attention()
            config._attn_implementation = ATTENTION
        return config

    def _process_model_before_weight_loading(self, model, **kwargs):
        if self.pre_quantized:
            make_binary(model, self.quantization_config)

    def _process_model_after_weight_loading(self, model, **kwargs):
        # Learnt scales follow from the weights.
        if not self.pre_quantized:
            begin_scales(make_binary(model, self.quantization_config))


register("bivit", BiVitConfig, BiVitHfQuantizer)
