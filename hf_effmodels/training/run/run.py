"""From a trainer that is ready to a finished run: the same for every task."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from torch import nn

from ..task import load_task
from .header import header, warnings_of
from .lock import LockedError, locked
from .next_steps import next_commands
from .output_folder import RUN_FILE, clear_output_folder, snapshot, write_run
from .trainer import RecipeTrainer
from .weights import check_weights

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A training run that is ready to start: what a task's `prepare_training` returns. Calling it does the work.

    Attributes:
        trainer: ready to train; everything that can be wrong with the user's input has been looked at.
        checkpoint: where to go on, and
        config: the resolved arguments, which become `training_config.yaml`: both from `open_run`.
        report: evaluates the trained model and writes the results; takes the metrics of the training and returns all.
        facts: what the task knows of data and model, a line each, told at the start; `warnings`: what is likely to go
            wrong with them, and what to do.
        example: what the finished model is shown in `hf-effmodels predict MODEL ...`: takes the output folder, may
            write a file into it, and returns the words; None where nothing is predicted.
        evaluation: arguments of an evaluation of the finished model that differ from the run's.
    """

    trainer: RecipeTrainer
    checkpoint: Path | None
    config: dict
    report: Callable[[dict], dict]
    facts: Sequence[str] = ()
    warnings: Sequence[str] = ()
    example: Callable[[Path], Sequence[str]] | None = None
    evaluation: Mapping = field(default_factory=dict)
    _seen: dict = field(init=False, repr=False)

    def __post_init__(self):
        check_weights("--model", self.trainer.model)
        teacher = getattr(self.trainer, "teacher", None)
        if isinstance(teacher, nn.Module):
            check_weights("--teacher", teacher)
        self._seen = snapshot(Path(self.trainer.args.output_dir))

    def __call__(self) -> dict[str, float]:
        """`train`, and part with the other processes."""
        results = self.train()
        self.trainer.accelerator.end_training()
        return results

    def train(self) -> dict[str, float]:
        """Record the run, train, report, push if asked to. The processes stay together, for whatever follows.

        Returns:
            What `report` returned.

        Raises:
            ValueError: another run has written into the output folder since this one was prepared, or is doing so.
        """
        PartialState().wait_for_everyone()  # all have looked into the output folder before one writes into it
        output = Path(self.trainer.args.output_dir)
        is_main = self.trainer.args.process_index == 0
        with locked(output) if is_main else nullcontext():
            if is_main and (new := snapshot(output)) != self._seen:
                name = next((name for name in new if new[name] != self._seen.get(name)), "what was there is gone")
                raise LockedError(
                    f"--output_dir: another run has written into {output} since this one looked at it ({name}). Start "
                    "this one anew: whether it may go on, or replace it, is then decided by what is there now."
                )
            return self._train(output)

    def _train(self, output: Path) -> dict[str, float]:
        trainer, args = self.trainer, self.trainer.args
        if args.should_save:
            if args.overwrite_output_dir:
                clear_output_folder(output)
            write_run(output, self.config)
            self._say_what_begins(output)
        if self.checkpoint is not None:
            logger.info("going on from %s", self.checkpoint)
        trained = trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        results = self.report(trained.metrics)
        PartialState().wait_for_everyone()
        if args.push_to_hub:
            trainer.push_to_hub()
        if args.should_save:
            self._say_what_is_next(output)
        return results

    def _say_what_begins(self, output: Path) -> None:
        for line in header(self.trainer, self.config, self.facts):
            logger.info("%s", line)
        logger.info("arguments: %s", output / RUN_FILE)
        for line in (*self.warnings, *warnings_of(self.trainer)):
            logger.warning("%s", line)

    def next_commands(self) -> list[list[str]]:
        """The words of the commands that evaluate, predict with and publish the finished model."""
        output = Path(self.trainer.args.output_dir)
        predict = None if self.example is None else self.example(output)
        types = load_task(self.config["task"]).EVALUATION_ARGUMENTS
        return next_commands(self.config, types, self.evaluation, predict)

    def _say_what_is_next(self, output: Path) -> None:
        logger.info("next:")
        for words in self.next_commands():
            logger.info("  %s", shlex.join(words))
