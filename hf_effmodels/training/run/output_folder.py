"""The output folder: whose run it holds, and which of its checkpoints are whole."""

import json
import logging
import shlex
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open

from ..._files import write_text
from ..._written import clear_written
from ...hub.export import clear_export
from .held import (
    HEADER,
    RESULTS,
    RUN_FILE,
    SUBMODELS_TABLE,
    check_free,
    checkpoints_in,
    held_in,
    is_record,
    step_of_checkpoint,
)
from .lock import owner_of
from .recipe_arguments import defaults_of, resolved
from .recipes import read_yaml

logger = logging.getLogger(__name__)

#: In a checkpoint: the weights training goes on with, where `model.safetensors` holds their moving average.
WEIGHTS_WITHOUT_EMA = "model_without_ema.safetensors"
#: Sub-models of a trained one, a folder each; `SUBMODELS_TABLE` says what they are.
SUBMODELS = "submodels"
#: Who writes them.
SORTED_TRAINING = "a sorted training"

#: Keys that may change when a run goes on: they say where and how it is watched, not what is computed.
FREE_KEYS = frozenset(
    "cache_dir check_images contents dataset_name dataloader_num_workers dataloader_persistent_workers "
    "dataloader_pin_memory dataloader_prefetch_factor "
    "disable_tqdm enable_jit_checkpoint hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy "
    "license log_level log_level_replica log_on_each_node logging_dir logging_first_step logging_nan_inf_filter "
    "logging_steps logging_strategy output_dir overwrite_output_dir preprocessing_num_workers project push_to_hub "
    "report_to resume_from_checkpoint run_name save_total_limit skip_memory_metrics torch_empty_cache_steps "
    "trackio_bucket_id trackio_space_id trackio_static_space_id local_rank ddp_timeout ddp_backend debug".split()
)


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps in `folder`; those a kill has left unfinished are passed over."""
    for checkpoint in reversed(checkpoints_in(folder)):
        problem = what_is_missing(checkpoint)
        if problem is None:
            return checkpoint
        logger.warning("%s is not whole (%s): passed over.", checkpoint, problem)
    return None


def what_is_missing(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be resumed from, or None. Reads the headers of weights, and compares the
    checksums of the rest.

    The Trainer writes `trainer_state.json` last, so a checkpoint with a good one lacks nothing but what was cut off.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = None
    if not isinstance(state, dict):
        return "no readable trainer_state.json"
    step = step_of_checkpoint(checkpoint)
    if step is not None and state.get("global_step") != step:
        return f"trainer_state.json is of step {state.get('global_step')}"
    weights = {file.name: file for file in checkpoint.glob("*.safetensors")}
    training_weights = weights.pop(WEIGHTS_WITHOUT_EMA, None)
    if not weights and not any(checkpoint.glob("pytorch_model*")):
        return "no weights"
    for index in checkpoint.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} is no index of weights"
        if lacking := sorted(name for name in shards if not (checkpoint / str(name)).is_file()):
            return f"no {lacking[0]}"
    if training_weights is None and _has_average(checkpoint.parent):
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
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip() is not None
        except zipfile.BadZipFile:  # its table of contents
            damaged = True
        if damaged:
            return f"{file.name} is damaged"
    if not any(checkpoint.glob("rng_state*.pth")):
        return "no rng_state.pth"
    is_sharded = any(path.is_dir() for path in checkpoint.iterdir())  # FSDP and DeepSpeed keep theirs in sub-folders
    for name in ("optimizer.pt", "scheduler.pt"):
        if not is_sharded and not (checkpoint / name).is_file():
            return f"no {name}"
    return None


def open_run(reader, arguments: Sequence) -> tuple[dict, Path | None]:
    """What a run begins with: its arguments as they are recorded, and the checkpoint to go on from, if any.

    Args:
        reader: what the arguments were read by; it knows the task.
        arguments: the filled dataclasses; the last one is a `RecipeArguments`.

    Raises:
        ValueError: as `open_output_folder`.
    """
    args, recorded = arguments[-1], (*reader.outer, *arguments)
    config = {"task": reader.task, **resolved(*recorded)}
    checkpoint = open_output_folder(
        Path(args.output_dir),
        config,
        args.resume_from_checkpoint,
        args.overwrite_output_dir,
        defaults={"task": reader.task, **defaults_of(*map(type, recorded))},
    )
    return config, checkpoint


def open_output_folder(
    folder: Path, config: dict, resume: str | None, overwrite: bool, defaults: Mapping | None = None
) -> Path | None:
    """Check that the output folder is free, or holds this very run; nothing is written.

    Args:
        folder: the output folder; it need not exist.
        config: the resolved arguments of this run.
        resume: `"true"` (from the newest whole checkpoint of `folder`), `"auto"` (the same, from the start where there
            is none), a checkpoint's path, or None.
        overwrite: the caller may delete what another run has left in `folder`.
        defaults: see `changes`.

    Returns:
        The checkpoint to go on from, or None.

    Raises:
        ValueError: the folder holds another run, is being written to by one, or `resume` points at nothing.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir: {folder} is a file.")
    if owner := owner_of(folder):
        raise ValueError(
            f"--output_dir: {owner} is writing into {folder}. Wait for its end, or choose another folder."
        )
    if resume in ("true", "auto"):
        return _own_checkpoint(folder, config, resume, overwrite, defaults)
    checkpoint = _checkpoint_at(Path(resume), folder, config, defaults) if resume else None
    goes_on = checkpoint is not None and checkpoint.resolve().parent == folder.resolve()
    if goes_on and overwrite:
        raise ValueError(_EXCLUDE)
    if not goes_on:
        check_free(folder, overwrite)
    return checkpoint


