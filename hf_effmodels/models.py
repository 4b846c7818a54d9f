"""Presets by name: list them, ask about them, build them."""

import ast
import copy
import difflib
import fnmatch
import functools
import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architecture import TASKS, Architecture, Preset, Published
from .classes import class_names
from .registry import PIPELINES, all_entries, available_processors, find

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig

#: More classes are a mistake: every one gets a name in the configuration.
MOST_LABELS = 1_000_000
#: Who may have published the weights of a preset.
SOURCES = ("official", "timm")


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a preset.

    Attributes:
        name: the preset.
        architecture: its architecture's title.
        tasks: tasks of transformers' pipelines it can be built for, the main one first.
        parameters: number of parameters in millions, as trained; `folded_parameters` after `reparameterize()`.
        macs: multiply-adds in millions of one image at the preset's size (convolutions and linear layers), as trained;
            `folded_macs` after `reparameterize()`. Of a language model: of one token (linear layers); of a
            super-resolution pipeline: of one denoising step for a 64×64 image. None where they are not known.
        top1: published ImageNet-1k top-1 accuracy in per cent, None where none is known; `top1_source` says by whom.
        published: everything published of its quality: metric, value, data set and source.
        paper: title and address; repository: the official code.
        code_license: licence of the model code here.
        weights_license: licence of the official weights, None if there are none; `weights_license_note` says more.
        weights: where the official weights are published, None if they are not; `timm`: timm's repository of them on
            the Hub. `create_model(..., pretrained=True)` takes them from there.
    """

    name: str
    architecture: str
    tasks: tuple[str, ...]
    parameters: float
    macs: float | None
    folded_parameters: float | None
    folded_macs: float | None
    top1: float | None
    top1_source: str | None
    published: tuple[Published, ...]
    paper: str
    repository: str
    code_license: str
    weights_license: str | None
    weights_license_note: str | None
    weights: str | None
    timm: str | None


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Names of the presets that match a shell `pattern` and offer `task`, in natural order.

    Args:
        pattern: such as `"ghostnet*"`.
        task: a task of transformers' pipelines, such as `"image-classification"`; None for all.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"pattern: got {pattern!r}, accepted is a shell pattern such as 'ghostnet*'.")
    offered = {t.name for entry in all_entries() for t in entry.tasks}
    if task is not None and not (isinstance(task, str) and task in offered):
        accepted = (name for name in TASKS if name in offered)
        raise ValueError(f"task: got {task!r}, accepted are {', '.join(map(repr, accepted))}.")
    names = [name for entry in all_entries() if task is None or TASKS[task] in entry.tasks for name in entry.presets]
    return sorted(fnmatch.filter(names, pattern), key=_natural_key)


def _natural_key(name: str) -> list:
    """The text before, between and behind the numbers, and the numbers."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [float(part) if index % 2 else part for index, part in enumerate(parts)]


def names_in_source() -> frozenset[str] | None:
    """The names of all presets, as the source shows them: importing the configurations takes seconds, for torch alone.

    None where one is written in another way than as a dictionary with constant keys.
    """
    found = [_names_in(package) for package in {entry.package for entry in all_entries()}]
    return None if None in found else frozenset().union(*found)


def tasks_in_source(name: str) -> tuple[str, ...]:
    """The tasks of the preset `name`, as far as the source shows them; see `names_in_source`."""
    offering = [entry for entry in all_entries() if name in (_names_in(entry.package) or ())]
    # Of several entries in one folder only the configurations tell which one a preset is of.
    tasks = {tuple(task.name for task in entry.tasks) for entry in offering}
    return tasks.pop() if len(tasks) == 1 else ()


@functools.cache
def _names_in(package: str) -> frozenset[str] | None:
    places = importlib.util.find_spec(package).submodule_search_locations
    file = Path(places[0], f"configuration_{package.rpartition('.')[2]}.py")
    found = next((node.value for node in ast.parse(file.read_bytes()).body if _assigns(node, "PRESETS")), None)
    keys = found.keys if isinstance(found, ast.Dict) else [None]
    return frozenset(key.value for key in keys) if all(isinstance(key, ast.Constant) for key in keys) else None


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def find_preset(name: str) -> tuple[Architecture, Preset]:
    """The architecture and the preset called `name`; a ValueError with close matches if there is none."""
    entry, preset = _find(name)
    if not isinstance(entry, Architecture):
        raise ValueError(f"preset {name!r} is a diffusers pipeline: hf_effmodels.create_model({name!r}) builds it.")
    return entry, preset


def _find(name: str):
    """The architecture or diffusers pipeline that has the preset `name`, and the preset."""
    check_known(name)
    if (found := find(name)) is None:
        raise _unknown(name, list_models())
    return found


def check_known(name: str) -> None:
    """ValueError with close matches unless there is a preset called `name`; imports no configurations."""
    names = names_in_source()
    if not isinstance(name, str) or (names is not None and name not in names):
        raise _unknown(name, sorted(names or list_models()))


