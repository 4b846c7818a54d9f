"""Training in several rounds: after each, the samples that the model still finds hard are drawn for the next
(https://arxiv.org/abs/2402.02791, multiple-round training; the paper's rate is 0.5, and two rounds are enough).

    output/round-1/...       the first round, on all samples
    output/round-1/losses.npz, drawn.json
    output/round-2/...       goes on from round 1's model, on the drawn samples
"""

import contextlib
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from transformers import Trainer

from ...._files import write_json
from ...data.fingerprints import fingerprint
from ..output_folder import changes, newest_checkpoint
from ..run import Run
from .numbers import check_rounds
from .resampling import DrawnDataset, draw_by_loss, loss_probabilities, number_of_groups
from .sample_losses import compute_losses

logger = logging.getLogger(__name__)

#: In a round's folder: the losses after it, what they make the next round train on, and the mark that it is trained.
LOSSES_FILE, DRAWN_FILE, DONE_FILE = "losses.npz", "drawn.json", "round.json"


def train_rounds(
    make_trainer: Callable[[int, Path | None, Path], Trainer | Run],
    output_dir: str | Path,
    *,
    rounds: int = 2,
    rate: float = 0.5,
    temperature: float = 1.0,
    group_size: int = 1,
    seed: int = 0,
    loss_batch_size: int = 8,
    progress: bool = False,
) -> list[dict]:
    """Train round after round; a call with the same arguments goes on where a killed one stopped.

    All processes of a distributed run call this. Nothing depends on their number but the training itself.

    Args:
        make_trainer: called as `make_trainer(number, start, folder)` for each round, also for one that is trained
            already, whose arguments and data are then compared with what was recorded: its number from 1, the folder
            of the model to start from (None in the first round), the folder to train in. Returns a `Run` of that
            folder, or a trainer alone, with the whole data set as `train_dataset` (map-style, samples of equal length;
            here the drawn ones take its place). The model is one with `from_pretrained`.
        output_dir: gets a folder for each round.
        rounds: how many.
        rate, temperature, group_size: see `draw_by_loss`.
        seed: of the draws; round r draws with `seed + r`.
        loss_batch_size: samples at a time when losses are measured.

    Returns:
        For each round its number, folder, number of samples, metrics of the training, mean loss of all samples after
        it and that of the drawn ones.

    Raises:
        ValueError: a number out of range, or a folder with rounds of other arguments, another recipe or other data.
    """
    check_rounds(rounds, rate, temperature, group_size, seed)
    output, results = Path(output_dir), []
    settings = {"rate": rate, "temperature": temperature, "group_size": group_size, "seed": seed}
    process = PartialState()
    for number in range(1, rounds + 1):
        folder, before = output / f"round-{number}", output / f"round-{number - 1}"
        done = read_json(folder / DONE_FILE)
        if done is not None and done["settings"] != settings:
            raise ValueError(f"output_dir: {folder} is a round with {done['settings']}, this run has {settings}.")
        is_last = number == rounds
        made = make_trainer(number, before if number > 1 else None, folder)
        is_run = isinstance(made, Run)
        trainer, train = (made.trainer, made.train) if is_run else (made, partial(_train, made, folder))
        whole = trainer.train_dataset
        if not is_last:  # none to draw is to be said before the round, not after it
            _check_drawable(len(whole), rate, group_size, (folder, output))
        recipe, data = _recipe(made, number), fingerprint(whole)
        if done is not None:
            _check_same(folder, done, recipe, data)
        if done is None or (not is_last and not (folder / DRAWN_FILE).is_file()):
            if done is None:
                if number > 1:
                    drawn = read_drawn(before / DRAWN_FILE, len(whole), data)
                    trainer.train_dataset = DrawnDataset(whole, drawn)
                logger.info("round %d: %d of %d samples", number, len(trainer.train_dataset), len(whole))
                metrics = train()
                done = {
                    "round": number,
                    "folder": str(folder),
                    "samples": len(trainer.train_dataset),
                    "metrics": metrics,
                    "settings": settings,
                    "recipe": recipe,
                    "data": data,
                }
                process.wait_for_everyone()
                if process.is_main_process:
                    write_json(folder / DONE_FILE, done)
                process.wait_for_everyone()
            if not is_last:
                # As saved: a run that was killed while it measured has a trainer with other weights.
                trained = type(trainer.accelerator.unwrap_model(trainer.model)).from_pretrained(folder)
                losses = compute_losses(
                    trained.to(trainer.args.device),
                    whole,
                    batch_size=loss_batch_size,
                    state_file=folder / LOSSES_FILE,
                    progress=progress,
                )
                if process.is_main_process:
                    write_drawn(folder / DRAWN_FILE, losses, data=data, **{**settings, "seed": seed + number})
                process.wait_for_everyone()
        drawn = None if is_last else read_json(folder / DRAWN_FILE)
        shown = {} if drawn is None else {name: drawn[name] for name in ("mean_loss", "mean_drawn_loss")}
        results.append({**{name: value for name, value in done.items() if name not in ("recipe", "data")}, **shown})
        del made, trainer, train, whole  # one model at a time
    return results


