"""The model card: written from the registry, the model and what was measured; nothing in it is left to fill in."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..architecture import METRICS, Architecture, Preset
from ..registry import ARCHITECTURES
from .ids import hub_id
from .usage import LOCAL_MODEL_ID, task_of, usage_section

#: Licence identifiers of the Hub (https://huggingface.co/docs/hub/repositories-licenses), without "unknown".
LICENSES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma
    other""".split()
)
NO_LICENSE = "none stated: not for redistribution"


def build_card(
    model,
    *,
    processor=None,
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

    Returns:
        `huggingface_hub.ModelCard`: metadata (task, library, licence, tags, data sets, measured results) and text.

    Raises:
        ValueError: not a model of this package, or an argument that is not of the form above.
    """
    architecture = find_architecture(model)
    check_license(license, license_name, license_link)
    if preset is None:
        preset = _matching_preset(architecture, model.config)
    elif preset not in architecture.presets:
        raise ValueError(
            f"preset: got {preset!r}, accepted for {architecture.title}: {', '.join(architecture.presets)}"
        )
    measured = _results(results, dataset)
    task = _task(architecture, model)
    title = repo_id.rpartition("/")[2] if repo_id else preset or architecture.title

    data = ModelCardData(
        license=license,
        license_name=license_name,
        license_link=license_link,
        library_name="transformers",
        pipeline_tag=task,
        tags=["hf_effmodels", architecture.model_type, f"arxiv:{architecture.arxiv}"],
        datasets=[dataset] if hub_id(dataset) else None,
        base_model=base_model,
        metrics=sorted({entry["metric"] for entry in measured}) or None,
        **({"model_name": title, "eval_results": [_eval_result(e, task) for e in measured]} if measured else {}),
    )
    known = architecture.presets[preset] if preset else None
    sections = [
        _introduction(title, architecture, model, preset, dataset),
        _facts(architecture, model, processor, preset, known, license, license_name, license_link, adapter_only),
        usage_section(
            architecture,
            type(model).__name__,
            model.config,
            repo_id or LOCAL_MODEL_ID,
            revision,
            processor is not None,
        ),
        _numbers(known, measured, converted=conversion is not None),
        _origin(conversion, known, license),
        _training(training),
        _citation(architecture),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


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


def check_license(license: str | None, name: str | None = None, link: str | None = None) -> None:
    """ValueError if a licence is given that the Hub does not know, or "other" without its name and link."""
    if license is not None and license not in LICENSES:
        near = difflib.get_close_matches(str(license).lower().replace(" ", "-"), sorted(LICENSES), n=3)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "for any other licence give 'other' with its name and link"
        )
        raise ValueError(f"license: got {license!r}, which is not a licence identifier of the Hub; {hint}")
    if license == "other" and not (name and link):
        raise ValueError(f"license='other' needs license_name and license_link, got {name!r} and {link!r}")
    if license != "other" and (name or link):
        raise ValueError(f"license_name and license_link go with license='other', got license={license!r}")


def _matching_preset(architecture: Architecture, config) -> str | None:
    """The preset whose network the model has; labels, input channels and image size may differ."""
    free = {"num_labels", "num_channels", "image_size", "reparameterized", "use_cache", "output_router_logits"}
    free |= {"pad_token_id", "bos_token_id", "eos_token_id"}
    own = [c for c in type(config).__mro__ if c.__module__.startswith(__package__.partition(".")[0])]
    fields = {name for c in own for name in inspect.get_annotations(c) if not name.startswith("_")} - free
    for name, preset in architecture.presets.items():
        reference = architecture.config_class(**preset.config)
        if all(_plain(getattr(config, key)) == _plain(getattr(reference, key)) for key in fields):
            return name
    return None


def _plain(value):
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _task(architecture: Architecture, model) -> str | None:
    """The pipeline the model is for; none for a backbone, whose weights are not all that `AutoModel` needs."""
    task = task_of(architecture, type(model).__name__)
    return task and (task.pipeline_tag or task.name)


def _results(results, dataset: str | None) -> list[dict[str, Any]]:
    """`results` in its one internal form."""
    if results is None:
        return []
    if isinstance(results, Mapping):
        results = [{"metric": metric, "value": value} for metric, value in results.items()]
    entries = []
    for result in results:
        if not isinstance(result, Mapping) or not {"metric", "value"} <= result.keys():
            raise ValueError(f"results: got {result!r}, accepted are mappings with 'metric' and 'value'")
        if unknown := result.keys() - {"metric", "value", "dataset", "split", "source"}:
            raise ValueError(f"results: unknown key {sorted(unknown)[0]!r} in {dict(result)!r}")
        if not isinstance(result["value"], (int, float)) or isinstance(result["value"], bool):
            raise ValueError(f"results: the value of {result['metric']!r} must be a number, got {result['value']!r}")
        if not (result.get("dataset") or dataset):
            raise ValueError(f"results: {result['metric']!r} was measured on what? Give `dataset`.")
        entries.append({"dataset": dataset, "split": None, "source": None, **result})
    return entries


def _eval_result(entry: Mapping[str, Any], task: str | None) -> EvalResult:
    return EvalResult(
        task_type=task or "feature-extraction",
        dataset_type=entry["dataset"],
        dataset_name=entry["dataset"],
        dataset_split=entry["split"],
        metric_type=entry["metric"],
        metric_value=float(entry["value"]),
        metric_name=entry["metric"],
    )


def _introduction(title: str, architecture: Architecture, model, preset: str | None, dataset: str | None) -> str:
    task = task_of(architecture, type(model).__name__)
    noun = task.noun if task else "feature extractor"
    kind = f"{'An' if noun[0] in 'aeiou' else 'A'} {noun}"
    variant = f"the published variant `{preset}`" if preset else "a variant of its own"
    trained = f", trained on {dataset}" if dataset else ""
    return (
        f"# {title}\n\n{kind} of the {architecture.title} family ({variant}){trained}. The architecture is that of "
        f"[{architecture.paper}](https://arxiv.org/abs/{architecture.arxiv}) "
        f"([official code]({architecture.repository})), implemented for transformers by `hf_effmodels`. "
        "The repository carries the model's code: it loads with or without that package."
    )


def _facts(architecture, model, processor, preset, known, license, license_name, license_link, adapter_only) -> str:
    config = model.config
    folded = getattr(config, "reparameterized", False)
    rows = [("Type", f"{type(model).__name__} ({architecture.title})")]
    if hasattr(config, "reparameterized"):
        rows.append(("Form", "folded for inference (`reparameterized`)" if folded else "training form"))
    rows.append(("Parameters", f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f} M"))
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
    if size is not None:
        rows.append(("Image size", _size(size)))
    if hasattr(config, "vocab_size"):
        rows.append(("Vocabulary", str(config.vocab_size)))
        rows.append(("Longest sequence", f"{config.max_position_embeddings} tokens"))
    if hasattr(config, "num_channels"):
        rows.append(("Input channels", str(config.num_channels)))
    if architecture.processor is not None:
        rows += _towers(model, adapter_only)
    if "ForImageClassification" in type(model).__name__:
        labels = [str(label) for label in config.id2label.values()]
        shown = "" if labels[0] == "LABEL_0" else f": {', '.join(labels[:10])}{', …' * (len(labels) > 10)}"
        rows.append(("Labels", f"{len(labels)}{shown}"))
    if processor is not None:
        rows.append(("Preparation", _preparation(processor)))
    rows.append(("Weights", str(model.dtype).removeprefix("torch.") + ", safetensors"))
    if license == "other":
        rows.append(("Licence of the weights", f"[{license_name}]({license_link})"))
    else:
        rows.append(("Licence of the weights", license or NO_LICENSE))
    rows.append(("Licence of the code", "apache-2.0"))
    rows.append(("Paper", f"[arXiv:{architecture.arxiv}](https://arxiv.org/abs/{architecture.arxiv})"))
    rows.append(("Official code", architecture.repository))
    return "## Facts\n\n" + _table(("", ""), rows)


def _towers(model, adapter_only: bool) -> list[tuple[str, str]]:
    """What a vision-language model is made of."""
    text, vision = model.config.text_config, model.config.vision_config
    frozen = ("vision_tower.", "language_model.", "lm_head.")
    adapters = [p.numel() for name, p in model.named_parameters() if not any(part in name for part in frozen)]
    rows = [("Of these adapters", f"{sum(adapters) / 1e6:.3f} M")]
    if adapter_only:
        rows.append(("In this repository", "the adapters only; the other weights are loaded from where these are:"))
    for name, config, where in (
        ("Language model", text, model.config.text_model_name_or_path),
        ("Vision tower", vision, model.config.vision_model_name_or_path),
    ):
        origin = f"`{where}`, " if where and not Path(where).exists() else ""
        rows.append(
            (name, f"{origin}{config.model_type}, width {config.hidden_size}, {config.num_hidden_layers} layers")
        )
    rows.append(("Image size", _size(vision.image_size)))
    return rows


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
    parts = [settings["image_processor_type"]]
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


def _numbers(known: Preset | None, measured: list[dict[str, Any]], converted: bool) -> str:
    """Published numbers beside measured ones, each with its source."""
    rows = []
    published = known.published if known else ()
    for number in published:
        unit = METRICS[number.metric] and f" {METRICS[number.metric]}"
        # The Hub calls top-1 accuracy plainly accuracy.
        metric = "accuracy" if number.metric == "top-1" else number.metric
        rows.append(
            (f"{metric}, {number.dataset}", f"{number.value:.2f}{unit} ({number.source})", "not measured here")
        )
    for entry in measured:
        where = entry["dataset"] + (f", {entry['split']}" if entry["split"] else "")
        source = f" ({entry['source']})" if entry["source"] else " (measured by the publisher of these weights)"
        rows.append((f"{entry['metric']}, {where}", "not published", _value(entry) + source))
    if not rows:
        return "## Numbers\n\nNo number has been published for this variant, and none was measured."
    text = "## Numbers\n\n" + _table(("", "published", "measured here"), rows)
    if published:
        whose = "these, converted" if converted else "not necessarily these"
        text += f"\n\nThe published number belongs to the authors' {published[0].dataset} weights: {whose}."
    return text


def _origin(conversion: Mapping[str, Any] | None, known: Preset | None, license: str | None) -> str:
    """Where converted weights come from, so that everybody can repeat it."""
    if conversion is None:
        return ""
    rows = [
        ("Official file", f"`{conversion['source']}`"),
        ("SHA-256", f"`{conversion['sha256']}`"),
        ("Read from it", f"{conversion['converted']} tensors of {conversion['entry']}"),
    ]
    if known and known.weights:
        rows.append(("Published at", known.weights))
    if known and known.weights_license_note and license == known.weights_license:
        rows.append(("Licence", known.weights_license_note))
    return "## Origin\n\nConverted from the official weights by `hf-effmodels convert`.\n\n" + _table(("", ""), rows)


def _value(entry: Mapping[str, Any]) -> str:
    """Accuracies as per cent, everything else with six significant digits."""
    if re.search(r"accuracy|top.?\d", entry["metric"]) and 0 <= entry["value"] <= 1:
        return f"{100 * entry['value']:.2f} %"
    return f"{entry['value']:.6g}"


def _training(training: Mapping[str, Any] | None) -> str:
    if not training:
        return ""
    return "## Training\n\n" + _table(("hyper-parameter", "value"), _flat(training))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", f"`{value}`"))
    return rows


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _citation(architecture: Architecture) -> str:
    return (
        f"## Citation\n\nPlease cite the paper: {architecture.paper}, arXiv:{architecture.arxiv} "
        f"([BibTeX](https://arxiv.org/bibtex/{architecture.arxiv}))."
    )
