"""A smaller model out of a trained one: whole layers, then structures inside the layers
(https://arxiv.org/abs/2402.02791, section 4: parameter inheritance)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from ...modeling.decoders.llama_layout import build_like
from .activations import activation_scores, layer_influences
from .calibration import Batch, channel_energies, layer_importance, mean_gradients, norms_of, read_batches
from .choices import METHODS, check_choice
from .masks import learn_masks
from .scores import top, weight_scores
from .structures import Axis, Sizes, axes_of, check_architecture

#: Ways to choose structures and layers that look at batches of text.
WITH_TEXT = ("taylor", "activation", "learned", "importance", "influence")
#: Sizes that `inherit` takes.
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


@dataclass
class Inheritance:
    """What a model was made of.

    Attributes:
        layers: numbers of the layers in the larger model.
        units: kept indices of each axis; layers are numbered as in the smaller model.
        method: by which the structures were chosen.
        layer_losses: rise of the loss without each layer of the larger model, where it was measured.
    """

    layers: list[int]
    units: dict[Axis, torch.Tensor] = field(default_factory=dict)
    method: str | None = None
    layer_losses: list[float] | None = None

    def to_dict(self) -> dict:
        """For a JSON file."""
        units = [
            {"axis": axis.kind, "layer": axis.layer, "shortcut": axis.shortcut, "kept": indices.tolist()}
            for axis, indices in self.units.items()
        ]
        return {"layers": self.layers, "layer_losses": self.layer_losses, "method": self.method, "units": units}


def inherit(
    model: PreTrainedModel,
    *,
    num_hidden_layers: int | None = None,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_attention_heads: int | None = None,
    num_key_value_heads: int | None = None,
    layers: str | Sequence[int] = "ends",
    method: str = "l2",
    calibration: Iterable[Batch] | None = None,
    rescale_norms: bool = False,
    mask_steps: int = 200,
    mask_learning_rate: float = 0.05,
    seed: int = 0,
    progress: bool = False,
) -> tuple[PreTrainedModel, Inheritance]:
    """Make a smaller model of the same class out of one of `choices.LANGUAGE_MODELS`.

    Args:
        model: the larger model; it is not changed.
        num_hidden_layers, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads: sizes of the
            smaller one, None for the larger one's. A key/value head stays or goes with its query heads: without
            `num_key_value_heads` their ratio is kept. The size of a head never changes.
        layers: "ends" keeps the first and last layers and thins the middle evenly (`spread_layers`); "importance"
            drops those without which the calibration loss rises least; "influence" those that change the residual
            stream least (`block_influence`); or the numbers of the layers to keep.
        method: how neurons, heads and channels are scored: "l1", "l2", "taylor", "activation" (Minitron,
            `activation_scores`), or "learned" masks.
        calibration: batches of token ids (or of what the model's forward takes, with labels), for "taylor",
            "activation", "learned", "importance", "influence" and `rescale_norms`.
        rescale_norms: scale the gain of each norm by √(mean square of the kept channels / of all), so that its output
            keeps its scale. Otherwise the gains are kept as they are.
        mask_steps, mask_learning_rate, seed, progress: see `learn_masks`.

    Returns:
        The smaller model and what it was made of.

    Raises:
        ValueError: another architecture, a size that is larger than the model's or does not fit, or no calibration
            batches where some are needed.
    """
    target = check_inheritance(
        model.config,
        num_hidden_layers=num_hidden_layers,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        layers=layers,
        method=method,
        rescale_norms=rescale_norms,
    )
    needs = [f"method {method!r}"] if method in WITH_TEXT else []
    needs += [f"layers {layers!r}"] if isinstance(layers, str) and layers in WITH_TEXT else []
    needs += ["rescale_norms"] if rescale_norms else []
    batches = read_batches(calibration, " and ".join(needs)) if needs else []

    losses = None
    if not isinstance(layers, str):
        kept_layers = sorted(map(int, layers))
    elif layers == "ends":
        kept_layers = spread_layers(model.config.num_hidden_layers, target.num_hidden_layers)
    elif layers == "influence":
        kept_layers = top(layer_influences(model, batches), target.num_hidden_layers).tolist()
    else:
        losses = layer_importance(model, batches)
        kept_layers = top(losses, target.num_hidden_layers).tolist()
    thin = take_layers(model, kept_layers)

    source = Sizes.of(thin.config)
    additive = "taylor" if method == "learned" else method
    if method == "activation":
        scores = activation_scores(thin, batches)
    else:
        scores = axis_scores(thin, additive, mean_gradients(thin, batches) if additive == "taylor" else None)
    energies = channel_energies(thin, batches) if rescale_norms else None
    if method == "learned":
        initial = {Axis("hidden"): scores[Axis("hidden")]}
        for number in range(source.num_hidden_layers):
            initial[Axis("keys", number)] = _group_scores(scores, number, source)
            initial[Axis("ffn", number)] = scores[Axis("ffn", number)]
        options = {"steps": mask_steps, "learning_rate": mask_learning_rate, "seed": seed, "progress": progress}
        learned = learn_masks(thin, target, batches, initial, energies=energies, **options)
    else:
        learned = {}
    units = choose_units(scores, source, target, learned)
    smaller = take_units(thin, units, target, energies)
    return smaller, Inheritance(kept_layers, units, method, None if losses is None else losses.tolist())


def check_inheritance(
    config: PreTrainedConfig,
    *,
    layers: str | Sequence[int] = "ends",
    method: str = "l2",
    rescale_norms: bool = False,
    **sizes: int | None,
) -> Sizes:
    """What can be said before any weight is read.

    Returns:
        The sizes of the smaller model.

    Raises:
        ValueError: see `inherit`.
    """
    check_architecture(config)
    check_choice("method", method, METHODS)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError("model: it is quantised, accepted are models with whole weights.")
    if config.model_type == "phi" and method == "learned":
        raise ValueError("method: got 'learned', which masks LLaMA's layers; of phi the others are accepted.")
    if config.model_type in ("gemma", "phi") and rescale_norms:
        raise ValueError(f"rescale_norms: got True, accepted is False: the norms of {config.model_type} are no gains.")
    source = Sizes.of(config)
    if config.model_type == "gemma" and sizes.get("hidden_size") not in (None, source.hidden_size):
        raise ValueError(
            f"hidden_size: got {sizes['hidden_size']}, accepted is {source.hidden_size}: gemma scales its embeddings "
            "by the root of the width."
        )
    given = {name: value for name, value in sizes.items() if value is not None}
    if isinstance(layers, str):
        if layers not in ("ends", "importance", "influence"):
            raise ValueError(
                f"layers: got {layers!r}, accepted are 'ends', 'importance', 'influence' and numbers of layers."
            )
    else:
        numbers = [int(number) for number in layers]
        last = config.num_hidden_layers - 1
        if len(set(numbers)) < len(numbers) or not numbers or not 0 <= min(numbers) <= max(numbers) <= last:
            raise ValueError(f"layers: got {numbers}, accepted are different numbers from 0 to {last}.")
        if given.setdefault("num_hidden_layers", len(numbers)) != len(numbers):
            raise ValueError(f"num_hidden_layers: got {given['num_hidden_layers']} and {len(numbers)} layers.")
    for name, value in given.items():
        if isinstance(value, (Sequence, Mapping)):
            raise ValueError(
                f"{name}: got {value}, accepted is one number for all layers: {config.model_type} would need "
                "per_layer_config for more, which its layers do not read."
            )
        largest = getattr(source, name)
        if not 1 <= value <= largest:
            raise ValueError(f"{name}: got {value}, accepted are 1 to {largest}, the larger model's.")
    heads = given.get("num_attention_heads", source.num_attention_heads)
    keys = given.get("num_key_value_heads", _keys_for(heads, source))
    if heads % keys:
        raise ValueError(f"num_key_value_heads: got {keys}, accepted are divisors of num_attention_heads, {heads}.")
    if heads // keys > source.num_attention_heads // source.num_key_value_heads:
        raise ValueError(
            f"num_key_value_heads: got {keys} for {heads} query heads, accepted are at most "
            f"{source.num_attention_heads // source.num_key_value_heads} query heads for each, as in the larger model."
        )
    hidden = given.get("hidden_size", source.hidden_size)
    if getattr(config, "qk_layernorm", False) and hidden != heads * source.head_dim:
        raise ValueError(
            f"hidden_size, num_attention_heads: got {hidden} and {heads}, accepted are {source.head_dim} channels for "
            f"each head: {config.model_type} sizes the norms of its queries by them."
        )
    reduction = getattr(config, "augmented_shortcut_reduction", None)
    target = Sizes(
        given.get("num_hidden_layers", source.num_hidden_layers),
        hidden,
        given.get("intermediate_size", source.intermediate_size),
        heads,
        keys,
        0 if reduction is None else max(1, hidden // reduction),
        source.head_dim,
    )
    fields = {name: getattr(target, name) for name in SIZES} | {"head_dim": target.head_dim}
    if getattr(config, "layer_types", None):
        fields["layer_types"] = config.layer_types[: target.num_hidden_layers]
    try:
        type(config).from_dict(config.to_dict() | fields)
    except (ValueError, StrictDataclassError) as error:  # what the architecture itself does not accept
        sizes = ", ".join(f"{name} {getattr(target, name)}" for name in SIZES)
        raise ValueError(f"model: {config.model_type} does not accept {sizes}: {_first_reason(error)}") from error
    return target


def _first_reason(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _keys_for(heads: int, source: Sizes) -> int:
    """As many key/value heads as leave the ratio what it is, or else all that go along."""
    ratio = source.num_attention_heads // source.num_key_value_heads
    if heads % ratio == 0:
        return heads // ratio
    return max(n for n in range(1, source.num_key_value_heads + 1) if heads % n == 0)


def spread_layers(num_layers: int, keep: int) -> list[int]:
    """Numbers of the layers to keep: the first min(3, keep // 3), as many last ones, the rest evenly over the middle.

    The paper finds the first two or three and the last layers needed and the middle redundant; the formula is ours.

    Raises:
        ValueError: more layers than there are, or none.
    """
    if not 1 <= keep <= num_layers:
        raise ValueError(f"keep: got {keep}, accepted are 1 to {num_layers} layers.")
    ends = min(3, keep // 3)
    middle = np.linspace(ends, num_layers - 1 - ends, keep - 2 * ends).round().astype(int)
    return [*range(ends), *middle.tolist(), *range(num_layers - ends, num_layers)]


def axis_scores(
    model: PreTrainedModel, method: str, gradients: Mapping[str, torch.Tensor] | None = None
) -> dict[Axis, torch.Tensor]:
    """The score of each structure before the root of "l2": sums over all matrices that it is part of."""
    sizes, totals = Sizes.of(model.config), {}
    for name, weight in model.named_parameters():
        # Gains, biases and the scales of an activation series are no weights of comparable size.
        if weight.ndim < 2 or ".act_fn." in name:
            continue
        scores = weight_scores(method, weight.detach(), gradients and gradients[name])
        for dimension, axis in enumerate(axes_of(name)):
            if axis is not None:
                rows = scores.sum(dim=[d for d in range(scores.ndim) if d != dimension])
                units = rows.view(sizes.units(axis.kind), -1).sum(1)
                totals[axis] = totals.get(axis, 0) + units
    for axis, scores in totals.items():
        if not scores.isfinite().all():
            where = "" if axis.layer is None else f" of layer {axis.layer}"
            raise ValueError(f"model: the {method} scores of {axis.kind}{where} are not finite; its weights are not.")
    return totals


def _group_scores(scores: Mapping[Axis, torch.Tensor], layer: int, sizes: Sizes) -> torch.Tensor:
    """Of key/value heads with their query heads."""
    queries = scores[Axis("queries", layer)].view(sizes.num_key_value_heads, -1)
    return scores[Axis("keys", layer)] + queries.sum(1)


def choose_units(
    scores: Mapping[Axis, torch.Tensor], source: Sizes, target: Sizes, learned: Mapping[Axis, torch.Tensor]
) -> dict[Axis, torch.Tensor]:
    """Indices of the structures to keep, ascending, for each axis; `learned` logits go before the scores."""
    units = {}
    for axis, of_axis in scores.items():
        if axis.kind == "keys":
            groups = learned.get(axis, _group_scores(scores, axis.layer, source))
            units[axis] = top(groups, target.num_key_value_heads)
            queries = scores[Axis("queries", axis.layer)].view(source.num_key_value_heads, -1)
            width = target.num_attention_heads // target.num_key_value_heads
            units[Axis("queries", axis.layer)] = torch.cat(
                [group * queries.shape[1] + top(queries[group], width) for group in units[axis].tolist()]
            )
        elif axis.kind != "queries":
            units[axis] = top(learned.get(axis, of_axis), target.units(axis.kind))
    return units


def take_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy of the model with some of its layers, in ascending order."""
    new = {old: number for number, old in enumerate(layers)}
    weights = {}
    for name, weight in _weights(model).items():
        head, of_layer, tail = name.partition("layers.")
        if of_layer:
            old, _, rest = tail.partition(".")
            if int(old) not in new:
                continue
            name = f"{head}layers.{new[int(old)]}.{rest}"
        weights[name] = weight
    fields = {"num_hidden_layers": len(layers)}
    if getattr(model.config, "layer_types", None):
        fields["layer_types"] = [model.config.layer_types[old] for old in layers]
    return _build(model, fields, weights)


def take_units(
    model: PreTrainedModel,
    units: Mapping[Axis, torch.Tensor],
    target: Sizes,
    energies: Mapping[str, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """A copy of the model with some structures of each layer; `energies` rescale the norms."""
    sizes, weights = Sizes.of(model.config), {}
    for name, weight in _weights(model).items():
        for dimension, axis in enumerate(axes_of(name)):
            if axis is not None:
                weight = weight.index_select(dimension, _rows(units[axis], sizes.rows(axis.kind)).to(weight.device))
        weights[name] = weight
    if energies is not None:
        hidden = units[Axis("hidden")]
        for name in norms_of(model):
            kept, all_ = energies[name][hidden.cpu()].mean(), energies[name].mean()
            weights[f"{name}.weight"] = weights[f"{name}.weight"] * float((kept / all_).sqrt())
    fields = {name: getattr(target, name) for name in SIZES} | {"head_dim": target.head_dim}
    return _build(model, fields, weights)


def _rows(units: torch.Tensor, rows: int) -> torch.Tensor:
    return (units[:, None] * rows + torch.arange(rows, device=units.device)).flatten()


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights by name; a tied head is left out (it is the embedding)."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _build(model: PreTrainedModel, fields: dict, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    config = type(model.config).from_dict(model.config.to_dict() | fields)
    smaller = build_like(model, type(model), config, weights)
    expected = {name: weight.shape for name, weight in smaller.named_parameters()}
    found = {name: weight.shape for name, weight in weights.items()}
    if expected != found:
        name = next(iter(set(expected.items()) ^ set(found.items())))[0]
        raise ValueError(f"model: {name} does not fit {type(model).__name__} of the smaller sizes.")
    return smaller