def _recipe(made: Trainer | Run, number: int) -> dict:
    """The arguments of a round as JSON gives them back. A later round's model is the one before's, wherever it is."""
    arguments = made.config if isinstance(made, Run) else made.args.to_dict()
    left_out = ("model", "tokenizer") if number > 1 else ()
    return json.loads(
        json.dumps({name: value for name, value in arguments.items() if name not in left_out}, default=str)
    )


def _check_same(folder: Path, done: dict, recipe: dict, data: str) -> None:
    changed = changes(done.get("recipe", {}), recipe)
    if changed:
        raise ValueError(
            f"output_dir: {folder} is a round that was trained with other arguments: {'; '.join(changed)}. Give it "
            "the same, or choose another folder."
        )
    if done.get("data") != data:
        raise ValueError(f"output_dir: {folder} is a round that was trained on other data; choose another folder.")


def _check_drawable(samples: int, rate: float, group_size: int, folders: tuple[Path, ...]) -> None:
    try:
        number_of_groups(samples, rate, group_size)
    except ValueError:
        with contextlib.suppress(OSError):  # a trainer has made them, and nothing else may be in them
            for folder in folders:
                folder.rmdir()
        raise


def _train(trainer: Trainer, folder: Path) -> dict:
    checkpoint = newest_checkpoint(folder)
    trained = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model(str(folder))
    return trained.metrics


def write_drawn(
    file: Path,
    losses: np.ndarray,
    *,
    rate: float,
    temperature: float = 1.0,
    group_size: int = 1,
    seed: int = 0,
    data: str | None = None,
) -> dict:
    """Draw samples and write their numbers with how they were drawn; `data` is the data set's fingerprint."""
    indices = draw_by_loss(losses, rate, seed, temperature, group_size)
    content = {
        "samples": len(losses),
        "data": data,
        "rate": rate,
        "temperature": temperature,
        "group_size": group_size,
        "seed": seed,
        "mean_loss": float(np.mean(losses)),
        "mean_drawn_loss": float(np.mean(losses[indices])),
        "largest_probability": float(loss_probabilities(losses, temperature).max()),
        "indices": indices.tolist(),
    }
    write_json(file, content)
    return content


def read_drawn(file: Path, samples: int, data: str | None = None) -> np.ndarray:
    """Numbers of the drawn samples.

    Args:
        samples: of the data set they are drawn from.
        data: its fingerprint; None where it does not matter.

    Raises:
        ValueError: not such a file, or one for another data set.
    """
    try:
        content = read_json(file)
        of, indices = content["samples"], np.asarray(content["indices"], dtype=np.int64)
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{file}: it holds no drawn samples.") from None
    if of != samples:
        raise ValueError(f"{file}: drawn from {of} samples, the data set has {samples}.")
    if data is not None and content.get("data") not in (None, data):
        raise ValueError(f"{file}: drawn from another data set of as many samples.")
    return indices


def read_json(file: Path) -> dict | None:
    """What the file holds, None where there is none; a ValueError where it is no JSON any more."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: it is no JSON ({error}).") from None
