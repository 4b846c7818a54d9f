"""What an output folder holds of a run or a model, told by names alone: before torch is there to read any of it."""

import re
from pathlib import Path

from ..._exported import FIGURES

#: The resolved arguments of a run, in its output folder; a recipe itself: `--config` takes it.
RUN_FILE = "training_config.yaml"
HEADER = "# The arguments of the run in this folder"
#: A table of the sub-models of a trained one.
SUBMODELS_TABLE = "submodels.json"
RESULTS = (
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model_index.json", "diffusion_pytorch_model.safetensors"),  # of diffusers
)
#: What runs of one task or another write beside these. In a folder without a record somebody else has written it.
_REPORTS = (
    *("README.md", "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", *FIGURES),
    *("sample.txt", "text.json", "expert_load.json", "expert_load.png", "adaptation.json", "per_class.csv"),
    *("masks.png", "masked.png", "answers.png", "example.png", SUBMODELS_TABLE),
)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def step_of_checkpoint(checkpoint: Path) -> int | None:
    """After how many steps a checkpoint was written, by its name; None where it is not called as one."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints, whole or not, in the order of their steps."""
    found = [(step, path) for path in folder.glob("checkpoint-*") if (step := step_of_checkpoint(path)) is not None]
    return [path for _, path in sorted(found) if path.is_dir()]


def is_record(file: Path) -> bool:
    """Whether a run has written this file of arguments."""
    try:
        return file.read_text(encoding="utf-8").startswith(HEADER)
    except (OSError, ValueError):
        return False


def held_in(folder: Path) -> list[str]:
    """Names of what a run, or somebody's model, has left in the folder.

    The record alone is nothing to lose: that run was refused or killed before its first checkpoint.
    """
    is_ours = is_record(folder / RUN_FILE)
    names = RESULTS if is_ours else (*RESULTS, *_REPORTS)
    held = [path.name for path in checkpoints_in(folder)] + [name for name in names if (folder / name).exists()]
    if (folder / RUN_FILE).exists() and (held or not is_ours):
        held.append(RUN_FILE)
    return held


def check_free(folder: Path, overwrite: bool) -> None:
    """ValueError of a folder that a new run would not write into: it holds a run and nobody says that it may go, or
    what no run has left there."""
    held = held_in(folder)
    if held and overwrite and not is_record(folder / RUN_FILE):
        raise ValueError(
            f"--overwrite_output_dir: {folder} holds {', '.join(held)}, but no {RUN_FILE} that a run has written, and "
            "only runs are overwritten. Choose another folder, or delete these yourself."
        )
    if held and not overwrite:
        raise ValueError(
            f"--output_dir: {folder} already holds a run or a model ({', '.join(held)}). Continue the run with "
            "--resume_from_checkpoint true, replace it with --overwrite_output_dir true, or choose another folder."
        )


def read_resume(value: str | bool | None) -> str | None:
    """`--resume_from_checkpoint` as it is meant: None, `"true"`, `"auto"` or a checkpoint's folder."""
    text = "" if value is None else str(value)
    if text.lower() in ("", "false", "no", "none"):
        return None
    return text.lower() if text.lower() in ("true", "auto") else text
