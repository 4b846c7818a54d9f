"""Presets by name: list them, ask about them, build them."""

import difflib
import fnmatch
import importlib
import re
from dataclasses import dataclass

from huggingface_hub.errors import StrictDataclassError

from .registry import (
    ARCHITECTURES,
    Architecture,
    available_processors,
    pipeline_configuration,
    pipeline_presets,
)

#: task of transformers' pipelines -> the Auto class whose head it needs, in the order `create_model` looks for one.
TASKS = {
    "image-classification": "AutoModelForImageClassification",
    "text-generation": "AutoModelForCausalLM",
    "image-text-to-text": "AutoModelForImageTextToText",
    "image-feature-extraction": "AutoModel",
}


#: The task of the diffusers pipelines, which no Auto class serves.
SUPER_RESOLUTION = "super-resolution"


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a preset.

    Attributes:
        name: the preset.
        architecture: its architecture's title.
        tasks: tasks of transformers' pipelines it can be built for.
        parameters: number of parameters in millions, as trained; `folded_parameters` after `reparameterize()`.
        macs: multiply-adds in millions of one image at the preset's size (convolutions and linear layers), as trained;
            `folded_macs` after `reparameterize()`. Of a language model: of one token (linear layers); of a
            super-resolution pipeline: of one denoising step for a 64×64 image. None where they are not known.
        top1: published ImageNet-1k top-1 accuracy in per cent, None where none is known; `top1_source` says by whom.
        paper: title and address; repository: the official code.
        code_license: licence of the model code here.
        weights_license: licence of the official weights, None if there are none; `weights_license_note` says more.
        weights: where the official weights are published, None if they are not.
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
    paper: str
    repository: str
    code_license: str
    weights_license: str | None
    weights_license_note: str | None
    weights: str | None


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Names of the presets that match a shell `pattern` and offer `task`, in natural order.

    Args:
        pattern: such as `"ghostnet*"`.
        task: a task of transformers' pipelines, such as `"image-classification"`; None for all.
    """
    accepted = (*TASKS, SUPER_RESOLUTION)
    if task is not None and task not in accepted:
        raise ValueError(f"task: got {task!r}, accepted are {', '.join(map(repr, accepted))}.")
    names = [
        name
        for architecture in ARCHITECTURES.values()
        if task is None or TASKS.get(task) in architecture.auto_classes
        for name in architecture.presets
    ]
    if task in (None, SUPER_RESOLUTION):
        names += pipeline_presets()
    return sorted(fnmatch.filter(names, pattern), key=_natural_key)


def _natural_key(name: str) -> list:
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(_split(name))]


def _split(name: str) -> list[str]:
    return re.split(r"(\d+(?:\.\d+)?)", name)


def find_preset(name: str) -> tuple[Architecture, dict]:
    """The architecture and the preset called `name`; a ValueError with close matches if there is none."""
    for architecture in ARCHITECTURES.values():
        if name in architecture.presets:
            return architecture, architecture.presets[name]
    if pipeline_configuration(name) is not None:
        raise ValueError(f"preset {name!r} is a diffusers pipeline: hf_effmodels.create_model({name!r}) builds it.")
    near = difflib.get_close_matches(str(name), list_models(), n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else "hf_effmodels.list_models() lists them all"
    raise ValueError(f"unknown preset {name!r}; {hint}.")


def model_info(name: str) -> ModelInfo:
    """Parameters, multiply-adds, published accuracy, paper and licences of the preset `name`."""
    if (pipeline := pipeline_configuration(name)) is not None:
        preset, tasks = pipeline.PRESETS[name], (SUPER_RESOLUTION,)
        title, paper, arxiv, repository = pipeline.TITLE, pipeline.PAPER, pipeline.ARXIV, pipeline.REPOSITORY
    else:
        architecture, preset = find_preset(name)
        title, paper, arxiv = architecture.title, architecture.paper, architecture.arxiv
        repository = architecture.repository
        tasks = tuple(task for task, auto_class in TASKS.items() if auto_class in architecture.auto_classes)
    return ModelInfo(
        name=name,
        architecture=title,
        tasks=tasks,
        parameters=preset["parameters"],
        macs=preset.get("macs"),
        folded_parameters=preset.get("folded_parameters"),
        folded_macs=preset.get("folded_macs"),
        top1=preset.get("top1"),
        top1_source=preset.get("top1_source"),
        paper=f"{paper}, https://arxiv.org/abs/{arxiv}",
        repository=repository,
        code_license="apache-2.0",
        weights_license=preset.get("weights_license"),
        weights_license_note=preset.get("weights_license_note"),
        weights=preset.get("weights"),
    )


def get_config(name: str, **overrides):
    """The configuration of the preset `name`, with `overrides` (`num_labels=10`, `num_channels=1`, ...) applied.

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
    defaults = dict(preset["config"])
    if not {"num_labels", "id2label", "label2id"} & overrides.keys():
        defaults["num_labels"] = preset.get("num_labels", 1000)
    if "id2label" in overrides and "num_labels" not in overrides and "label2id" not in overrides:
        defaults["label2id"] = {label: int(index) for index, label in overrides["id2label"].items()}
    try:
        return config_class(**{**defaults, **overrides})
    except StrictDataclassError as error:
        # Its text names the validator; the reason, with the argument and what is accepted, is the cause.
        raise ValueError(str(error.__cause__ or error)) from error


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


def create_model(name: str, *, task: str | None = None, **overrides):
    """A model of the preset `name` with random weights, in evaluation mode as `from_pretrained` returns it.

    Args:
        name: a preset, see `list_models()`.
        task: which head: a task of transformers' pipelines. By default the first that the architecture has of
            image classification, text generation and plain features.
        overrides: fields of the configuration, such as `num_labels=10`.

    A preset of a diffusers pipeline gives that pipeline; `overrides` are then the arguments of its `create_pipeline`.

    Call `model.train()` before training it by hand; transformers' Trainer does so itself.
    """
    if (pipeline := pipeline_configuration(name)) is not None:
        create = importlib.import_module(f"{pipeline.__package__}.create")
        return create.create_pipeline(name, **overrides)
    architecture, _ = find_preset(name)
    tasks = model_info(name).tasks
    if task is not None and task not in tasks:
        raise ValueError(f"task: {name} has no head for {task!r}, accepted are {', '.join(map(repr, tasks))}.")
    config = get_config(name, **overrides)
    return architecture.model_class(TASKS[task or tasks[0]])(config).eval()


def create_image_processor(name: str, *, image_size: int | None = None, **overrides):
    """The image processor (a stock class of transformers) with the numbers the preset `name` was evaluated with.

    Args:
        name: a preset, see `list_models()`.
        image_size: side of the square input in pixels, the preset's own by default.
        overrides: fields of the image processor, such as `image_mean=[0.5]`.
    """
    import transformers

    architecture, preset = find_preset(name)
    if not architecture.image_processor:
        raise ValueError(f"{name} ({architecture.title}) takes no images: it has no image processor.")
    classes = available_processors(architecture)
    processor_class = getattr(transformers, classes.get("torchvision", classes["pil"]))
    settings = dict(preset["image_processor"])
    if image_size is not None:
        settings["size"] = {"shortest_edge": image_size}
    return processor_class(**{**settings, **overrides})
