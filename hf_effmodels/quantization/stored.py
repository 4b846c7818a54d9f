"""What the configuration of a saved model says of its weights."""

import copy
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers.utils.quantization_config import QuantizationConfigMixin

#: Quantisers whose weights are saved in full precision, to be trained on.
TRAINABLE = ("bitnet158", "bivit")


class StoredConfig(QuantizationConfigMixin):
    """Of dataclasses that stand as `quantization_config` in `config.json`: with all of their fields, and no other."""

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs):
        """As transformers'; ValueError of a field that the class does not have."""
        known = {f.name for f in fields(cls)}
        if unknown := [name for name in config_dict if name not in known]:
            accepted = ", ".join(sorted(known))
            raise ValueError(f"{unknown[0]}: {cls.__name__} has no field of this name; it has {accepted}.")
        return super().from_dict(config_dict, return_unused_kwargs, **kwargs)


def quantizer_of(config) -> str | None:
    """The `quant_method` of a configuration, or of that of its text model; None where weights are plain."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for part in (config, text):
        if (stored := getattr(part, "quantization_config", None)) is not None:
            method = stored.get("quant_method") if isinstance(stored, Mapping) else stored.quant_method
            return str(getattr(method, "value", method))
    return None


def with_quantized_layers(model: nn.Module) -> nn.Module:
    """A model that its configuration alone has made, with the layers that its weights are read into."""
    if quantizer_of(model.config) is not None:
        from transformers.quantizers import AutoHfQuantizer

        quantizer = AutoHfQuantizer.from_config(model.config.quantization_config, pre_quantized=True)
        quantizer.validate_environment()
        quantizer.preprocess_model(model)
    return model


def count_parameters(model: nn.Module) -> int:
    """The parameters of a network; of one with packed weights, which are none, those of the network that it was."""
    if quantizer_of(config := getattr(model, "config", None)) is not None:
        with torch.device("meta"):
            model = type(model)(copy.deepcopy(config))
    return sum(parameter.numel() for parameter in model.parameters())
