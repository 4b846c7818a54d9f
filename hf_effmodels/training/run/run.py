"""From a trainer that is ready to a finished run: the same for every task."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from .lock import locked
from .output_folder import RUN_FILE, clear_output_folder, write_run
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

    def __call__(self) -> dict[str, float]:
        """`train`, and part with the other processes."""
        results = self.train()
        self.trainer.accelerator.end_training()
        return results

    def train(self) -> dict[str, float]:
        """Record the run, train, report, push if asked to. The processes stay together, for whatever follows.

        Returns:
            What `report` returned.
        """
        PartialState().wait_for_everyone()  # all have looked into the output folder before one writes into it
        output = Path(self.trainer.args.output_dir)
        with locked(output) if self.trainer.args.process_index == 0 else nullcontext():
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
