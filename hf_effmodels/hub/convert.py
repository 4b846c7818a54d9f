"""Official checkpoints -> models of this package.

Each architecture's `convert_<name>.py` declares how the official names become ours:

- `RULES`: (regular expression, replacement) pairs applied one after the other to each name;
- `IGNORED`: entries that are no weights;
- `RESHAPED`: our weights that have the same values in another shape (1×1 convolutions as linear layers);
- `adapt(state_dict, config)`: the configuration of the layout found, such as an already fused one.

Everything else is general and strict: every entry is used exactly once or the conversion is refused.
"""

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..architecture import Architecture, PipelineEntry
from ..models import create_image_processor, find_preset, get_config
from ..registry import ARCHITECTURES, find

EMA_ENTRIES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
PLAIN_ENTRIES = ("state_dict", "model", "module", "net")


class ConversionError(ValueError):
    """The checkpoint does not belong to the preset; the message lists what does not fit."""


@dataclass(frozen=True)
class ConversionReport:
    """What was converted.

    Attributes:
        preset: the preset.
        source: name of the official file.
        sha256: of the official file.
        entry: which of the file's entries was read: "state_dict_ema", ..., or "the file itself".
        converted: number of tensors that became weights.
        ignored: names in the file that are no weights.
        reparameterized: the official code had fused the checkpoint; the model is in its folded form.
    """

    preset: str
    source: str
    sha256: str
    entry: str
    converted: int
    ignored: list[str]
    reparameterized: bool


def convert(
    preset: str,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    entry: str | None = None,
    license: str | None = None,
    tokenizer=None,
    **overrides,
) -> ConversionReport:
    """Convert an official checkpoint into a folder that `from_pretrained` loads and `publish` uploads.

    Args:
        preset: the preset the checkpoint belongs to.
        checkpoint: a `.pth`/`.pth.tar`/`.bin` file (read with `weights_only=True`) or a `.safetensors` file; official
            layout or timm's, with or without `module.`, plain or in a training checkpoint.
        folder: where to write; must not exist or be empty.
        entry: the entry of a training checkpoint to read. By default the averaged (EMA) weights where there are some:
            they are what the papers report.
        license: licence of the weights; by default the one the registry knows for the preset's official weights.
        tokenizer: of a language model, to be written beside it.
        overrides: fields of the configuration, such as `num_labels=10` or `id2label={...}`. ADEM-VL's adapters need
            `text_model` (and `vision_model`, where it is not the paper's), see its `convert_adem_vl.convert`.

    Raises:
        ConversionError: the checkpoint does not fit the preset; nothing is written.
        OSError, ValueError: the file is missing, truncated, or holds something other than tensors.
    """
    from . import export

    if (found := find(preset)) is not None and isinstance(found[0], PipelineEntry):
        return found[0].conversion_module.convert(preset, checkpoint, folder, license=license, **overrides)
    architecture, preset_data = find_preset(preset)
    if hasattr(architecture.conversion_module, "convert"):
        # Adapters, which are nothing without the models they were trained for.
        if entry is not None:
            raise ValueError(f"entry: got {entry!r}, but files of {preset} have one set of weights.")
        return architecture.conversion_module.convert(preset, checkpoint, folder, license=license, **overrides)
    model, report = load_checkpoint(preset, checkpoint, entry=entry, **overrides)
    export(
        model,
        create_image_processor(preset) if architecture.image_processor else tokenizer,
        folder,
        preset=preset,
        license=license or preset_data.weights_license,
        conversion=asdict(report),
    )
    return report


def load_checkpoint(preset: str, checkpoint: str | Path, *, entry: str | None = None, **overrides):
    """The classifier of `preset` with the weights of an official checkpoint, and the report; see `convert`."""
    architecture, _ = find_preset(preset)
    state_dict, entry = read_checkpoint(checkpoint, entry=entry)
    try:
        model, ignored = convert_state_dict(architecture, get_config(preset, **overrides), state_dict)
    except ConversionError as error:
        hint = _fitting_presets(state_dict, besides=preset)
        raise ConversionError(f"{checkpoint} is no checkpoint of {preset}. {error}{hint}") from None
    return model, ConversionReport(
        preset=preset,
        source=Path(checkpoint).name,
        sha256=_sha256(checkpoint),
        entry=entry,
        converted=len(state_dict) - len(ignored),
        ignored=ignored,
        reparameterized=getattr(model.config, "reparameterized", False),
    )


