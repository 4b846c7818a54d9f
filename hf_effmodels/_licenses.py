"""The licences that the Hub knows, and what is wrong with one that is given; looked at before torch is there."""

import difflib
import re
from typing import Any

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


#: What stands for a licence in commands that are shown; nobody's weights are under it.
PLACEHOLDER = "LICENSE"


def check_license(license: str | None, name: str | None = None, link: str | None = None) -> None:
    """ValueError if a licence is given that the Hub does not know, or "other" without its name and link."""
    if isinstance(license, str) and license.upper() == PLACEHOLDER:
        raise ValueError(f"license: {license} stands for the licence of your weights, such as apache-2.0 or mit")
    if license is not None and (not isinstance(license, str) or license not in LICENSES):
        near = difflib.get_close_matches(str(license).lower().replace(" ", "-"), sorted(LICENSES), n=3)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "for any other licence give 'other' with its name and link"
        )
        raise ValueError(f"license: got {license!r}, which is not a licence identifier of the Hub; {hint}")
    if license == "other" and not (name and link):
        raise ValueError(f"license='other' needs license_name and license_link, got {name!r} and {link!r}")
    if license != "other" and (name or link):
        raise ValueError(f"license_name and license_link go with license='other', got license={license!r}")
    if name and (not isinstance(name, str) or name != one_line(name)):
        raise ValueError(f"license_name: got {name!r}, accepted is a text of one line")
    if link and not re.fullmatch(r"https?://[^\s<>()\[\]\"'`|]+|LICENSE(\.md|\.txt)?", str(link)):
        raise ValueError(f"license_link: got {link!r}, accepted is an address (https://…) or the file LICENSE")


def one_line(text: Any, limit: int = 200) -> str:
    """A text without line breaks, control characters and paths of this machine, cut at `limit` characters."""
    text = "".join(c for c in " ".join(str(text).split()) if c.isprintable())
    text = re.sub(r"(?<![\w:/.~\\])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\]+[/\\])+[^\s/\\,;)\"']*", "(a local path)", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
