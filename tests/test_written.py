"""A folder is written again only as far as it is ours."""

import json
import os

import pytest

from hf_effmodels._written import RECORD, check_report, check_rewritable, clear_written, rewritten


def test_what_somebody_puts_there_meanwhile_is_not_replaced_either(tmp_path):
    with rewritten(tmp_path / "out", "test") as folder:
        (folder / "config.json").write_text("first")

    def meanwhile():
        with rewritten(tmp_path / "out", "test") as folder:
            (folder / "vocab.txt").write_text("ours")
            (tmp_path / "out" / "vocab.txt").write_text("theirs")

    with pytest.raises(FileExistsError, match=r"vocab\.txt was not written by this command"):
        meanwhile()
    assert (tmp_path / "out" / "vocab.txt").read_text() == "theirs"
    assert (tmp_path / "out" / "config.json").read_text() == "first"


def write(folder, **files):
    with rewritten(folder, "test") as new:
        for name, text in files.items():
            (new / name).write_text(text)


def read(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != RECORD}


def test_a_folder_is_replaced_but_for_what_others_put_into_it(tmp_path):
    folder = tmp_path / "deep" / "out"
    write(folder, a="1", b="1")
    (folder / "mine").write_text("mine")
    write(folder, b="2", c="2")
    assert read(folder) == {"b": "2", "c": "2", "mine": "mine"}
    (folder / "c").unlink()
    (folder / "a").write_text("mine, of a name that once was theirs")
    write(folder, b="3")
    assert read(folder) == {"a": "mine, of a name that once was theirs", "b": "3", "mine": "mine"}


@pytest.mark.parametrize(
    "record",
    [None, "", "{}", "[]", "not JSON", '{"writer": "test"}', '{"writer": 1, "files": {"a": "0"}}', "[" * 100000],
)
def test_a_folder_without_a_record_is_somebody_s_unless_it_is_empty(tmp_path, record):
    write(tmp_path, a="1")
    (tmp_path / RECORD).unlink()
    if record is not None:
        (tmp_path / RECORD).write_text(record)
    with pytest.raises(FileExistsError, match="was not written by this command"):
        write(tmp_path, a="2")
    assert read(tmp_path) == {"a": "1"}
    for name in os.listdir(tmp_path):
        (tmp_path / name).unlink()
    write(tmp_path, a="2")
    assert read(tmp_path) == {"a": "2"}


@pytest.mark.parametrize("how", ["edited", "linked", "in the way"])
def test_what_would_be_lost_is_named_and_kept(tmp_path, how):
    write(tmp_path / "out", a="1")
    file = tmp_path / "out" / "a"
    if how == "edited":
        file.write_text("edited")
    elif how == "linked":
        (tmp_path / "elsewhere").write_text("1")
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "out" / "b").write_text("mine")
    before = read(tmp_path / "out")
    name = "b was not written by" if how == "in the way" else "a has been changed since"
    with pytest.raises(FileExistsError, match=name):
        write(tmp_path / "out", a="2", b="2")
    assert read(tmp_path / "out") == before and file.is_symlink() == (how == "linked")
    with pytest.raises(FileExistsError, match=name):
        check_rewritable(tmp_path / "out", "test", ["b"])
    check_rewritable(tmp_path / "new", "test", ["b"])


def test_what_another_writer_has_written_is_not_replaced(tmp_path):
    write(tmp_path / "out", a="1")
    with pytest.raises(FileExistsError, match="not written by this command, but by test"):
        check_rewritable(tmp_path / "out", "quantize")
    with pytest.raises(FileExistsError, match="but by test"), rewritten(tmp_path / "out", "quantize"):
        pass
    assert read(tmp_path / "out") == {"a": "1"}