def convert_state_dict(architecture: Architecture, config, state_dict: Mapping[str, torch.Tensor]):
    """Build the model of `config`, with its main head, with the weights of an official `state_dict`.

    The main head is the classifier of a vision model and the language modelling head of a decoder.

    Returns:
        The model in evaluation mode, in the dtype of the weights, and the names that were ignored.

    Raises:
        ConversionError: entries missing, unexpected, of another shape, or meant for the same weight.
    """
    conversion = architecture.conversion_module
    ignored = [name for name in state_dict if conversion.IGNORED.search(name)]
    renamed = _rename(state_dict.keys() - set(ignored), conversion)
    weights = {ours: state_dict[theirs] for ours, theirs in renamed.items()}
    config = conversion.adapt(weights, config)
    if getattr(config, "reparameterized", False):
        weights = _fold_norms(weights, config.batch_norm_eps)

    with torch.device("meta"):
        model = architecture.model_class(_main_head(architecture))(config)
    weights = _with_prefix(weights, model)
    expected = model.state_dict()
    for name in filter(conversion.RESHAPED.search, weights):
        if name in expected and expected[name].numel() == weights[name].numel():
            weights[name] = weights[name].reshape(expected[name].shape)
    for name, source in model.all_tied_weights_keys.items():
        if name not in weights and source in weights:
            weights[name] = weights[source]
    _check_fit(weights, expected, renamed, model.base_model_prefix)
    for name in expected.keys() - weights.keys():
        # What may be missing by now are the batch norms' step counters, which no output depends on.
        weights[name] = torch.tensor(0)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    _compute_buffers(model)
    return model.eval(), ignored


def _main_head(architecture: Architecture) -> str:
    return architecture.tasks[0].auto_class


def _compute_buffers(model) -> None:
    """Buffers that are in no checkpoint (rotary tables, …) are still on the meta device: the model fills them."""
    for module in model.modules():
        missing = {name: b for name, b in module.named_buffers(recurse=False) if b.is_meta}
        for name, buffer in missing.items():
            module._buffers[name] = torch.empty_like(buffer, device="cpu")
        if missing:
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = True
            model._init_weights(module)


def official_name(architecture: Architecture, name: str) -> str:
    """Our name (in the model without its head) of an official module or weight."""
    for pattern, replacement in architecture.conversion_module.RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _rename(names, conversion) -> dict[str, str]:
    """Our name -> the official one."""
    renamed = {}
    for name in sorted(names):
        ours = name
        for pattern, replacement in conversion.RULES:
            ours = re.sub(pattern, replacement, ours)
        if ours in renamed:
            raise ConversionError(
                f"The entries {renamed[ours]!r} and {name!r} are meant for the same weight {ours!r}."
            )
        renamed[ours] = name
    return renamed


