"""Work per token, and what a device can do at most."""

import re

import torch
from transformers.pytorch_utils import Conv1D

#: Part of a device's name -> its peak with bf16 or fp16 tensor cores, dense, in 1e12 operations per second (vendors'
#: data sheets). The first that fits counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "V100": 125.0,
    "T4": 65.0,
    "MI300X": 1307.4,
    "MI250": 383.0,
}


def peak_tflops(device: torch.device, low_precision: bool) -> float | None:
    """Peak of the device in 1e12 operations per second, None where it is not known."""
    if device.type != "cuda" or not low_precision:
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


#: What multiplies a token with all of its weights. Embeddings are looked up, norms and activations act by channel.
_LINEAR = (torch.nn.Linear, torch.nn.Conv1d, Conv1D)
#: Experts and routers, which keep their weights themselves.
_MIXTURE = re.compile(r"\.(experts|router|gate)$")


def flops_per_token(model: torch.nn.Module, length: int) -> float:
    """Operations of a training step for one token: forward and backward, without what checkpointing recomputes.

    6 for each weight a token is multiplied with (of a mixture's experts those it is sent to) and 12 · layers · width
    · length for the attention, as PaLM counts (https://arxiv.org/abs/2204.02311, appendix B).

    Args:
        model: a decoder; `config` is asked for layers, heads and experts.
        length: tokens of a sequence.
    """
    config = model.config.get_text_config()
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    chosen = getattr(config, "num_experts_per_tok", 1) if experts > 1 else 1
    weights = 0.0
    for name, module in model.named_modules():
        if not (isinstance(module, _LINEAR) or _MIXTURE.search(name)):
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1 and "bias" not in kind:
                weights += parameter.numel() * (chosen / experts if ".experts" in name else 1)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    return 6 * weights + 12 * config.num_hidden_layers * width * length
