"""Quantise a promptable model of one's own: run it on a few prompts, search the intervals, put the layers in place."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...hub.checkpoints import check_model
from ...modeling.layers.left_alone import is_within, names_of_modules
from .configuration_twin_uniform import TwinUniformConfig
from .layers import TwinLinear, add_products
from .search import ROUNDS, search_linear, search_product, search_product_after_softmax
from .uniform import GELU_MINIMUM

_RECORDER = "twin_uniform_recorder"


@dataclass
class _Seen:
    """What a layer has computed: its operands, and the gradients of its products."""

    operands: list = field(default_factory=list)
    products: list = field(default_factory=list)


_seen: ContextVar[dict | None] = ContextVar("twin_uniform_seen", default=None)


def _recording_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    product = query @ key.transpose(2, 3)
    weights = product * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(-1)
    output = weights @ value
    seen = _seen.get()
    if seen is not None and product.requires_grad:
        for tensor in (product, output):
            tensor.retain_grad()
        record = seen.setdefault(module, _Seen())
        record.operands.append([v.detach() for v in (query, key, weights, value)])
        record.products.append((product, output))
    return output.transpose(1, 2).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register(_RECORDER, _recording_attention)


def sampled_loss(outputs, generator: torch.Generator) -> torch.Tensor:
    """The task's loss against an answer drawn from the model's own: its squared gradients are the Fisher information.

    The divergence from the model's own float output, which the paper names, has no gradient where it is calibrated.
    """
    probabilities = outputs.pred_masks.detach().sigmoid()
    masks = (torch.rand(probabilities.shape, generator=generator).to(probabilities) < probabilities).to(probabilities)
    noise = torch.randn(outputs.iou_scores.shape, generator=generator).to(outputs.iou_scores)
    scores = outputs.iou_scores.detach() + noise
    loss = F.binary_cross_entropy_with_logits(outputs.pred_masks, masks)
    return loss + (outputs.iou_scores - scores).square().mean()


def quantize_promptable(
    model: nn.Module,
    samples: Iterable[Mapping[str, torch.Tensor]],
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    skip: Iterable[str] = (),
    loss: Callable = sampled_loss,
    rounds: int = ROUNDS,
    most_rows: int = 4096,
    seed: int = 0,
) -> nn.Module:
    """Quantise the linear layers and the products of attention of a model, in place; convolutions stay as they are.

    The search is the published one: each layer by itself, the others in float. What `save_pretrained` then writes has
    integers of 8 bits (of which fewer may be used), and `from_pretrained` loads it. A model in half precision becomes
    one in float32: gradients that weigh errors are too small for float16, and errors of a step for bfloat16.

    Args:
        model: of transformers, in evaluation mode; its attention must go through transformers' attention functions.
        samples: arguments of the model, such as `{"pixel_values": ..., "input_points": ...}`; a few pictures.
        weight_bits, activation_bits: 8 and 8, or 6 and 6, as published.
        skip: names of modules that stay as they are, with all that is in them.
        loss: (outputs, generator) -> the loss whose gradients weigh the errors.
        rounds: turns of the search for the two operands.
        most_rows: rows of a layer's inputs that are looked at, drawn from all.
        seed: of all draws.

    Returns:
        The model; its configuration has a `quantization_config`.

    Raises:
        ValueError: in training mode, quantised already, no samples, a name in `skip` that there is not, or all.
    """
    config = TwinUniformConfig(weight_bits=weight_bits, activation_bits=activation_bits)
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first.")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError("model: it is quantised already.")
    check_model("model", model)
    skip = names_of_modules(model, skip)
    if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.parameters()):
        model.float()
    names = {module: name for name, module in model.named_modules() if not is_within(name, skip)}
    generator = torch.Generator().manual_seed(seed)
    linears, products = _record(model, names, samples, loss, generator)
    if not linears and not products:
        raise ValueError(
            f"model: {type(model).__name__} has no linear layers and no attention to quantise (skip is {skip})."
        )
    layers = {}
    for module, seen in linears.items():
        inputs, gradient = _rows(seen, most_rows, generator)
        follows_gelu = bool(inputs.min() >= -GELU_MINIMUM - 1e-4 and (inputs < 0).any())
        # Query, key and value in one layer have a range each.
        rows = 3 if names[module].rpartition(".")[2] == "qkv" and module.out_features % 3 == 0 else 1
        groups = [rows, 1, 1, follows_gelu]
        intervals = search_linear(
            inputs,
            module.weight.detach(),
            None if module.bias is None else module.bias.detach(),
            gradient,
            weight_bits=weight_bits,
            input_bits=activation_bits,
            row_groups=rows,
            after_gelu=follows_gelu,
            rounds=rounds,
        )
        layers[names[module]] = TwinLinear.of(module, *intervals, groups, config)
        config.linears[names[module]] = groups
    for module, seen in products.items():
        most = max(1, most_rows // seen.operands[0][0].shape[2])
        query, key, weights, value, first, second = _windows(seen, most, generator)
        found = search_product(query, key.transpose(2, 3), first, bits=activation_bits, rounds=rounds)
        split, of_value = search_product_after_softmax(weights, value, second, bits=activation_bits)
        add_products(module, query.shape[1], config)
        for name, interval in zip(("query", "key", "value"), (*found, of_value), strict=True):
            getattr(module, f"{name}_interval").data = interval.to(value.dtype)
        module.split.data = split
        config.products[names[module]] = query.shape[1]
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    from .quantizer_twin_uniform import TwinUniformHfQuantizer

    model.config.quantization_config = config
    model.hf_quantizer = TwinUniformHfQuantizer(config, pre_quantized=True)
    return model.requires_grad_(False)


def _record(model, names: dict, samples, loss, generator) -> tuple[dict, dict]:
    """Inputs and gradients of each linear layer and each attention over the samples."""
    linears: dict = {}
    attention: dict = {}

    def keep(module, args, output):
        if output.requires_grad:
            output.retain_grad()
            seen = linears.setdefault(module, _Seen())
            seen.operands.append(args[0].detach())
            seen.products.append(output)

    handles = [m.register_forward_hook(keep) for m in names if type(m) is nn.Linear]
    count, dtype = 0, next(model.parameters()).dtype
    try:
        with _recorded_attention(model, attention), torch.enable_grad():
            for sample in samples:
                inputs = {
                    name: value.to(dtype) if value.is_floating_point() else value for name, value in sample.items()
                }
                for name in ("pixel_values", "image_embeddings"):
                    if name in inputs:
                        inputs[name] = inputs[name].detach().requires_grad_()
                model.zero_grad()
                loss(model(**inputs), generator).backward()
                for seen in (*linears.values(), *attention.values()):
                    seen.products = [p if isinstance(p, _Gradients) else _Gradients.of(p) for p in seen.products]
                count += 1
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad()
    if not count:
        raise ValueError("samples: got none, accepted is at least one: the arguments of a call of the model.")
    return linears, {module: seen for module, seen in attention.items() if module in names}


class _Gradients(list):
    """Gradients of a layer's product, or of an attention's two."""

    @classmethod
    def of(cls, products) -> "_Gradients":
        products = products if isinstance(products, tuple) else (products,)
        return cls(torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in products)


@contextmanager
def _recorded_attention(model, seen: dict):
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    token = _seen.set(seen)
    try:
        for config in configs.values():
            config._attn_implementation = _RECORDER
        yield
    finally:
        _seen.reset(token)
        for key, config in configs.items():
            config._attn_implementation = before[key]


def _rows(seen: _Seen, most: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.cat([v.flatten(0, -2) for v in seen.operands])
    gradient = torch.cat([g[0].flatten(0, -2) for g in seen.products])
    return _drawn((inputs, gradient), most, generator)


def _windows(seen: _Seen, most: int, generator) -> tuple[torch.Tensor, ...]:
    size = {tuple(v.shape[2:] for v in operands) for operands in seen.operands}
    if len(size) > 1:
        raise ValueError("samples: they give an attention other sizes; give all of them as many points.")
    operands = [torch.cat(values) for values in zip(*seen.operands, strict=True)]
    gradients = [torch.cat(values) for values in zip(*seen.products, strict=True)]
    return _drawn((*operands, *gradients), most, generator)


def _drawn(tensors, most: int, generator) -> tuple[torch.Tensor, ...]:
    count = len(tensors[0])
    if count <= most:
        return tuple(tensors)
    kept = torch.randperm(count, generator=generator)[:most].sort().values
    return tuple(tensor[kept] for tensor in tensors)
