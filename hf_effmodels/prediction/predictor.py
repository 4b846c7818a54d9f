"""The model that predicts: which task it is for, and where it lies."""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._exported import MODEL_INDEX
from .._kinds import tasks_of_folder
from .._model_place import check_model
from ..architecture import TASKS
from ..models import list_models, tasks_in_source

if TYPE_CHECKING:
    from PIL import Image

#: Task -> the module of `tasks/` that does it.
MODULES = {
    "image-classification": "classes",
    "object-detection": "boxes",
    "image-segmentation": "segments",
    "mask-generation": "masks",
    "zero-shot-image-classification": "named",
    "image-text-to-text": "conversation",
    "super-resolution": "enlarged",
    "text-generation": "continuation",
    "text-classification": "classes",
}
#: The tasks whose inputs are texts; the others' are images.
OF_TEXT = ("text-generation", "text-classification")
#: Task -> the `Options` that it has a use for.
USED = {
    "image-classification": ("top_k",),
    "object-detection": ("threshold",),
    "image-segmentation": (),
    "mask-generation": ("points", "top_k"),
    "zero-shot-image-classification": ("labels", "template", "top_k"),
    "image-text-to-text": ("prompt", "max_new_tokens"),
    "super-resolution": ("steps",),
    "text-generation": ("max_new_tokens",),
    "text-classification": ("top_k",),
}


#: The tasks whose answers are pictures, or can be drawn into them.
DRAWN = ("object-detection", "image-segmentation", "mask-generation", "super-resolution")


@dataclass(frozen=True)
class Options:
    """How to predict.

    Attributes:
        top_k: classes that are told, of all.
        threshold: scores from which on boxes are told.
        prompt: what a vision-language model is asked.
        max_new_tokens: the longest text that is generated.
        steps: of diffusion; None for as many as the model was trained with.
        points: of mask generation, along a side.
        labels: what zero-shot classification chooses from, and template: what is said of each, with `{}` for it.
    """

    top_k: int = 5
    threshold: float = 0.5
    prompt: str | None = None
    max_new_tokens: int = 64
    steps: int | None = None
    points: int = 16
    labels: tuple[str, ...] = ()
    template: str = "a photo of a {}."


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder or a Hub id, and what is needed to read it."""

    name: str
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    def options(self) -> dict[str, Any]:
        return {"revision": self.revision, "token": self.token, "trust_remote_code": self.trust_remote_code}


@dataclass(frozen=True)
class Predictor:
    """What a model says.

    Attributes:
        task: a key of `MODULES`.
        takes: "image" or "text".
        answer: a batch of PIL images (in the channels of `num_channels`) or texts -> what is said of each, a
            dictionary that goes into JSON. Under "picture" it may have a PIL image to be written.
        line: an answer in one line, for people.
        rows: an answer as rows of a table.
        draw: an image and its answer -> a picture of it; None where there is nothing to draw.
        num_channels: of the images.
    """

    task: str
    takes: str
    answer: Callable[[Sequence], list[dict]]
    line: Callable[[dict], str]
    rows: Callable[[dict], list[dict]]
    draw: Callable[["Image.Image", dict], "Image.Image"] | None = None
    num_channels: int = 3


def load_predictor(
    source: Source | str, *, task: str | None = None, options: Options | None = None, device: str | None = None
) -> Predictor:
    """The predictor of a model: a folder, a Hub id, or a folder that `hf-effmodels export` wrote.

    Args:
        source: the model; a preset stands for its published weights.
        task: by default what the model has a head for.
        options: how to predict.
        device: where to compute; by default an accelerator if there is one.

    Raises:
        ValueError: a task that is not one of `MODULES`, or that the model is not for; an option that the task has no
            use for.
        OSError: a model that cannot be found, reached or read.
    """
    source, task = find_task(source, task)
    check_used(task, options or Options())
    return load_for_task(source, task, options or Options(), device)


def load_for_task(source: Source, task: str, options: Options, device: str | None) -> Predictor:
    """`load_predictor` of what `find_task` has found and `check_used` has looked at."""
    module = importlib.import_module(f"{__package__}.tasks.{MODULES[task]}")
    return module.load(task, source, options, device or default_device())


def find_task(source: Source | str, task: str | None = None) -> tuple[Source, str]:
    """Where a model lies, a preset's published weights in the cache, and what it is to do.

    Args:
        source: the model; a preset stands for its published weights.
        task: by default what the model has a head for.

    Raises:
        ValueError: a task that is not one of `MODULES`, or that the model is not for.
        OSError: a model that cannot be found, reached or read.
    """
    if task not in (None, *MODULES):
        raise ValueError(f"task: got {task!r}, accepted are {', '.join(MODULES)}.")
    source = Source(source) if isinstance(source, str) else source
    check_model("MODEL", source.name, revision=("--revision", source.revision))
    if source.name in list_models() and not os.path.isdir(source.name):
        if source.revision is not None:
            raise ValueError(f"revision: got {source.revision!r}, but {source.name} is a preset: it has none.")
        from ..hub import pretrained

        source = replace(source, name=str(pretrained(source.name, token=source.token)))
    return source, _chosen(source.name, task, _own_tasks(source))


def _chosen(name: str, task: str | None, own: Sequence[str]) -> str:
    """`task`, by default the first of a model's `own` that predictions are made for; ValueError of any other."""
    if task is None:
        task = next((one for one in own if one in MODULES), None)
    if task is None or task not in own:
        raise ValueError(
            f"MODEL: {name} is for {' and '.join(own) or 'no known task'}"
            + (f", not for {task}." if task else f"; predictions are made for {', '.join(MODULES)}.")
        )
    return task


