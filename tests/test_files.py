"""Files and folders are written whole or not at all, and what is not ours stays: killed and failing at every step."""

import errno
import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from hf_effmodels import _files
from hf_effmodels._files import check_folder, mapping_in, move_into, whole_file, whole_folder, write_text

OURS = {"config.json", "model.safetensors", "unet/weights"}
OLD = {"config.json": "old", "model.safetensors": "old", "thesis.tex": "mine", "runs/log": "mine"}
OLD |= {"unet/weights": "old", "unet/note": "mine"}
NEW = {"config.json": "new", "unet/weights": "new", "README.md": "new"}
KEPT = {name: text for name, text in OLD.items() if name not in OURS}


def read(folder: Path) -> dict[str, str] | None:
    if not folder.exists():
        return None
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def fill(folder: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def replace(folder: Path) -> None:
    with whole_folder(folder, replaces=lambda name, path: name in OURS) as new:
        fill(new, NEW)


class Killed(BaseException):
    """What a process that is killed at a step cannot do: any further step, not even to clear up."""


class Interrupted:
    """In its block the file operations end at step `number`: all later ones do nothing ("kill"), or this one fails
    with an OSError, before or after it was done ("fail before", "fail after")."""

    STEPS = ((os, "rename"), (os, "replace"), (os, "link"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (os, "open"))
    STEPS += ((shutil, "rmtree"), (shutil, "copymode"), (shutil, "copystat"), (shutil, "copy2"), (_files, "_exchange"))

    def __init__(self, number: int, how: str):
        self.number, self.how, self.count = number, how, 0

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for module, name in self.STEPS:
            self.patch.setattr(module, name, self.watch(getattr(module, name)))
        return self

    def watch(self, function):
        def call(*arguments, **options):
            self.count += 1
            at = self.count
            if at >= self.number and self.how == "kill":
                raise Killed
            if at == self.number and self.how == "fail before":
                raise OSError("disk full")
            result = function(*arguments, **options)
            if at == self.number and self.how == "fail after":
                raise OSError("disk full")
            return result

        return call

    def __exit__(self, kind, *_) -> bool:
        self.patch.undo()
        return kind is not None and issubclass(kind, (Killed, OSError))


HOW = ["kill", "fail before", "fail after"]


def no_links(*_, **__) -> None:
    raise OSError("no hard links here")


@pytest.mark.parametrize(
    "system, how",
    [
        *(("exchange, links", how) for how in HOW),
        ("exchange, copies", "kill"),
        *(("two renames, links", how) for how in HOW),
    ],
)
def test_whatever_happens_to_the_writer_the_folder_is_the_old_or_the_new(tmp_path, monkeypatch, system, how):
    if "exchange" not in system:
        monkeypatch.setattr(_files, "_exchange", lambda a, b: False)
    if "links" not in system:
        monkeypatch.setattr(os, "link", no_links)
    folder, seen = tmp_path / "model", []
    for number in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder, OLD)
        with Interrupted(number, how) as steps:
            replace(folder)
        found = read(folder)
        if found is None:
            # Only between the two renames of a killed process: the old one is beside, and the next writer finds it.
            assert how == "kill" and "exchange" not in system, number
            _files._tidy(folder)
            found = read(folder)
        assert found in (OLD, NEW | KEPT), number
        seen.append(found == OLD)
        if steps.count < number:
            break
        replace(folder)
        assert read(folder) == NEW | KEPT, number
        assert os.listdir(tmp_path) == ["model"], f"something is left beside after step {number}"
    assert number > 15 and {True, False} == set(seen)
    assert seen[-1] is False


@pytest.mark.parametrize("how", HOW)
def test_whatever_happens_to_the_writer_the_file_is_the_old_or_the_new(tmp_path, how):
    file, seen = tmp_path / "results.json", []
    for number in range(1, 20):
        file.write_text("old")
        with Interrupted(number, how) as steps:
            write_text(file, "new")
        assert file.read_text() in ("old", "new"), number
        seen.append(file.read_text())
        if steps.count < number:
            break
        write_text(file, "newer")
        assert read(tmp_path) == {"results.json": "newer"}, number
    assert set(seen) == {"old", "new"} and seen[-1] == "new"


def test_an_error_of_the_writer_leaves_nothing_new(tmp_path):
    fill(tmp_path / "model", OLD)
    write_text(tmp_path / "file", "old")
    for where in ("model", "none"):
        with suppress(KeyboardInterrupt), whole_folder(tmp_path / where, replaces=lambda name, path: True) as new:
            fill(new, NEW)
            raise KeyboardInterrupt
    for where in ("file", "new"):
        with suppress(KeyboardInterrupt), whole_file(tmp_path / where) as part:
            part.write_text("half")
            raise KeyboardInterrupt
    assert read(tmp_path) == {f"model/{name}": text for name, text in OLD.items()} | {"file": "old"}
    assert sorted(os.listdir(tmp_path)) == ["file", "model"]


def test_without_leave_to_replace_a_folder_must_be_new_or_empty(tmp_path):
    fill(tmp_path / "full", OLD)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".git").touch()
    refused = {"full": "holds config.json", "hidden": r"holds \.git", "full/config.json": "is a file"}
    refused |= {"full/config.json/below/it": "config.json is a file"}
    for name, message in refused.items():
        with pytest.raises(FileExistsError, match=message), whole_folder(tmp_path / name):
            pytest.fail("the block was entered")
    for name in ("empty", "deep/new"):
        with whole_folder(tmp_path / name) as new:
            fill(new, NEW)
        assert read(tmp_path / name) == NEW
    assert read(tmp_path / "full") == OLD