def test_clearing_away_spares_what_was_edited_since_what_others_wrote_and_what_lies_elsewhere(tmp_path):
    write(tmp_path / "out", a="1", b="1")
    clear_written(tmp_path / "out", "quantize")
    assert read(tmp_path / "out") == {"a": "1", "b": "1"}
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    (tmp_path / "mine").write_text("1")
    (tmp_path / "out" / RECORD).write_text(
        json.dumps(record | {"files": record["files"] | {"../mine": record["files"]["a"]}})
    )
    (tmp_path / "out" / "a").write_text("edited")
    clear_written(tmp_path / "out", "test")
    assert read(tmp_path / "out") == {"a": "edited"} and (tmp_path / "mine").read_text() == "1"
    write(tmp_path / "new", a="1", b="1")
    clear_written(tmp_path / "new", "test")
    assert not (tmp_path / "new").exists()


def test_of_a_folder_that_was_written_only_what_is_ours_and_as_it_was_goes(tmp_path):
    folder = tmp_path / "out"
    with rewritten(folder, "test") as new:
        (new / "parts" / "deep").mkdir(parents=True)
        (new / "parts" / "deep" / "a").write_text("1")
        (new / "parts" / "b").write_text("1")
    (folder / "parts" / "mine").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    clear_written(link, "test")
    assert (folder / "parts" / "b").exists(), "what a link leads to may be somebody's"
    clear_written(folder, "test")
    left = sorted(path.relative_to(tmp_path).as_posix() for path in folder.rglob("*"))
    assert left == ["out/parts", "out/parts/mine"]


def test_a_report_replaces_a_report_of_its_writer_alone(tmp_path):
    file = tmp_path / "report.json"
    check_report(file, ["a"], "prune")
    check_report(tmp_path / "file" / "below", ["a"], "prune")
    (tmp_path / "file").touch()
    check_report(tmp_path / "file" / "below", ["a"], "prune")
    file.write_text('{"a": 1, "b": 2}')
    check_report(file, ["a"], "prune")
    check_report(file, ["a", "b"], "prune")
    for content in ('{"a": 1}', "[]", "a thesis", "[" * 100000, ""):
        file.write_text(content)
        with pytest.raises(
            FileExistsError, match="^output: .*report.json is there, and no file of prune: name another"
        ):
            check_report(file, ["a", "b"], "prune")
    with pytest.raises(FileExistsError, match="is there, and no file of prune"):
        check_report(tmp_path, ["a"], "prune")


def test_the_record_stays_as_long_as_a_file_that_somebody_has_changed_does(tmp_path):
    """The next writer knows by it whose the folder is."""
    with rewritten(tmp_path / "out", "me") as new:
        (new / "a").write_text("1")
        (new / "b").write_text("2")
    (tmp_path / "out" / "b").write_text("changed")
    clear_written(tmp_path / "out", "me")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [RECORD, "b"]


def test_folders_below_go_from_the_deepest_on_where_nothing_else_is_in_them(tmp_path):
    with rewritten(tmp_path / "out", "test") as new:
        (new / "a" / "b" / "c").mkdir(parents=True)
        (new / "a" / "b" / "c" / "file").write_text("1")
        (new / "a" / "beside").write_text("1")
    clear_written(tmp_path / "out", "test")
    assert not (tmp_path / "out").exists()


def test_a_record_that_names_a_file_elsewhere_deletes_and_replaces_nothing_there(tmp_path):
    write(tmp_path / "out", a="1")
    mine = tmp_path / "mine"
    mine.write_text("1")
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    record["files"][str(mine)] = record["files"]["a"]
    (tmp_path / "out" / RECORD).write_text(json.dumps(record))
    clear_written(tmp_path / "out", "test")
    assert mine.read_text() == "1" and not (tmp_path / "out").exists()


def test_a_link_that_leads_nowhere_is_in_the_way_too(tmp_path):
    write(tmp_path / "out", a="1")
    (tmp_path / "out" / "b").symlink_to(tmp_path / "not there yet")
    with pytest.raises(FileExistsError, match="b was not written by this command"):
        write(tmp_path / "out", a="2", b="2")
    assert (tmp_path / "out" / "b").is_symlink() and (tmp_path / "out" / "a").read_text() == "1"
