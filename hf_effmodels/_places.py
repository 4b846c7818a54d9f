"""What is an id on the Hub, and what a place on this machine."""

import difflib
import importlib.util
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ._model_files import check_model_files

logger = logging.getLogger(__name__)

#: Seconds that the Hub has to answer at all, before it is asked for what is not in the cache; after so many of them
#: somebody who waits is told what for.
PATIENCE = float(constants.HF_HUB_ETAG_TIMEOUT)
SILENCE = 1.5


_NO_WEIGHTS = "there are no weights in it"
#: What transformers says at length of a folder of something else -> the same in few words.
_LIBRARIES_SAY = (
    (re.compile("^Error no file named (model|pytorch_model)"), _NO_WEIGHTS),
    (
        re.compile("^We couldn't connect to '[^']*' to load the files"),
        "there is no such folder here, nothing of it is in the cache, and the Hub does not answer",
    ),
    (re.compile("^Couldn't instantiate the backend tokenizer"), "there is no tokenizer in it"),
    (
        re.compile(r"^Unrecognized configuration class <class '[\w.]*?(\w+)Config'> for this kind of \w+: (\w+)"),
        r"it is a \1, for which there is no \2",
    ),
    (re.compile("^You set .ignore_mismatched_sizes."), "its weights have other shapes than those of its config.json"),
    (
        re.compile("^We encountered some issues during automatic conversion of the weights"),
        "its weights cannot be put together: some of a group are lacking, or have other shapes",
    ),
)


def hub_id(name: str | os.PathLike | None) -> str | None:
    """`name` where it is an id on the Hub, `"namespace/name"`; None where it is anything else.

    Anything else is a file or a folder of this machine (`data/photos`), a format or a built-in data set (`parquet`,
    `digits`), a path that can be no id (`./photos`, `a/b/c`), or nothing. Cards name ids as data sets and base models,
    where a path would mean nothing to others, or a stranger's repository.
    """
    text = "" if name is None else os.fspath(name)
    if text.count("/") != 1 or os.path.exists(text):
        return None
    return text if _could_be_id(text) else None


def _could_be_id(text: str) -> bool:
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def check_repo_id(repo_id: str) -> None:
    """ValueError unless it is `"namespace/name"`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"repo_id: got {repo_id!r}, accepted is 'namespace/name'. {error}") from error
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise ValueError(f"repo_id: got {repo_id!r}, accepted is 'namespace/name', such as 'my-name/ghostnetv3'")


def check_place(
    argument: str,
    name: str,
    *,
    revision: tuple[str, str | None] | None = None,
    hint: str = "",
    known: Iterable[str] = (),
) -> None:
    """Refuse what can be neither on this machine nor on the Hub, before anything asks the Hub, which takes a minute
    where there is no network.

    Args:
        argument: as the user knows it, such as `"--model"`.
        name: a file or a folder of this machine, or an id on the Hub. Old ones have one part (`gpt2`).
        revision: the argument that names a branch, tag or commit on the Hub, and its value.
        hint: another sentence for the message.
        known: names of what is built in, which may be meant.

    Raises:
        OSError: there is nothing of that name here, and it can be no id: it has other characters, or more than two
            parts, or its first part is a folder here; or it is not in the cache, and the Hub does not answer.
        ValueError: a revision of what lies on this machine, which has none.
    """
    path = Path(name)
    if os.path.exists(name):  # `Path.exists` raises where a name is too long for a file
        if revision is not None and revision[1] is not None:
            raise ValueError(
                f"{revision[0]}: got {revision[1]!r}, but {argument} {name} lies here: it has no revisions."
            )
        return
    if _could_be_id(name) and not (path.parent.name and os.path.isdir(path.parent)):
        if not _is_cached(name) and not _is_hub_reached():
            raise OSError(
                f"{argument}: {name!r} cannot be found or reached: there is no such folder or file, nothing of it is "
                f"in the cache, and there is no way to {constants.ENDPOINT} (tried for {PATIENCE:g} s at most)"
                f"{_nearest(path, known)}.{hint and ' '}{hint}"
            )
        return
    raise OSError(f"{argument}: there is no folder or file {name!r}{_nearest(path, known)}.{hint and ' '}{hint}")


def is_reader(name: str) -> bool:
    """Whether it is the name of no data set, but of how `datasets` reads files (`parquet`, `imagefolder`), for which
    nobody has to be asked."""
    library = importlib.util.find_spec("datasets")
    if library is None or not name.isidentifier():
        return False
    file = Path(library.origin).with_name("packaged_modules").joinpath(name, f"{name}.py")
    return os.path.isfile(file)  # unlike Path's it knows that a name may be too long for a file


def check_folder_or_id(
    argument: str, name: str, *, revision: tuple[str, str | None] | None = None, hint: str = ""
) -> None:
    """`check_place` of what is no file: libraries would look for its parts on the Hub."""
    check_place(argument, name, revision=revision, hint=hint)
    if os.path.isfile(name):
        raise OSError(f"{argument}: {name} is a file; accepted are a folder and an id of the Hub.{hint and ' '}{hint}")


def no_data_set(argument: str, name: str) -> ValueError:
    """What is said of a file where a data set is named."""
    return ValueError(
        f"{argument}: {name!r} is a file; accepted are a folder, an id of the Hub, and a format such as csv, json, "
        f"parquet or imagefolder with --data_files {name}."
    )


#: Files of folders that commands here write and that no model is loaded from -> what such a folder holds.
_NO_MODELS = (
    (("split.json",), "a half of a split model; accepted are whole models."),
    (("head/split.json", "tail/split.json"), "both halves of a split model; accepted are whole models."),
    (("halves.json",), "exported halves, which edge_halves.load_halves runs; accepted are whole models."),
    (("parts.json",), "the parts of a model, a folder each: name one of them, such as part0."),
)


def check_whole(argument: str, name: str, *, hint: str = "") -> None:
    """OSError of a folder with halves or parts of a model; a half has a whole one's configuration."""
    for files, words in _NO_MODELS:
        if all(os.path.isfile(os.path.join(name, file)) for file in files):
            raise OSError(f"{argument}: {name} holds {words}{hint and ' '}{hint}")


