"""Collects the entries of all folders of `modeling/`, `pipelines/` and `collaboration/codecs/` and registers them with
transformers.

A folder declares its systems as `ENTRIES` in its `__init__.py`. From them come the registrations with transformers'
Auto classes, `list_models`, the command line, the tables and the navigation of the docs, and the common tests. Nothing
here changes for a new system.
"""

import importlib
import logging
import pkgutil
import sys
from functools import partial

from . import modeling, pipelines
from ._imports import Placeholder, register_lazily, when_imported
from .architecture import Architecture, PipelineEntry, Preset, TaskPipeline
from .collaboration import codecs

logger = logging.getLogger(__name__)

#: model_type -> architecture.
ARCHITECTURES: dict[str, Architecture] = {}
#: folder -> diffusers pipeline.
PIPELINES: dict[str, PipelineEntry] = {}
#: task -> transformers pipeline of this package.
TASK_PIPELINES: dict[str, TaskPipeline] = {}


def collect() -> None:
    """Read the `ENTRIES` of the folders into `ARCHITECTURES` and `PIPELINES`; those that are there already stay."""
    for package, table in ((modeling, ARCHITECTURES), (codecs, ARCHITECTURES), (pipelines, PIPELINES)):
        for folder in sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg):
            for entry in getattr(importlib.import_module(f"{package.__name__}.{folder}"), "ENTRIES", ()):
                other = table.setdefault(entry.key, entry)
                if other.package != entry.package:
                    raise ValueError(f"{entry.package}: {entry.key!r} is taken by {other.package}.")
            for task_pipeline in getattr(sys.modules[f"{package.__name__}.{folder}"], "TASK_PIPELINES", ()):
                TASK_PIPELINES.setdefault(task_pipeline.task, task_pipeline)


collect()


def all_entries() -> list[Architecture | PipelineEntry]:
    """All architectures, then all diffusers pipelines."""
    return [*ARCHITECTURES.values(), *PIPELINES.values()]


def find(preset: str) -> tuple[Architecture | PipelineEntry, Preset] | None:
    """The entry that has `preset`, and the preset; None where there is none."""
    for entry in all_entries():
        if (found := entry.presets.get(preset)) is not None:
            return entry, found
    return None


def public_class_names() -> list[str]:
    """Names of all configuration and model classes, for `from hf_effmodels import ...`."""
    names = {name for a in ARCHITECTURES.values() for name in (a.config, a.processor, *a.auto_classes.values())}
    names |= {name for a in ARCHITECTURES.values() if a.own_image_processor for name in a.image_processor.values()}
    return sorted(names - {None})


def load_public_class(name: str, module: str):
    """The configuration or model class `name`; AttributeError as of `module` if there is none."""
    for architecture in ARCHITECTURES.values():
        if name == architecture.config:
            return architecture.config_class
        if name == architecture.processor:
            return architecture.processor_class
        if name in architecture.auto_classes.values():
            return getattr(architecture.modeling_module, name)
        for backend, own in architecture.image_processor.items() if architecture.own_image_processor else ():
            if name == own:
                return architecture.image_processor_class(backend)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def register_with_transformers() -> None:
    """Register every architecture with transformers' Auto classes, each part when its Auto module gets imported.

    PEFT methods are registered when peft gets imported, quantisers when transformers' are.
    """
    auto = "transformers.models.auto"
    when_imported(f"{auto}.configuration_auto", _register_configurations)
    when_imported(f"{auto}.modeling_auto", _register_models)
    when_imported(f"{auto}.image_processing_auto", _register_image_processors)
    when_imported(f"{auto}.processing_auto", _register_processors)
    when_imported("transformers.pipelines", register_task_pipelines)
    when_imported("peft", partial(importlib.import_module, "hf_effmodels.adapters"))
    for quantizer in ("cbq", "bitnet158", "bivit", "twin_uniform", "packed_binary", "adder"):
        module = f"hf_effmodels.quantization.{quantizer}.quantizer_{quantizer}"
        when_imported("transformers.quantizers.auto", partial(importlib.import_module, module))


