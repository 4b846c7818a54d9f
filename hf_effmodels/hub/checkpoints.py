"""Official checkpoint files, read safely: no code in them runs, and what is wrong with them is said in our words."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from .._checkpoint_files import check_archive, check_file, foreign_names, not_loaded, not_safetensors
from .pickled_modules import is_module, shells_for, tensors_of

EMA_ENTRIES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN_ENTRIES = ("state_dict", "model", "module", "net")
#: What weights may be; counters of batch norms are integers.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_checkpoint(
    path: str | Path, *, entry: str | None = None, is_ignored: Callable[[str], bool] = lambda name: False
) -> tuple[dict[str, torch.Tensor], str]:
    """The weights in a checkpoint file, without wrappers' prefixes, and the entry they were in.

    Args:
        path: a file of `torch.save` or safetensors.
        entry: the entry to read; by default averaged weights where there are some.
        is_ignored: tells names that need not be tensors.

    Raises:
        FileNotFoundError: there is no such file. OSError: it is damaged or of another kind.
        ValueError: it holds something else than tensors of numbers, or no such entry.
    """
    content = read_file(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint: {path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    entries = [n for n in (*EMA_ENTRIES, *PLAIN_ENTRIES) if isinstance(content.get(n), Mapping) and content[n]]
    if entry is not None:
        if not isinstance(content.get(entry), Mapping):
            raise ValueError(f"entry: {path} has no entry {entry!r}, accepted are {entries or 'none: it is flat'}.")
        entries = [entry]
    where = entries[0] if entries else "the file itself"
    state_dict = content[entries[0]] if entries else content
    check_names(state_dict, f"{path} ({where})")
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    others = [name for name in state_dict if name not in tensors and not is_ignored(name)]
    if not tensors or others:
        raise ValueError(
            f"checkpoint: {path} ({where}) is no dictionary of tensors; other things in it: {others[:5] or 'nothing'}."
        )
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, where


def read_file(path: str | Path):
    """What a `.safetensors` file or a file of `torch.save` holds.

    No code in it is executed: pickles are read with `weights_only=True`, besides tensors and plain data only the
    arguments of command lines and NumPy numbers are accepted.

    Raises:
        FileNotFoundError, OSError, ValueError: as for `read_checkpoint`.
    """
    path = check_file(path)
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def read_pickled_model(
    path: str | Path, allowed: re.Pattern, *, entry: str | None = None
) -> tuple[dict[str, torch.Tensor], str, dict[str, dict]] | None:
    """The weights of a model that was saved whole, the entry it was in, and the plain attributes of its modules.

    None where the file holds no such model, and is to be read as tensors. No code of the file is executed, see
    `pickled_modules`. Half precision becomes float32, which loses nothing.

    Args:
        path: a file of `torch.save`.
        allowed: names of the classes of the model and its parts.
        entry: the entry to read; by default an average where there is one.

    Raises:
        FileNotFoundError, OSError, ValueError: as for `read_checkpoint`.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or not path.is_file() or path.stat().st_size == 0:
        return None
    if (shells := shells_for(foreign_names(path), allowed)) is None:
        return None
    content = _read_pickle(path, shells)
    content = content if isinstance(content, Mapping) else {"the file itself": content}
    found = [name for name in (*EMA_ENTRIES, *PLAIN_ENTRIES, "the file itself") if is_module(content.get(name))]
    if entry is not None and entry not in found:
        raise ValueError(f"entry: {path} has no model {entry!r}, accepted are {found or 'none'}.")
    if not found:
        return None
    entry = entry or found[0]
    tensors, attributes = tensors_of(content[entry])
    tensors = {n: v.float() if v.dtype == torch.float16 else v for n, v in tensors.items()}
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            attributes = {name.removeprefix(prefix): value for name, value in attributes.items()}
    return tensors, entry, attributes


def stored_arguments(path: str | Path) -> Mapping:
    """The arguments of the training that a checkpoint file has beside its weights (`args`), as far as it has some."""
    content = read_file(path)
    arguments = content.get("args", {}) if isinstance(content, Mapping) else {}
    if isinstance(arguments, argparse.Namespace):
        arguments = vars(arguments)
    return arguments if isinstance(arguments, Mapping) else {}


# what tensors may be


def check_names(state_dict: Mapping, what: str) -> None:
    """ValueError if a name is no text."""
    if others := [name for name in state_dict if not isinstance(name, str)]:
        raise ValueError(f"checkpoint: {what} has names that are no texts: {', '.join(map(repr, others[:5]))}.")


def check_tensors(weights: Mapping[str, torch.Tensor]) -> None:
    """ValueError unless the tensors are dense and have values: floating point numbers of one type, or counts."""
    problems, types = {}, {}
    for name, value in weights.items():
        if value.is_meta:
            problems[name] = "without values"
        elif not value.numel():
            problems[name] = "empty"
        elif value.layout != torch.strided or value.is_quantized:
            problems[name] = "sparse" if not value.is_quantized else "quantized"
        elif value.dtype in DTYPES:
            types.setdefault(value.dtype, []).append(name)
        elif value.dtype not in (torch.int64, torch.int32):
            problems[name] = f"of type {_type(value.dtype)}"
    if problems:
        shown = "; ".join(f"{name} is {what}" for name, what in list(problems.items())[:5])
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        accepted = ", ".join(map(_type, DTYPES))
        raise ValueError(f"checkpoint: {shown}{more}; accepted are dense tensors of {accepted}.")
    if len(types) > 1:
        counts = ", ".join(f"{_type(dtype)} ({len(names)}, such as {names[0]})" for dtype, names in types.items())
        raise ValueError(f"checkpoint: its weights are of several types: {counts}; accepted is one for all.")


def check_values(weights: Mapping[str, torch.Tensor]) -> None:
    """ValueError if weights are not finite, or running variances negative: nothing could be computed with them."""
    problems = []
    for name, value in weights.items():
        if value.is_meta or not value.is_floating_point():
            continue
        if value.element_size() == 1:  # floats of eight bits, which torch cannot ask
            value = value.float()
        if wrong := int((~torch.isfinite(value)).sum()):
            problems.append(f"{name} ({wrong} of {value.numel()} values are not finite)")
        elif name.endswith("running_var") and (value < 0).any():
            problems.append(f"{name} (a variance of {value.min().item():g})")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{len(problems)} broken weights: {'; '.join(problems[:5])}{more}.")


def check_official_values(argument: str, checkpoint: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
    """`check_values` of a checkpoint that is to be converted, naming what it was given by and what converts it."""
    try:
        check_values(weights)
    except ValueError as error:
        raise ValueError(
            f"{argument}: {checkpoint} has {error} It computes nothing; --allow-broken-weights "
            "(allow_broken_weights=True) converts it all the same."
        ) from None


def check_model(argument: str, model: torch.nn.Module) -> None:
    """`check_values` of a model that was loaded, naming what it was given by."""
    try:
        check_values(model.state_dict())
    except ValueError as error:
        raise ValueError(f"{argument}: {type(model).__name__} has {error}") from None


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# files


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # what is thrown depends on where the file is broken
        raise not_safetensors(path, error) from None


def _read_pickle(path: Path, further_globals: Sequence = ()):
    check_archive(path)
    try:
        with torch.serialization.safe_globals([*_harmless_globals(), *further_globals]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise not_loaded(path) from None


def _harmless_globals() -> list:
    """What training scripts leave beside the weights: command-line arguments and NumPy numbers."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]
