"""A trained ternary network as transformers' own `bitnet` format: two bits a weight, no file of this package."""

import copy
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..._files import whole_folder
from .bitlinear import NORM_EPS, BitLinear
from .quantizers import quantize_weight

#: Values in a byte; row r of the k-th quarter of the rows goes to the bits 2 k of row r.
VALUES = 4


def pack_ternary(ternary: torch.Tensor) -> torch.Tensor:
    """(rows, inputs) of -1, 0 and 1 -> (rows / 4, inputs) uint8.

    Raises:
        ValueError: the rows are no multiple of 4.
    """
    rows = ternary.shape[0]
    if rows % VALUES:
        raise ValueError(f"rows: got {rows}, accepted are multiples of {VALUES}.")
    quarters = (ternary + 1).to(torch.uint8).view(VALUES, rows // VALUES, -1)
    return sum(quarter << (2 * k) for k, quarter in enumerate(quarters))


def save_packed(model: PreTrainedModel, folder: str | Path, tokenizer=None) -> None:
    """Write the folder of a network that `convert_to_bitlinear` made; stock transformers loads it (`bitnet`, offline).

    Scales of both kinds are numbers in the file, so median ones are loaded as well.

    Args:
        model: any model with `BitLinear` layers.
        folder: new or empty.
        tokenizer: or processor, saved beside.

    Raises:
        ValueError: no such layers, activations of other than 8 bits, or a layer whose rows are no multiple of 4.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BitLinear)}
    if not layers:
        raise ValueError(f"model: {type(model).__name__} has no BitLinear layers.")
    first = next(iter(layers.values()))
    if first.activation_bits != 8:
        raise ValueError(f"activation_bits: got {first.activation_bits}, transformers' bitnet format has only 8.")
    odd = [name for name, layer in layers.items() if layer.out_features % VALUES]
    if odd:
        raise ValueError(
            f"model: {odd[0]} has {layers[odd[0]].out_features} rows; accepted are multiples of {VALUES}."
        )
    state = dict(model.state_dict())
    for name, layer in layers.items():
        ternary, gamma = quantize_weight(layer.weight.detach().float(), layer.scale)
        state[f"{name}.weight"] = pack_ternary(ternary)
        state[f"{name}.weight_scale"] = gamma.reshape(1).to(layer.weight.dtype)
        if layer.norm_before:
            state[f"{name}.rms_norm.weight"] = torch.ones(layer.in_features, dtype=layer.weight.dtype)
    others = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n not in layers]
    own = model.config
    model.config = copy.deepcopy(own)
    model.config.quantization_config = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
        "use_rms_norm": first.norm_before,
        "rms_norm_eps": NORM_EPS,
        "modules_to_not_convert": others,
    }
    quantizer, model.hf_quantizer = getattr(model, "hf_quantizer", None), None
    try:
        with whole_folder(folder) as new:
            model.save_pretrained(new, state_dict=state)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
    finally:
        model.config = own
        if quantizer is None:
            del model.hf_quantizer
        else:
            model.hf_quantizer = quantizer