def check_apart(argument: str, folder: str | os.PathLike, of: str, source: str, *, inside: bool = True) -> None:
    """ValueError of a folder to be written that is the one to be read.

    Args:
        argument, folder: as the user knows it, and what is to be written.
        of, source: the same of what is read.
        inside: it may lie in the other one.
    """
    new, read = Path(folder).resolve(), Path(source).resolve()
    if new == read:
        raise ValueError(f"{argument}: {folder} is the folder of {of} itself, and would be both; name another.")
    if not inside and read in new.parents:
        raise ValueError(f"{argument}: {folder} lies in the folder {source} of {of}; name one beside it.")


def is_program(name: str) -> bool:
    """Whether `hf-effmodels export` wrote a folder: it has a model's configuration, and no weights."""
    return os.path.isfile(os.path.join(name, "export.json"))


def of_program(argument: str, name: str) -> str:
    """What is said of such a folder where weights are wanted."""
    return f"{argument}: {name} holds an exported program, no weights; name the model that it was made of."


def _is_cached(repo_id: str) -> bool:
    """Whether something of a repository, of models or of data, has been downloaded before."""
    flat = repo_id.replace("/", "--")
    folders = [Path(constants.HF_HUB_CACHE, f"{kind}--{flat}") for kind in ("models", "datasets")]
    if "datasets" in sys.modules:
        folders.append(Path(sys.modules["datasets"].config.HF_DATASETS_CACHE, repo_id.replace("/", "___")))
    return any(folder.exists() for folder in folders)


def _is_hub_reached() -> bool:
    """Whether somebody answers at the Hub's address; without network its client would try for half a minute."""
    if constants.HF_HUB_OFFLINE or getproxies():  # the client says so at once; a proxy knows the way
        return True
    address, found = urlsplit(constants.ENDPOINT), []
    port = address.port or {"http": 80}.get(address.scheme, 443)

    def look() -> None:
        with suppress(OSError), socket.create_connection((address.hostname, port), timeout=PATIENCE):
            found.append(True)

    # Looking a name up has a patience of its own, which may be longer.
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(min(SILENCE, PATIENCE))
    if looking.is_alive() and PATIENCE > SILENCE:
        logger.warning("waiting for %s, %g s at most (HF_HUB_ETAG_TIMEOUT)", constants.ENDPOINT, PATIENCE)
        looking.join(PATIENCE - SILENCE)
    return bool(found)


def _nearest(path: Path, known: Iterable[str] = ()) -> str:
    try:
        names = {name for name in os.listdir(path.parent) if not name.startswith(".")}
    except (OSError, ValueError):  # or a name that no file can have
        names = set()
    near = difflib.get_close_matches(path.name, sorted({*names, *known}), n=3)
    return f"; nearest: {', '.join(str(path.with_name(name)) for name in near)}" if near else ""


@contextmanager
def reading(
    argument: str, name: str, *, revision: tuple[str, str | None] | None = None, hint: str = ""
) -> Iterator[None]:
    """Within it a library reads `name`; whatever it makes of one that is missing, damaged or something else ends in
    an OSError of one line that names the argument. See `check_place`, which is asked first. A file is refused.

    Raises:
        OSError, ValueError: see above. ImportError: a library is missing.
    """
    check_folder_or_id(argument, name, revision=revision, hint=hint)
    if is_here := os.path.isdir(name):
        check_model_files(argument, name)
    try:
        yield
    except PackageNotFoundError as error:  # its own words are the package's name
        raise ImportError(f"{argument}: {name} needs a package: pip install {error.name}") from error
    except ImportError:
        raise
    except Exception as error:  # ours to name: libraries below raise all kinds
        check_whole(argument, name, hint=hint)
        if is_here:
            check_model_files(argument, name, pickled=True)
        if first_line(error) == _NO_WEIGHTS and is_program(name):
            raise OSError(f"{of_program(argument, name)}{hint and ' '}{hint}") from error
        found = "cannot be found or reached" if isinstance(error, OSError) else "cannot be found or read"
        raise OSError(f"{argument}: {name!r} {found} ({first_line(error)}).") from error


def first_line(error: Exception) -> str:
    """What an error says first, with what follows its colon: transformers' messages go on for a page."""
    if type(error).__name__.startswith("StrictDataclass") and isinstance(error.__cause__, Exception):
        error = ValueError(str(error.__cause__))  # a configuration's own words
    for pattern, words in _LIBRARIES_SAY:
        if found := pattern.search(str(error)):
            return found.expand(words)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1]).rstrip(".")
    return said if isinstance(error, OSError | ValueError) and said else f"{type(error).__name__}: {said}"
