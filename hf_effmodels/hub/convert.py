"""Official checkpoints -> models of this package.

Each architecture's `convert_<name>.py` declares how the official names become ours, without reading or writing files:

- `RULES`: (regular expression, replacement) pairs applied one after the other to each name;
- `IGNORED`: entries that are no weights; `MAY_BE_EMPTY`, where there are some, those without values as long as nothing
  has made them;
- `RESHAPED`: our weights that may have dimensions of size 1 more or fewer (1×1 convolutions as linear layers);
- `adapt(state_dict, config)`: the configuration of the layout found, such as an already fused one; it may rename in
  place what rules cannot;
- `settings_of(arguments)`: fields of the configuration as the arguments stored in a file have them;
- `PROCESSOR_FIELDS`: fields of the configuration that our processor takes, too;
- `PICKLED_MODULES`: of official files that hold whole pickled models, the names of the classes that may be in them
  (see `pickled_modules`), and `settings_of_modules(attributes)`: fields of the configuration as those objects have
  them; `PICKLED_QUANTIZATION`, where their layers may be quantised: the folder of `quantization` whose module
  `published` knows them.

Everything else is general and strict: every entry is used exactly once or the conversion is refused.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.initialization import no_init_weights

from .._files import check_folder, sha256
from ..architecture import Architecture, PipelineEntry
from ..modeling.layers.stored_weights import fold_stored_norm
from ..models import create_image_processor, find_preset, get_config
from ..registry import ARCHITECTURES, find
from .card_text import check_license
from .checkpoints import (
    check_official_values,
    check_tensors,
    read_checkpoint,
    read_pickled_model,
    stored_arguments,
)
from .fit import ConversionError, check_fit
from .ids import hub_id

_NEVER = re.compile(r"(?!)")


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
    tokenizer: Any = None,
    allow_broken_weights: bool = False,
    **overrides: Any,
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
        tokenizer: of a language model, to be written beside it; of a model with a language model in it, by default
            that one's.
        allow_broken_weights: convert weights, too, that are not finite, and negative running variances.
        overrides: fields of the configuration, such as `num_labels=10` or `id2label={...}`. Of files that hold a part
            of a model only, `text_model="org/llm"` and the like say where the rest is (see `base_models`).

    Raises:
        ConversionError: the checkpoint does not fit the preset; nothing is written.
        OSError, ValueError: the file is missing, truncated, or holds something other than sound tensors.
    """
    from . import export
    from .export import check_target

    if license is not None:
        check_license(license, overrides.get("license_name"), overrides.get("license_link"))
    check_options = {} if not allow_broken_weights else {"allow_broken_weights": True}
    if (found := find(preset)) is not None and isinstance(found[0], PipelineEntry):
        of_models = ("num_labels", "id2label", "label2id", "text_model", "vision_model")
        given = {name: overrides.get(name) for name in of_models}
        for name, value in {"entry": entry, "tokenizer": tokenizer, **given}.items():
            if value is not None:
                raise ValueError(f"{name}: got {value!r}, but {preset} is a pipeline, which has no use for it.")
        check_folder(folder)
        conversion = found[0].conversion_module
        return conversion.convert(preset, checkpoint, folder, license=license, **check_options, **overrides)
    architecture, preset_data = find_preset(preset)
    check_target(folder)
    is_partial = bool(architecture.base_models)
    model, report = load_checkpoint(preset, checkpoint, entry=entry, **check_options, **overrides)
    text_model = getattr(model.config, "text_model_name_or_path", None) if is_partial else None
    if tokenizer is None and text_model is not None:
        tokenizer = _from_hub("AutoTokenizer", text_model, "text_model")
    processor = _processor(architecture, preset, model.config, tokenizer)
    if is_partial and "image_token_id" not in overrides and hasattr(processor, "image_token_id"):
        model.config.image_token_id = processor.image_token_id
    export(
        model,
        processor,
        folder,
        preset=preset,
        license=license or preset_data.weights_license,
        conversion=asdict(report),
        adapter_only=is_partial,
        base_model=hub_id(text_model),
        **check_options,
    )
    return report