def is_in_halves(model_type: str) -> bool:
    """Whether it is a network of this package with bytes between its halves, see `Architecture.in_halves`."""
    return model_type in ARCHITECTURES and ARCHITECTURES[model_type].in_halves


def _ours() -> list[Architecture]:
    """All but those whose `model_type` transformers itself has taken since: there ours steps back."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return [a for a in ARCHITECTURES.values() if a.model_type not in CONFIG_MAPPING_NAMES]


def _register_configurations() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    ours = _ours()
    for architecture in ours:
        register_lazily(CONFIG_MAPPING, architecture.model_type, _placeholder(architecture, "configuration"))
    for architecture in ARCHITECTURES.values():
        if architecture not in ours:
            logger.warning(
                "transformers has a model of its own called %r: it is used by the Auto classes; hf_effmodels' stays "
                "available as hf_effmodels.%s.",
                architecture.model_type,
                next(iter(architecture.auto_classes.values())),
            )


def _register_models() -> None:
    from transformers.models.auto import modeling_auto

    for architecture in _ours():
        for auto_class, name in architecture.auto_classes.items():
            mapping = getattr(modeling_auto, auto_class)._model_mapping
            # Not the configuration's class: SAM's, which one of ours inherits, imports the Auto classes itself.
            configuration = _placeholder(architecture, "configuration")
            register_lazily(mapping, configuration, _placeholder(architecture, "modeling", name))
            # Pipelines and the Trainer look classes up by name, in the tables that the mappings are made of.
            mapping._model_mapping.setdefault(architecture.model_type, name)
    for architecture in _ours():
        for task in architecture.tasks:
            # The Trainer shifts the labels for label smoothing where the class's name is in this table, and nowhere
            # else: a vision-language model, transformers' own included, would learn to repeat each token. The key is
            # no model type: the type has no AutoModelForCausalLM.
            if task.next_token and "AutoModelForCausalLM" not in architecture.auto_classes:
                name = architecture.auto_classes[task.auto_class]
                modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(name, name)


def _register_image_processors() -> None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    for architecture in _ours():
        if architecture.image_processor:
            classes = available_processors(architecture)
            module = architecture.image_processor_module
            placeholders = {backend: Placeholder(module, name) for backend, name in classes.items()}
            register_lazily(IMAGE_PROCESSOR_MAPPING, _placeholder(architecture, "configuration"), placeholders)


def _register_processors() -> None:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    for architecture in _ours():
        if architecture.processor:
            placeholder = _placeholder(architecture, "processing", architecture.processor)
            register_lazily(PROCESSOR_MAPPING, _placeholder(architecture, "configuration"), placeholder)
        elif architecture.stock_processor:
            placeholder = Placeholder("transformers", architecture.stock_processor)
            register_lazily(PROCESSOR_MAPPING, _placeholder(architecture, "configuration"), placeholder)


def register_task_pipelines() -> None:
    """Register the transformers pipelines of this package with `pipeline`.

    A pipeline's module imports transformers' pipelines, whose import calls this: one that is not there yet is being
    imported, and calls this again at its end.
    """
    import transformers
    from transformers.pipelines import PIPELINE_REGISTRY

    for entry in TASK_PIPELINES.values():
        module = importlib.import_module(f"{entry.package}.{entry.module}")
        pipeline_class = getattr(module, entry.pipeline_class, None)
        if pipeline_class is not None and entry.task not in PIPELINE_REGISTRY.supported_tasks:
            auto_class = getattr(transformers, entry.auto_class)
            PIPELINE_REGISTRY.register_pipeline(entry.task, pipeline_class, pt_model=auto_class, type=entry.takes)


def _placeholder(architecture: Architecture, kind: str, name: str | None = None) -> Placeholder:
    return Placeholder(f"{architecture.package}.{kind}_{architecture.name}", name or architecture.config)


def available_processors(architecture: Architecture) -> dict[str, str]:
    """The architecture's image processor classes whose backend is installed."""
    from transformers.utils import is_torchvision_available

    return {
        backend: name
        for backend, name in architecture.image_processor.items()
        if backend != "torchvision" or is_torchvision_available()
    }
