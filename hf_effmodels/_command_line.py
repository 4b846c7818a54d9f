"""What the commands share: errors of one line in their own words, what comes near, output that nobody reads."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from ._imports import when_imported

#: Set to anything, it lets the traceback of an unforeseen error through.
TRACEBACK = "HF_EFFMODELS_TRACEBACK"
#: What is said of such an error otherwise.
UNFORESEEN = f"an input was not foreseen; {TRACEBACK}=1 shows where"
#: What a shell gives for a program whose reader has gone (128 + SIGPIPE).
CLOSED_PIPE = 141


#: What tells libraries to show no progress bars, and the module of transformers that is told so by a call.
_NO_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
_BARS = "transformers.utils.logging"


def without_progress_bars() -> None:
    """Libraries show no progress bars from now on, see `keeping_progress_bars`."""
    for name in _NO_BARS:
        os.environ.setdefault(name, "1")
    when_imported(_BARS, _without_those_of_transformers)


def _said_to_go(value: str | None) -> bool:
    """Whether a setting says so, as huggingface_hub reads it: `0` asks for progress bars."""
    return value is not None and value.upper() in ("1", "ON", "YES", "TRUE")


def _without_those_of_transformers() -> None:
    if _said_to_go(os.environ.get(_NO_BARS[0])):  # it may be imported long after a command has ended
        sys.modules[_BARS].disable_progress_bar()


@contextmanager
def keeping_progress_bars() -> Iterator[None]:
    """Progress bars are shown afterwards as before: a command may be called in a process that goes on."""
    said = {name: os.environ.get(name) for name in _NO_BARS}
    shown = not _said_to_go(said[_NO_BARS[0]])
    if _BARS in sys.modules:
        shown = sys.modules[_BARS].is_progress_bar_enabled()
    try:
        yield
    finally:
        for name, value in said.items():
            if value is None:
                os.environ.pop(name, None)
        if shown and _BARS in sys.modules and not sys.modules[_BARS].is_progress_bar_enabled():
            sys.modules[_BARS].enable_progress_bar()


#: What argparse says of a value -> the same in our words.
_ARGPARSE_SAYS = (
    (
        re.compile(r"argument (?P<name>\S+): invalid choice: (?P<value>.+) \(choose from (?P<rest>.+)\)", re.DOTALL),
        "{name}: got {value}, accepted are {rest}.",
    ),
    (re.compile(r"argument (?P<name>\S+): invalid float value: (?P<value>.+)"), "{name}: got {value}, no number."),
    (re.compile(r"argument (?P<name>\S+): invalid int value: (?P<value>.+)"), "{name}: got {value}, no whole number."),
)


def in_our_words(message: str) -> str:
    """What argparse says of the value of an option, which it names by all of its forms: by the one that is shown."""
    for pattern, words in _ARGPARSE_SAYS:
        if found := pattern.fullmatch(message):
            parts = found.groupdict()
            parts["name"] = parts["name"].partition("/")[0]
            return words.format(**parts)
    return message


class Parser(argparse.ArgumentParser):
    """Wrong arguments are a ValueError as all other wrong input, not a page of usage and the end of the program."""

    def __init__(self, *args, **kwargs):
        #: What `add_argument` has made, that of groups, too.
        self.declared: list[argparse.Action] = []
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *args, **kwargs) -> argparse.Action:
        self.declared.append(super().add_argument(*args, **kwargs))
        return self.declared[-1]

    def add_argument_group(self, *args, **kwargs):
        group = super().add_argument_group(*args, **kwargs)
        add_argument = group.add_argument

        def declare(*names, **options) -> argparse.Action:
            self.declared.append(add_argument(*names, **options))
            return self.declared[-1]

        group.add_argument = declare
        return group

    def error(self, message: str):
        raise ValueError(in_our_words(message))

    def parse_args(self, args=None, namespace=None):
        found, rest = self.parse_known_args(args, namespace)
        self.check_no_rest(rest)
        return found

    def check_no_rest(self, rest: Iterable[str]) -> None:
        """ValueError if there are arguments that this command does not have, with what comes near."""
        known = [option for action in self.declared for option in action.option_strings]
        for word in rest:
            if not word.startswith("-"):
                raise ValueError(f"one value too many: {word!r}")
            name = word.partition("=")[0]
            raise ValueError(f"unknown argument {name!r}{nearest(name, known, '; --help lists the known ones')}")


def nearest(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Up to three of `known` that come near, as the end of a message; `otherwise` where there are none."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(near)}" if near else otherwise


def in_words_of_the_command(message: str, words: Mapping[str, str]) -> str:
    """An error of a function in the words of the command that calls it.

    `license: ...` becomes `--license: ...`, `license='mit'` in its midst `--license mit`, `overwrite=True` is a flag.

    Args:
        message: names arguments of the function.
        words: what the command calls each of them.
    """
    names, colon, rest = message.partition(":")
    found = [words.get(name.removeprefix("--")) for name in names.split(", ")]
    if colon and all(found):
        message = f"{', '.join(found)}:{rest}"
    return _GIVEN.sub(lambda match: _as_option(match, words), message)


# `name=value`, where the value is True, a text or one word.
_GIVEN = re.compile(r"\b([a-z]\w*)=(True\b|'[^']*'|\"[^\"]*\"|[^\s,;.()]+)")


def _as_option(match: re.Match, words: Mapping[str, str]) -> str:
    option = words.get(match[1])
    if option is None:
        return match[0]
    return option if match[2] == "True" else f"{option} {match[2].strip(chr(39) + chr(34))}"


def show(text: str) -> None:
    """Print a result. Where nobody reads it any more, as in `... | head`, the program ends without a word."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be written, and fail, at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CLOSED_PIPE) from None
