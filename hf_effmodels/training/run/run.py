"""From a trainer that is ready to a finished run: the same for every task."""

import logging
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from .output_folder import RUN_FILE, clear_output_folder, write_run
from .trainer import RecipeTrainer

logger = logging.getLogger(__name__)


def run_training(
    trainer: RecipeTrainer, checkpoint: Path | None, config: dict, report: Callable[[dict], dict]
) -> dict[str, float]:
    """Record the run, train, report, push if asked to.

    Args:
        trainer: ready to train; everything that can be wrong with the user's input has been looked at.
        checkpoint: what `checkpoints.open_output_folder` returned.
        config: the resolved arguments, which become `training_config.yaml`.
        report: evaluates the trained model and writes the results; takes the metrics of the training and returns all.

    Returns:
        What `report` returned.
    """
    args, output = trainer.args, Path(trainer.args.output_dir)
    PartialState().wait_for_everyone()  # all have looked into the output folder before one writes into it
    if args.should_save:
        if args.overwrite_output_dir:
            clear_output_folder(output)
        write_run(output, config)
        logger.info("arguments: %s", output / RUN_FILE)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    trained = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    results = report(trained.metrics)
    PartialState().wait_for_everyone()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.end_training()
    return results
