"""The one writer of model cards: what a kind of model knows of itself comes in as data, Markdown goes out.

Texts of users (names, labels, sources) appear as what they are: on one line, with their markup escaped, without paths
of the machine they come from.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .._licenses import check_license, one_line
from ..architecture import METRICS, Entry, Preset, Published
from .contents import FIGURES
from .ids import hub_id, is_reader

NO_LICENSE = "none stated: not for redistribution"
_OWN_DATA = "data of its maker's own"
#: Metrics that are shares of 1, whatever stands around these words.
_SHARE = re.compile(r"accuracy|top.?\d|recall|precision|iou|(?<![a-z])m?ap(?![a-z])")

Rows = Iterable[Sequence[str]]


@dataclass(frozen=True)
class About:
    """What a kind of model says of itself. Everything is Markdown: texts of users go through `plain` or `code` first.

    Attributes:
        title: of the card.
        introduction: what it is, where it comes from.
        library: the Hub's name of the library that loads it.
        task: the Hub's name of the task, None for a backbone.
        tags: of the Hub.
        facts: name and value of what is known of the model; the licence of its weights is added.
        usage: the section with the snippets, with its heading.
        published: what others have published of this variant.
        entry: where it is declared, for the citation.
        preset: the published variant, for the origin of its weights.
        figures: names of charts beside the card, of `contents.FIGURES`.
    """

    title: str
    introduction: str
    library: str
    task: str | None
    tags: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    usage: str = ""
    published: tuple[Published, ...] = ()
    entry: Entry | None = None
    preset: Preset | None = None
    figures: tuple[str, ...] = ()


def write_card(
    about: About,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    dataset: str | None = None,
    results: Mapping[str, float] | Iterable[Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
    conversion: Any = None,
    base_model: str | None = None,
    samples: Mapping[str, int | str] | None = None,
) -> ModelCard:
    """The model card of any kind of model; the arguments beside `about` are those of `build_card`.

    Raises:
        ValueError: an argument of another form.
    """
    check_license(license, license_name, license_link)
    measured = check_results(results, dataset)
    if dataclasses.is_dataclass(conversion):
        conversion = dataclasses.asdict(conversion)
    title = one_line(about.title)
    known = [entry for entry in measured if math.isfinite(entry["value"])]
    data = ModelCardData(
        license=license,
        license_name=license_name,
        license_link=license_link,
        library_name=about.library,
        pipeline_tag=about.task,
        tags=list(about.tags) or None,
        datasets=[dataset] if hub_id(dataset) and not _is_own(dataset) else None,
        base_model=base_model,
        metrics=sorted({one_line(entry["metric"]) for entry in measured}) or None,
        **({"model_name": title, "eval_results": [_eval_result(e, about.task) for e in known]} if known else {}),
    )
    sections = [
        f"# {plain(title)}\n\n{about.introduction}{_data(dataset, samples)}",
        _facts(about, license, license_name, license_link),
        about.usage,
        _numbers(about, measured, converted=conversion is not None),
        _figures(about.figures),
        _training(training),
        _origin(about, conversion, license),
        _citation(about.entry),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n")


# texts of users


def plain(text: Any) -> str:
    """A text of a user as Markdown that shows just that."""
    text = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", one_line(text)).replace("&", "&amp;")
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is no emphasis
    return re.sub(r"^([#+=-]|\d+[.)])", r"\\\1", text)


def code(value: Any) -> str:
    """A value as code; as text where it has backticks itself."""
    text = one_line(value)
    return plain(text) if "`" in text or not text else f"`{text}`".replace("|", "\\|")


def is_local(name: Any) -> bool:
    """Whether a text names a file or a folder of this machine: such names stay out of cards."""
    text = str(name)
    if not isinstance(name, (str, os.PathLike)) or hub_id(text) or re.match(r"https?://", text):
        return False
    looks = re.match(r"[~.]?[/\\]|\.\.|[A-Za-z]:[/\\]|file:", text) or re.fullmatch(
        r"[^\s/\\]+([/\\][^\s/\\]*)+", text
    )
    return bool(looks) or (len(text) < 256 and "\0" not in text and os.path.exists(text))


def is_paper(address: str) -> bool:
    """Whether an address that stands for official code is that of the paper: none is public then."""
    return "arxiv.org/" in address


def data_name(dataset: str) -> str:
    """What a card calls a data set: its name, but no place on the machine of its maker, and not how its files are
    read."""
    return _OWN_DATA if _is_own(dataset) else plain(dataset)


def _is_own(dataset: Any) -> bool:
    return is_local(dataset) or (isinstance(dataset, str) and is_reader(dataset))


def table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(" ".join(str(cell).split()) for cell in line) + " |" for line in lines)


# sections


def _data(dataset: str | None, samples: Mapping[str, int | str] | None) -> str:
    if not dataset:
        return ""
    counted = ", ".join(f"{count} of {plain(split)}" for split, count in (samples or {}).items())
    return f" Trained on {data_name(dataset)}" + (f" (samples: {counted})." if counted else ".")


def _facts(about: About, license: str | None, name: str | None, link: str | None) -> str:
    stated = f"[{plain(name)}]({link})" if license == "other" else license or NO_LICENSE
    rows = [*dict.fromkeys(about.facts), ("Licence of the weights", stated)]  # parts may repeat what the whole says
    if about.entry is not None:
        rows += [
            ("Licence of the code", "apache-2.0"),
            ("Paper", f"[arXiv:{about.entry.arxiv}](https://arxiv.org/abs/{about.entry.arxiv})"),
            ("Official code", "none is public" if is_paper(about.entry.repository) else about.entry.repository),
        ]
    return "## Facts\n\n" + table(("", ""), rows)


def _numbers(about: About, measured: list[dict[str, Any]], converted: bool) -> str:
    """Published numbers beside measured ones, each with its source."""
    rows = []
    for number in about.published:
        unit = METRICS[number.metric] and f" {METRICS[number.metric]}"
        value = f"{number.value:.{4 if number.metric == 'SSIM' else 2}f}{unit} ({number.source})"
        rows.append((f"{number.metric}, {number.dataset}", value, "not measured here"))
    for entry in measured:
        where = data_name(entry["dataset"]) + (f", {plain(entry['split'])}" if entry["split"] else "")
        source = plain(entry["source"]) if entry["source"] else "measured by the publisher of these weights"
        rows.append((f"{plain(entry['metric'])}, {where}", "not published", f"{shown_number(entry)} ({source})"))
    if not rows:
        return "## Numbers\n\nNo result on a benchmark has been published for this variant, and none was measured."
    text = "## Numbers\n\n" + table(("", "published", "measured here"), rows)
    if about.published:
        whose = "these, converted" if converted else "not necessarily these"
        text += f"\n\nThe published numbers belong to the authors' weights: {whose}."
    return text


def shown_number(entry: Mapping[str, Any]) -> str:
    """Shares (accuracies, average precisions, overlaps, recalls) as per cent, PSNR in dB, SSIM with four decimals,
    everything else with six significant digits."""
    metric, value = entry["metric"].lower(), entry["value"]
    if _SHARE.search(metric) and 0 <= value <= 1:
        return f"{100 * value:.2f} %"
    if "psnr" in metric:
        return f"{value:.2f} dB"
    return f"{value:.4f}" if "ssim" in metric else f"{value:.6g}"


def _training(training: Mapping[str, Any] | None) -> str:
    if not training:
        return ""
    return "## Training\n\n" + table(("hyper-parameter", "value"), _flat(training))


def _figures(names: Sequence[str]) -> str:
    if not names:
        return ""
    return "## Figures\n\n" + "\n\n".join(f"![{FIGURES[name]}]({name})" for name in names)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((plain(f"{prefix}{key}"), _shown(value)))
    return rows


def _shown(value: Any) -> str:
    """A hyper-parameter's value; of a path on this machine only that it is one."""
    if isinstance(value, (list, tuple)):
        return code(f"[{', '.join('a local path' if is_local(item) else one_line(item) for item in value)}]")
    return "a local path" if is_local(value) else code(value)


