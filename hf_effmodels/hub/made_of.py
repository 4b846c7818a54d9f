"""What the card of a model says that holds of what is made of it, too: licence, source and what was measured."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from .card_text import NO_LICENSE, data_name, one_line, plain, shown_number
from .contents import CARD
from .origin import origin


@dataclass(frozen=True)
class MadeOf:
    """A model that something is made of.

    Attributes:
        name: of the model, as its card has it.
        has_card: it has one; without it the rest is not known.
        base_model: its Hub id, or that of the model that it was made of itself.
        license, license_name, license_link: of its weights.
        results: what was measured of it, as `card_text.write_card` takes it.
    """

    name: str | None = None
    has_card: bool = False
    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    results: tuple[dict[str, Any], ...] = ()

    @property
    def licence(self) -> dict[str, str | None]:
        """As a card takes it."""
        return {name: getattr(self, name) for name in ("license", "license_name", "license_link")}


def made_of(model: str | None) -> MadeOf:
    """What is known of a model by its Hub id or the folder that it was read from; a broken card says nothing."""
    found = MadeOf(base_model=origin(model or None))
    if not model or not (card := Path(model, CARD)).is_file():
        return found
    try:
        data = ModelCard(card.read_text(encoding="utf-8")).data
        results = [
            {
                "metric": one.metric_name or one.metric_type,
                "value": float(one.metric_value),
                "dataset": one.dataset_name,
                "split": one.dataset_split,
            }
            for one in data.eval_results or ()
        ]
    except Exception:  # of YAML, or of the client, which has no common kind for them
        return found
    stated = {name: getattr(data, name) for name in ("license", "license_name", "license_link")}
    stated = {name: value if isinstance(value, str) else None for name, value in stated.items()}
    name = one_line(data.model_name) if data.model_name else None
    return dataclasses.replace(found, name=name, has_card=True, results=tuple(results), **stated)


def with_origin(readme: str, model: Any) -> str:
    """A README with the section about the model that a program was made of."""
    section = told(model)
    return f"{readme}\n{section}" if section else readme


def told(model: Any) -> str:
    """The section of a README about a model as it was loaded, or by its name; empty where nothing is known."""
    known = made_of(model if isinstance(model, str) else getattr(model, "name_or_path", None))
    lines = []
    if known.base_model:
        lines.append(f"- Source: [{known.base_model}](https://huggingface.co/{known.base_model})")
    elif known.name:
        lines.append(f"- Source: {plain(known.name)}")
    if known.has_card:
        licence = known.license or NO_LICENSE
        if known.license == "other" and known.license_name:
            licence = plain(known.license_name) + (f" ({known.license_link})" if known.license_link else "")
        lines.append(f"- Licence of the weights: {licence}")
    for one in known.results:
        where = data_name(one["dataset"]) + (f", {plain(one['split'])}" if one["split"] else "")
        lines.append(f"- {plain(one['metric'])} on {where}: {shown_number(one)}")
    return "## The model that it was made of\n\n" + "\n".join(lines) + "\n" if lines else ""
