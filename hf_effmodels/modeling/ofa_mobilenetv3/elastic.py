"""Sub-networks of the elastic MobileNetV3: which there are, and their weights as functions of its own.

A sub-network has one kernel and one expansion for each block and one depth for each stage. Its weights are the leading
channels and the first blocks of the elastic network; a smaller kernel is the middle of the next larger one, through a
learnt matrix (https://arxiv.org/abs/1908.09791, section 3.3).
"""

import copy
import re
from collections.abc import Sequence
from random import Random

import torch
from torch.func import functional_call
from torch.nn import functional as F
from transformers import initialization as init

from ..layers.widths import round_width
from .configuration_ofa_mobilenetv3 import OfaMobileNetV3Config
from .modeling_ofa_mobilenetv3 import OfaMobileNetV3Block, OfaMobileNetV3ForImageClassification

_DEPTHWISE = re.compile(r"(.*\.blocks\.\d+)\.depthwise\.conv\.weight$")


def largest_submodel(config: OfaMobileNetV3Config) -> dict[str, list]:
    """The sub-network that the elastic network itself computes."""
    return _uniform(config, max)


def smallest_submodel(config: OfaMobileNetV3Config) -> dict[str, list]:
    return _uniform(config, min)


def _uniform(config: OfaMobileNetV3Config, choose) -> dict[str, list]:
    return {
        "kernel_sizes": [choose(config.kernel_sizes)] * config.num_elastic_blocks,
        "expand_ratios": [choose(config.expand_ratios)] * config.num_elastic_blocks,
        "depths": [choose(config.depths)] * config.num_elastic_stages,
    }


def draw_submodel(config: OfaMobileNetV3Config, step: int, index: int = 0, tied: bool = False) -> dict[str, list]:
    """A random sub-network, the same for the same numbers on every process.

    Kernels, then expansions, then depths are drawn independently and uniformly.

    Args:
        step: of the training.
        index: of the sub-network in its step, from 0 to 999.
        tied: the expansions of a stage follow from its depth, the n-th smallest from the n-th smallest, and kernels
            are the largest (CompOFA, https://arxiv.org/abs/2104.12642).

    Raises:
        ValueError: an index beyond 999, or `tied` with other numbers of depths than of expansions.
    """
    if not 0 <= index <= 999:
        raise ValueError(f"index: got {index}, accepted are 0 to 999.")
    random = Random(int(f"{step}{index:03d}000"))
    if not tied:
        return {
            "kernel_sizes": [random.choice(config.kernel_sizes) for _ in range(config.num_elastic_blocks)],
            "expand_ratios": [random.choice(config.expand_ratios) for _ in range(config.num_elastic_blocks)],
            "depths": [random.choice(config.depths) for _ in range(config.num_elastic_stages)],
        }
    depths, ratios = sorted(config.depths), sorted(config.expand_ratios)
    if len(depths) != len(ratios):
        raise ValueError(
            f"tied: there are {len(depths)} depths and {len(ratios)} expand_ratios, accepted are as many."
        )
    chosen = [random.choice(depths) for _ in range(config.num_elastic_stages)]
    return {
        "kernel_sizes": [max(config.kernel_sizes)] * config.num_elastic_blocks,
        "expand_ratios": [ratios[depths.index(depth)] for depth in chosen for _ in range(max(depths))],
        "depths": chosen,
    }


def submodel_config(config: OfaMobileNetV3Config, submodel: dict[str, Sequence]) -> OfaMobileNetV3Config:
    """The configuration of a sub-network as a network of its own.

    Raises:
        ValueError: the network is none, or has no such sub-network.
    """
    if config.submodel is not None or config.reparameterized:
        kind = "folded" if config.reparameterized else "a sub-network already"
        raise ValueError(f"model: it is {kind}, accepted is an elastic network.")
    config.check_submodel(submodel)
    smaller = copy.deepcopy(config)
    smaller.submodel = {name: list(values) for name, values in submodel.items()}
    return smaller


