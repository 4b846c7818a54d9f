"""Write a model as a folder that is ready for the Hub: weights, configuration, processor, code and card."""

import inspect
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .._exported import holds_others, is_export
from .._files import check_folder, whole_folder
from ..registry import ARCHITECTURES
from .bundle import PACKAGE, bundle_code, is_bundled
from .card import build_card, find_architecture
from .checkpoints import check_values
from .contents import CARD, CONFIG, FIGURES, IMAGE_PROCESSOR, PROCESSOR, own_files, reference_fields
from .ids import hub_id
from .wrappers import plain_names, unwrap

logger = logging.getLogger(__name__)

#: Quantisers whose code goes with a folder. What others wrote loads where hf_effmodels is imported.
PORTABLE = ("packed_binary", "adder", "twin_uniform", "cbq", "bitnet158", "bivit")


def export(
    model: Any,
    processor: Any,
    folder: str | os.PathLike,
    *,
    overwrite: bool = False,
    adapter_only: bool = False,
    allow_broken_weights: bool = False,
    figures: Iterable[Path] = (),
    **card: Any,
) -> Path:
    """Write `model` and `processor` to `folder`, ready for the Hub.

    The folder loads without a question where hf_effmodels is imported, and with `trust_remote_code=True` where it is
    not installed: configuration, every Auto class of the architecture (whatever the head that is exported), processor
    and pipeline. It holds `model.safetensors`, `config.json`, `preprocessor_config.json`, the needed code
    as flat files and a model card. The same model gives the same bytes.

    Args:
        model: a model of this package, folded (`reparameterize()`) or not.
        processor: its image processor, a stock class of transformers (`create_image_processor`); of a language model
            its tokenizer, or None to leave it out; of a vision-language model this package's processor for it.
        folder: where to; written beside under another name first, then renamed.
        overwrite: replace the files of a folder that holds something else than an earlier export. Files of other
            names stay.
        adapter_only: of a model with frozen parts write the adapters only; the configuration says where the rest is.
        allow_broken_weights: write weights, too, that are not finite, and negative running variances.
        figures: charts for the card, by the names of `contents.FIGURES`.
        card: arguments of `build_card`: license, dataset, results, training, repo_id, …

    Returns:
        The folder.

    Raises:
        ValueError: not a model of this package, broken weights, no or a foreign processor, or a wrong argument for the
            card.
        FileExistsError: `folder` holds something else than an earlier export.
    """
    model = unwrap(model)
    architecture = find_architecture(model)
    stock = architecture.stock_processor and type(processor).__name__ == architecture.stock_processor
    if stock and architecture.takes == "image":
        processor = processor.image_processor  # all of its settings are there
    _check_processor(architecture, processor)
    options = {"adapter_only": True} if adapter_only else {}
    state_dict = plain_names(model.state_dict())
    if state_dict.keys() != model.state_dict().keys():  # parts are compiled
        options["state_dict"] = state_dict
    if not allow_broken_weights:
        _check_values(state_dict)
    if adapter_only and "adapter_only" not in inspect.signature(model.save_pretrained).parameters:
        raise ValueError(f"adapter_only: got True, but a {type(model).__name__} has no adapters")
    for name in reference_fields(type(model.config)).values() if adapter_only else ():
        if hub_id(getattr(model.config, name)) is None:
            logger.warning(
                "config.%s is %r, no id of the Hub: set it before the adapters are published.",
                *(name, getattr(model.config, name)),
            )
    figures = _known_figures(figures)
    shown = [file.name for file in figures]
    readme = str(build_card(model, processor=processor, adapter_only=adapter_only, figures=shown, **card))
    folder = Path(folder).resolve()
    check_target(folder, overwrite=overwrite)
    ours = _own_names(folder)
    with whole_folder(folder, replaces=lambda name, path: name in ours) as new:
        model.save_pretrained(new, **options)
        if processor is not None:
            processor.save_pretrained(new)
        config = json.loads((new / CONFIG).read_bytes())
        for name, content in architecture_code(architecture, config).items():
            (new / name).write_bytes(content)
        mapping = auto_map(architecture)
        (new / CONFIG).write_bytes(with_auto_map(config, mapping))
        if "AutoProcessor" in mapping:
            settings = json.loads((new / PROCESSOR).read_bytes())
            mapping = {"AutoProcessor": mapping["AutoProcessor"]}
            (new / PROCESSOR).write_bytes(with_auto_map(settings, mapping))
        if architecture.own_image_processor and processor is not None:
            settings = json.loads((new / IMAGE_PROCESSOR).read_bytes())
            (new / IMAGE_PROCESSOR).write_bytes(with_auto_map(settings, image_processor_auto_map(architecture)))
        (new / CARD).write_bytes(readme.encode())
        for file in figures:
            (new / file.name).write_bytes(file.read_bytes())
    return folder


