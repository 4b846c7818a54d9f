"""Quantise the adder layers of a model of one's own: calibrate, cluster, round, re-estimate the batch norms."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...modeling.layers.adder import AdderConv2d
from ...modeling.layers.untrainable import refuse_training
from .algorithm import quantize_weights, upper_quantile
from .configuration_adder import AdderQuantConfig
from .layer import REFUSAL, QuantizedAdderConv2d, check_inputs

#: Ranges below this are taken for it.
LEAST_RANGE = 1e-3


@torch.no_grad()
def quantize_adder(
    model: nn.Module,
    batches: Iterable[torch.Tensor | Mapping[str, torch.Tensor]],
    *,
    bits: int = 8,
    activation_bits: int | None = None,
    n_groups: int = 4,
    keep_ratio: float = 0.9997,
    skip: Iterable[str] = (),
    reestimate: bool = True,
) -> nn.Module:
    """Quantise the adder layers of a model after its training, in place; returns the model.

    The batches are read twice: for the ranges of the layers' inputs, all by the real network, and for the batch norms'
    statistics with the quantised layers. What `save_pretrained` then writes has integers, and `from_pretrained` loads
    it. Ordinary convolutions and linear layers stay real, as published.

    Args:
        model: in evaluation mode; every adder layer behind a ReLU, as in AdderNets.
        batches: images (batch, channels, height, width), or arguments of the model; published are about 200 batches of
            the training data.
        bits, activation_bits, n_groups, keep_ratio: see `AdderQuantConfig`; published are 8, 6, 5 and 4 bits.
        skip: names of modules that stay as they are, with all that is in them.
        reestimate: let the batch norms see the batches once more; published, and without effect on a folded model.

    Raises:
        ValueError: in training mode, quantised already, no adder layers, no batches or such as can be read only once,
            a name in `skip` that there is not, a layer with negative inputs or fewer filters than groups.
    """
    if isinstance(skip, str):
        raise ValueError(f"skip: got {skip!r}, accepted are lists of names.")
    config = AdderQuantConfig(bits=bits, activation_bits=activation_bits, n_groups=n_groups, keep_ratio=keep_ratio)
    layers = _layers(model, tuple(skip), n_groups)
    if iter(batches) is batches:
        raise ValueError("batches: got an iterator, which can be read only once; accepted are lists and data loaders.")
    ranges = _ranges(model, layers, batches, keep_ratio)
    for name, layer in layers.items():
        quantized = quantize_weights(layer.weight.detach(), ranges[name], bits, n_groups)
        model.set_submodule(name, QuantizedAdderConv2d(layer, config).take(quantized))
    config.layers = list(layers)
    if reestimate:
        _reestimate(model, batches)
    if hasattr(model, "config"):
        from .quantizer_adder import AdderHfQuantizer

        model.config.quantization_config = config
        model.hf_quantizer = AdderHfQuantizer(config, pre_quantized=True)
    return refuse_training(model.requires_grad_(False), REFUSAL)


def _layers(model: nn.Module, skip: tuple[str, ...], n_groups: int) -> dict[str, AdderConv2d]:
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first.")
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None or any(
        isinstance(module, QuantizedAdderConv2d) for module in model.modules()
    ):
        raise ValueError("model: it is quantised already.")
    modules = dict(model.named_modules())
    if unknown := [name for name in skip if name not in modules]:
        raise ValueError(f"skip: the model has no {unknown[0]!r}, accepted are names of modules.")
    layers = {
        name: module
        for name, module in modules.items()
        if isinstance(module, AdderConv2d) and not any(name == part or name.startswith(f"{part}.") for part in skip)
    }
    if not layers:
        raise ValueError(f"model: {type(model).__name__} has no adder layers to quantise (skip is {list(skip)}).")
    for name, layer in layers.items():
        if layer.out_channels < n_groups:
            raise ValueError(
                f"n_groups: got {n_groups}, but {name} has {layer.out_channels} filters; accepted are at most as many "
                "groups, or its name in skip."
            )
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"model: the weights of {name} are not finite.")
    return layers


def _ranges(model: nn.Module, layers: dict, batches: Iterable, keep_ratio: float) -> dict[str, float]:
    """The largest upper quantile of each layer's inputs over the batches."""
    ranges = dict.fromkeys(layers, LEAST_RANGE)

    def watch(name: str):
        def hook(module, args):
            check_inputs(args[0], f"batches: inputs of {name}")
            ranges[name] = max(ranges[name], upper_quantile(args[0], keep_ratio).item())

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    count = 0
    try:
        for batch in batches:
            _run(model, batch)
            count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError("batches: there are none, accepted is one at least.")
    return ranges


def _reestimate(model: nn.Module, batches: Iterable) -> None:
    """Let the batch norms, and nothing else, go through the batches as in training."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    try:
        for norm in norms:
            norm.train()
        for batch in batches:
            _run(model, batch)
    finally:
        for norm in norms:
            norm.eval()


def _run(model: nn.Module, batch: torch.Tensor | Mapping[str, torch.Tensor]) -> None:
    if isinstance(batch, Mapping):
        model(**{name: value for name, value in batch.items() if name != "labels"})
    else:
        model(batch)
