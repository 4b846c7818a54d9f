"""transformers' way to load models whose linear layers stay packed: `quant_method: cbq`."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.quantizers.base import HfQuantizer

from ..registration import register
from .configuration_cbq import CbqConfig
from .layer_names import is_named
from .packed_linear import PackedLinear

# Imported while transformers' models are.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CbqHfQuantizer(HfQuantizer):
    """Loads `pack-quantized` checkpoints into packed layers; a dense checkpoint is rounded to nearest ("rtn") on its
    way."""

    requires_calibration = False
    quantization_config: CbqConfig

    def __init__(self, quantization_config: CbqConfig, **kwargs):
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized and quantization_config.method != "rtn":
            raise ValueError(
                f"method: got {quantization_config.method!r} for a model that is not quantised; while it is loaded "
                "only 'rtn' works. `hf_effmodels.quantization.quantize` calibrates the others."
            )

    def _process_model_before_weight_loading(self, model: "PreTrainedModel", **kwargs):
        # Dense checkpoints are packed once their weights are there.
        if self.pre_quantized:
            config = self.quantization_config
            for name, linear in _layers(model, config.modules_to_not_convert or []):
                _check_group(name, linear, config)
                layer = PackedLinear(
                    linear.in_features,
                    linear.out_features,
                    config.bits,
                    config.group_size,
                    config.symmetric,
                    linear.bias is not None,
                    config.activation_bits,
                    dtype=linear.weight.dtype,
                    device=linear.weight.device,
                )
                model.set_submodule(name, layer)

    def _process_model_after_weight_loading(self, model: "PreTrainedModel", **kwargs):
        config = self.quantization_config
        if not self.pre_quantized:
            names = self.get_modules_to_not_convert(model, config.modules_to_not_convert, add_default_skips=True)
            # transformers names the head after its last parameter, which may be a bias.
            left = config.modules_to_not_convert = sorted({name.removesuffix(".bias") for name in names})
            for name, linear in _layers(model, left):
                _check_group(name, linear, config)
                layer = PackedLinear.from_linear(linear, config.bits, config.group_size, config.symmetric)
                layer.activation_bits = config.activation_bits
                model.set_submodule(name, layer)
        for module in model.modules():
            if isinstance(module, PackedLinear):
                module.prepare()

    def _dequantize(self, model: "PreTrainedModel", dtype=None) -> "PreTrainedModel":
        if isinstance(dtype, str):  # as the configuration of a saved model has it
            dtype = getattr(torch, dtype)
        for name, module in list(model.named_modules()):
            if isinstance(module, PackedLinear):
                model.set_submodule(name, module.to_linear(dtype))
        return model if dtype is None else model.to(dtype)

    def get_state_dict_and_metadata(self, model: "PreTrainedModel"):
        """The tensors that are stored, whatever they were changed into for the product."""
        state = dict(model.state_dict())
        for name, module in model.named_modules():
            if isinstance(module, PackedLinear):
                state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
                state |= {f"{name}.{key}": value for key, value in module.packed_tensors().items()}
        return state, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def _layers(model: nn.Module, left: list[str]):
    """Linear layers to be packed, by name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not any(is_named(name, each) for each in left)
    ]


def _check_group(name: str, linear: nn.Linear, config: CbqConfig) -> None:
    if config.group_size and linear.in_features % config.group_size:
        raise ValueError(
            f"group_size: got {config.group_size}, which does not divide the {linear.in_features} inputs of {name}."
        )


register("cbq", CbqConfig, CbqHfQuantizer)
