"""The working folder: damaged, of another call, on a full disk."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from hf_effmodels.quantization.cbq import room, store

CALL = {"config": 1}


@pytest.fixture
def work(tmp_path):
    """Of a call that was killed after its window 1."""
    progress = store.Progress(tmp_path / "work", CALL)
    for step in (0, 1):
        progress.save(f"quantized-{step:05d}", {"a": torch.arange(step + 3)})
        progress.save(f"window-{step:05d}", {"b": torch.ones(4)})
        progress.finish(step, [{"block": step}])
    return tmp_path / "work"


def test_a_killed_call_is_found_again_and_old_windows_are_gone(work):
    (work / "window-00002.safetensors").write_bytes(b"begun")  # of the window in which it was killed
    progress = store.Progress(work, CALL)
    assert progress.step == 1 and progress.rows == [{"block": 0}, {"block": 1}]
    assert progress.load("quantized-00001")["a"].tolist() == [0, 1, 2, 3]
    assert not (work / "window-00000.safetensors").exists()


def test_a_call_that_was_killed_before_its_first_line_begins_again(tmp_path):
    (tmp_path / ".state.json.part").touch()
    assert store.Progress(tmp_path, CALL).step == -1


@pytest.mark.parametrize(
    "name, change",
    [
        ("quantized-00000.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-1])),
        ("quantized-00001.safetensors", Path.unlink),
        ("window-00001.safetensors", lambda file: file.write_bytes(b"")),
        ("state.json", lambda file: file.write_text(file.read_text()[:-9])),
        ("state.json", lambda file: file.write_text("[]")),
    ],
)
def test_damaged_progress_is_told_before_anything_is_computed(work, name, change):
    change(work / name)
    with pytest.raises(ValueError, match=f"^work: {work / name} is damaged or missing .*Delete {work} to begin again"):
        store.Progress(work, CALL)


def test_a_folder_of_other_files_is_no_place_for_work(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match=f"^work: {tmp_path} holds other files; name a new folder"):
        store.Progress(tmp_path, CALL)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("error", [SafetensorError("No space left"), OSError(28, "No space left")], ids=["file", "os"])
def test_a_full_disk_keeps_what_is_finished(work, monkeypatch, error):
    def full(*args):
        raise error

    progress = store.Progress(work, CALL)
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", full)
        with pytest.raises(OSError, match=f"^work: {work} cannot be written .*No space left.*the same call goes on"):
            progress.save("quantized-00002", {"a": torch.ones(3)})
        blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
        with pytest.raises(OSError, match=f"^work: {work}/blocks cannot be written"):
            store.BlockStore(blocks, work / "blocks")
    assert store.Progress(work, CALL).step == 1 and not list(work.glob(".*"))


def test_folders_on_one_disk_share_its_room(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: SimpleNamespace(free=3_000_000))
    work, out = tmp_path / "a" / "work", tmp_path / "out"
    room.check_room({"work": (work, 3_000_000)})
    both = {"work": (work, 1_500_000), "out": (out, 2_000_000)}
    with pytest.raises(
        OSError, match=f"^work, out: the disk of {work} has room for 0.003 GB, about 0.004 GB more are"
    ):
        room.check_room(both, kept=work)
    work.mkdir(parents=True)
    (work / "of-a-killed-call").write_bytes(bytes(600_000))
    room.check_room(both, kept=work)


def test_what_the_work_takes_follows_from_its_sizes(dense):
    model = dense()  # bfloat16, 64 wide
    size = 2 * sum(weight.numel() for weight in model.parameters())
    assert room.bytes_of_work(model, 0, False) == size and room.bytes_of_work(model, 0, True) == 2 * size
    assert room.bytes_of_work(model, 10, False) == size + 2 * 2 * 4 * 10 * 64
