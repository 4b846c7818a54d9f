"""Answers to many inputs in one file, each once: several processes share the work, and after a kill it goes on.

Each process appends what it has to a file of its own, in a folder beside the result, a line of JSON for each input.
A later call reads them all and does what is missing; at the end one process puts them in order. A line is whole or,
where a kill has cut it, not counted.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from .._files import whole_file, write_json

_SETTINGS = "settings.json"


class Answers:
    """The answers to `count` inputs, by number.

    Args:
        file: the result. Missing folders are made.
        count: of the inputs.
        settings: what the answers depend on; those of a call with others are not gone on with.
        is_first: of the processes that share the work, the one that writes for all.
        wait: returns when all processes have called it.

    Raises:
        ValueError: an unfinished result of other settings. FileExistsError: `file` is there. Nothing has been written.
        OSError: nothing can be written there.
    """

    def __init__(self, file: Path, count: int, settings: Mapping, is_first: bool, wait: Callable[[], None]):
        self.file, self.count, self.is_first, self.wait = file, count, is_first, wait
        self.folder = file.with_name(f".{file.name}.unfinished")
        _check(file, self.folder, settings)
        wait()  # all have looked before one writes
        if is_first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.folder / _SETTINGS, dict(settings))
            except OSError as error:
                raise OSError(f"--output: {file} cannot be written ({error.strerror or error}).") from error
        self.places = self._read()
        wait()  # and have read before one adds to it
        self._part = None

    def missing(self, index: int, processes: int) -> list[int]:
        """The numbers of the inputs without an answer that are this process's."""
        return [number for number in range(self.count) if number not in self.places][index::processes]

    def add(self, answers: Mapping[int, dict]) -> None:
        """Keep the answers of some inputs: they are not lost by a kill any more."""
        if self._part is None:
            self._part = open(self.folder / f"{uuid.uuid4().hex}.jsonl", "a", encoding="utf-8")
        for number, answer in answers.items():
            self._part.write(json.dumps({"number": number, "answer": answer}) + "\n")
        self._part.flush()

    def finish(self, as_text: Callable[[dict], str]) -> int:
        """Write the result, once all processes are here, and clear the folder; how many inputs have no answer.

        Args:
            as_text: an answer, in the order of the inputs -> what of the result it is.
        """
        if self._part is not None:
            self._part.close()
        self.wait()
        self.places = self._read()
        self.wait()
        if self.is_first:
            with whole_file(self.file) as part, open(part, "w", encoding="utf-8", newline="") as result:
                for number in sorted(self.places):
                    result.write(as_text(self._at(*self.places[number])))
            shutil.rmtree(self.folder)
        return self.count - len(self.places)

    def _read(self) -> dict[int, tuple[Path, int]]:
        """Number of each input that has an answer -> its file, and where its line begins."""
        found: dict[int, tuple[Path, int]] = {}
        for part in sorted(self.folder.glob("*.jsonl")):
            with open(part, "rb") as lines:
                start = 0
                for line in lines:
                    if line.endswith(b"\n"):
                        found.setdefault(json.loads(line)["number"], (part, start))
                    start += len(line)
        return found

    def _at(self, part: Path, start: int) -> dict:
        with open(part, "rb") as lines:
            lines.seek(start)
            return json.loads(lines.readline())["answer"]


def _check(file: Path, folder: Path, settings: Mapping) -> None:
    if os.path.lexists(file):
        raise FileExistsError(f"--output: {file} is there already; name another file.")
    try:
        begun = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ValueError(f"--output: {folder} cannot be read ({error}); delete it, or name another file.") from None
    from ..training.data.stored_tables import changes

    if changed := changes(begun, settings):
        raise ValueError(
            f"--output: {file} was begun with another {', '.join(changed)}; name another file, or delete {folder}."
        )
