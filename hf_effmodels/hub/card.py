"""The model card of this package's models: what the registry and the model itself know, as data for the one writer."""

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from ..architecture import Architecture, Preset
from ..quantization.stored import TRAINABLE, count_parameters, quantizer_of
from ..registry import ARCHITECTURES
from .card_text import About, code, is_paper, plain, write_card
from .contents import reference_fields
from .ids import hub_id
from .usage import LOCAL_MODEL_ID, task_of, usage_section
from .wrappers import unwrap

#: How models are called that tell classes apart.
_WITH_CLASSES = tuple(
    f"For{what}"
    for what in (
        "ImageClassification",
        "ObjectDetection",
        "SemanticSegmentation",
        "UniversalSegmentation",
        "SequenceClassification",
        "TokenClassification",
    )
)


def build_card(
    model: Any,
    *,
    processor: Any = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    dataset: str | None = None,
    results: Mapping[str, float] | Iterable[Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
    conversion: Mapping[str, Any] | None = None,
    preset: str | None = None,
    base_model: str | None = None,
    repo_id: str | None = None,
    revision: str | None = None,
    adapter_only: bool = False,
    samples: Mapping[str, int | str] | None = None,
    figures: Iterable[str] = (),
    with_code: bool = True,
    multiply_adds: str | None = None,
) -> ModelCard:
    """The model card of one of this package's models.

    Args:
        model: a model of the registry; its type, size and labels are read from it.
        processor: the image processor or the tokenizer, for the description of the input.
        license: the Hub's identifier of the weights' licence, such as `"apache-2.0"`. Without one the card says that
            none is stated, and `publish` refuses it.
        license_name: with `license="other"`: its name; `license_link`: where to read it.
        dataset: what the weights were trained on: a data set of the Hub (`"uoft-cs/cifar10"`) or a name.
        results: what was measured: `{"accuracy": 0.97}`, or a list of mappings with `metric` and `value` and, as far
            as known, `dataset`, `split` and `source` (command, date, machine). Accuracies are fractions of 1.
        training: hyper-parameters by name; nested mappings are flattened with dots.
        conversion: where converted weights come from: `source` (the official file), `sha256`, `entry`, `converted` (a
            `ConversionReport` as a dictionary).
        preset: the published variant. By default the one whose configuration the model has, if there is one.
        base_model: the Hub id of the model this one was fine-tuned or converted from.
        repo_id: where the model is (going to be) on the Hub; the snippets use it.
        revision: the commit of `repo_id` to pin in the snippets, if it exists already.
        adapter_only: the folder holds the adapters of a vision-language model, not the frozen parts.
        samples: how many there are in each split: `{"train": 50000, "test": 10000}`, or of what: `"612 blocks"`.
        figures: names of charts that lie beside the card (`contents.FIGURES`).
        with_code: the folder has the model's code; otherwise the card does not say that it loads without this package.
        multiply_adds: how many were counted for what, where none are published of just this network.

    Returns:
        `huggingface_hub.ModelCard`: metadata (task, library, licence, tags, data sets, measured results) and text.

    Raises:
        ValueError: not a model of this package, or an argument that is not of the form above.
    """
    model = unwrap(model)
    architecture = find_architecture(model)
    if preset is None:
        preset = _matching_preset(architecture, model.config)
    elif preset not in architecture.presets:
        raise ValueError(
            f"preset: got {preset!r}, accepted for {architecture.title}: {', '.join(architecture.presets)}"
        )
    check_place(repo_id, revision)
    known = architecture.presets[preset] if preset else None
    usage = usage_section(
        architecture,
        type(model).__name__,
        model.config,
        repo_id or LOCAL_MODEL_ID,
        revision,
        processor is not None,
        with_code,
    )
    about = About(
        title=repo_id.rpartition("/")[2] if repo_id else preset or architecture.title,
        introduction=_introduction(architecture, model, preset, with_code),
        library="transformers",
        task=_task(architecture, model),
        tags=("hf_effmodels", architecture.model_type, f"arxiv:{architecture.arxiv}"),
        facts=tuple(_facts(architecture, model, processor, known, adapter_only, multiply_adds)),
        usage=usage,
        published=known.published if known else (),
        entry=architecture,
        preset=known,
        figures=tuple(figures),
    )
    return write_card(
        about,
        license=license,
        license_name=license_name,
        license_link=license_link,
        dataset=dataset,
        results=results,
        training=training,
        conversion=conversion,
        base_model=base_model,
        samples=samples,
    )


def check_place(repo_id: str | None, revision: str | None = None) -> None:
    """ValueError unless a repository, and a commit of it, can stand in a snippet."""
    if repo_id is not None:
        try:
            validate_repo_id(repo_id)
        except ValueError as error:
            raise ValueError(f"repo_id: got {repo_id!r}, accepted is 'namespace/name'. {error}") from error
    if revision is not None and not re.fullmatch(r"[\w./-]+", str(revision)):
        raise ValueError(f"revision: got {revision!r}, accepted is a commit, a branch or a tag")


def find_architecture(model) -> Architecture:
    """The registry's line for a model; ValueError if the model is not one of this package's own classes."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    architecture = ARCHITECTURES.get(model_type)
    if architecture is None:
        raise ValueError(
            f"model: got {type(model).__name__} (model_type {model_type!r}), accepted are models of this package: "
            f"{', '.join(ARCHITECTURES)}"
        )
    accepted = {auto: architecture.model_class(auto) for auto in architecture.auto_classes}
    if type(model) not in accepted.values():
        hint = "import hf_effmodels before loading it" if "transformers_modules" in type(model).__module__ else ""
        raise ValueError(
            f"model: got {type(model).__module__}.{type(model).__name__}, accepted are "
            f"{', '.join(c.__name__ for c in accepted.values())} of hf_effmodels{'; ' * bool(hint)}{hint}"
        )
    return architecture


def _matching_preset(architecture: Architecture, config) -> str | None:
    """The preset whose network the model has; labels, input channels and image size may differ."""
    free = {"num_labels", "num_channels", "image_size", "reparameterized", "use_cache", "output_router_logits"}
    free |= {"pad_token_id", "bos_token_id", "eos_token_id", "table_lengths", "joint"}
    own = [c for c in type(config).__mro__ if c.__module__.startswith(__package__.partition(".")[0])]
    fields = {name for c in own for name in inspect.get_annotations(c) if not name.startswith("_")} - free
    parts = config.sub_configs.keys() - fields
    for name, preset in architecture.presets.items():
        reference = architecture.config_class(**preset.config)
        same = all(_plain(getattr(config, key)) == _plain(getattr(reference, key)) for key in fields)
        if same and all(_shape(getattr(config, key), free) == _shape(getattr(reference, key), free) for key in parts):
            return name
    return None


def _shape(part, free: set[str]) -> dict:
    """The fields of a part of a configuration that its network follows from."""
    free = free | {"image_embedding_size", "transformers_version", "dtype", "architectures", "_name_or_path"}
    return {key: _plain(value) for key, value in part.to_dict().items() if key not in free}


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _task(architecture: Architecture, model) -> str | None:
    """The pipeline the model is for; none for a backbone, whose weights are not all that `AutoModel` needs."""
    task = task_of(architecture, type(model).__name__)
    return task and (task.pipeline_tag or task.name)


def _introduction(architecture: Architecture, model, preset: str | None, with_code: bool) -> str:
    task = task_of(architecture, type(model).__name__)
    noun = task.noun if task else "feature extractor"
    kind = f"{'An' if noun[0] in 'aeiou' else 'A'} {noun}"
    variant = f"the published variant `{preset}`" if preset else "a variant of its own"
    code = "" if is_paper(architecture.repository) else f" ([official code]({architecture.repository}))"
    loads = " The repository carries the model's code: it loads with or without that package." if with_code else ""
    return (
        f"{kind} of the {architecture.title} family ({variant}). The architecture is that of "
        f"[{architecture.paper}](https://arxiv.org/abs/{architecture.arxiv}){code}, implemented for transformers by "
        f"`hf_effmodels`.{loads}"
    )


def _facts(
    architecture: Architecture, model, processor, known: Preset | None, adapter_only: bool, counted: str | None
) -> list[tuple[str, str]]:
    config = model.config
    folded = getattr(config, "reparameterized", False)
    rows = [("Type", f"{type(model).__name__} ({architecture.title})")]
    if hasattr(config, "reparameterized"):
        rows.append(("Form", "folded for inference (`reparameterized`)" if folded else "training form"))
    rows += parameters(model)
    if architecture.in_halves:
        rows.append(("Network", str(config.network["model_type"])))
        rows.append(("Code", config.describe()))
    if architecture.base_models:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        rows.append(("Of these trained", f"{trained / 1e6:.3f} M"))
    if adapter_only:
        rows.append(("In this repository", "the adapters only; the other weights are loaded from where these are:"))
    rows += parts(model)
    macs = known and (known.folded_macs if folded else known.macs)
    size = getattr(config, "image_size", None)
    as_published = known and all(
        getattr(config, key, None) == getattr(architecture.config_class(**known.config), key, None)
        for key in ("num_channels", "image_size")
    )
    as_published = as_published and config.num_labels == known.num_labels
    if macs is not None and not architecture.image_processor:
        rows.append(("Multiply-adds", f"{macs} M for one token (linear layers)"))
    elif macs is not None and as_published:
        rows.append(("Multiply-adds", f"{macs} M for one image of {_size(size)}"))
    elif counted:
        rows.append(("Multiply-adds", counted))
    return rows + inputs_and_outputs(model, processor)


def parameters(model) -> list[tuple[str, str]]:
    """How many weights a model has, and of which precisions."""
    own, _ = _precisions(model)
    total = count_parameters(model)
    rows = [("Parameters", f"{total / 1e6:.3f} M")]
    if own:
        rest = total - sum(own.values())
        told = [*(f"{count / 1e6:.3f} M: {plain(what)}" for what, count in own.items()), f"{rest / 1e6:.3f} M: real"]
        rows.append(("Of these", "; ".join(told)))
    return rows


def inputs_and_outputs(model, processor) -> list[tuple[str, str]]:
    """What a model takes, what it tells apart, and in what its weights are stored."""
    config, rows = model.config, []
    if (size := getattr(config, "image_size", None)) is not None:
        rows.append(("Image size", _size(size)))
    if hasattr(config, "vocab_size"):
        rows.append(("Vocabulary", str(config.vocab_size)))
        if (longest := getattr(config, "max_position_embeddings", None)) is not None:
            rows.append(("Longest sequence", f"{longest} tokens"))
    if hasattr(config, "num_channels"):
        rows.append(("Input channels", str(config.num_channels)))
    if type(model).__name__.endswith(_WITH_CLASSES):
        labels = [str(label) for label in config.id2label.values()]
        shown = "" if labels[0] == "LABEL_0" else f": {', '.join(map(plain, labels[:10]))}{', …' * (len(labels) > 10)}"
        rows.append(("Labels", f"{len(labels)}{shown}"))
    if processor is not None:
        rows.append(("Preparation", _preparation(processor)))
    told = f"{str(model.dtype).removeprefix('torch.')}, safetensors"
    if _precisions(model)[1]:
        told += "; those of few bits packed as integers"
    elif hasattr(model, "deploy"):
        told += "; those of one bit, too, which `deploy()` packs"
    rows.append(("Weights", told))
    return rows


def _precisions(model) -> tuple[dict[str, int], bool]:
    """Number of weights by what layers say of their `precision()`, and whether any are packed."""
    own = {}
    for module in model.modules():
        if callable(getattr(module, "precision", None)):
            packed = not hasattr(module, "weight")
            shape = (module.out_features, module.in_features) if packed else module.weight.shape
            own[module.precision()] = own.get(module.precision(), 0) + math.prod(shape)
    return own, quantizer_of(model.config) not in (None, *TRAINABLE)


def parts(model) -> list[tuple[str, str]]:
    """What a model of several models is made of: each part's kind and size, and where its own weights are from."""
    rows, of_whole = [], getattr(model.config, "image_size", None)
    references = reference_fields(type(model.config))
    for field in model.config.sub_configs:
        if (part := getattr(model.config, field)) is None:
            continue
        where = getattr(model.config, references.get(field, ""), None)
        origin = f"{code(where)}, " if hub_id(where) else ""
        name = field.removesuffix("_config").replace("_", " ").capitalize()
        rows.append((f"{name} model", f"{origin}{part.model_type}{_sizes(part)}"))
        if (size := getattr(part, "image_size", None)) is not None:
            is_of_whole = of_whole is None or _size(size) == _size(of_whole)
            rows.append(("Image size" if is_of_whole else f"{name} model's image size", _size(size)))
    return rows


def _sizes(config) -> str:
    """Width and depth of a part, of one with stages those of each, as far as its configuration says."""
    widths = next(
        (w for name in ("hidden_sizes", "embed_dims", "hidden_size") if (w := getattr(config, name, None))), ""
    )
    depths = getattr(config, "depths", None) or getattr(config, "num_hidden_layers", "")
    shown = [", ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in (widths, depths)]
    return (f", width {shown[0]}" if shown[0] else "") + (f", {shown[1]} layers" if shown[1] else "")


def _size(size) -> str:
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return f"{height} × {width} pixels"


def _preparation(processor) -> str:
    """What the image processor does, from its own settings; what the tokenizer is."""
    if not hasattr(processor, "to_dict"):  # a tokenizer
        return f"{type(processor).__name__}, {len(processor)} tokens"
    if hasattr(processor, "image_processor"):  # images and text
        return f"{_preparation(processor.image_processor)}; {_preparation(processor.tokenizer)}"
    settings = processor.to_dict()
    parts = [plain(settings["image_processor_type"])]
    if settings.get("do_resize") and (size := settings.get("size")):
        parts.append("size " + ", ".join(f"{key} {value}" for key, value in dict(size).items() if value is not None))
    if settings.get("crop_pct"):
        parts.append(f"centre crop {settings['crop_pct']:g}")
    if settings.get("do_normalize"):
        for key in ("image_mean", "image_std"):
            values = settings.get(key)
            values = values if isinstance(values, (list, tuple)) else [values]
            parts.append(f"{key.removeprefix('image_')} " + " ".join(f"{value:g}" for value in values))
    return "; ".join(parts)
