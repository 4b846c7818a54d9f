"""`select-rounds` and `train-rounds`: training again on what is still hard."""

import argparse
import sys
import tempfile
from pathlib import Path

from ..._option_types import count, finite, from_zero
from ...training.run.arguments import ArgumentReader
from ...training.run.early import check_early
from ...training.run.rounds.numbers import check_rounds
from ...training.task import task_folder
from .words import as_table


def add(command) -> None:
    text = "Losses of a recipe's training samples under a model, and which of them to train on again."
    sub = command("select-rounds", _select_rounds, as_table, text, takes_recipe=True)
    sub.add_argument("--model", required=True, help="folder of the model after the round before")
    sub.add_argument("--output", required=True, help="JSON file for the numbers of the drawn samples")
    sub.add_argument("--overwrite", action="store_true", help="replace the file")
    _add_draw(sub)

    text = "Train a causal-lm recipe in rounds, each after the first on the samples with high losses."
    sub = command("train-rounds", _train_rounds, _rounds_table, text, takes_recipe=True)
    sub.add_argument("--output_dir", "--output-dir", required=True, help="gets a folder for each round")
    sub.add_argument("--rounds", type=count, default=2, help="how often is trained, the first time on all samples")
    sub.add_argument("--next-config", help="recipe of the rounds after the first (default: --config's)")
    _add_draw(sub)


def _add_draw(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--rate", type=finite, default=0.5, help="share of the samples to draw")
    sub.add_argument("--temperature", type=finite, default=1.0, help="below 1: more often those of high loss")
    sub.add_argument(
        "--group-size", type=count, default=1, help="successive samples drawn together, by their mean loss"
    )
    sub.add_argument("--loss-batch-size", type=count, default=8, help="samples at a time whose losses are measured")
    sub.add_argument("--draw-seed", type=from_zero, default=0, help="of the draw")


def _select_rounds(arguments, recipe: list[str]) -> dict:
    check_rounds(1, arguments.rate, arguments.temperature, arguments.group_size, arguments.draw_seed)
    file = Path(arguments.output)
    if file.is_dir():
        raise ValueError(f"--output: {file} is a folder, accepted is a file.")
    if file.exists() and not arguments.overwrite:
        raise ValueError(f"--output: {file} exists; choose another file, or replace it with --overwrite.")
    recipe = [*recipe, "--model", arguments.model]
    _check(recipe)
    from ...training.data.fingerprints import fingerprint
    from ...training.run.rounds.resampling import number_of_groups
    from ...training.run.rounds.rounds import write_drawn
    from ...training.run.rounds.sample_losses import compute_losses

    with tempfile.TemporaryDirectory() as folder:
        trainer = _prepared(recipe, Path(folder) / "run").trainer
    number_of_groups(len(trainer.train_dataset), arguments.rate, arguments.group_size)
    losses = compute_losses(
        trainer.model,
        trainer.train_dataset,
        batch_size=arguments.loss_batch_size,
        state_file=file.with_name(file.name + ".losses.npz"),
        progress=sys.stderr.isatty(),
    )
    if not trainer.args.should_save:
        return {}
    drawn = write_drawn(
        file,
        losses,
        rate=arguments.rate,
        temperature=arguments.temperature,
        group_size=arguments.group_size,
        seed=arguments.draw_seed,
        data=fingerprint(trainer.train_dataset),
    )
    return {**drawn, "indices": len(drawn["indices"]), "file": str(file)}


def _train_rounds(arguments, recipe: list[str]) -> list[dict]:
    check_rounds(arguments.rounds, arguments.rate, arguments.temperature, arguments.group_size, arguments.draw_seed)
    _check(recipe)
    from ...training import load_task
    from ...training.run.launch import start_missing_processes
    from ...training.run.rounds.rounds import train_rounds

    start_missing_processes()

    def argv(start: Path | None) -> list[str]:
        if start is None:
            return recipe
        # Of an argument that stands twice, the last counts.
        own = () if arguments.next_config is None else ("--config", arguments.next_config)
        return [*recipe, *own, "--model", str(start), "--tokenizer", str(start)]

    def make_trainer(number: int, start: Path | None, folder: Path):
        return _prepared(argv(start), folder)

    # What is wrong with the later rounds' recipe is said before the first round.
    try:
        ArgumentReader(_complete(argv(Path(arguments.output_dir)), Path(arguments.output_dir))).read(
            *load_task("causal-lm").TRAINING_ARGUMENTS
        )
    except (ValueError, OSError) as error:
        if arguments.next_config is None or not str(error).startswith("--config:"):
            raise
        raise type(error)(f"--next-{str(error).removeprefix('--')}") from error

    return train_rounds(
        make_trainer,
        arguments.output_dir,
        rounds=arguments.rounds,
        rate=arguments.rate,
        temperature=arguments.temperature,
        group_size=arguments.group_size,
        seed=arguments.draw_seed,
        loss_batch_size=arguments.loss_batch_size,
        progress=sys.stderr.isatty(),
    )


def _check(recipe: list[str]) -> None:
    """What is wrong with a recipe's arguments, before torch is there."""
    check_early(ArgumentReader(_complete(recipe, Path("run"))), task_folder("causal-lm"), "TRAINING_ARGUMENTS")


def _prepared(recipe: list[str], folder: Path):
    """The training run of a causal-lm recipe."""
    from ...training import prepare

    run = prepare("prepare_training", _complete(recipe, folder))
    if not hasattr(run.trainer.train_dataset, "__len__"):
        raise ValueError("--streaming: a stream cannot be drawn from; accepted is false.")
    return run


def _complete(recipe: list[str], folder: Path) -> list[str]:
    return [*recipe, "--task", "causal-lm", "--output_dir", str(folder), "--resume_from_checkpoint", "auto"]


def _rounds_table(results: list[dict]) -> str:
    lines = []
    for result in results:
        losses = {name: value for name, value in result["metrics"].items() if name.endswith("loss")}
        after = {name: result[name] for name in ("mean_loss", "mean_drawn_loss") if name in result}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in {**losses, **after}.items())
        lines.append(f"round {result['round']}: {result['samples']} samples, {shown}  {result['folder']}")
    return "\n".join(lines)
