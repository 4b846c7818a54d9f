"""Weights of a preset in one step: fetched from where they are published, converted strictly, kept."""

import logging
import os
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ..architecture import Preset
from ..models import find_preset, list_models
from .convert import convert
from .download import download
from .ids import first_line

logger = logging.getLogger(__name__)

#: Where converted weights are kept; by default beside the Hub's cache.
CACHE = "HF_EFFMODELS_CACHE"
#: Files that can be downloaded by themselves.
_FILES = (".pth", ".pth.tar", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class Weights:
    """Published weights of a preset.

    Attributes:
        source: "official" or "timm".
        place: the address of the file, or the repository on the Hub.
        digest: SHA-256 of the official file, where it is known.
    """

    source: str
    place: str
    digest: str | None = None


def sources(preset: str) -> list[Weights]:
    """Where weights of a preset can be had from, the first one by default: the official file, which holds what the
    paper reports (averaged weights, where there are some), then timm's repository on the Hub."""
    _, known = find_preset(preset)
    found = []
    if (address := _address(known)) is not None:
        found.append(Weights("official", address, known.weights_sha256))
    if known.timm is not None:
        found.append(Weights("timm", f"timm/{known.timm}"))
    return found


def _address(preset: Preset) -> str | None:
    """The address of the official file, None where `weights` says only where it is described."""
    address = preset.weights
    if address is None or not address.endswith(_FILES) or "#" in address:
        return None
    return address.replace("/blob/", "/raw/") if address.startswith("https://github.com/") else address


def pretrained(preset: str, source: str | None = None, *, token: str | None = None) -> Path:
    """The folder with the converted weights of a preset, which `from_pretrained` loads.

    They are fetched and converted the first time; afterwards no network is needed.

    Args:
        preset: see `list_models()`.
        source: "official" or "timm"; by default the first of those that the preset has and that are here already, and
            where none is, the first that it has.
        token: for the Hub.

    Raises:
        ValueError: no such preset or source, or weights that are published nowhere: it says where they are then.
        OSError: they cannot be fetched.
    """
    architecture, known = find_preset(preset)
    found = sources(preset)
    places = {weights: _cache() / preset / f"{weights.source}-{_key(weights)}" for weights in found}
    places = {weights: folder for weights, folder in places.items() if source in (None, weights.source)}
    if not places or architecture.base_models:
        raise ValueError(_nowhere(preset, known, source, found))
    chosen = next(iter(places))
    for weights, folder in places.items():
        if (folder / "config.json").is_file():
            if weights is not chosen:
                logger.warning(
                    "%s: %s's weights, which are here; source=%r fetches those of %s",
                    *(preset, weights.source, chosen.source, chosen.place),
                )
            return folder
    folder = places[chosen]
    note = f" ({known.weights_license_note})" if known.weights_license_note else ""
    logger.info("weights of %s: %s; licence %s%s", preset, chosen.place, known.weights_license or "not stated", note)
    fetched = folder.with_name(f"{folder.name}-{os.getpid()}")
    try:
        convert(preset, _fetched(chosen, fetched, token), folder)
    except FileExistsError:  # another process has been faster
        if not (folder / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)  # the Hub's client keeps its own cache
    return folder


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(os.environ.get(CACHE) or Path(constants.HF_HOME) / "hf_effmodels").expanduser()


def _key(weights: Weights) -> str:
    from .. import __version__

    return sha256(f"{weights.place} {weights.digest} {__version__}".encode()).hexdigest()[:12]


def _fetched(weights: Weights, folder: Path, token: str | None) -> Path:
    if weights.source == "official":
        return download(weights.place, folder / weights.place.rpartition("/")[2], digest=weights.digest)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(weights.place, "model.safetensors", token=token))
    except Exception as error:  # the client raises all kinds
        raise OSError(f"{weights.place} cannot be read from the Hub ({first_line(error)}).") from error


def _nowhere(preset: str, known: Preset, source: str | None, found: list[Weights]) -> str:
    if found and source is not None:
        return f"source: got {source!r}, accepted for {preset} are {', '.join(repr(w.source) for w in found)}."
    if known.weights is None:
        others = [name for name in list_models(f"{preset.partition('-')[0]}*") if _has_sources(name)]
        near = f" Presets of this family with weights: {', '.join(others)}." if others else ""
        return f"weights of {preset} are published nowhere that is known; hf-effmodels train trains it.{near}"
    return (
        f"weights of {preset} cannot be downloaded by themselves: they are at {known.weights}. Get the file there, "
        f"then run: hf-effmodels convert {preset} FILE FOLDER"
    )


def _has_sources(name: str) -> bool:
    try:
        return bool(sources(name))
    except ValueError:  # of a diffusers pipeline
        return False
