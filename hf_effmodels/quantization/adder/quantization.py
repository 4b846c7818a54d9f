"""Quantise the adder layers of a model of one's own: calibrate, cluster, round, re-estimate the batch norms."""

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...modeling.layers.adder import AdderConv2d
from ...modeling.layers.left_alone import is_within, names_of_modules
from ...modeling.layers.untrainable import refuse_training
from .algorithm import quantize_weights, upper_quantile
from .configuration_adder import AdderQuantConfig
from .layer import REFUSAL, QuantizedAdderConv2d, check_inputs

logger = logging.getLogger(__name__)

#: Ranges below this are taken for it.
LEAST_RANGE = 1e-3
#: More than this of the batch norms' statistics from before they are estimated again is warned of.
MOST_EARLIER = 0.1


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
            the training data. With few the batch norms keep much of their statistics (66 % after four at a momentum of
            0.1), which is warned of.
        bits, activation_bits, n_groups, keep_ratio: see `AdderQuantConfig`; published are 8, 6, 5 and 4 bits.
        skip: names of modules that stay as they are, with all that is in them.
        reestimate: let the batch norms see the batches once more; published, and without effect on a folded model.

    Raises:
        ValueError: in training mode, quantised already, no adder layers, no batches or such as can be read only once,
            a name in `skip` that there is not, a layer with negative inputs or fewer filters than groups, a batch in
            which a batch norm that is to be estimated again sees one value of each channel.
    """
    config = AdderQuantConfig(bits=bits, activation_bits=activation_bits, n_groups=n_groups, keep_ratio=keep_ratio)
    layers = _layers(model, skip, n_groups)
    if not isinstance(batches, Iterable) or iter(batches) is batches:
        raise ValueError(
            f"batches: got {type(batches).__name__}, which cannot be read twice; accepted are lists and data loaders."
        )
    ranges = _ranges(model, layers, batches, keep_ratio, _norms(model) if reestimate else {})
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


def _layers(model: nn.Module, skip: Iterable[str], n_groups: int) -> dict[str, AdderConv2d]:
    if model.training:
        raise ValueError("model: it is in training mode; call model.eval() first.")
    if getattr(getattr(model, "config", None), "quantization_config", None) is not None or any(
        isinstance(module, QuantizedAdderConv2d) for module in model.modules()
    ):
        raise ValueError("model: it is quantised already.")
    modules = dict(model.named_modules())
    skip = names_of_modules(model, skip)
    layers = {
        name: module
        for name, module in modules.items()
        if isinstance(module, AdderConv2d) and not is_within(name, skip)
    }
    if not layers:
        raise ValueError(f"model: {type(model).__name__} has no adder layers to quantise (skip is {skip}).")
    for name, layer in layers.items():
        if layer.out_channels < n_groups:
            raise ValueError(
                f"n_groups: got {n_groups}, but {name} has {layer.out_channels} filters; accepted are at most as many "
                "groups, or its name in skip."
            )
        if not torch.isfinite(layer.weight).all():
            raise ValueError(f"model: the weights of {name} are not finite.")
    return layers


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that have running statistics."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats}


def _ranges(
    model: nn.Module, layers: dict, batches: Iterable, keep_ratio: float, norms: dict[str, _BatchNorm]
) -> dict[str, float]:
    """The largest upper quantile of each layer's inputs over the batches, all of which the `norms` can learn from."""
    ranges = dict.fromkeys(layers, LEAST_RANGE)

    def watch(name: str):
        def hook(module, args):
            if not args[0].numel():
                raise ValueError(f"batches: batch {count} has no images.")
            check_inputs(args[0], f"batches: inputs of {name}")
            ranges[name] = max(ranges[name], upper_quantile(args[0], keep_ratio).item())

        return hook

    def count_values(name: str):
        def hook(module, args):
            if args[0].numel() == args[0].shape[1]:
                raise ValueError(
                    f"batches: {name} sees one value of each channel of batch {count}, which has no variance; "
                    "accepted are batches of several images, or reestimate=False."
                )

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    handles += [norm.register_forward_pre_hook(count_values(name)) for name, norm in norms.items()]
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
    norms = _norms(model).values()
    if not norms:
        return
    count = 0
    try:
        for norm in norms:
            norm.train()
        for batch in batches:
            _run(model, batch)
            count += 1
    finally:
        for norm in norms:
            norm.eval()
    earlier = max(_share_from_before(norm, count) for norm in norms)
    if earlier > MOST_EARLIER:
        logger.warning(
            "batches: after %d of them %.0f %% of the batch norms' statistics are still those of the real layers, "
            "which costs much at few bits; published are about 200.",
            *(count, 100 * earlier),
        )


def _share_from_before(norm: _BatchNorm, count: int) -> float:
    """How much of a norm's statistics is from before the last `count` batches."""
    if norm.momentum is None:  # all batches that it has ever seen count the same
        return 1 - count / int(norm.num_batches_tracked)
    return (1 - norm.momentum) ** count


def _run(model: nn.Module, batch: torch.Tensor | Mapping[str, torch.Tensor]) -> None:
    if isinstance(batch, Mapping):
        model(**{name: value for name, value in batch.items() if name != "labels"})
    elif isinstance(batch, torch.Tensor):
        model(batch)
    else:
        raise ValueError(
            f"batches: got a {type(batch).__name__}, accepted are images (batch, channels, height, width) and "
            "dictionaries of the model's arguments."
        )