def test_what_cannot_be_written_is_told_of_the_name_that_was_given(tmp_path, monkeypatch):
    for write, message in (
        (lambda: _files.write_text("/proc/nobody.txt", ""), "/proc/nobody.txt cannot be written [(]No such file"),
        (lambda: whole_folder("/proc/nobody").__enter__(), "folder: /proc/nobody cannot be written [(]No such file"),
    ):
        with pytest.raises(OSError, match=f"^{message}"):
            write()
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)
    with pytest.raises(OSError, match=f"^folder: {tmp_path}/a/b cannot be written: there is no permission"):
        check_folder(tmp_path / "a" / "b")


def test_links_lead_to_where_they_point_and_rights_stay(tmp_path):
    fill(tmp_path / "target", OLD)
    (tmp_path / "link").symlink_to("target", target_is_directory=True)
    (tmp_path / "target").chmod(0o750)
    (tmp_path / "target" / "runs").chmod(0o700)
    (tmp_path / "target" / "shortcut").symlink_to("thesis.tex")
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and read(tmp_path / "target") == NEW | KEPT | {"shortcut": "mine"}
    assert (tmp_path / "target" / "shortcut").is_symlink()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "target" / "runs").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "alias").symlink_to("file")
    write_text(tmp_path / "alias", "new")
    assert (tmp_path / "alias").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_link_of_theirs_to_a_folder_stays_a_link_and_its_folder_as_it_is(tmp_path):
    fill(tmp_path / "data", {"cat.txt": "mine"})
    fill(tmp_path / "model", OLD)
    for name, target in (("photos", tmp_path / "data"), ("latest", "runs"), ("unet/above", "..")):
        (tmp_path / "model" / name).symlink_to(target, target_is_directory=True)
    replace(tmp_path / "model")
    links = {path.relative_to(tmp_path): os.readlink(path) for path in tmp_path.rglob("*") if path.is_symlink()}
    assert links == {
        Path("model/photos"): str(tmp_path / "data"),
        Path("model/latest"): "runs",
        Path("model/unet/above"): "..",
    }
    assert read(tmp_path / "data") == {"cat.txt": "mine"}


def test_what_a_link_that_is_written_points_to_is_not_written_to(tmp_path):
    """Be there something or not: the link takes the place of the file of its name, and that is all."""
    for target, there in (("elsewhere", False), ("theirs", True)):
        if there:
            (tmp_path / target).write_text("mine")
        folder = fill(tmp_path / f"to {target}", {"latest": "old"})
        with whole_folder(folder, replaces=lambda name, path: False) as new:
            (new / "latest").symlink_to(tmp_path / target)
        assert os.readlink(folder / "latest") == str(tmp_path / target)
    assert not (tmp_path / "elsewhere").exists() and (tmp_path / "theirs").read_text() == "mine"


