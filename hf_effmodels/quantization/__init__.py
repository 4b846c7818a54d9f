"""Quantisation of trained models (adder, cbq, packed_binary, twin_uniform), training of
ternary and binary ones (bitnet158, bivit).
"""

import importlib

#: Public name -> where it is; loaded when it is asked for: importing this imports neither torch nor transformers.
_PLACES = {
    "AdderQuantConfig": "adder.configuration_adder",
    "quantize_adder": "adder.quantization",
    "BitNet158Config": "bitnet158.configuration_bitnet158",
    "convert_to_bitlinear": "bitnet158.conversion",
    "save_packed": "bitnet158.packing",
    "BiVitConfig": "bivit.configuration_bivit",
    "convert_to_bivit": "bivit.conversion",
    "CbqConfig": "cbq.configuration_cbq",
    "Quantized": "cbq.quantization",
    "quantize": "cbq.quantization",
    "load_packed": "cbq.loading",
    "PackedBinaryConfig": "packed_binary.configuration_packed_binary",
    "pack_binary": "packed_binary.packing",
    "TwinUniformConfig": "twin_uniform.configuration_twin_uniform",
    "quantize_promptable": "twin_uniform.quantization",
}

__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
