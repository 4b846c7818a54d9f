import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from hf_effmodels.training.run import lock
from hf_effmodels.training.run.lock import LOCK_FILE, locked, owner_of
from hf_effmodels.training.run.output_folder import open_output_folder

HOLD = """
import sys, time
from pathlib import Path
from hf_effmodels.training.run.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def write_lock(folder, **changed):
    """A lock as this process would write it, but for some values."""
    with locked(folder):
        own = json.loads((folder / LOCK_FILE).read_text())
    (folder / LOCK_FILE).write_text(json.dumps({**own, **changed}))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_is_refused_with_the_name_of_the_first(tmp_path):
    with locked(tmp_path):
        assert files(tmp_path) == [LOCK_FILE]
        message = rf"--output_dir: the run of process {os.getpid()} on [\w.-]+, started \d+-.*is writing into"
        with pytest.raises(ValueError, match=message), locked(tmp_path):
            pass
        for overwrite, resume in ((False, None), (True, None), (False, "true"), (False, "auto")):
            with pytest.raises(ValueError, match=message):
                open_output_folder(tmp_path, {}, resume, overwrite)
        assert files(tmp_path) == [LOCK_FILE]
    assert files(tmp_path) == []
    with locked(tmp_path), locked(tmp_path / "another"):
        pass


def test_a_run_of_another_process_is_refused_until_it_is_killed(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"process {other.pid} on"), locked(tmp_path):
            pass
        other.kill()
        for _ in range(100):  # dead, even before anybody has asked how it ended
            if owner_of(tmp_path) is None:
                break
            time.sleep(0.1)
        with locked(tmp_path):
            assert f'"pid": {os.getpid()}' in (tmp_path / LOCK_FILE).read_text()
        assert files(tmp_path) == []
    finally:
        other.kill()
        other.communicate()


def test_a_process_that_has_the_number_of_a_dead_one_is_not_its_owner(tmp_path):
    write_lock(tmp_path, started=12345.0)
    assert owner_of(tmp_path) is None
    with locked(tmp_path):
        pass
    assert files(tmp_path) == []


@pytest.mark.parametrize("lock", [{"host": "elsewhere"}, {"pid": "none"}, None])
def test_an_owner_that_cannot_be_asked_is_believed_while_it_gives_signs(lock, tmp_path):
    if lock is None:
        (tmp_path / LOCK_FILE).write_text("not JSON")
    else:
        write_lock(tmp_path, **lock)
    assert owner_of(tmp_path) is not None
    with pytest.raises(ValueError, match="is writing into"), locked(tmp_path):
        pass
    assert files(tmp_path) == [LOCK_FILE]
    os.utime(tmp_path / LOCK_FILE, (time.time() - 200, time.time() - 200))
    assert owner_of(tmp_path) is None
    with locked(tmp_path):
        pass
    assert files(tmp_path) == []


@pytest.mark.parametrize("seconds, lives", [(80, True), (100, False)])
def test_an_owner_on_another_machine_may_miss_several_signs(seconds, lives, tmp_path):
    """It gives one every ten seconds, and is believed for ninety: a busy file system is no death."""
    write_lock(tmp_path, host="elsewhere")
    os.utime(tmp_path / LOCK_FILE, (time.time() - seconds, time.time() - seconds))
    assert (owner_of(tmp_path) is not None) == lives
    waits, ended = [], SimpleNamespace(wait=lambda between: waits.append(between) or len(waits) > 2)
    lock._give_signs(tmp_path / LOCK_FILE, {}, ended)
    assert waits == [10, 10, 10]


@pytest.mark.parametrize("seconds, lives", [(-6, False), (-4, True), (4, True), (6, False)])
def test_an_owner_is_the_process_that_was_started_within_five_seconds_of_what_it_said(seconds, lives, tmp_path):
    """Its clock may have been set meanwhile; a process of the same number comes later than that."""
    write_lock(tmp_path, started=psutil.Process().create_time() + seconds)
    assert (owner_of(tmp_path) is not None) == lives


def test_the_owner_gives_signs(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_effmodels.training.run.lock._SECONDS_BETWEEN_SIGNS", 0.02)
    with locked(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        for _ in range(200):
            if (tmp_path / LOCK_FILE).stat().st_mtime > time.time() - 60:
                break
            time.sleep(0.02)
        else:
            pytest.fail("no sign in four seconds")


def test_a_lock_that_somebody_has_taken_over_is_left_to_them(tmp_path):
    with locked(tmp_path):
        write = json.loads((tmp_path / LOCK_FILE).read_text())
        (tmp_path / LOCK_FILE).write_text(json.dumps({**write, "host": "elsewhere"}))
    assert files(tmp_path) == [LOCK_FILE]


def test_a_lock_is_written_where_there_are_no_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise PermissionError("links are not supported")

    monkeypatch.setattr(os, "link", no_links)
    with locked(tmp_path):
        with pytest.raises(ValueError, match="is writing into"), locked(tmp_path):
            pass
    assert files(tmp_path) == []


def test_a_lock_that_goes_away_or_changes_hands_meanwhile_is_looked_at_again(tmp_path, monkeypatch):
    write_lock(tmp_path, pid=2**30)
    dead = json.loads((tmp_path / LOCK_FILE).read_text())
    looked, read = [], lock._read

    def gone_at_first(file):
        looked.append(file.name)
        found = read(file)
        if len(looked) == 1:
            file.unlink()
        return found

    monkeypatch.setattr(lock, "_read", gone_at_first)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    looked.clear()
    (tmp_path / LOCK_FILE).write_text(json.dumps(dead))
    living = {"host": "elsewhere", "pid": 1, "started": 0}

    def taken_at_first(file):
        looked.append(file.name)
        found = read(file)
        if len(looked) == 1:  # between the look and the renaming another run has it
            file.write_text(json.dumps(living))
        return found

    monkeypatch.setattr(lock, "_read", taken_at_first)
    with (
        pytest.raises(lock.LockedError, match="the run of process 1 on elsewhere, started 1970-01-01"),
        locked(tmp_path),
    ):
        pass
    assert json.loads((tmp_path / LOCK_FILE).read_text()) == living and files(tmp_path) == [LOCK_FILE]


def test_the_machine_and_the_clock_are_known_without_linux_and_without_a_probe(tmp_path, monkeypatch):
    assert lock._host().startswith(f"{socket.gethostname()} pid:[")
    assert abs(lock._now(tmp_path) - time.time()) < 60 and files(tmp_path) == []
    monkeypatch.setattr(os, "readlink", lambda path: (_ for _ in ()).throw(OSError()))
    assert lock._host() == socket.gethostname()
    monkeypatch.setattr(lock.time, "time", lambda: 7.0)
    assert lock._now(tmp_path / "nowhere") == 7.0
    assert not lock._lives({"host": "elsewhere"}, tmp_path / "gone")
    assert lock._started(-1) is lock._started(2**70) is None