def test_a_folder_in_which_all_was_ours_goes_and_an_empty_one_of_theirs_stays(tmp_path):
    folder = fill(tmp_path / "model", {"vae/weights": "old", "config.json": "old"})
    (folder / "plans").mkdir()
    with whole_folder(folder, replaces=lambda name, path: name in ("vae/weights", "config.json")) as new:
        fill(new, {"config.json": "new"})
    assert sorted(os.listdir(folder)) == ["config.json", "plans"] and read(folder) == {"config.json": "new"}


def test_a_file_of_theirs_is_not_replaced_by_a_folder_nor_the_other_way_round(tmp_path):
    keep = {"replaces": lambda name, path: False}
    for theirs, ours in (("a", "a/b"), ("a/b", "a")):
        folder = fill(tmp_path / ours.replace("/", "_"), {theirs: "mine"})
        with pytest.raises(FileExistsError, match="of this name"), whole_folder(folder, **keep) as new:
            fill(new, {ours: "new"})
        assert read(folder) == {theirs: "mine"}


def test_two_at_once_both_finish_and_a_folder_in_use_is_not_cleared_away(tmp_path):
    with whole_folder(tmp_path / "model", replaces=lambda *_: True) as first:
        fill(first, {"a": "first"})
        with whole_folder(tmp_path / "model", replaces=lambda *_: True) as second:
            fill(second, {"b": "second"})
        assert read(tmp_path / "model") == {"b": "second"} and read(first) == {"a": "first"}
    assert read(tmp_path / "model") == {"a": "first"}
    with whole_file(tmp_path / "file") as first, whole_file(tmp_path / "file") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == ["file", "model"]


def test_a_file_is_not_written_in_the_place_of_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"{tmp_path} is a folder; accepted is the name of a file"):
        write_text(tmp_path, "text")


@pytest.mark.parametrize("how", ["no module", "no locks"])
def test_where_there_are_no_locks_everything_is_written_all_the_same(tmp_path, monkeypatch, how):
    if how == "no module":  # as on Windows
        monkeypatch.setattr(_files, "fcntl", None)
    else:

        def refuse(*_):
            raise OSError(errno.ENOLCK, "no locks here")

        monkeypatch.setattr(_files.fcntl, "flock", refuse)
    write_text(tmp_path / "a" / "file", "new")
    fill(tmp_path / "model", OLD)
    fill(tmp_path / ".model.01234567.tmp", {"half": "of another process, for all that is known"})
    replace(tmp_path / "model")
    shutil.rmtree(tmp_path / ".model.01234567.tmp")  # it was left
    assert read(tmp_path) == {"a/file": "new"} | {f"model/{name}": text for name, text in (NEW | KEPT).items()}


def test_what_another_process_may_be_writing_is_left_with_a_word(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_files, "_lock", lambda folder: None)
    for kind in ("tmp", "old"):
        fill(tmp_path / f".model.01234567.{kind}", {"a": kind})
    for there, told in ((True, "delete it"), (False, "rename it back")):
        caplog.clear()
        if there:
            fill(tmp_path / "model", {"a": "1"})
        _files._tidy(tmp_path / "model")
        assert caplog.text.count("is of another process that writes") == 2
        assert (".old is of" in caplog.text) and caplog.text.count(told) == (2 if there else 1)
        for message in caplog.messages:
            assert ("rename it back" in message) == (".old is of" in message and not there)
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
    assert sorted(os.listdir(tmp_path)) == [".model.01234567.old", ".model.01234567.tmp"]


