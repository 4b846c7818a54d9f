"""Heads and neurons of a vision transformer: what they cost, how many a budget leaves, and the network without the
others (DeViT, https://arxiv.org/abs/2309.05015)."""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Complexity:
    """Millions of parameters, and thousand millions of floating point operations; a multiply-add is two of these."""

    parameters: float
    flops: float

    @property
    def macs(self) -> float:
        return self.flops / 2


def complexity(
    neuron_ratios: Sequence[float],
    head_ratios: Sequence[float] | None = None,
    *,
    hidden_size: int = 384,
    heads: int = 6,
    mlp_ratio: int = 4,
    tokens: int = 197,
    num_labels: int = 1000,
) -> Complexity:
    """What the official formulas say of a ViT with patches of 16 at 224 pixels, with these shares pruned.

    Biases of queries, keys and values are not counted, and the heads that are left are rounded down.

    Args:
        neuron_ratios: share of the MLP's neurons that is pruned, for each block.
        head_ratios: the same of the heads; none are pruned by default.
    """
    head_ratios = [0.0] * len(neuron_ratios) if head_ratios is None else head_ratios
    if len(head_ratios) != len(neuron_ratios):
        raise ValueError(
            f"head_ratios: got {len(head_ratios)}, accepted are as many as neuron_ratios, {len(neuron_ratios)}."
        )
    width, head = hidden_size, hidden_size // heads
    parameters = width * 3 * 256 + width + tokens * width + width
    flops = 2 * 3 * width * 224**2
    for neuron_ratio, head_ratio in zip(neuron_ratios, head_ratios, strict=True):
        kept, neurons = int((1 - head_ratio) * heads), int(mlp_ratio * (1 - neuron_ratio) * width)
        parameters += 4 * width + 4 * kept * width * head + width + 2 * width * neurons + width + neurons
        flops += kept * (6 * tokens * width * head + 4 * head * tokens**2) + 2 * tokens * head * kept * width
        flops += 4 * tokens * width * neurons
    parameters += 2 * width + width * num_labels + num_labels
    flops += 2 * width * num_labels
    return Complexity(parameters / 1e6, flops / 1e9)


