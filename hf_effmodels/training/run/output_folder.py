"""The output folder: whose run it holds, and which of its checkpoints are whole."""

import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open

from ..._files import write_text
from ...hub.export import is_export

logger = logging.getLogger(__name__)

#: The resolved arguments of a run, in its output folder; a recipe itself: `--config` takes it.
RUN_FILE = "training_config.yaml"
#: In a checkpoint: the weights training goes on with, where `model.safetensors` holds their moving average.
WEIGHTS_WITHOUT_EMA = "model_without_ema.safetensors"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_RESULTS = (
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model_index.json", "diffusion_pytorch_model.safetensors"),  # of diffusers
)
# Keys that may change when a run goes on: they say where and how it is watched, not what is computed.
_FREE_KEYS = frozenset(
    "cache_dir check_images dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory "
    "dataloader_prefetch_factor "
    "disable_tqdm enable_jit_checkpoint hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy "
    "license log_level log_level_replica log_on_each_node logging_dir logging_first_step logging_nan_inf_filter "
    "logging_steps logging_strategy output_dir overwrite_output_dir project push_to_hub report_to "
    "resume_from_checkpoint run_name save_total_limit skip_memory_metrics torch_empty_cache_steps "
    "trackio_bucket_id trackio_space_id trackio_static_space_id local_rank ddp_timeout ddp_backend debug".split()
)


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps in `folder`; those a kill has left unfinished are passed over."""
    for checkpoint in reversed(_checkpoints(folder)):
        problem = what_is_missing(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is not whole (%s): passed over.", checkpoint, problem)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    found = [
        (int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found) if path.is_dir()]


def what_is_missing(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be resumed from, or None. Reads headers and directories, not the weights.

    The Trainer writes `trainer_state.json` last, so a checkpoint with a good one lacks nothing but what was cut off.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "no readable trainer_state.json"
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    if match and state.get("global_step") != int(match[1]):
        return f"trainer_state.json is of step {state.get('global_step')}"
    weights = {file.name: file for file in checkpoint.glob("*.safetensors")}
    training_weights = weights.pop(WEIGHTS_WITHOUT_EMA, None)
    if not weights and not any(checkpoint.glob("pytorch_model*")):
        return "no weights"
    if training_weights is None and _read_run(checkpoint.parent).get("ema_decay") is not None:
        return f"no {WEIGHTS_WITHOUT_EMA}"
    for file in checkpoint.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError):
            return f"{file.name} is cut off"
    for file in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut off"
    is_sharded = any(path.is_dir() for path in checkpoint.iterdir())  # FSDP and DeepSpeed keep theirs in sub-folders
    for name in ("optimizer.pt", "scheduler.pt"):
        if not is_sharded and not (checkpoint / name).is_file():
            return f"no {name}"
    return None


def open_output_folder(folder: Path, config: dict, resume: str | None, overwrite: bool) -> Path | None:
    """Check that the output folder is free, or holds this very run; nothing is written.

    Args:
        folder: the output folder; it need not exist.
        config: the resolved arguments of this run.
        resume: `"true"` (from the newest whole checkpoint of `folder`), `"auto"` (the same, from the start where there
            is none), a checkpoint's path, or None.
        overwrite: the caller may delete what another run has left in `folder`.

    Returns:
        The checkpoint to go on from, or None.

    Raises:
        ValueError: the folder holds another run, or `resume` points at nothing.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir: {folder} is a file.")
    if resume in ("true", "auto"):
        return _own_checkpoint(folder, config, resume, overwrite)
    checkpoint = _checkpoint_at(Path(resume), folder, config) if resume else None
    goes_on = checkpoint is not None and checkpoint.resolve().parent == folder.resolve()
    if goes_on and overwrite:
        raise ValueError(_EXCLUDE)
    held = _held(folder)
    if held and not overwrite and not goes_on:
        raise ValueError(
            f"--output_dir: {folder} already holds a run or a model ({', '.join(held)}). Continue the run with "
            "--resume_from_checkpoint true, replace it with --overwrite_output_dir true, or choose another folder."
        )
    return checkpoint


_EXCLUDE = "--overwrite_output_dir and --resume_from_checkpoint of the same folder exclude each other."


def _held(folder: Path) -> list[str]:
    """Names of what a run, or somebody's model, has left in the folder."""
    return [path.name for path in _checkpoints(folder)] + [
        name for name in (RUN_FILE, *_RESULTS) if (folder / name).exists()
    ]


def _own_checkpoint(folder: Path, config: dict, resume: str, overwrite: bool) -> Path | None:
    if overwrite:
        raise ValueError(_EXCLUDE)
    held = _held(folder)
    if held and RUN_FILE not in held:
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds {', '.join(held)}, but no {RUN_FILE} to compare this run with. "
            "Name the checkpoint's folder if this is where to go on."
        )
    checkpoint = newest_checkpoint(folder)
    if changed := changes(_read_run(folder), config):
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds a run with other arguments: {'; '.join(changed)}. Give it the "
            f"same (--config {folder / RUN_FILE}), or start a run of its own in another folder; that one may begin "
            f"with --resume_from_checkpoint {checkpoint or folder}."
        )
    if checkpoint is None and resume == "true":
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds no whole checkpoint. With 'auto' training would start from the "
            "beginning."
        )
    return checkpoint


def _checkpoint_at(checkpoint: Path, folder: Path, config: dict) -> Path:
    if not checkpoint.is_dir():
        raise ValueError(
            f"--resume_from_checkpoint: got {str(checkpoint)!r}, accepted are true, auto and a checkpoint's folder."
        )
    if problem := what_is_missing(checkpoint):
        raise ValueError(f"--resume_from_checkpoint: {checkpoint} is not whole ({problem}).")
    changed = changes(_read_run(checkpoint.parent), config)
    if changed and checkpoint.resolve().parent == folder.resolve():
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds a run with other arguments: {'; '.join(changed)}. Choose "
            "another --output_dir for a run with these."
        )
    for change in changed:
        logger.warning("unlike the run that wrote %s: %s. This run's value is used.", checkpoint, change)
    return checkpoint


def changes(before: dict, now: dict) -> list[str]:
    """What differs between two resolved configurations and would change the result, as `"key: before -> now"`."""
    keys = sorted((before.keys() & now.keys()) - _FREE_KEYS)
    return [f"{key}: {before[key]} -> {now[key]}" for key in keys if before[key] != now[key]]


def clear_output_folder(folder: Path) -> None:
    """Delete what a run writes that would be mistaken for this one's: its checkpoints and its model."""
    for checkpoint in folder.glob("checkpoint-*"):
        if _CHECKPOINT.fullmatch(checkpoint.name) and checkpoint.is_dir():
            shutil.rmtree(checkpoint)
    if is_export(folder / "hub"):
        shutil.rmtree(folder / "hub")
    for name in (RUN_FILE, *_RESULTS, "trainer_state.json", "all_results.json", "README.md"):
        (folder / name).unlink(missing_ok=True)


def write_run(folder: Path, config: dict) -> None:
    """Write the resolved arguments as a recipe."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=119)
    write_text(
        folder / RUN_FILE,
        "# The arguments of the run in this folder. accelerate launch scripts/train.py --config takes it.\n" + text,
    )


def _read_run(folder: Path) -> dict:
    try:
        return yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return {}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / RUN_FILE} cannot be read ({error}).") from None
