"""What can be said of a token, of watts and of a file of costs before torch is there."""

from pathlib import Path

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
    token = token.strip()
    if not token:
        raise ValueError("token: it is empty.")
    if not _IN_HEADERS.issuperset(token):
        raise ValueError("token: accepted are letters, digits and signs of ASCII, without spaces.")
    return token


def check_watts(watts: float) -> None:
    """ValueError unless a device can draw so much."""
    if not 0 < watts < float("inf"):
        raise ValueError(f"watts: got {watts}, accepted are positive numbers.")


def check_costs_file(file: str | Path) -> None:
    """FileExistsError if a file is there that `save_costs` has not written."""
    check_report(file, ("points", "profile"), "measure-split")