def _base_models(architecture: Architecture, preset: str, overrides: dict) -> dict[str, str]:
    """Takes from `overrides` where the parts are which the official files leave out (see `Architecture.base_models`).

    Raises:
        ValueError: one has to be said and is not, or is said of a preset whose files hold the whole model.
    """
    given = {f"{part}_model": default for part, default in architecture.base_models.items()}
    given |= {name: overrides.pop(name) for name in list(overrides) if name in given}
    for name, where in given.items():
        if where is None:
            raise ValueError(
                f"{name}: got None, but {preset} is a set of adapters: say where the model they were trained for is "
                f"(--{name.replace('_', '-')}), a Hub id or a folder in the layout of transformers."
            )
    return given


def load_checkpoint(
    preset: str,
    checkpoint: str | Path,
    *,
    entry: str | None = None,
    allow_broken_weights: bool = False,
    **overrides,
):
    """The model of `preset`, with its main head, with the weights of an official checkpoint, and the report.

    Of files that hold a part of a model only, the other weights stay on the meta device. See `convert`.
    """
    architecture, _ = find_preset(preset)
    given = _base_models(architecture, preset, overrides)
    pickled = getattr(architecture.conversion_module, "PICKLED_MODULES", None)
    put_quantized = None
    if pickled is not None and (found := read_pickled_model(checkpoint, pickled, entry=entry)) is not None:
        state_dict, entry, attributes = found
        overrides = {**architecture.conversion_module.settings_of_modules(attributes), **overrides}
        put_quantized = _take_quantized(architecture, state_dict, attributes)
    else:
        state_dict, entry = read_checkpoint(checkpoint, entry=entry, is_ignored=_is_ignored)
    if given:
        stored = architecture.conversion_module.settings_of(stored_arguments(checkpoint))
        overrides = {**stored, **_base_configs(given), **overrides}
        # Trained in any precision, adapters are kept in full.
        state_dict = {n: v.float() if v.is_floating_point() else v for n, v in state_dict.items()}
    config = get_config(preset, **overrides)
    try:
        model, ignored = convert_state_dict(architecture, config, state_dict)
    except ConversionError as error:
        is_misfit = error.names_are_foreign is not None and not given
        hint = _fitting_presets(state_dict, besides=preset) if is_misfit else ""
        raise ConversionError(f"{checkpoint} is no checkpoint of {preset}. {error}{hint}") from None
    if not allow_broken_weights:
        weights = {name: value for name, value in state_dict.items() if name not in ignored}
        check_official_values("checkpoint", checkpoint, weights)
    if put_quantized is not None:
        put_quantized(model)
    return model, ConversionReport(
        preset=preset,
        source=Path(checkpoint).name,
        sha256=sha256(checkpoint),
        entry=entry,
        converted=len(state_dict) - len(ignored),
        ignored=ignored,
        reparameterized=getattr(model.config, "reparameterized", False),
    )


def _take_quantized(architecture: Architecture, tensors: dict, attributes: Mapping) -> Callable | None:
    """What puts a file's quantised layers into the model; it takes them out of the tensors. None without any."""
    method = getattr(architecture.conversion_module, "PICKLED_QUANTIZATION", None)
    if method is None:
        return None
    published = importlib.import_module(f"hf_effmodels.quantization.{method}.published")
    layers = published.take_published(tensors, attributes)
    if layers is None:
        return None
    return lambda model: published.put_published(model, layers, partial(official_name, architecture))


def _is_ignored(name: str) -> bool:
    return any(a.conversion_module.IGNORED.search(name) for a in ARCHITECTURES.values())


