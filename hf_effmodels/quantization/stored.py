"""What the configuration of a saved model says of its weights."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

#: Quantisers whose weights are saved in full precision, to be trained on.
TRAINABLE = ("bitnet158", "bivit")


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
