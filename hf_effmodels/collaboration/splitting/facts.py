"""What the folders of halves say of themselves; read without torch."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..._files import check_folder

SPLIT = "split.json"
FORMAT = 1
#: How many tensors the half has. A network without one of its weights would compute, with others.
TENSORS = "tensors"


@dataclass(frozen=True)
class SplitFacts:
    """What both halves know.

    Attributes:
        at: the module after which the network is cut.
        digest: of the whole network's weights, and of the codec's: halves of one network have the same.
        architecture: class of the whole.
        codec, codec_settings: how features are sent.
        attention: how the whole computes attention.
        dtype: of the weights.
    """

    at: str
    digest: str
    architecture: str
    codec: str
    codec_settings: dict
    attention: str | None
    dtype: str


def read_facts(folder: Path, half: str) -> tuple[SplitFacts, int | None]:
    """Of the folder of a half, "head" or "tail", and how many tensors it has, which older folders do not tell;
    ValueError of another one."""
    try:
        content = json.loads((folder / SPLIT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"folder: {folder} is no half of a split model: it has no readable {SPLIT}.") from error
    fields = set(SplitFacts.__dataclass_fields__)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not fields <= set(content):
        raise ValueError(f"folder: {SPLIT} of {folder} is not of format {FORMAT}.")
    if content.get("half") != half:
        raise ValueError(f"folder: {folder} holds a {content.get('half')}, expected a {half}.")
    return facts_in(content, f"{SPLIT} of {folder}"), content.get(TENSORS)


def facts_in(content, file: str) -> SplitFacts:
    """The facts in the content of a JSON file; ValueError where they are not there, or of other types."""
    fields = set(SplitFacts.__dataclass_fields__)
    found = {name: content[name] for name in fields & set(content)} if isinstance(content, dict) else {}
    texts = [found.get(name) for name in fields - {"attention", "codec_settings"}] + [found.get("attention") or ""]
    if set(found) < fields or not all(isinstance(t, str) for t in texts) or type(found["codec_settings"]) is not dict:
        raise ValueError(f"folder: {file} is damaged: it does not tell how the network was cut.")
    return SplitFacts(**found)


def check_half_folder(folder: str | Path) -> None:
    """FileExistsError unless `folder` is new, empty, or holds a half: what is replaced is called `README.md`."""
    folder = Path(folder)
    check_folder(folder, accepts_content=True)
    if folder.exists() and not (folder / SPLIT).is_file():
        check_folder(folder)
