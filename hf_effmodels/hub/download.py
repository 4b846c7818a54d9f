"""Files from the web: whole or not at all, and the ones that were meant."""

import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from .._files import sha256, whole_file

#: Seconds without a byte after which a connection is given up, and attempts in all.
TIMEOUT = 30
ATTEMPTS = 3
_BLOCK = 1 << 20


def download(url: str, file: str | os.PathLike, *, digest: str | None = None) -> Path:
    """Write what is at an address to a file.

    Args:
        url: of http or https.
        file: where to; what is there is replaced.
        digest: its SHA-256, where it is known: another file is not written.

    Raises:
        OSError: there is no way there, it is not there, it breaks off each time, it is another file; nothing has been
            written. Also where `HF_HUB_OFFLINE` forbids it.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"url: got {url!r}, accepted are addresses that begin with https:// or http://.")
    if constants.HF_HUB_OFFLINE:
        raise OSError(f"{url} is not here, and HF_HUB_OFFLINE forbids to fetch it.")
    file = Path(file)
    with whole_file(file) as part:
        _fetch(url, part)
        if digest is not None and (got := sha256(part)) != digest:
            raise OSError(f"{url} is another file than expected: its SHA-256 is {got}, not {digest}.")
    return file


def _fetch(url: str, part: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_once(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise OSError(f"{url} cannot be downloaded: {error.code} {error.reason}.") from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                reason = getattr(error, "reason", None) or error
                raise OSError(f"{url} cannot be downloaded ({ATTEMPTS} attempts): {reason}.") from None


def _fetch_once(url: str, part: Path) -> None:
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "hf_effmodels"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, part.open("wb") as out:
        expected = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length") else None
        name = urlsplit(url).path.rpartition("/")[2]
        hidden = not sys.stderr.isatty()
        with tqdm(total=expected, unit="B", unit_scale=True, desc=name, disable=hidden) as bar:
            received = 0
            while block := answer.read(_BLOCK):
                out.write(block)
                received += len(block)
                bar.update(len(block))
    if expected is not None and received != expected:
        raise OSError(f"it broke off after {received} of {expected} bytes")