def _may_be_empty(name: str) -> bool:
    # Of any architecture: a sound file of another one is to be told that it is of another one.
    modules = (a.conversion_module for a in ARCHITECTURES.values())
    return any(getattr(module, "MAY_BE_EMPTY", _NEVER).search(name) for module in modules)


def _base_configs(given: Mapping[str, str]) -> dict:
    """The parts of the configuration that the models in `given` have, and the fields that say where they are."""
    fields = {}
    for name, where in given.items():
        part = name.removesuffix("_model")
        config = _from_hub("AutoConfig", where, name)
        # Of a model of several parts (CLIP), the one that is meant.
        fields[f"{part}_config"] = getattr(config, f"{part}_config", config)
        fields[f"{name}_name_or_path"] = str(where)
    return fields


def _from_hub(auto_class: str, where: str, argument: str):
    import transformers

    try:
        return getattr(transformers, auto_class).from_pretrained(where)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise OSError(f"{argument}: {where!r} cannot be found or read ({auto_class}: {reason})") from error


def _processor(architecture: Architecture, preset: str, config, tokenizer):
    """What prepares the inputs of the converted model: image processor, tokenizer (may be None), or both in one."""
    if not architecture.image_processor:
        return tokenizer
    if architecture.processor is None:
        return create_image_processor(preset)
    images = create_image_processor(preset, image_size=config.vision_config.image_size)
    fields = {name: getattr(config, name) for name in architecture.conversion_module.PROCESSOR_FIELDS}
    return architecture.processor_class(images, tokenizer, **fields)


class _Once(dict):
    """Weights by name, none of which may be given twice."""

    def __setitem__(self, name, value):
        if name in self:
            raise ConversionError(f"Two entries are meant for the same weight {name!r}.")
        super().__setitem__(name, value)


def convert_state_dict(architecture: Architecture, config, state_dict: Mapping[str, torch.Tensor]):
    """Build the model of `config`, with its main head, with the weights of an official `state_dict`.

    The main head is the classifier of a vision model and the language modelling head of a decoder. Of a part of a
    model (`base_models`) the other weights stay on the meta device.

    Returns:
        The model in evaluation mode, in the dtype of the weights, and the names that were ignored.

    Raises:
        ConversionError: entries missing, unexpected, of another shape or kind, or meant for the same weight.
    """
    conversion = architecture.conversion_module
    ignored = [name for name in state_dict if conversion.IGNORED.search(name)]
    official = {name: value for name, value in state_dict.items() if name not in set(ignored)}
    try:
        check_tensors({name: v for name, v in official.items() if v.numel() or not _may_be_empty(name)})
    except ValueError as error:
        raise ConversionError(str(error)) from None
    renamed = _rename(official, conversion)
    weights = _Once({ours: official[theirs] for ours, theirs in renamed.items()})
    try:
        config = conversion.adapt(weights, config)
        if getattr(config, "reparameterized", False):
            weights = _fold_norms(weights, config.batch_norm_eps)
    except ConversionError:
        raise
    except ValueError as error:
        raise ConversionError(str(error)) from None
    except (IndexError, KeyError, RuntimeError, TypeError) as error:
        raise ConversionError(f"Its entries do not have the shapes of these weights ({error}).") from None

    with torch.device("meta"), no_init_weights():
        model = architecture.model_class(_main_head(architecture))(config)
    weights = _with_prefix(weights, model)
    expected = model.state_dict()
    if is_partial := bool(architecture.base_models):
        model.freeze_base()  # the parts that are elsewhere
        expected = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def label(name: str) -> str:
        theirs = renamed.get(name.removeprefix(f"{model.base_model_prefix}."))
        return f"{theirs} ({name})" if theirs and theirs != name else name

    for name in filter(conversion.RESHAPED.search, weights):
        if name in expected and _essential(expected[name].shape) == _essential(weights[name].shape):
            weights[name] = weights[name].reshape(expected[name].shape)
    for name, source in model.all_tied_weights_keys.items():
        if name not in weights and source in weights:
            weights[name] = weights[source]
        elif name in weights and source in weights and not torch.equal(weights[name], weights[source]):
            raise ConversionError(
                f"{label(name)} and {label(source)} are one weight in the model, and two different ones in the file."
            )
    check_fit(weights, expected, label)
    for name in expected.keys() - weights.keys():
        # What may be missing by now are the batch norms' step counters, which no output depends on.
        weights[name] = torch.tensor(0)
    model.load_state_dict(weights, assign=True, strict=not is_partial)
    if not is_partial:
        model.tie_weights()
        _compute_buffers(model)
    return model.eval(), ignored


