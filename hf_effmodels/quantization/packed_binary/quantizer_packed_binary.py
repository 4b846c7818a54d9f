"""transformers' way to load models whose binary layers are packed: `quant_method: packed_binary`."""

from transformers.quantizers.base import HfQuantizer

from ..registration import register
from .configuration_packed_binary import PackedBinaryConfig


class PackedBinaryHfQuantizer(HfQuantizer):
    """Builds packed layers for a packed checkpoint; folds and packs a binary model of any other one after loading."""

    requires_calibration = False
    quantization_config: PackedBinaryConfig

    def update_attn_implementation(self, config):
        if self.quantization_config.attention is not None:
            from ...modeling.layers.bivit import register_attention

            register_attention()
            config._attn_implementation = self.quantization_config.attention
        return config

    def _process_model_before_weight_loading(self, model, **kwargs):
        from .packing import empty_layers

        if self.pre_quantized:
            empty_layers(model, self.quantization_config)

    def _process_model_after_weight_loading(self, model, **kwargs):
        from ...modeling.layers.untrainable import refuse_training
        from .layers import REFUSAL
        from .packing import pack_layers

        if not self.pre_quantized:
            if hasattr(model, "reparameterize"):
                model.eval().reparameterize()
            pack_layers(model.eval(), self.quantization_config)
        refuse_training(model, REFUSAL)

    def pack(self, model):
        """Pack `model`, in evaluation mode, in place: what `deploy()` asks for."""
        from .packing import pack_binary

        return pack_binary(model)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


register("packed_binary", PackedBinaryConfig, PackedBinaryHfQuantizer)
