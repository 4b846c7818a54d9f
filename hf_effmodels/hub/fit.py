"""Whether the weights of a checkpoint are those that a network expects, for every converter."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch


class ConversionError(ValueError):
    """The checkpoint does not belong to the preset; the message lists what does not fit."""

    #: Whether most names are not those of the preset; None where names and shapes are not what is wrong.
    names_are_foreign: bool | None = None


def foreign(said: str) -> ConversionError:
    """Of a file whose names tell that it is none of an architecture's at all."""
    error = ConversionError(said)
    error.names_are_foreign = True
    return error


@contextmanager
def naming(checkpoint: str | os.PathLike, preset: str) -> Iterator[None]:
    """Within it a ConversionError begins with the file and the preset that it is not of."""
    try:
        yield
    except ConversionError as error:
        raise ConversionError(f"{checkpoint} is no checkpoint of {preset}. {error}") from None


def check_fit(
    weights: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    label: Callable[[str], str] = lambda name: name,
) -> None:
    """ConversionError unless `weights` are the expected ones: all of them, in their shapes and of their kind.

    Args:
        weights: by our name.
        expected: by name; values do not matter. Counters of batch norms may be missing.
        label: what an entry is called in the message, by our name.
    """
    missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in expected]
    mismatched = [
        f"{label(n)} is {tuple(weights[n].shape)}, expected {tuple(expected[n].shape)}"
        for n in weights
        if n in expected and weights[n].shape != expected[n].shape
    ]
    other_kind = [
        f"{label(n)} holds {'numbers' if weights[n].is_floating_point() else 'counts'}"
        for n in weights
        if n in expected and weights[n].is_floating_point() != expected[n].is_floating_point()
    ]
    problems = [
        listed("missing", missing),
        listed("unexpected", [label(n) for n in unexpected]),
        listed("of another shape", mismatched),
        listed("of another kind", other_kind),
    ]
    if any(problems):
        error = ConversionError(" ".join(filter(None, problems)))
        error.names_are_foreign = len(unexpected) > len(weights) / 2 or len(missing) > 0.9 * len(expected)
        raise error


def listed(what: str, names: Sequence[str]) -> str:
    """`2 missing: a; b.`; nothing where there are no names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} {what}: {'; '.join(names[:5])}{more}." if names else ""


def entry(weights: Mapping[str, torch.Tensor], name: str, ndim: int) -> torch.Tensor:
    """The weight `name`, from whose shape a network's sizes are read; ConversionError if it is missing, has another
    number of dimensions, or holds counts."""
    if name not in weights:
        raise ConversionError(listed("missing", [name]))
    value = weights[name]
    if value.ndim != ndim or not value.numel():
        dimensions = f"{ndim} dimension{'s' * (ndim > 1)}"
        raise ConversionError(listed("of another shape", [f"{name} is {tuple(value.shape)}, expected {dimensions}"]))
    if not value.is_floating_point():
        raise ConversionError(listed("of another kind", [f"{name} holds counts"]))
    return value