def task_early(source: Source, task: str | None) -> str | None:
    """What a model is to do, as far as names and the text of a configuration tell it, None where they do not: nothing
    heavy is imported.

    Raises:
        ValueError, OSError: as `find_task`, for a task that is not one of `MODULES` or that the model is not for,
            and a model that is nowhere.
    """
    if task not in (None, *MODULES):
        raise ValueError(f"task: got {task!r}, accepted are {', '.join(MODULES)}.")
    check_model("MODEL", source.name, revision=("--revision", source.revision))
    # What is wrong with a configuration is told by those who read it.
    own = tasks_of_folder(source.name) if os.path.isdir(source.name) else tasks_in_source(source.name)
    return _chosen(source.name, task, own) if own else task


def check_used(task: str, options: Options) -> None:
    """ValueError for an option that the task has no use for."""
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name not in USED[task] and value not in (f.default, []):
            told = " ".join(value) if isinstance(value, (list, tuple)) else value
            raise ValueError(f"{f.name}: got {told}, which {task} has no use for.")


def check_drawn(task: str, save: str | None) -> None:
    """ValueError of a folder for pictures where a task makes none."""
    if save is not None and task not in DRAWN:
        raise ValueError(f"save: got {save!r}, but {task} has nothing to draw.")


def default_device() -> str:
    import torch

    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"


def _own_tasks(source: Source) -> list[str]:
    """The tasks that a model's configuration names, the main one first."""
    from ..hub.ids import reading

    if _is_pipeline(source):
        return ["super-resolution"]
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    with reading("MODEL", source.name, revision=("--revision", source.revision)):
        config = AutoConfig.from_pretrained(source.name, **source.options())
    found = []
    for task in TASKS.values():
        auto = getattr(modeling_auto, task.auto_class or "", None)
        names = auto._model_mapping._model_mapping.get(config.model_type, ()) if auto else ()
        names = (names,) if isinstance(names, str) else names
        code = (getattr(config, "auto_map", None) or {}).get(task.auto_class or "", "").rpartition(".")[2]
        if {code, *names} & set(config.architectures or ()):
            found.append(task.name)
    return found


def _is_pipeline(source: Source) -> bool:
    """Whether the model is a pipeline of diffusers: it has no configuration of its own, but an index of its parts."""
    from ..hub.ids import reading

    if os.path.isdir(source.name):
        return Path(source.name, MODEL_INDEX).is_file()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with reading("MODEL", source.name, revision=("--revision", source.revision)):
        try:
            hf_hub_download(source.name, MODEL_INDEX, revision=source.revision, token=source.token)
        except (EntryNotFoundError, LocalEntryNotFoundError):  # it has none; without network, none in the cache
            return False
    return True


def is_exported(source: Source) -> bool:
    """Whether a folder holds a program that `hf-effmodels export` wrote."""
    file = Path(source.name, "export.json")
    return file.is_file() and "export_format" in json.loads(file.read_text(encoding="utf-8"))


def load_network(source: Source, auto_class: str, device: str):
    """The network in evaluation mode; of an exported folder its program."""
    from ..hub.ids import reading
    from ..hub.whole import load_whole

    if is_exported(source):
        from ..edge import load
        from ..edge_language import is_exported_language_model, load_language_model

        with reading("MODEL", source.name):
            return (load_language_model if is_exported_language_model(source.name) else load)(source.name)
    import transformers

    options = {**source.options(), "revision": ("--revision", source.revision), "dtype": "auto"}
    return load_whole(getattr(transformers, auto_class), "MODEL", source.name, **options).to(device).eval()


def load_part(source: Source, auto_class: str):
    """The image processor, the tokenizer or the processor that lies beside a model."""
    import transformers

    from ..hub.ids import reading

    with reading("MODEL", source.name, revision=("--revision", source.revision)):
        return getattr(transformers, auto_class).from_pretrained(source.name, **source.options())
