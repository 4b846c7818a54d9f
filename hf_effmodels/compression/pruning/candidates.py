"""Shapes that a pruned model may have within a budget of parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from .choices import WAYS, check_choice
from .inheritance import SIZES, check_inheritance
from .structures import Sizes, axes_of


@dataclass(frozen=True)
class Candidate:
    """A shape and what it costs.

    Attributes:
        sizes: of the pruned model.
        parameters: of all of it.
    """

    sizes: Sizes
    parameters: int

    def fields(self) -> dict[str, int]:
        """The sizes that `inherit` takes."""
        return {name: getattr(self.sizes, name) for name in SIZES}


def count_for(shapes: Mapping[str, tuple[int, ...]], source: Sizes, target: Sizes) -> int:
    """Parameters of a model with the weights of `shapes` (name -> shape) once its sizes are `target`'s."""
    of_layers, others = 0, 0
    for name, shape in shapes.items():
        size = 1
        for length, axis in zip(shape, axes_of(name), strict=True):
            size *= length if axis is None else target.units(axis.kind) * target.rows(axis.kind)
        if "layers." in name:
            of_layers += size
        else:
            others += size
    return others + of_layers * target.num_hidden_layers // source.num_hidden_layers


def list_candidates(
    config: PreTrainedConfig,
    shapes: Mapping[str, tuple[int, ...]],
    target_parameters: float,
    *,
    way: str = "width",
    tolerance: float = 0.05,
    **fixed: int | None,
) -> list[Candidate]:
    """Shapes with a number of parameters, the most even one first.

    Even is what takes about the same share of the hidden size, of the feed-forward and of the heads; after the first,
    those of other depths and other numbers of heads come before those that differ in their widths alone.

    Args:
        config: of the model to prune.
        shapes: of its weights, by name.
        target_parameters: from 1 their number, below 1 their share of the model's.
        way: "width" keeps the number of layers, "depth" keeps all other sizes, "any" keeps none. Of
            the hidden size and the feed-forward a quarter stays at least.
        tolerance: how far from the target the number may be, as a share of it.
        fixed: sizes that are given, such as `num_hidden_layers`.

    Raises:
        ValueError: another architecture, wrong settings, or a budget that no shape meets.
    """
    source = check_inheritance(config)
    whole = count_for(shapes, source, source)
    check_choice("way", way, WAYS)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: got {tolerance}, accepted are shares between 0 and 1.")
    target = target_parameters * whole if 0 < target_parameters < 1 else target_parameters
    if not 0 < target < whole:
        raise ValueError(
            f"target_parameters: got {target_parameters}, accepted are shares below 1 and numbers below {whole}, the "
            "model's."
        )
    fixed = {name: value for name, value in fixed.items() if value is not None}
    check_inheritance(config, **fixed)
    found, tried = {}, []
    for sizes in _grid(config, source, way, fixed):
        narrow, wide = (_try(config, shapes, source, {**sizes, **end}) for end in _ends(source, way, fixed))
        if narrow is None or wide is None:
            continue
        tried += [narrow.parameters, wide.parameters]
        # The number of parameters is a line over the width of the feed-forward.
        span = wide.sizes.intermediate_size - narrow.sizes.intermediate_size
        candidate = wide
        if span:
            slope = (wide.parameters - narrow.parameters) / span
            width = narrow.sizes.intermediate_size + (target - narrow.parameters) / slope
            ends = narrow.sizes.intermediate_size, wide.sizes.intermediate_size
            width = _multiple(width, step_of(source.intermediate_size), *ends)
            candidate = _try(config, shapes, source, {**sizes, "intermediate_size": width})
        if candidate is not None and abs(candidate.parameters / target - 1) <= tolerance:
            found[candidate.sizes] = candidate
    if not found:
        reach = f" With these settings there are {min(tried)} to {max(tried)}." if tried else ""
        raise ValueError(
            f"target_parameters: no shape has {target:.4g} parameters within {100 * tolerance:g} %.{reach} Give "
            "another number, a wider tolerance, or another way."
        )
    return _varied(sorted(found.values(), key=lambda candidate: _unevenness(candidate.sizes, source)))


def _grid(config: PreTrainedConfig, source: Sizes, way: str, fixed: Mapping[str, int]):
    """Sizes but that of the feed-forward."""
    layers, groups, hidden = source.num_hidden_layers, source.num_key_value_heads, source.hidden_size
    per_group = source.num_attention_heads // groups
    depths = [layers] if way == "width" else range(layers, 0, -1)
    kept_groups = [groups] if way == "depth" else sorted({groups, -(-3 * groups // 4), -(-groups // 2)}, reverse=True)
    step = step_of(hidden)
    widths = [hidden] if way == "depth" or config.model_type == "gemma" else range(hidden, hidden // 4, -step)
    if "num_attention_heads" in fixed or "num_key_value_heads" in fixed:
        kept_groups = [None]
    for depth in [fixed["num_hidden_layers"]] if "num_hidden_layers" in fixed else depths:
        for kept in kept_groups:
            heads = {} if kept is None else {"num_attention_heads": kept * per_group, "num_key_value_heads": kept}
            for width in [fixed["hidden_size"]] if "hidden_size" in fixed else widths:
                yield {**heads, **fixed, "num_hidden_layers": depth, "hidden_size": width}


def _ends(source: Sizes, way: str, fixed: Mapping[str, int]) -> list[dict]:
    """The narrowest and the widest feed-forward that may be: a quarter, up to a whole step, and all of it."""
    whole = source.intermediate_size
    step = step_of(whole)
    if "intermediate_size" in fixed:
        return [{"intermediate_size": fixed["intermediate_size"]}] * 2
    least = whole if way == "depth" else min(whole, -(-whole // (4 * step)) * step)
    return [{"intermediate_size": least}, {"intermediate_size": whole}]


def _try(config, shapes, source: Sizes, sizes: Mapping[str, int]) -> Candidate | None:
    try:
        target = check_inheritance(config, **sizes)
    except ValueError:
        return None  # such as a hidden size that the architecture does not take with these heads
    return Candidate(target, count_for(shapes, source, target))


def step_of(size: int) -> int:
    """Sizes are multiples of this: a power of two, a sixteenth of the whole or less, and 256 at most."""
    return min(256, 1 << max(0, int(math.log2(max(1, size / 16)))))


def _multiple(size: float, step: int, least: int, most: int) -> int:
    return min(most, max(least, round(size / step) * step))


def _unevenness(sizes: Sizes, source: Sizes) -> float:
    hidden, feed_forward, heads = (
        math.log(getattr(sizes, name) / getattr(source, name))
        for name in ("hidden_size", "intermediate_size", "num_attention_heads")
    )
    return abs(hidden - feed_forward) + 0.5 * abs(heads - hidden)


def _varied(candidates: list[Candidate]) -> list[Candidate]:
    first, rest, seen = [], [], set()
    for candidate in candidates:
        kind = (candidate.sizes.num_hidden_layers, candidate.sizes.num_attention_heads)
        (rest if kind in seen else first).append(candidate)
        seen.add(kind)
    return first + rest
