"""From a trainer that is ready to a finished run: the same for every task."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from .lock import LockedError, locked
from .output_folder import RUN_FILE, clear_output_folder, snapshot, write_run
from .trainer import RecipeTrainer

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """A training run that is ready to start: what a task's `prepare_training` returns. Calling it does the work.

    Attributes:
        trainer: ready to train; everything that can be wrong with the user's input has been looked at.
        checkpoint: where to go on, and
        config: the resolved arguments, which become `training_config.yaml`: both from `open_run`.
        report: evaluates the trained model and writes the results; takes the metrics of the training and returns all.
    """

    trainer: RecipeTrainer
    checkpoint: Path | None
    config: dict
    report: Callable[[dict], dict]
    _seen: dict = field(init=False, repr=False)

    def __post_init__(self):
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
            logger.info("arguments: %s", output / RUN_FILE)
        if self.checkpoint is not None:
            logger.info("going on from %s", self.checkpoint)
        trained = trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        results = self.report(trained.metrics)
        PartialState().wait_for_everyone()
        if args.push_to_hub:
            trainer.push_to_hub()
        return results
