"""Models that are to be what they were trained to be: loaded with all of their weights, or not at all."""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import transformers
from torch import nn

from ..registry import ARCHITECTURES
from .checkpoints import check_values
from .ids import reading


def load_whole(
    loader,
    argument: str,
    name: str,
    /,
    *,
    revision: tuple[str, str | None] | None = None,
    spared: Iterable[str] = (),
    hint: str = "",
    dtype: torch.dtype | str = torch.float32,
    **options,
):
    """What `loader.from_pretrained` gives. transformers fills in random weights for those that a checkpoint lacks, and
    logs it: a teacher, or a tower that is begun with, would be partly noise.

    Args:
        loader: a class or an Auto class of transformers.
        argument, name: what the model is called by, a folder or an id on the Hub.
        revision: the argument that says it, and what it says.
        spared: beginnings of the names of weights that may be lacking, since nothing here uses them.
        hint: what else is said of one that is not there.
        dtype: what its weights are loaded in, however they are stored: float32 is what is trained and measured in,
            "auto" leaves them as they are.
        options: go to `from_pretrained`.

    Raises:
        OSError: it cannot be found, reached or read. ValueError: weights are lacking, of other shapes or not finite.
    """
    if revision is not None:
        options["revision"] = revision[1]
    options |= {"dtype": dtype, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True}  # which ones they are is said below
    with reading(argument, name, revision=revision, hint=hint):
        model, found = loader.from_pretrained(name, **options)
    check_loaded(argument, name, model, found, spared)
    return model


@contextmanager
def without_report() -> Iterator[None]:
    """Within it transformers does not print which weights of a checkpoint were not used, where a part of a model is
    meant to be read; which are lacking, `check_complete` says."""
    loads = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loads.addFilter(is_other)
    try:
        yield
    finally:
        loads.removeFilter(is_other)


def check_loaded(argument: str, name: str, model: nn.Module, found: dict, spared: Iterable[str] = ()) -> None:
    """`check_complete`, and ValueError of weights that nothing could be computed with."""
    check_complete(argument, name, model, found, spared)
    _check_values(argument, name, model)


def _check_values(argument: str, name: str, model: nn.Module) -> None:
    try:
        check_values(model.state_dict())
    except ValueError as error:
        raise ValueError(f"{argument}: {name} has {error}") from None


def check_filled(argument: str, name: str, *parts) -> None:
    """ValueError of networks of diffusers that were loaded without some of their weights, which it leaves without
    values, or with such that nothing could be computed with; what of `parts` is no network is passed over."""
    for part in parts:
        if isinstance(part, nn.Module):
            missing = [key for key, value in part.state_dict().items() if value.is_meta]
            check_complete(argument, name, part, {"missing_keys": missing})
            _check_values(argument, name, part)


def check_complete(
    argument: str, name: str, model: nn.Module, found: dict, spared: Iterable[str] = (), *, to_be_trained: bool = False
) -> None:
    """ValueError of a model that was loaded without some of its weights; counters of batch norms are none.

    Args:
        found: what `from_pretrained` says with `output_loading_info`.
        spared: as for `load_whole`.
        to_be_trained: what the model has beyond the class that the checkpoint is of, such as another head, may begin
            anew, and so may what `--ignore_mismatched_sizes` lets have other shapes.
    """
    lacking = {key for key in found.get("missing_keys", ()) if not key.endswith(".num_batches_tracked")}
    others = {key: f"{key} {list(theirs)}, not {list(ours)}" for key, theirs, ours in found.get("mismatched_keys", ())}
    if to_be_trained:
        lacking, others = lacking and lacking - _beyond(model, lacking), {}
    if missing := [key for key in sorted(lacking) if not key.startswith(tuple(spared))]:
        raise ValueError(f"{argument}: {name} lacks weights of {type(model).__name__}: {_few(missing)}.")
    if wrong := [others[key] for key in sorted(others) if not key.startswith(tuple(spared))]:
        raise ValueError(
            f"{argument}: {name} has weights of other shapes than the {type(model).__name__} of its config.json: "
            f"{_few(wrong, '; ')}."
        )


def _beyond(model: nn.Module, keys: Iterable[str]) -> set[str]:
    """Those of the keys that the class which the checkpoint is of does not have; of one that is not known, those that
    lie beside the network which all classes of this kind share."""
    prefix = f"{model.base_model_prefix}."
    if (stated := _stated_class(model.config)) is None:
        has_body = hasattr(model, model.base_model_prefix)
        return {key for key in keys if has_body and not key.startswith(prefix)}
    with torch.device("meta"):
        theirs = {key.removeprefix(prefix) for key in stated(copy.deepcopy(model.config)).state_dict()}
    return {key for key in keys if key.removeprefix(prefix) not in theirs}


def _stated_class(config) -> type | None:
    for name in config.architectures or ():
        found = getattr(transformers, str(name), None)  # whatever somebody has written there
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
        for architecture in ARCHITECTURES.values():
            if name in architecture.auto_classes.values():
                return getattr(architecture.modeling_module, name)
    return None


def _few(parts: list[str], mark: str = ", ") -> str:
    return mark.join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