_EXCLUDE = "--overwrite_output_dir and --resume_from_checkpoint of the same folder exclude each other."


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """What a run would go on from or replace in the folder, with the time and the number of each file or folder."""
    paths = {name: (folder / name).stat() for name in held_in(folder)}
    return {name: (found.st_mtime_ns, found.st_ino) for name, found in paths.items()}


def _own_checkpoint(folder: Path, config: dict, resume: str, overwrite: bool, defaults: Mapping | None) -> Path | None:
    if overwrite:
        raise ValueError(_EXCLUDE)
    held = held_in(folder)
    if held and RUN_FILE not in held:
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds {', '.join(held)}, but no {RUN_FILE} to compare this run with. "
            "Name the checkpoint's folder if this is where to go on."
        )
    checkpoint = newest_checkpoint(folder)
    if held and (changed := changes(read_run(folder), config, defaults)):
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds a run with other arguments: {'; '.join(changed)}. Give it the "
            f"same (--config {shlex.quote(str(folder / RUN_FILE))}), or start a run of its own in another folder; "
            f"that one may begin with --resume_from_checkpoint {checkpoint or folder}."
        )
    if checkpoint is None and resume == "true":
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds no whole checkpoint. With 'auto' training would start from the "
            "beginning."
        )
    return checkpoint


def _checkpoint_at(checkpoint: Path, folder: Path, config: dict, defaults: Mapping | None) -> Path:
    if not checkpoint.is_dir():
        raise ValueError(
            f"--resume_from_checkpoint: got {str(checkpoint)!r}, accepted are true, auto and a checkpoint's folder."
        )
    if problem := what_is_missing(checkpoint):
        raise ValueError(f"--resume_from_checkpoint: {checkpoint} is not whole ({problem}).")
    if not (checkpoint.parent / RUN_FILE).is_file():
        logger.warning("%s has no %s beside it: whether it is of a run like this is not known.", checkpoint, RUN_FILE)
        return checkpoint
    changed = changes(read_run(checkpoint.parent), config, defaults)
    if changed and checkpoint.resolve().parent == folder.resolve():
        raise ValueError(
            f"--resume_from_checkpoint: {folder} holds a run with other arguments: {'; '.join(changed)}. Choose "
            "another --output_dir for a run with these."
        )
    for change in changed:
        logger.warning("unlike the run that wrote %s: %s. This run's value is used.", checkpoint, change)
    return checkpoint


def changes(before: Mapping, now: Mapping, defaults: Mapping | None = None) -> list[str]:
    """What differs between two resolved configurations and would change the result, as `"key: before -> now"`.

    Args:
        before: as it was recorded.
        now: of this run.
        defaults: all arguments that there are now, with their defaults: what a record lacks stands for them (it leaves
            out None, and may come from a version that lacked some), and what there is no more does not count.
    """
    keys = before.keys() | now.keys()
    if defaults is not None:
        keys &= now.keys() | defaults.keys()
    missing = defaults or {}
    values = {key: (before.get(key, missing.get(key)), now.get(key)) for key in sorted(keys - FREE_KEYS)}
    return [f"{key}: {old} -> {new}" for key, (old, new) in values.items() if old != new]


@contextmanager
def making_no_folder(folder: Path) -> Iterator[None]:
    """After it `folder`, and those above it, are there only if they were before, or if something is in them: the
    Trainer makes its folder at once, and a run that is refused after that has written nothing."""
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # it has something in it, or another process has removed it
            for path in made:
                path.rmdir()


def clear_output_folder(folder: Path) -> None:
    """Delete what a run writes that would be mistaken for this one's: its checkpoints and its model."""
    for checkpoint in checkpoints_in(folder):
        shutil.rmtree(checkpoint)
    clear_export(folder / "hub")
    # Not by the names of a record that anybody may have written.
    for submodel in [path for path in (folder / SUBMODELS).glob("*") if path.is_dir()]:
        clear_written(submodel, SORTED_TRAINING)
    if is_record(folder / RUN_FILE):
        (folder / SUBMODELS_TABLE).unlink(missing_ok=True)
    # The record goes last: as long as anything is left, it says that this is a run.
    for name in (*RESULTS, "trainer_state.json", "all_results.json", "README.md", RUN_FILE):
        (folder / name).unlink(missing_ok=True)


def write_run(folder: Path, config: dict) -> None:
    """Write the resolved arguments as a recipe."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=119)
    write_text(folder / RUN_FILE, f"{HEADER}. hf-effmodels train --config takes it.\n{text}")


def _has_average(folder: Path) -> bool:
    """Whether the run that was recorded in the folder, if there is one, kept an average of its weights."""
    try:
        return (folder / RUN_FILE).is_file() and read_run(folder).get("ema_decay") is not None
    except ValueError:
        return False  # what is wrong with the record is told where runs are compared


def read_run(folder: Path) -> dict:
    """The recorded arguments of the run in a folder; a ValueError where they cannot be read."""
    file = folder / RUN_FILE
    try:
        run = read_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--resume_from_checkpoint: {file} cannot be read ({error}).") from None
    if not isinstance(run, dict) or not run.keys() - {"task"}:
        raise ValueError(
            f"--resume_from_checkpoint: {file} does not hold the arguments of a run any more, so that this one cannot "
            "be compared with it. Restore it, or go on in another folder from a checkpoint that is named."
        )
    return run