def _essential(shape: torch.Size) -> list[int]:
    """A shape without its dimensions of size 1: between shapes that agree in it no value changes its place."""
    return [size for size in shape if size != 1]


def _main_head(architecture: Architecture) -> str:
    return architecture.tasks[0].auto_class


def _compute_buffers(model) -> None:
    """Buffers that are in no checkpoint (rotary tables, …) are still on the meta device: the model fills them."""
    _fill_buffers(model, model)


def _fill_buffers(module, model) -> None:
    """`model` is the nearest one around `module`, which knows how its own modules begin."""
    missing = {name: b for name, b in module.named_buffers(recurse=False) if b.is_meta}
    for name, buffer in missing.items():
        module._buffers[name] = torch.empty_like(buffer, device="cpu")
    if missing:
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = True
        model._init_weights(module)
    for child in module.children():
        _fill_buffers(child, child if hasattr(child, "_init_weights") else model)


def official_name(architecture: Architecture, name: str) -> str:
    """Our name (in the model without its head) of an official module or weight."""
    for pattern, replacement in architecture.conversion_module.RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _rename(names: Iterable[str], conversion) -> dict[str, str]:
    """Our name -> the official one."""
    renamed, rules = {}, [(re.compile(pattern).sub, replacement) for pattern, replacement in conversion.RULES]
    for name in sorted(names):
        ours = name
        for substitute, replacement in rules:
            ours = substitute(replacement, ours)
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
        fold_stored_norm(folded, conv, norm, eps)
    return folded


def _with_prefix(weights: dict[str, torch.Tensor], model) -> dict[str, torch.Tensor]:
    """Names of the model with its head: all but the head's own weights are in the base model."""
    prefix = model.base_model_prefix
    heads = {name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False)) if name != prefix}
    return {name if name.split(".")[0] in heads else f"{prefix}.{name}": value for name, value in weights.items()}


def _fitting_presets(state_dict: Mapping[str, torch.Tensor], besides: str) -> str:
    """Which presets the checkpoint does fit, as the end of an error message."""
    fitting = []
    number = _number_of_labels(state_dict)
    labels = {"num_labels": number} if number else {}
    for architecture in ARCHITECTURES.values():
        if architecture.takes != "image":
            continue
        for index, name in enumerate(architecture.presets):
            try:
                convert_state_dict(architecture, get_config(name, **labels), state_dict)
            except ValueError as error:
                # Presets of an architecture differ in shapes and depth: names foreign to the first one are to all.
                if index == 0 and isinstance(error, ConversionError) and error.names_are_foreign:
                    break
                continue
            fitting.append(repr(name) if name != besides else f"{name!r} with num_labels={number}")
    if fitting:
        return f" It fits {' or '.join(fitting)}."
    return " It fits no preset of this package."


def _number_of_labels(state_dict: Mapping[str, torch.Tensor]) -> int | None:
    """Classes of the checkpoint's classifier: the length of its last bias, by the names in use."""
    classifiers = ("classifier.bias", "head.bias", "fc.bias", "cls2.0.bias", "cls.2.bias", "prediction.4.bias")
    for name in (*classifiers, "detect.cls_preds.0.bias", "detect.cls_preds_af.0.bias"):
        if name in state_dict and state_dict[name].dim() == 1:
            return len(state_dict[name])
    return None