def check_target(folder: str | os.PathLike, *, overwrite: bool = False) -> None:
    """FileExistsError if `export` would not write into `folder`."""
    folder = Path(folder).resolve()
    foreign = _foreign_files(folder)
    if foreign and not overwrite:
        raise holds_others(folder, foreign[0])
    check_folder(folder, accepts_content=True)


def _known_figures(figures: Iterable[Path]) -> list[Path]:
    files = [Path(file) for file in figures]
    for file in files:
        if file.name not in FIGURES:
            raise ValueError(f"figures: got {file}, accepted are charts called {', '.join(FIGURES)}")
    return files


def _check_values(state_dict) -> None:
    try:
        check_values(state_dict)
    except ValueError as error:
        raise ValueError(
            f"model: {error} It computes nothing; allow_broken_weights=True exports it all the same"
        ) from None


def _check_processor(architecture, processor) -> None:
    """ValueError unless the processor is one that loads with the architecture's models wherever they do."""
    got = f"processor: got {type(processor).__module__}.{type(processor).__name__}"
    if architecture.processor is not None:
        if type(processor) is not architecture.processor_class:
            raise ValueError(
                f"{got}, but {architecture.title} takes images and text; give an {architecture.processor} of "
                "hf_effmodels"
            )
    elif processor is None and architecture.image_processor:
        raise ValueError(
            f"processor: got None, but {architecture.title} takes images; give one, such as that of "
            "hf_effmodels.create_image_processor(preset)"
        )
    elif architecture.takes == "image+text":
        if type(processor).__name__ != architecture.stock_processor:
            raise ValueError(
                f"{got}, but {architecture.title} takes images and text; give a {architecture.stock_processor} of "
                "transformers, with image processor and tokenizer"
            )
    elif architecture.own_image_processor:
        own = [architecture.image_processor_class(backend) for backend in architecture.image_processor]
        if type(processor) not in own:
            raise ValueError(
                f"{got}, but the boxes of {architecture.title} are those of its own image processor; give a "
                f"{own[0].__name__} of hf_effmodels"
            )
    elif processor is not None and not type(processor).__module__.startswith("transformers."):
        raise ValueError(
            f"{got}, accepted are classes of transformers: another one could not be loaded where hf_effmodels is not "
            "installed"
        )


def auto_map(architecture) -> dict[str, str]:
    """Auto class → "module.Class" of the flat folder, for the configuration and every class of the architecture."""
    classes = {"AutoConfig": architecture.config_class}
    classes |= {auto: architecture.model_class(auto) for auto in architecture.auto_classes}
    if architecture.processor is not None:
        classes["AutoProcessor"] = architecture.processor_class
    return {auto: f"{_stem(c)}.{c.__name__}" for auto, c in sorted(classes.items())}


def image_processor_auto_map(architecture) -> dict[str, dict[str, str]]:
    """The `auto_map` of an image processor of ours: the class for each back end; empty where it is transformers."""
    if not architecture.own_image_processor:
        return {}
    module = architecture.image_processor_module.rpartition(".")[2]
    return {"AutoImageProcessor": {b: f"{module}.{n}" for b, n in sorted(architecture.image_processor.items())}}