def part_macs(config, part: int = 0, neurons: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> int:
    """Multiply-adds of one image in one part of a `DeViTConfig`, of whatever kind and size: those of convolutions,
    linear layers and attention. The classifier is left out.

    Args:
        config: of the model.
        part: number of the part.
        neurons, heads: what each block has of these; by default what the configuration says.
    """
    sizes = config.parts[part]
    width, head = sizes["hidden_size"], sizes["head_dim"]
    if config.part_type == "cct":
        kernel, side, channels, macs = config.tokenizer_kernel_size, config.image_size, config.num_channels, 0
        stride, padding = max(1, kernel // 2 - 1), max(1, kernel // 2)
        for layer in range(config.num_tokenizer_layers):
            after = width if layer == config.num_tokenizer_layers - 1 else 64
            convolved = (side + 2 * padding - kernel) // stride + 1
            macs += convolved**2 * channels * after * kernel**2
            side, channels = (convolved - 1) // 2 + 1, after
        tokens = side**2
        macs += 2 * tokens * width  # attention pooling: scores, and the weighted sum
    else:
        patches = (config.image_size // config.patch_size) ** 2
        tokens = patches + config.num_tokens
        macs = patches * width * config.num_channels * config.patch_size**2
    neurons = sizes["intermediate_sizes"] if neurons is None else neurons
    heads = sizes["num_heads"] if heads is None else heads
    for count, hidden in zip(heads, neurons, strict=True):
        macs += 4 * tokens * width * count * head + 2 * tokens**2 * count * head + 2 * tokens * width * hidden
    return macs


def search_widths(
    evaluate: Callable[[list[float], list[float]], float],
    cost: Callable[[list[float], list[float]], float],
    target: float,
    *,
    depth: int,
    bound: float = 0.5,
    tolerance: float = 0.02,
    samples: int = 100,
    seed: int = 0,
    attempts: int = 1_000_000,
) -> tuple[list[float], list[float]]:
    """The best shares among `samples` drawn at random whose cost is within `tolerance` of `target`.

    Args:
        evaluate: quality of (neuron ratios, head ratios), higher is better; called once a sample.
        cost: of the same, in the target's unit; it does not grow with a ratio. The official target is `shrink_ratio ·
            9.19`, thousand millions of floating point operations of the whole network, compared with multiply-adds.
        depth: blocks.
        bound: ratios are drawn evenly from 0 to this.
        attempts: draws until it is given up.

    Raises:
        ValueError: settings out of range, or a target that no draw comes near to.
    """
    if not 0 < bound < 1 or tolerance < 0 or samples < 1 or depth < 1:
        raise ValueError(
            f"bound: got {bound}, tolerance {tolerance}, samples {samples}, depth {depth}; accepted are a bound "
            "between 0 and 1, a tolerance from 0, samples and depth from 1."
        )
    check_target(cost, target, depth, bound, tolerance)
    draw, best, found = random.Random(seed), None, 0
    for _ in range(attempts):
        ratios = [draw.uniform(0, bound) for _ in range(2 * depth)]
        neurons, heads = ratios[:depth], ratios[depth:]
        if abs(cost(neurons, heads) - target) > tolerance * target:
            continue
        quality = evaluate(neurons, heads)
        if best is None or quality > best[0]:
            best = quality, neurons, heads
        found += 1
        if found == samples:
            break
    if best is None:
        raise _out_of_reach(cost, target, depth, bound, tolerance)
    return best[1:]


def check_target(cost: Callable, target: float, depth: int, bound: float, tolerance: float) -> None:
    """ValueError if no shares up to `bound` come near to the target; see `search_widths`."""
    most, least = (cost([share] * depth, [share] * depth) for share in (0.0, bound))
    if most < (1 - tolerance) * target or least > (1 + tolerance) * target:
        raise _out_of_reach(cost, target, depth, bound, tolerance)


def _out_of_reach(cost: Callable, target: float, depth: int, bound: float, tolerance: float) -> ValueError:
    most, least = (cost([share] * depth, [share] * depth) for share in (0.0, bound))
    return ValueError(
        f"target: got {target:g}, and no draw is within {tolerance:.0%} of it; with nothing pruned it is "
        f"{most:g}, with all that bound={bound} allows {least:g}."
    )


@torch.no_grad()
def prune_part(model, heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]], part: int = 0):
    """A `DeViTForImageClassification` without the other heads and neurons in one of its parts: smaller matrices, the
    outputs of the masked network.

    Args:
        model: it stays as it is.
        heads, neurons: numbers of those that are kept, for each block.
        part: number of the part.

    Raises:
        ValueError: another number of blocks, numbers that are not there, or a block with nothing left.
    """
    config = copy.deepcopy(model.config)
    sizes = config.parts[part]
    for name, kept, counts in (("heads", heads, "num_heads"), ("neurons", neurons, "intermediate_sizes")):
        if len(kept) != len(sizes[counts]):
            raise ValueError(f"{name}: got {len(kept)} blocks, accepted are {len(sizes[counts])}.")
        for block, (numbers, count) in enumerate(zip(kept, sizes[counts], strict=True)):
            if not numbers or len(set(numbers)) < len(numbers) or not 0 <= min(numbers) <= max(numbers) < count:
                raise ValueError(
                    f"{name}: got {list(numbers)} in block {block}, accepted are different numbers from 0 to "
                    f"{count - 1}, at least one."
                )
        sizes[counts] = [len(numbers) for numbers in kept]
    weights = model.state_dict()
    for block, (kept_heads, kept_neurons) in enumerate(zip(heads, neurons, strict=True)):
        prefix = f"devit.parts.{part}.layers.{block}."
        numbers = torch.tensor(kept_heads, device=model.device)
        columns = (
            numbers[:, None] * sizes["head_dim"] + torch.arange(sizes["head_dim"], device=model.device)
        ).flatten()
        width = weights[f"{prefix}attention.proj.weight"].shape[1]
        rows = torch.cat([columns + third * width for third in range(3)])
        kept = torch.tensor(kept_neurons, device=model.device)
        for name, index, axis in (
            ("attention.qkv.weight", rows, 0),
            ("attention.qkv.bias", rows, 0),
            ("attention.proj.weight", columns, 1),
            ("mlp.fc1.weight", kept, 0),
            ("mlp.fc1.bias", kept, 0),
            ("mlp.fc2.weight", kept, 1),
        ):
            if prefix + name in weights:
                weights[prefix + name] = weights[prefix + name].index_select(axis, index)
    with torch.device("meta"):
        pruned = type(model)(config)
    pruned.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    return pruned.train(model.training)


@torch.no_grad()
def prune_channels(model, kept: Sequence[int], part: int = 0):
    """A `DeViTForImageClassification` without the other channels of one part's residual stream. Norms are over the
    channels that are left, so this is not the masked network: it has to be trained again.

    Args:
        model: it stays as it is.
        kept: numbers of the channels that are kept.
        part: number of the part.

    Raises:
        ValueError: numbers that are not there or stand twice, or none.
    """
    config = copy.deepcopy(model.config)
    sizes = config.parts[part]
    width, kept = sizes["hidden_size"], list(kept)
    if not kept or len(set(kept)) < len(kept) or not 0 <= min(kept) <= max(kept) < width:
        raise ValueError(f"kept: got {kept}, accepted are different numbers from 0 to {width - 1}, at least one.")
    sizes["hidden_size"] = len(kept)
    numbers = torch.tensor(kept, device=model.device)
    before = sum(model.fusion.widths[:part])
    after = torch.arange(before + width, sum(model.fusion.widths), device=model.device)
    fused = torch.cat([torch.arange(before, device=model.device), before + numbers, after])
    weights, prefix, last = model.state_dict(), f"devit.parts.{part}.", config.num_tokenizer_layers - 1
    first = "fusion.classifiers." if model.fusion.hidden is None else "fusion.hidden."
    for name, value in weights.items():
        if name.startswith(first) and name.endswith("weight"):
            weights[name] = value.index_select(1, fused)
        elif name.startswith(prefix) and (axis := _channel_axis(name.removeprefix(prefix), last)) is not None:
            weights[name] = value.index_select(axis, numbers)
    with torch.device("meta"):
        pruned = type(model)(config)
    pruned.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    return pruned.train(model.training)


def _channel_axis(name: str, last_convolution: int) -> int | None:
    """Which axis of a part's weight is that of the residual stream, by its name; None for none."""
    if name.endswith(("token", "position_embeddings")):
        return 2
    if name.startswith("embeddings."):  # earlier convolutions of a tokenizer have channels of their own
        return None if ".convolutions." in name and f".{last_convolution}." not in name else 0
    if name.endswith((".attention.qkv.weight", ".mlp.fc1.weight")) or name == "pooling.weight":
        return 1
    into = (".attention.proj.weight", ".attention.proj.bias", ".mlp.fc2.weight", ".mlp.fc2.bias")
    return 0 if name.endswith(into) or "norm" in name else None
