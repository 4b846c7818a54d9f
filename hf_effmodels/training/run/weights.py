"""Weights out of a checkpoint into a model in training: all of them, bit for bit, or an error."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, is_peft_available

from ...hub.checkpoints import check_model
from ...modeling.layers.training_branches import BranchedConvNorm
from .averaging import copy_state, unique_state


class WeightsError(ValueError):
    """Weights that are not those of the model they are to be loaded into."""


def is_peft_model(model: nn.Module) -> bool:
    """Whether the model is one in peft's wrapping, which saves and loads its adapters itself."""
    if not is_peft_available():
        return False
    from peft import PeftMixedModel, PeftModel

    return isinstance(model, (PeftModel, PeftMixedModel))


def load_weights(model: nn.Module, folder: Path, only: Callable[[str], bool] | None = None) -> None:
    """Give a model the weights that the Trainer has saved in a folder.

    A model of transformers may have other names and other shapes on disk than in memory (`vit.encoder.layer.0` and
    `vit.layers.0`; a mixture's experts one by one and all in one tensor). So its weights are read by its own
    `from_pretrained`, in a precision that holds them all exactly.

    Args:
        model: keeps its tensors; their values change.
        folder: of a checkpoint.
        only: by name, which tensors the folder holds, where it holds a part of the model under the names in memory:
            the others stay as they are.

    Raises:
        WeightsError: the folder lacks weights of the model, or has others.
    """
    # Branches for the training are none of the class's: they are on disk as they are in memory.
    branched = any(isinstance(module, BranchedConvNorm) for module in model.modules())
    if only is None and isinstance(model, PreTrainedModel) and not branched:
        state = _as_from_pretrained(model, folder)
    else:
        state = _read(folder)
    load_state(model, state, str(folder), only)


def load_state(
    model: nn.Module, state: dict[str, torch.Tensor], source: str, only: Callable[[str], bool] | None = None
) -> None:
    """Copy `state`, by the names that the model has in memory, into the model. See `load_weights`.

    Args:
        source: where `state` comes from, for the error.
    """
    live = unique_state(model)
    own_name = {id(tensor): name for name, tensor in live.items()}
    names = {name: own_name[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    lacking = {name for name in live if only is None or only(name)} - {names.get(name) for name in state}
    wrong = [f"has {name} beside" for name in sorted(state.keys() - names.keys())]
    wrong = [f"lacks {name}" for name in sorted(lacking)] + wrong
    wrong += [
        f"has {name} of shape {tuple(tensor.shape)}, not {tuple(live[names[name]].shape)}"
        for name, tensor in state.items()
        if name in names and tensor.shape != live[names[name]].shape
    ]
    _refuse(source, wrong)
    copy_state({names[name]: tensor for name, tensor in state.items()}, live)


def _as_from_pretrained(model: PreTrainedModel, folder: Path) -> dict[str, torch.Tensor]:
    wide = any(tensor.dtype == torch.float64 for tensor in model.state_dict().values())
    table = logging.getLogger("transformers.modeling_utils")  # it would print the weights that do not fit, too
    table.addFilter(_nothing)
    config = copy.deepcopy(model.config)
    if hasattr(stated := getattr(config, "quantization_config", None), "to_dict"):
        config.quantization_config = stated.to_dict()  # as it stands in a file: that of a loaded model is an object
    try:
        loaded, info = type(model).from_pretrained(
            folder,
            config=config,
            dtype=torch.float64 if wide else torch.float32,
            ignore_mismatched_sizes=True,  # named below
            output_loading_info=True,
            local_files_only=True,
        )
    except RuntimeError as error:  # experts of a mixture that cannot be put together, for example
        raise WeightsError(f"{folder}: these are not the weights of this model ({error}).") from error
    finally:
        table.removeFilter(_nothing)
    wrong = [f"lacks {name}" for name in sorted(info["missing_keys"])]
    wrong += [f"has {name} beside" for name in sorted(info["unexpected_keys"])]
    wrong += [f"has {_named(entry)} of another shape" for entry in info["mismatched_keys"]]
    _refuse(str(folder), wrong)
    return loaded.state_dict()


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _named(entry) -> str:
    return entry if isinstance(entry, str) else str(entry[0])


def _refuse(source: str, wrong: list[str]) -> None:
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise WeightsError(f"{source}: these are not the weights of this model: it {'; '.join(wrong[:5])}{more}.")


def _read(folder: Path) -> dict[str, torch.Tensor]:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    names = {SAFE_WEIGHTS_NAME}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    state = {}
    for name in sorted(names):
        if not (folder / name).is_file():
            raise WeightsError(f"{folder}: it lacks the file {name}.")
        state |= load_file(folder / name)
    return state


def check_weights(argument: str, model: nn.Module) -> None:
    """ValueError if weights that a run begins with are not finite, or running variances negative: its first loss would
    not be finite, whatever the learning rate."""
    check_model(argument, model)