def _fold_norms(weights: dict[str, torch.Tensor], eps: float) -> dict[str, torch.Tensor]:
    """Fold the batch norms a fused official checkpoint still has (`x.norm.*`) into the convolutions before them."""
    folded = dict(weights)
    for name in weights:
        if not name.endswith(".norm.running_var"):
            continue
        conv, norm = name.replace(".norm.running_var", ".conv"), name.removesuffix(".running_var")
        needed = (f"{conv}.weight", f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean")
        if not all(entry in weights for entry in needed):
            continue  # an incomplete file: what is missing is reported with everything else that does not fit
        dtype = weights[name].dtype
        scale = folded.pop(f"{norm}.weight").double() / (folded.pop(f"{norm}.running_var").double() + eps).sqrt()
        shift = folded.pop(f"{norm}.bias").double() - folded.pop(f"{norm}.running_mean").double() * scale
        folded.pop(f"{norm}.num_batches_tracked", None)
        folded[f"{conv}.weight"] = (folded[f"{conv}.weight"].double() * scale[:, None, None, None]).to(dtype)
        folded[f"{conv}.bias"] = shift.to(dtype)
    return folded


def _with_prefix(weights: dict[str, torch.Tensor], model) -> dict[str, torch.Tensor]:
    """Names of the model with its head: all but the head's own weights are in the base model."""
    prefix = model.base_model_prefix
    heads = tuple(name for name, _ in model.named_children() if name != prefix)
    return {name if name.split(".")[0] in heads else f"{prefix}.{name}": value for name, value in weights.items()}


def _check_fit(weights: dict, expected: dict, renamed: dict[str, str], prefix: str) -> None:
    def label(name: str) -> str:
        theirs = renamed.get(name.removeprefix(f"{prefix}."))
        return f"{theirs} ({name})" if theirs and theirs != name else name

    problems = []
    missing = [n for n in expected if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in expected]
    mismatched = [
        f"{label(n)} is {tuple(weights[n].shape)}, expected {tuple(expected[n].shape)}"
        for n in weights
        if n in expected and weights[n].shape != expected[n].shape
    ]
    for what, names in (
        ("missing", missing),
        ("unexpected", [label(n) for n in unexpected]),
        ("of another shape", mismatched),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            problems.append(f"{len(names)} {what}: {'; '.join(names[:5])}{more}.")
    if problems:
        error = ConversionError(" ".join(problems))
        error.names_are_foreign = len(unexpected) > len(weights) / 2
        raise error


def _fitting_presets(state_dict: Mapping[str, torch.Tensor], besides: str) -> str:
    """Which presets the checkpoint does fit, as the end of an error message."""
    fitting = []
    number = _number_of_labels(state_dict)
    labels = {"num_labels": number} if number else {}
    for architecture in ARCHITECTURES.values():
        if "AutoModelForImageClassification" not in architecture.auto_classes:
            continue
        for index, name in enumerate(architecture.presets):
            try:
                convert_state_dict(architecture, get_config(name, **labels), state_dict)
            except (ConversionError, KeyError, RuntimeError) as error:
                # Presets of an architecture differ in shapes and depth: names foreign to the first one are to all.
                if index == 0 and getattr(error, "names_are_foreign", False):
                    break
                continue
            fitting.append(repr(name) if name != besides else f"{name!r} with num_labels={number}")
    if fitting:
        return f" It fits {' or '.join(fitting)}."
    return " It fits no preset of this package."


def _number_of_labels(state_dict: Mapping[str, torch.Tensor]) -> int | None:
    """Classes of the checkpoint's classifier: the length of its last bias, by the names in use."""
    for name in ("classifier.bias", "head.bias", "fc.bias", "cls2.0.bias", "cls.2.bias", "prediction.4.bias"):
        if name in state_dict:
            return len(state_dict[name])
    return None


def read_checkpoint(path: str | Path, *, entry: str | None = None) -> tuple[dict[str, torch.Tensor], str]:
    """The weights in a checkpoint file, without wrappers' prefixes, and the entry they were in.

    No code in the file is executed: pickles are read with `weights_only=True`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {path}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"checkpoint: {path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    entries = [name for name in (*EMA_ENTRIES, *PLAIN_ENTRIES) if isinstance(content.get(name), Mapping)]
    if entry is not None:
        if not isinstance(content.get(entry), Mapping):
            raise ValueError(f"entry: {path} has no entry {entry!r}, accepted are {entries or 'none: it is flat'}.")
        entries = [entry]
    where = entries[0] if entries else "the file itself"
    state_dict = content[entries[0]] if entries else content
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, torch.Tensor)}
    others = [name for name in state_dict if name not in tensors and not _is_counter(name)]
    if not tensors or others:
        raise ValueError(
            f"checkpoint: {path} ({where}) is no dictionary of tensors; other things in it: {others[:5] or 'nothing'}."
        )
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, where


def _is_counter(name: str) -> bool:
    return any(a.conversion_module.IGNORED.search(name) for a in ARCHITECTURES.values())


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise OSError(f"checkpoint: {path} is truncated or no safetensors file ({error}).") from error


def _read_pickle(path: Path):
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "WeightsUnpickler error" in str(error):
            found = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))
            what = f" ({found[1]})" if found else ""
            raise ValueError(
                f"checkpoint: {path} contains Python objects that would run code{what}; only tensors are read."
            ) from error
        raise OSError(f"checkpoint: {path} is truncated or no PyTorch file ({error}).") from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise OSError(f"checkpoint: {path} is truncated or no PyTorch file ({error}).") from error


def _harmless_globals() -> list:
    """What training scripts leave beside the weights: command-line arguments and NumPy numbers."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    return [argparse.Namespace, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *dtypes]


def _sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