def check_source(source: str | None) -> None:
    """ValueError unless weights can be had from there, of some preset at least."""
    if source not in (None, *SOURCES):
        raise ValueError(f"source: got {source!r}, accepted are {' and '.join(SOURCES)}.")


def is_pipeline(name: str) -> bool:
    """Whether the preset `name` is a diffusers pipeline, as far as the source shows it; see `names_in_source`."""
    return any(name in (_names_in(entry.package) or ()) for entry in PIPELINES.values())


def _unknown(name, names: list[str]) -> ValueError:
    near = difflib.get_close_matches(str(name)[:100], names, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else "`hf-effmodels list` shows them all"
    return ValueError(f"unknown preset {name!r}; {hint}.")


def model_info(name: str) -> ModelInfo:
    """Parameters, multiply-adds, published accuracy, paper and licences of the preset `name`."""
    entry, preset = _find(name)
    top1 = preset.find("top-1", "ImageNet-1k")
    return ModelInfo(
        name=name,
        architecture=entry.title,
        tasks=tuple(task.name for task in entry.tasks),
        parameters=preset.parameters,
        macs=preset.macs,
        folded_parameters=preset.folded_parameters,
        folded_macs=preset.folded_macs,
        top1=top1 and top1.value,
        top1_source=top1 and top1.source,
        published=preset.published,
        paper=f"{entry.paper}, https://arxiv.org/abs/{entry.arxiv}",
        repository=entry.repository,
        code_license="apache-2.0",
        weights_license=preset.weights_license,
        weights_license_note=preset.weights_license_note,
        weights=preset.weights,
        timm=preset.timm and f"timm/{preset.timm}",
    )


def get_config(name: str, **overrides: Any) -> "PreTrainedConfig":
    """The configuration of the preset `name`, with `overrides` (`num_labels=10`, `num_channels=1`, ...) applied.

    Without labels of one's own (`num_labels`, `id2label`) it has the published head's, with their names.

    Raises:
        ValueError: unknown preset, or an override that is no field of the configuration.
    """
    architecture, preset = find_preset(name)
    config_class = architecture.config_class
    accepted = _config_fields(config_class)
    for key in overrides:
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"accepted are {', '.join(sorted(accepted))}."
            raise ValueError(f"{config_class.__name__} has no field {key!r}; {hint}")
    for key, value in overrides.items():
        _check_finite(key, value)
    _check_labels(**{key: overrides[key] for key in ("num_labels", "id2label") if key in overrides})
    defaults = dict(preset.config)
    if {"num_labels", "id2label", "label2id"} & overrides.keys():
        defaults = {key: value for key, value in defaults.items() if key not in ("id2label", "label2id")}
    elif preset.classes is not None:
        names = class_names(preset.classes)
        defaults |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    elif preset.num_labels is not None:
        defaults["num_labels"] = preset.num_labels
    if "id2label" in overrides and "num_labels" not in overrides and "label2id" not in overrides:
        defaults["label2id"] = {label: int(index) for index, label in overrides["id2label"].items()}
    from huggingface_hub.errors import StrictDataclassError

    try:
        return config_class(**{**defaults, **overrides})
    except StrictDataclassError as error:
        # Its text names the validator; the reason, with the argument and what is accepted, is the cause.
        raise ValueError(str(error.__cause__ or error)) from error


def _check_finite(key: str, value) -> None:
    """Refuse infinity and what is no number, wherever they are in a value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}: got {value}, accepted are finite numbers.")
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        _check_finite(key, item)


def _check_labels(num_labels: int | None = None, id2label: Mapping | None = None) -> None:
    """Refuse what would make a configuration of nonsense, or of a billion names."""
    if num_labels is not None and (type(num_labels) is not int or not 1 <= num_labels <= MOST_LABELS):
        raise ValueError(f"num_labels: got {num_labels!r}, accepted are whole numbers from 1 to {MOST_LABELS}.")
    if id2label is None:
        return
    keys = [str(key) for key in id2label] if isinstance(id2label, Mapping) else []
    if not keys or set(keys) != {str(index) for index in range(len(keys))}:
        raise ValueError(f"id2label: got {id2label!r}, accepted is a mapping of the numbers from 0 to names.")
    if num_labels not in (None, len(keys)):
        raise ValueError(f"num_labels: got {num_labels}, but id2label has {len(keys)} names.")


def _config_fields(config_class) -> set[str]:
    """Names a user may set: the class's own fields and transformers' general ones."""
    fields = {name for name in config_class.__dataclass_fields__ if not name.startswith("_")}
    return fields | {
        "num_labels",
        "out_features",
        "out_indices",
        "output_hidden_states",
        "return_dict",
        "name_or_path",
    }


def create_model(
    name: str, *, task: str | None = None, pretrained: bool = False, source: str | None = None, **overrides: Any
) -> Any:  # a PreTrainedModel, or a pipeline of diffusers; `Any` for what only ours have: `model.reparameterize()`
    """A model of the preset `name`, in evaluation mode as `from_pretrained` returns it.

    Args:
        name: a preset, see `list_models()`.
        task: which head: one of `model_info(name).tasks`, by default the first.
        pretrained: with the published weights, which are fetched and converted the first time (`hub.pretrained`).
            Otherwise with random ones.
        source: of pretrained weights: "official" or "timm"; by default the first that the preset has.
        overrides: fields of the configuration, such as `num_labels=10`; with pretrained weights another number of
            labels begins with a new classifier.

    A preset of a diffusers pipeline gives that pipeline; `overrides` are then the arguments of its `create_pipeline`.

    Call `model.train()` before training it by hand; transformers' Trainer does so itself.
    """
    entry, _ = _find(name)
    tasks = [t.name for t in entry.tasks]
    if task is not None and task not in tasks:
        raise ValueError(f"task: {name} has no head for {task!r}, accepted are {', '.join(map(repr, tasks))}.")
    if source is not None and not pretrained:
        raise ValueError(f"source: got {source!r}, but it goes with pretrained=True.")
    if not isinstance(entry, Architecture):
        if pretrained:
            raise ValueError(f"pretrained: {name} is a diffusers pipeline; hf-effmodels convert takes its files.")
        return entry.create_pipeline(name, **overrides)
    config = get_config(name, **overrides)
    model_class = entry.model_class(TASKS[task or tasks[0]].auto_class)
    if pretrained:
        return _with_published_weights(model_class, name, source, config)
    return model_class(config).eval()


def _with_published_weights(model_class, name: str, source: str | None, config):
    from .hub import pretrained

    folder = pretrained(name, source)
    published = type(config).from_pretrained(folder)
    if getattr(published, "reparameterized", False):  # as the official code had folded the file
        config.reparameterized = True
    options = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    model, found = model_class.from_pretrained(folder, config=config, **options)
    labels = (published.num_labels, config.num_labels)
    new_head = [key for key, theirs, ours in found["mismatched_keys"] if (theirs[0], ours[0]) == labels]
    wrong = [key for key, *_ in found["mismatched_keys"] if key not in new_head or labels[0] == labels[1]]
    is_whole = type(model).__name__ in (published.architectures or ()) or model.base_model is model
    wrong += [key for key in found["missing_keys"] if is_whole or key.startswith(f"{model.base_model_prefix}.")]
    if wrong:
        raise ValueError(
            f"pretrained: the published weights of {name} do not fit this configuration; {sorted(wrong)[0]} is "
            "missing, or has another shape. What changes the network goes with random weights only."
        )
    return model.eval()


def create_image_processor(name: str, *, image_size: int | None = None, **overrides: Any) -> "BaseImageProcessor":
    """The image processor (a stock class of transformers) with the numbers the preset `name` was evaluated with.

    Args:
        name: a preset, see `list_models()`.
        image_size: side of the square input in pixels, the preset's own by default.
        overrides: fields of the image processor, such as `image_mean=[0.5]`.
    """
    architecture, preset = find_preset(name)
    if preset.image_processor is None:
        raise ValueError(f"{name} ({architecture.title}) takes no images: it has no image processor.")
    backend = "torchvision" if "torchvision" in available_processors(architecture) else "pil"
    processor_class = architecture.image_processor_class(backend)
    settings = dict(preset.image_processor)
    if image_size is not None:
        if type(image_size) is not int or image_size < 1:
            raise ValueError(f"image_size: got {image_size!r}, accepted are whole numbers from 1.")
        settings |= _of_size(settings, image_size)
    known = set(processor_class.valid_kwargs.__annotations__)
    if unknown := sorted(overrides.keys() - known):  # it would keep them and do nothing with them
        raise ValueError(
            f"{processor_class.__name__} has no field {unknown[0]!r}; accepted are {', '.join(sorted(known))}."
        )
    return processor_class(**{**settings, **overrides})


def sized_processor(processor, size: int | tuple[int, int]):
    """A copy of an image processor, for images of another size.

    Args:
        size: side, or (height, width), in pixels.

    Raises:
        ValueError: not square, and the processor makes squares only.
    """
    height, width = (size, size) if isinstance(size, int) else size
    processor = copy.deepcopy(processor)
    for name in ("size", "crop_size", "pad_size"):
        if getattr(processor, name, None) is None:
            continue
        keys = [key for key, value in dict(getattr(processor, name)).items() if value is not None]
        if height != width and not {"height", "width"} <= set(keys):
            raise ValueError(
                f"image_size: got {height}×{width}, but the {name} of {type(processor).__name__} is that of squares."
            )
        setattr(processor, name, {key: width if key == "width" else height for key in keys})
    return processor


def _of_size(settings: Mapping[str, Any], side: int) -> dict[str, dict[str, int]]:
    """The size and the crop of an image processor for square images, in the form in which `settings` has them."""
    return {key: dict.fromkeys(settings[key], side) for key in ("size", "crop_size", "pad_size") if key in settings}
