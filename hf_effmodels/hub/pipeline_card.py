"""The model card of a diffusers pipeline of this package: what is said of all of them, once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard

from ..architecture import PipelineEntry
from .card import check_place
from .card_text import About, write_card
from .pipelines import LOCAL_PIPELINE_ID


@dataclass(frozen=True)
class PipelineFacts:
    """What the card says of one kind of pipeline, as Markdown.

    Attributes:
        introduction: what it does, a sentence that is gone on with ", after [paper]".
        tags: of the Hub, beside those that all have.
        facts: name and value of what is known of it.
        weights: the network whose precision is told.
        usage: the section with the snippets; `{id}` stands for where the pipeline is.
    """

    introduction: str
    tags: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    weights: object
    usage: str


def write_pipeline_card(
    entry: PipelineEntry,
    about: PipelineFacts,
    *,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    preset: str | None = None,
    conversion=None,
    repo_id: str | None = None,
    dataset: str | None = None,
    results: Mapping[str, float] | Iterable[Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
) -> ModelCard:
    """The model card of a pipeline.

    Args:
        entry: where it is declared.
        about: what is its own.
        license: the Hub's identifier of the licence of the weights; `license_name` and `license_link` go with "other".
        preset: the published variant.
        conversion: the `ConversionReport` of converted weights.
        repo_id: where the model is going to be on the Hub; the snippets use it.
        dataset: what it was trained on: a data set of the Hub or a name.
        results: what was measured, as for `hub.build_card`.
        training: hyper-parameters by name.

    Raises:
        ValueError: an unknown licence or preset.
    """
    if preset is not None and preset not in entry.presets:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, entry.presets))}.")
    check_place(repo_id)
    known = entry.presets[preset] if preset else None
    precision = str(about.weights.dtype).removeprefix("torch.")
    return write_card(
        About(
            title=repo_id.rpartition("/")[2] if repo_id else preset or entry.title,
            introduction=f"{about.introduction}, after [{entry.paper}](https://arxiv.org/abs/{entry.arxiv}) "
            f"([official code]({entry.repository})), implemented for diffusers by `hf_effmodels`. The repository "
            "carries the pipeline's code: it loads with or without that package.",
            library="diffusers",
            task=entry.tasks[0].pipeline_tag,
            tags=("hf_effmodels", *about.tags, f"arxiv:{entry.arxiv}"),
            facts=(*about.facts, ("Weights", f"{precision}, safetensors")),
            usage=about.usage.format(id=repo_id or LOCAL_PIPELINE_ID),
            published=known.published if known else (),
            entry=entry,
            preset=known,
        ),
        license=license,
        license_name=license_name,
        license_link=license_link,
        dataset=dataset,
        results=results,
        training=training,
        conversion=conversion,
    )


def millions(network) -> str:
    """How many parameters a network has, for a card."""
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} M"
