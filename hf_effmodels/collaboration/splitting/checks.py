"""What can be said of a token, an address, watts and a file of costs before torch is there."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from ..._numbers import check_positive
from ..._written import check_report

#: What a header can hold without a word about its encoding.
_IN_HEADERS = frozenset(map(chr, range(33, 127)))


def clean_token(token: str | None) -> str | None:
    """A token without the line end that files and environments give it.

    Raises:
        ValueError: it is empty, or cannot stand in a header; the message does not show it.
    """
    if token is None:
        return None
    if not isinstance(token, str):
        raise ValueError(f"token: got a {type(token).__name__}, accepted is a text.")
    token = token.strip()
    if not token:
        raise ValueError("token: it is empty.")
    if not _IN_HEADERS.issuperset(token):
        raise ValueError("token: accepted are letters, digits and signs of ASCII, without spaces.")
    return token


def check_address(url: str) -> None:
    """ValueError unless a service may be at `url`."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and _IN_HEADERS.issuperset(url) else None
        right = parts and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        right = False
    if not right:
        raise ValueError(f"url: got {url!r}, accepted are http:// and https:// addresses.")


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        OSError: there is no such address, or somebody else listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"host, port: {host}, {port}: it cannot be listened there ({reason}).") from error


def check_watts(watts: float) -> None:
    """ValueError unless a device can draw so much."""
    check_positive(watts=watts)


def check_costs_file(file: str | Path) -> None:
    """FileExistsError if a file is there that `save_costs` has not written."""
    check_report(file, ("points", "profile"), "measure-split")
