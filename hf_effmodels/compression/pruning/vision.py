"""Heads, neurons and layers of a vision transformer by what they say on a few pictures, and the network without those
that say least (Minitron's importance, https://arxiv.org/abs/2407.14679, section 2.2, on ViTs)."""

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ...training.losses.checks import exact
from .activations import block_influence, sum_of_squares
from .calibration import evaluating
from .candidates import step_of
from .choices import VISION_TRANSFORMERS, WAYS, check_choice, check_type

#: Every n-th calibration batch, from the last on, is kept for comparing.
_HELD_OUT = 4

#: weight of a layer -> the axis of each of its dimensions, None for one that is not sliced
_AXES = {
    r"attention\.[qkv]_proj\.weight": ("heads", None),
    r"attention\.[qkv]_proj\.bias": ("heads",),
    r"attention\.o_proj\.weight": (None, "heads"),
    r"mlp\.fc1\.weight": ("neurons", None),
    r"mlp\.fc1\.bias": ("neurons",),
    r"mlp\.fc2\.weight": (None, "neurons"),
    r"(attention\.o_proj|mlp\.fc2)\.bias": (None,),
    r"layernorm_(before|after)\.(weight|bias)": (None,),
    r"lambda_[12]": (None,),
    r"(.+\.)?relative_position_bias_table": (None, "tables"),
    r"(.+\.)?relative_position_index": (None, None),
}
_RULES = [(re.compile(pattern), axes) for pattern, axes in _AXES.items()]
_LAYER = re.compile(r"((?:.+\.)?layers\.)(\d+)\.(.+)")


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of a vision transformer that pruning changes, and what does not: the width of a head."""

    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    head_dim: int

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "VisionSizes":
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, config.num_attention_heads, config.intermediate_size, head_dim)


@dataclass
class VisionPruning:
    """What was pruned.

    Attributes:
        parameters, of: of the smaller and of the larger model.
        sizes: of the smaller model.
        kept_layers: numbers of the larger model's layers; `kept_heads` and `kept_neurons` for each of these.
        divergence: KL(larger ‖ smaller) of the predictions on the calibration batches that were kept for comparing, a
            mean over pictures; None of a model without logits.
    """

    parameters: int
    of: int
    sizes: dict[str, int]
    kept_layers: list[int]
    kept_heads: list[list[int]]
    kept_neurons: list[list[int]]
    divergence: float | None


def check_vision(config: PreTrainedConfig, name: str = "model") -> VisionSizes:
    """The sizes of a configuration that can be pruned.

    Raises:
        ValueError: another architecture, a quantised model, or one whose layers share a table with a column a head.
    """
    check_type(name, config.model_type, VISION_TRANSFORMERS)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{name}: it is quantised; accepted are weights in floating point.")
    return VisionSizes.of(config)


def choose_vision_sizes(
    model: PreTrainedModel,
    target_parameters: float | None = None,
    way: str = "width",
    tolerance: float = 0.05,
    *,
    num_hidden_layers: int | None = None,
    num_attention_heads: int | None = None,
    intermediate_size: int | None = None,
) -> VisionSizes:
    """The most even sizes within a budget: those that take about the same share of heads and of neurons.

    Args:
        target_parameters: from 1 their number, below 1 their share of the model's. None: the sizes say all.
        way: "width" keeps the number of layers, "depth" heads and neurons, "any" nothing.
        tolerance: how far from the target the number may be, as a share of it.

    Raises:
        ValueError: see `check_vision`; sizes that are larger, or a budget that no sizes meet.
    """
    whole = check_vision(model.config)
    given = {
        name: value
        for name, value in (
            ("num_hidden_layers", num_hidden_layers),
            ("num_attention_heads", num_attention_heads),
            ("intermediate_size", intermediate_size),
        )
        if value is not None
    }
    for name, value in given.items():
        if not 1 <= value <= getattr(whole, name):
            raise ValueError(f"{name}: got {value}, accepted are 1 to {getattr(whole, name)}.")
    check_choice("way", way, WAYS)
    if getattr(model.config, "use_shared_relative_position_bias", False) and way != "depth":
        if given.get("num_attention_heads", whole.num_attention_heads) < whole.num_attention_heads:
            raise ValueError(
                "num_attention_heads: all layers share one table of relative positions with a column for each head; "
                f"accepted is {whole.num_attention_heads}."
            )
        given["num_attention_heads"] = whole.num_attention_heads
    if target_parameters is None:
        if not given:
            raise ValueError("target_parameters: got None and no sizes, accepted are a share, a number, or sizes.")
        return VisionSizes(**{**vars(whole), **given})
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: got {tolerance}, accepted are shares between 0 and 1.")
    count = model.num_parameters()
    target = target_parameters * count if 0 < target_parameters < 1 else target_parameters
    if not 0 < target < count:
        raise ValueError(
            f"target_parameters: got {target_parameters}, accepted are shares below 1 and numbers below {count}, the "
            "model's."
        )
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}

    def choices(name: str, step: int, keeps: bool) -> list[int]:
        most = getattr(whole, name)
        if name in given:
            return [given[name]]
        return [most] if keeps else sorted({most, *range(step, most, step)}, reverse=True)

    step = step_of(whole.intermediate_size)
    sizes = [
        VisionSizes(layers, heads, neurons, whole.head_dim)
        for layers in choices("num_hidden_layers", 1, way == "width")
        for heads in choices("num_attention_heads", 1, way == "depth")
        for neurons in choices("intermediate_size", step, way == "depth")
    ]
    counted = {size: count_parameters(shapes, whole, size) for size in sizes}
    fitting = [size for size in sizes if abs(counted[size] / target - 1) <= tolerance]
    if not fitting:
        raise ValueError(
            f"target_parameters: no sizes have {target:.4g} parameters within {100 * tolerance:g} %. With these "
            f"settings there are {min(counted.values())} to {max(counted.values())}. Give another number, a wider "
            "tolerance, or another way."
        )

    def unevenness(size: VisionSizes) -> tuple[float, float]:
        heads = math.log(size.num_attention_heads / whole.num_attention_heads)
        return round(abs(heads - math.log(size.intermediate_size / whole.intermediate_size)), 6), abs(
            counted[size] / target - 1
        )

    return min(fitting, key=unevenness)


def count_parameters(shapes: Mapping[str, tuple[int, ...]], whole: VisionSizes, sizes: VisionSizes) -> int:
    """Parameters of a model with the weights of `shapes` (name -> shape) once its sizes are these."""
    layers, others = 0, 0
    for name, shape in shapes.items():
        if not (match := _LAYER.fullmatch(name)):
            others += math.prod(shape)
            continue
        lengths = {
            None: None,
            "heads": sizes.num_attention_heads * sizes.head_dim,
            "neurons": sizes.intermediate_size,
            "tables": sizes.num_attention_heads,
        }
        kinds = _axes_of(match[3])
        layers += math.prod(lengths[kind] or length for kind, length in zip(kinds, shape, strict=True))
    return others + layers * sizes.num_hidden_layers // whole.num_hidden_layers


def _axes_of(name: str) -> tuple[str | None, ...]:
    for pattern, axes in _RULES:
        if pattern.fullmatch(name):
            return axes
    raise ValueError(f"model: a layer has a weight {name!r}, which a layer of a ViT does not have.")


@dataclass
class VisionScores:
    """For each layer the scores of its heads and of its neurons, and its block influence: (layers,)."""

    heads: list[torch.Tensor]
    neurons: list[torch.Tensor]
    influences: torch.Tensor


@torch.no_grad()
def vision_scores(model: PreTrainedModel, batches: Sequence[torch.Tensor]) -> VisionScores:
    """Scores in one forward pass of each batch.

    A neuron's magnitude is that of what enters the second matrix of the MLP, a head's the length of what it gives to
    the output projection; of both the mean over the tokens, then √Σ² over the pictures. A layer's influence is 1 - the
    mean cosine between what goes in and what comes out.

    Args:
        batches: pixel values (batch, channels, height, width).

    Raises:
        ValueError: what some of them say is not finite.
    """
    sizes, layers = check_vision(model.config), model.base_model.layers
    heads, neurons = ([torch.zeros((), dtype=torch.float64)] * len(layers) for _ in range(2))
    influences = torch.zeros(len(layers), dtype=torch.float64)

    def add(totals: list[torch.Tensor], number: int, magnitudes: torch.Tensor) -> None:
        totals[number] = totals[number] + sum_of_squares(magnitudes)

    def watch_heads(number):
        def hook(module, args):
            add(heads, number, exact(args[0]).unflatten(-1, (-1, sizes.head_dim)).norm(dim=-1))

        return hook

    def watch_neurons(number):
        return lambda module, args: add(neurons, number, args[0].abs())

    def watch_layer(number):
        def hook(module, args, kwargs, output):
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            influences[number] += block_influence([before, after])[0].double().cpu() * len(before)

        return hook

    handles = []
    for number, layer in enumerate(layers):
        handles.append(layer.attention.o_proj.register_forward_pre_hook(watch_heads(number)))
        handles.append(layer.mlp.fc2.register_forward_pre_hook(watch_neurons(number)))
        handles.append(layer.register_forward_hook(watch_layer(number), with_kwargs=True))
    try:
        with evaluating(model):
            for batch in batches:
                model(pixel_values=batch.to(model.device, model.dtype))
    finally:
        for handle in handles:
            handle.remove()
    for name, totals in (("heads", heads), ("neurons", neurons), ("layers", [influences])):
        if not all(total.isfinite().all() for total in totals):
            raise ValueError(f"model: what its {name} say on the calibration pictures is not finite.")
    found = [[total.sqrt() for total in totals] for totals in (heads, neurons)]
    return VisionScores(*found, influences / sum(map(len, batches)))


def prune_vision_transformer(
    model: PreTrainedModel,
    pictures: Iterable[torch.Tensor],
    *,
    target_parameters: float | None = None,
    way: str = "width",
    tolerance: float = 0.05,
    layers: str | Sequence[int] = "influence",
    **sizes: int | None,
) -> tuple[PreTrainedModel, VisionPruning]:
    """A smaller vision transformer of the same class: heads, neurons and layers that say least go.

    All layers keep as many heads and neurons, so that it is a checkpoint like any other; tokens keep their width.

    Args:
        model: a ViT, DeiT, ViTMSN, I-JEPA or BEiT of transformers with any head; it is not changed.
        pictures: batches of pixel values, (batch, channels, height, width). Of several, every fourth is kept for
            comparing.
        target_parameters, way, tolerance, sizes: see `choose_vision_sizes`.
        layers: "influence", or numbers of the layers that are kept.

    Raises:
        ValueError: see `choose_vision_sizes`; no pictures, or layers that are not there.
    """
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if not isinstance(layers, str):
        kept = sorted({int(number) for number in layers})
        if len(kept) != len(layers) or not kept or not 0 <= kept[0] <= kept[-1] < model.config.num_hidden_layers:
            raise ValueError(
                f"layers: got {list(layers)}, accepted are different numbers from 0 to "
                f"{model.config.num_hidden_layers - 1}."
            )
        if sizes.setdefault("num_hidden_layers", len(kept)) != len(kept):
            raise ValueError(f"num_hidden_layers: got {sizes['num_hidden_layers']}, but layers are {kept}.")
    elif layers != "influence":
        raise ValueError(f"layers: got {layers!r}, accepted are 'influence' and numbers of layers.")
    target = choose_vision_sizes(model, target_parameters, way, tolerance, **sizes)
    batches = list(pictures)
    if not batches:
        raise ValueError("calibration: there are no pictures, pruning needs some.")
    seen = [batch for number, batch in enumerate(batches) if number % _HELD_OUT != _HELD_OUT - 1]
    held_out = batches[_HELD_OUT - 1 :: _HELD_OUT] or batches[-1:]
    scores = vision_scores(model, seen)
    if isinstance(layers, str):
        kept = _top(scores.influences, target.num_hidden_layers)
    heads = [_top(scores.heads[number], target.num_attention_heads) for number in kept]
    neurons = [_top(scores.neurons[number], target.intermediate_size) for number in kept]
    smaller = keep_structures(model, kept, heads, neurons)
    report = VisionPruning(
        parameters=smaller.num_parameters(),
        of=model.num_parameters(),
        sizes={**vars(target), "hidden_size": model.config.hidden_size},
        kept_layers=kept,
        kept_heads=heads,
        kept_neurons=neurons,
        divergence=_divergence(smaller, model, held_out),
    )
    return smaller, report


def _top(scores: torch.Tensor, count: int) -> list[int]:
    return scores.argsort(descending=True, stable=True)[:count].sort().values.tolist()


@torch.no_grad()
def keep_structures(
    model: PreTrainedModel, layers: Sequence[int], heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]]
) -> PreTrainedModel:
    """A model of the same class with these layers of a vision transformer and, of each, these heads and neurons.

    Raises:
        ValueError: see `check_vision`; numbers of heads or neurons that differ from layer to layer, which the class
            has no place for.
    """
    whole = check_vision(model.config)
    for name, kept in (("heads", heads), ("neurons", neurons)):
        if len({len(numbers) for numbers in kept}) != 1 or len(kept) != len(layers) or not kept[0]:
            raise ValueError(
                f"{name}: got {[len(numbers) for numbers in kept]} for {len(layers)} layers, accepted are as many in "
                f"each: {type(model).__name__} has one number for all layers."
            )
    fields = copy.deepcopy(model.config.to_dict())
    fields |= {
        "num_hidden_layers": len(layers),
        "num_attention_heads": len(heads[0]),
        "intermediate_size": len(neurons[0]),
    }
    if len(heads[0]) != whole.num_attention_heads:
        fields["head_dim"] = whole.head_dim
    if len(layers) != whole.num_hidden_layers:  # they follow from the number of layers
        for name in ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices"):
            fields.pop(name, None)
    config = type(model.config).from_dict(fields)
    config._attn_implementation = model.config._attn_implementation
    columns = [
        [head * whole.head_dim + column for head in numbers for column in range(whole.head_dim)] for numbers in heads
    ]
    kept = {"heads": columns, "neurons": neurons, "tables": heads}
    weights = {}
    for name, weight in model.state_dict().items():
        if not (match := _LAYER.fullmatch(name)):
            weights[name] = weight
            continue
        if int(match[2]) not in layers:
            continue
        place = list(layers).index(int(match[2]))
        for axis, kind in enumerate(_axes_of(match[3])):
            if kind is not None:
                weight = weight.index_select(axis, torch.tensor(list(kept[kind][place]), device=weight.device))
        weights[f"{match[1]}{place}.{match[3]}"] = weight
    with init.no_init_weights():
        smaller = type(model)._from_config(config, dtype=model.dtype).to(model.device)
    if getattr(model, "pooler", model) is None:  # said to the constructor, not in the configuration
        smaller.pooler = None
    smaller.load_state_dict(weights)
    smaller.tie_weights()
    return smaller.train(model.training)


@torch.no_grad()
def _divergence(smaller: PreTrainedModel, model: PreTrainedModel, batches: Sequence[torch.Tensor]) -> float | None:
    total, pictures = 0.0, 0
    with evaluating(model), evaluating(smaller):
        for batch in batches:
            batch = batch.to(model.device, model.dtype)
            student, teacher = smaller(pixel_values=batch), model(pixel_values=batch)
            if "logits" not in teacher or teacher.logits.ndim != 2:
                return None
            student, teacher = (outputs.logits.double().log_softmax(-1) for outputs in (student, teacher))
            total += float(F.kl_div(student, teacher, reduction="sum", log_target=True))
            pictures += len(batch)
    return total / pictures