@pytest.mark.parametrize("there", [False, True])
def test_of_what_a_killed_writer_has_left_the_old_folder_is_back_and_half_a_new_one_never_stands_in_for_it(
    there, tmp_path, caplog
):
    """Where nothing is `there`, it was killed between two renames. Names are tried before and after the old one's."""
    if there:
        fill(tmp_path / "model", {"a": "whole"})
    for name, text in (
        (".model.01234567.tmp", "half"),
        (".model.89abcdef.old", "old"),
        (".model.ffffffff.tmp", "half"),
    ):
        fill(tmp_path / name, {"a": text})
    _files._tidy(tmp_path / "model")
    assert read(tmp_path) == {"model/a": "whole" if there else "old"}
    assert os.listdir(tmp_path) == ["model"] and ("model is back" in caplog.text) == (not there)
    shutil.rmtree(tmp_path / "model")
    fill(tmp_path / ".model.01234567.tmp", {"a": "half"})  # a first writer, killed
    _files._tidy(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_only_what_was_left_by_a_writer_of_this_very_folder_is_cleared_away(tmp_path):
    theirs = [
        ".model.0123456.tmp",
        ".model.01234567.tmpx",
        ".models.01234567.tmp",
        ".m.01234567.old",
        "model.01234567.tmp",
    ]
    for name in (*theirs, ".model.01234567.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".model.aaaaaaaa.tmp").write_text("a file")
    (tmp_path / ".model.bbbbbbbb.tmp").symlink_to(theirs[0], target_is_directory=True)
    with whole_folder(tmp_path / "model"):
        pass
    kept = {*theirs, ".model.aaaaaaaa.tmp", ".model.bbbbbbbb.tmp", "model"}
    assert {*os.listdir(tmp_path)} == kept


def test_content_is_known_by_its_digest_and_json_ends_in_a_line(tmp_path):
    _files.write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ]\n}\n'
    _files.write_json(tmp_path / "a.json", {"b": [1]}, indent=None)
    assert (tmp_path / "a.json").read_bytes() == b'{"b": [1]}\n'
    content = bytes(range(256)) * 5000  # more than is read at a time
    _files.write_bytes(tmp_path / "large", content)
    assert _files.sha256(tmp_path / "large") == hashlib.sha256(content).hexdigest()
    write_text(tmp_path / "deep" / "deeper" / "text", "ü\r\n")
    assert (tmp_path / "deep" / "deeper" / "text").read_bytes() == b"\xc3\xbc\r\n"


def test_what_is_moved_in_replaces_whole_folders_and_leaves_the_rest(tmp_path):
    fill(tmp_path / "out", {"config.json": "old", "unet/a": "old", "thesis.tex": "mine"})
    fill(tmp_path / "new", {"config.json": "new", "unet/b": "new"})
    move_into(tmp_path / "new", tmp_path / "out")
    assert read(tmp_path / "out") == {"config.json": "new", "unet/b": "new", "thesis.tex": "mine"}


@pytest.mark.parametrize("platform, name", [("darwin", "renamex_np"), ("linux", "renameat2")])
def test_two_names_change_places_in_one_step_where_the_system_can(monkeypatch, tmp_path, platform, name):
    asked, answer = [], [0]
    library = type("Library", (), {name: lambda self, *given: asked.append(given) or answer[0]})
    monkeypatch.setattr(_files.sys, "platform", platform)
    monkeypatch.setattr(_files.ctypes, "CDLL", lambda *_, **__: library())
    a, b = tmp_path / "a", tmp_path / "b"
    assert _files._exchange(a, b) is True
    names = [os.fsencode(place) for place in (a, b)]
    # Both systems call the exchange 2; Linux takes relative names from the working folder, -100.
    assert asked == [(*names, 2)] if platform == "darwin" else [(-100, names[0], -100, names[1], 2)]
    answer[0] = -1
    assert _files._exchange(a, b) is False
    for error in (AttributeError, OSError, TypeError):

        def missing(*_, error=error, **__):
            raise error("there is none")

        monkeypatch.setattr(_files.ctypes, "CDLL", missing)
        assert _files._exchange(a, b) is False


@pytest.mark.parametrize("held", ["", "{", "[1]", "3", "null", "[" * 100_000, None])
def test_a_file_that_holds_no_mapping_holds_nothing(held, tmp_path):
    file = tmp_path / "a.json"
    assert mapping_in(file) == {}
    if held is not None:
        file.write_text(held)
        assert mapping_in(file) == {}
    file.write_text('{"a": {"b": 1}}')
    assert mapping_in(file) == {"a": {"b": 1}}
