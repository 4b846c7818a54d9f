"""transformers' way to load models that `quantize_promptable` wrote: `quant_method: twin_uniform`."""

from transformers.quantizers.base import HfQuantizer

from ..registration import register
from .configuration_twin_uniform import TwinUniformConfig


class TwinUniformHfQuantizer(HfQuantizer):
    """Builds the quantised layers; their integers and intervals come from the checkpoint."""

    requires_calibration = True
    quantization_config: TwinUniformConfig

    def _process_model_before_weight_loading(self, model, **kwargs):
        from .layers import TwinLinear, add_products

        config = self.quantization_config
        for name, groups in config.linears.items():
            linear = model.get_submodule(name)
            layer = TwinLinear(linear.in_features, linear.out_features, linear.bias is not None, groups, config)
            model.set_submodule(name, layer.to(linear.weight.device))
        for name, heads in config.products.items():
            attention = model.get_submodule(name)
            add_products(attention, heads, config)
            attention.to(next(model.parameters()).device)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


register("twin_uniform", TwinUniformConfig, TwinUniformHfQuantizer)
