import json

import pytest
import torch
from safetensors.torch import save_file

from hf_effmodels.training.run.output_folder import (
    RUN_FILE,
    changes,
    clear_output_folder,
    newest_checkpoint,
    open_output_folder,
    write_run,
)

CONFIG = {"learning_rate": 0.1, "seed": 0, "logging_steps": 50}


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    save_file({"weight": torch.zeros(100)}, checkpoint / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(100)}, checkpoint / name)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
        lambda checkpoint: cut_off(checkpoint / "trainer_state.json"),
        lambda checkpoint: cut_off(checkpoint / "model.safetensors"),
        lambda checkpoint: (checkpoint / "model.safetensors").unlink(),
        lambda checkpoint: cut_off(checkpoint / "optimizer.pt"),
        lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
        lambda checkpoint: cut_off(checkpoint / "rng_state.pth"),
    ],
)
def test_an_unfinished_checkpoint_is_passed_over(damage, tmp_path):
    write_checkpoint(tmp_path, 90)
    whole = write_checkpoint(tmp_path, 100)
    assert newest_checkpoint(tmp_path) == whole
    damage(write_checkpoint(tmp_path, 200))
    assert newest_checkpoint(tmp_path) == whole


def test_a_folder_that_holds_a_run_is_only_reused_on_demand(tmp_path):
    assert open_output_folder(tmp_path / "new", CONFIG, None, overwrite=False) is None
    assert not (tmp_path / "new").exists()
    write_run(tmp_path, CONFIG)
    checkpoint = write_checkpoint(tmp_path, 10)
    with pytest.raises(ValueError, match="already holds a run.*--resume_from_checkpoint true.*--overwrite_output_dir"):
        open_output_folder(tmp_path, CONFIG, None, overwrite=False)
    assert open_output_folder(tmp_path, CONFIG, "true", overwrite=False) == checkpoint
    assert open_output_folder(tmp_path, {**CONFIG, "logging_steps": 1}, "auto", overwrite=False) == checkpoint
    with pytest.raises(ValueError, match="other arguments: learning_rate: 0.1 -> 0.2"):
        open_output_folder(tmp_path, {**CONFIG, "learning_rate": 0.2}, "true", overwrite=False)
    with pytest.raises(ValueError, match="exclude each other"):
        open_output_folder(tmp_path, CONFIG, "true", overwrite=True)
    assert open_output_folder(tmp_path, CONFIG, None, overwrite=True) is None
    (tmp_path / "notes.txt").write_text("mine")
    clear_output_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_with_a_model_is_not_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a run or a model.*config.json"):
        open_output_folder(tmp_path, CONFIG, None, overwrite=False)


def test_where_to_resume_from_is_checked(tmp_path, caplog):
    run = tmp_path / "run"
    write_run(run, CONFIG)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        open_output_folder(run, CONFIG, "true", overwrite=False)
    assert open_output_folder(run, CONFIG, "auto", overwrite=False) is None
    with pytest.raises(ValueError, match="accepted are true, auto and a checkpoint"):
        open_output_folder(run, CONFIG, str(run / "checkpoint-7"), overwrite=False)
    checkpoint = write_checkpoint(run, 10)
    other = {**CONFIG, "seed": 1}
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        open_output_folder(run, other, str(checkpoint), overwrite=False)
    # Another run may begin from it, with a word about what differs.
    assert open_output_folder(tmp_path / "other", other, str(checkpoint), overwrite=False) == checkpoint
    assert "seed: 0 -> 1" in caplog.text
    write_run(tmp_path / "other", other)
    with pytest.raises(ValueError, match="already holds a run"):
        open_output_folder(tmp_path / "other", other, str(checkpoint), overwrite=False)
    with pytest.raises(ValueError, match="exclude each other"):
        open_output_folder(run, CONFIG, str(checkpoint), overwrite=True)
    (run / RUN_FILE).unlink()
    with pytest.raises(ValueError, match="checkpoint-10, but no training_config.yaml"):
        open_output_folder(run, CONFIG, "auto", overwrite=False)
    assert open_output_folder(run, CONFIG, str(checkpoint), overwrite=False) == checkpoint
    cut_off(checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match="not whole.*model.safetensors"):
        open_output_folder(tmp_path / "other", other, str(checkpoint), overwrite=False)


def test_the_run_file_is_never_half_written_and_reads_back(tmp_path):
    write_run(tmp_path, {"model": "ghostnetv3-1.0x", "crop_scale": [0.1, 1.0], "model_config": {"stages": [[1, 2]]}})
    assert [path.name for path in tmp_path.iterdir()] == [RUN_FILE]
    assert changes({"a": 1, "b": 2, "gone": 3}, {"a": 1, "b": 4, "new": 5}) == ["b: 2 -> 4"]