def architecture_code(architecture, config: Mapping | None = None) -> dict[str, bytes]:
    """File name → content of the code an exported model of this architecture carries; with its `config.json`, that of
    this package's quantiser, too, which its weights were written by."""
    models = {architecture.model_class(auto).__module__ for auto in architecture.auto_classes}
    modules = {architecture.config_class.__module__, *models}
    if architecture.processor is not None:
        modules.add(architecture.processor_class.__module__)
    if architecture.own_image_processor:
        modules.add(architecture.image_processor_module)
    config = config or {}
    quantizer = _own_quantizer(config)
    also, made = {} if quantizer is None else dict.fromkeys(models, quantizer), {}
    if architecture.in_halves and (network := config.get("network")):
        inside, made = network_code(network["model_type"])
        modules |= inside
        also |= dict.fromkeys(models, next(iter(made), None)) if made else {}
    return bundle_code(modules, also=also, made=made)


def network_code(model_type: str) -> tuple[set[str], dict[str, bytes]]:
    """What a network made around another one needs of it where this package is not installed: the modules, and the one
    that makes it known to transformers' Auto classes (see `bundle_code`); nothing of transformers' own.

    Raises:
        ValueError: the network is neither transformers' nor this package's.
    """
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None and not is_portable(model_type):
        raise ValueError(
            f"model: the network inside, a {model_type!r}, is neither transformers' nor this package's, so that its "
            "code cannot be put beside it"
        )
    if architecture is None:
        return set(), {}
    config, model = architecture.config_class, architecture.model_class("AutoModelForImageClassification")
    source = f'''"""The network inside, for transformers' Auto classes."""

import sys

from transformers import AutoConfig, AutoModelForImageClassification

from .{_stem(config)} import {config.__name__}
from .{_stem(model)} import {model.__name__}

if "{PACKAGE}" not in sys.modules:  # which knows it
    AutoConfig.register("{model_type}", {config.__name__}, exist_ok=True)
    AutoModelForImageClassification.register({config.__name__}, {model.__name__}, exist_ok=True)
'''
    return {config.__module__, model.__module__}, {f"{PACKAGE}.network_inside": source.encode()}


def is_portable(model_type: str) -> bool:
    """Whether a network is transformers' own, or this package's and a classifier by itself."""
    if (architecture := ARCHITECTURES.get(model_type)) is not None:
        return "AutoModelForImageClassification" in architecture.auto_classes and not architecture.in_halves
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _stem(public_class: type) -> str:
    return public_class.__module__.rpartition(".")[2]


def _own_quantizer(config: Mapping) -> str | None:
    """The module that registers the quantiser of a `config.json` with transformers, if it is one of `PORTABLE`."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return f"{PACKAGE}.quantization.{method}.quantizer_{method}" if method in PORTABLE else None


def with_auto_map(config: dict, mapping: dict[str, str]) -> bytes:
    """A configuration file with `auto_map` in it, in the form transformers writes."""
    return (json.dumps(dict(sorted((config | {"auto_map": mapping}).items())), indent=2) + "\n").encode()


def _foreign_files(folder: Path) -> list[str]:
    """Names in `folder` that an earlier export did not write; all of them if there was no earlier export."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise FileExistsError(f"folder: {folder} is a file")
    ours = _own_names(folder)
    templates = {"additional_chat_templates"} if any("/" in name for name in ours) else set()
    return sorted(set(os.listdir(folder)) - ours - templates)


def _own_names(folder: Path) -> set[str]:
    """What an earlier export wrote into `folder`: the code that has our header, and what that very model reads."""
    if not is_export(folder):
        return set()
    code = {path.name for path in folder.glob("*.py") if path.is_file() and is_bundled(path.read_bytes())}
    return code | own_files(folder)


def clear_export(folder: Path) -> None:
    """Delete what an earlier export wrote into `folder`, and the folder if nothing else is in it."""
    for name in sorted(_own_names(folder)):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "additional_chat_templates", folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
