"""transformers' way to load models that `quantize_adder` quantised: `quant_method: adder`."""

from transformers.quantizers.base import HfQuantizer

from ..registration import register
from .configuration_adder import AdderQuantConfig


class AdderHfQuantizer(HfQuantizer):
    """Builds quantised adder layers; their integers and scales come from the checkpoint."""

    requires_calibration = True
    quantization_config: AdderQuantConfig

    def _process_model_before_weight_loading(self, model, **kwargs):
        from ...modeling.layers.adder import AdderConv2d
        from .layer import QuantizedAdderConv2d

        if not self.quantization_config.layers:
            raise ValueError("quantization_config: layers names none, but the weights are integers.")
        modules = dict(model.named_modules())
        for name in self.quantization_config.layers:
            if not isinstance(modules.get(name), AdderConv2d):
                raise ValueError(f"quantization_config: {type(model).__name__} has no adder layer {name!r}.")
            model.set_submodule(name, QuantizedAdderConv2d(modules[name], self.quantization_config))

    def _process_model_after_weight_loading(self, model, **kwargs):
        from ...modeling.layers.untrainable import refuse_training
        from .layer import REFUSAL

        refuse_training(model, REFUSAL)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


register("adder", AdderQuantConfig, AdderHfQuantizer)