def _origin(about: About, conversion: Mapping[str, Any] | None, license: str | None) -> str:
    """Where converted weights come from, so that everybody can repeat it."""
    if conversion is None:
        return ""
    rows = [("SHA-256", code(conversion["sha256"]))]
    rows.append(("Read from it", f"{conversion['converted']} tensors of {plain(conversion['entry'])}"))
    if about.preset is not None:
        if about.preset.weights:
            rows.append(("Published at", about.preset.weights))
        if about.preset.weights_license_note and license == about.preset.weights_license:
            rows.append(("Licence", about.preset.weights_license_note))
    return "## Origin\n\nConverted from the official weights by `hf-effmodels convert`.\n\n" + table(
        ("Official file", ""), rows
    )


def _citation(entry: Entry | None) -> str:
    if entry is None:
        return ""
    return (
        f"## Citation\n\nPlease cite the paper: {entry.paper}, arXiv:{entry.arxiv} "
        f"([BibTeX](https://arxiv.org/bibtex/{entry.arxiv}))."
    )


# arguments


def check_results(results, dataset: str | None) -> list[dict[str, Any]]:
    """`results` in its one internal form: mappings with metric, value, dataset, split and source."""
    if results is None:
        return []
    if isinstance(results, Mapping):
        results = [{"metric": metric, "value": value} for metric, value in results.items()]
    entries = []
    for result in results:
        if not isinstance(result, Mapping) or not {"metric", "value"} <= result.keys():
            raise ValueError(f"results: got {result!r}, accepted are mappings with 'metric' and 'value'")
        if unknown := result.keys() - {"metric", "value", "dataset", "split", "source"}:
            raise ValueError(f"results: unknown key {sorted(unknown, key=str)[0]!r} in {dict(result)!r}")
        if not isinstance(result["metric"], str):
            raise ValueError(f"results: a metric must be a name, got {result['metric']!r}")
        if not isinstance(result["value"], (int, float)) or isinstance(result["value"], bool):
            raise ValueError(f"results: the value of {result['metric']!r} must be a number, got {result['value']!r}")
        if not (result.get("dataset") or dataset):
            raise ValueError(f"results: {result['metric']!r} was measured on what? Give `dataset`.")
        entries.append({"dataset": dataset, "split": None, "source": None, **result})
    return entries


def _eval_result(entry: Mapping[str, Any], task: str | None) -> EvalResult:
    name = _OWN_DATA if _is_own(entry["dataset"]) else one_line(entry["dataset"])
    return EvalResult(
        task_type=task or "feature-extraction",
        dataset_type=_dataset_type(name),
        dataset_name=name,
        dataset_split=None if entry["split"] is None else one_line(entry["split"]),
        metric_type=one_line(entry["metric"]),
        metric_value=float(entry["value"]),
        metric_name=one_line(entry["metric"]),
    )


def _dataset_type(name: str) -> str:
    """What the Hub's index of results takes for an identifier: that of a data set there; of another one its name in
    the form of an identifier, and `unknown` where it has none."""
    if hub_id(name):
        return name
    return "unknown" if name == _OWN_DATA else re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unknown"