def submodel_weights(model: OfaMobileNetV3ForImageClassification, smaller: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a sub-network, by name, out of those of the elastic network; differentiable.

    Args:
        model: the elastic network.
        smaller: a network of `submodel_config`, of whose weights only the shapes are read.
    """
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {}
    for name, like in (*smaller.named_parameters(), *smaller.named_buffers()):
        weight = own[name]
        if found := _DEPTHWISE.match(name):
            weight = kernel_of(model.get_submodule(found[1]), like.shape[-1], like.shape[0])
        weights[name] = weight[tuple(slice(size) for size in like.shape)]
    return weights


def kernel_of(block: OfaMobileNetV3Block, size: int, channels: int) -> torch.Tensor:
    """(channels, 1, size, size): the depthwise kernel of a sub-network of a block."""
    kernel = block.depthwise.conv.weight[:channels]
    matrices = {} if block.kernel_transforms is None else dict(block.kernel_transforms)
    steps = {tuple(map(int, step.split("to"))): matrix for step, matrix in matrices.items()}
    for (large, small), matrix in sorted(steps.items(), key=lambda step: -step[0][0]):
        if large <= size:
            break
        start = large // 2 - small // 2
        middle = kernel[:, :, start : start + small, start : start + small].reshape(channels, small**2)
        kernel = F.linear(middle, matrix).reshape(channels, 1, small, small)
    return kernel


def extract_submodel(
    model: OfaMobileNetV3ForImageClassification, submodel: dict[str, Sequence]
) -> OfaMobileNetV3ForImageClassification:
    """A sub-network as a network of its own, with copies of its weights.

    Raises:
        ValueError: see `submodel_config`.
    """
    config = submodel_config(model.config, submodel)
    with init.no_init_weights():
        smaller = type(model)(config).to(device=model.device, dtype=model.dtype)
    smaller.load_state_dict({name: weight.detach() for name, weight in submodel_weights(model, smaller).items()})
    return smaller.train(model.training)


def run_submodel(model: OfaMobileNetV3ForImageClassification, submodel: dict[str, Sequence], **inputs):
    """What a sub-network gives for `inputs`: to the bit what it gives once it is taken out. Gradients flow into the
    elastic network's weights; in training mode its running statistics move.

    Only the largest sub-network is regularised: the others have no dropout (BigNAS,
    https://arxiv.org/abs/2003.11142, section 3.1).

    Raises:
        ValueError: see `submodel_config`.
    """
    config = submodel_config(model.config, submodel)
    with torch.device("meta"):
        smaller = type(model)(config)
    smaller.train(model.training)
    is_largest = all(list(submodel[name]) == values for name, values in largest_submodel(model.config).items())
    smaller.dropout.p = model.dropout.p if is_largest else 0.0
    return functional_call(smaller, submodel_weights(model, smaller), (), inputs)


def active_fractions(model: OfaMobileNetV3ForImageClassification, submodel: dict[str, Sequence]) -> dict[str, float]:
    """Which share of each parameter's elements belongs to a sub-network, by name: the masks of DεpS.

    As in the official code, in a block that is there all of the squeeze-and-excitation counts, so do the matrices of
    the kernels, and all of a depthwise kernel, however small the sub-network's is.
    """
    smaller = extract_submodel(model, submodel)
    kept = dict(smaller.named_parameters())
    modules = dict(smaller.named_modules())

    def fraction(name: str, weight: torch.Tensor) -> float:
        if (inside := re.match(r"(.*\.blocks\.\d+)\.(squeeze_excite|kernel_transforms)\.", name)) is not None:
            return float(inside[1] in modules)
        if name not in kept:
            return 0.0
        return len(kept[name]) / len(weight) if _DEPTHWISE.match(name) else kept[name].numel() / weight.numel()

    return {name: fraction(name, weight) for name, weight in model.named_parameters()}


@torch.no_grad()
def sort_channels(model: OfaMobileNetV3ForImageClassification, keep_widths: int = 0) -> None:
    """Order the middle channels of every elastic block by importance, in place: smaller sub-networks then have the
    better ones. The network itself computes what it did.

    The importance of a channel is Σ|w| over its weights in the projection; of a unit of the squeeze-and-excitation,
    Σ|w| over its weights in the expansion.

    Args:
        keep_widths: how many of the greatest expansions were trained before: channels of theirs stay behind those of
            the smaller ones (stage s of progressive shrinking).

    Raises:
        ValueError: not a number of expansions below all.
    """
    config = model.config
    submodel_config(config, largest_submodel(config))
    ratios = sorted(config.expand_ratios, reverse=True)
    if not 0 <= keep_widths < len(ratios):
        raise ValueError(f"keep_widths: got {keep_widths}, accepted are 0 to {len(ratios) - 1}.")
    for block in model.modules():
        if not isinstance(block, OfaMobileNetV3Block) or block.expand is None:
            continue
        in_channels = block.expand.conv.in_channels
        importance = block.project.conv.weight.abs().sum((0, 2, 3))
        order = importance.new_zeros(len(importance), dtype=torch.long)
        ends = [round_width(round(in_channels * ratio), 8) for ratio in ratios[: keep_widths + 1]]
        # From the widest to the narrowest of the kept widths: the channels beyond each are sorted by themselves.
        for start, end in zip([*ends[1:], 0], ends, strict=True):
            order[start:end] = start + importance[start:end].argsort(descending=True, stable=True)
        _reorder(block, order)
        if block.squeeze_excite is not None:
            gate = block.squeeze_excite
            units = gate.expand.weight.abs().sum(0).argsort(descending=True, stable=True)
            gate.expand.weight.copy_(gate.expand.weight[:, units])
            for weight in gate.reduce.parameters():
                weight.copy_(weight[units])


def _reorder(block: OfaMobileNetV3Block, order: torch.Tensor) -> None:
    for layer in (block.expand, block.depthwise):
        for weight in (*layer.parameters(), *layer.buffers()):
            if weight.ndim:  # not the step counter
                weight.copy_(weight[order])
    block.project.conv.weight.copy_(block.project.conv.weight[:, order])
    if (gate := block.squeeze_excite) is not None:
        for weight in gate.expand.parameters():
            weight.copy_(weight[order])
        gate.reduce.weight.copy_(gate.reduce.weight[:, order])
