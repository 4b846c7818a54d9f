"""Arguments that the data sets of all tasks have in common."""

from dataclasses import dataclass, field, replace

from ..run.arguments import SourceArguments


@dataclass
class SplitArguments(SourceArguments):
    """What to train and what to evaluate on: the same in every task, in training and in an evaluation by itself."""

    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Evaluate on another data set (of the same columns); as --dataset."}
    )
    eval_split: str | None = field(
        default=None, metadata={"help": "Split to evaluate on; by default the first of validation, valid, val, test."}
    )
    eval_fraction: float | None = field(
        default=None,
        metadata={
            "accepts": "(0, 1)",
            "help": "Evaluate on this share of the training split, always the same samples (and not trained on). "
            "Where there is no split to evaluate on, training holds out 0.1 (super-resolution: 0.05, at most 100).",
        },
    )
    eval_holdout: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "As --eval_fraction, but this number of samples."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.eval_fraction is not None and self.eval_holdout is not None:
            raise ValueError("--eval_fraction and --eval_holdout exclude each other.")
        for holds_out in ("eval_fraction", "eval_holdout"):
            for other in ("eval_split", "eval_dataset"):
                if getattr(self, holds_out) is not None and getattr(self, other) is not None:
                    raise ValueError(f"--{holds_out} and --{other} exclude each other.")

    def of_eval_dataset(self) -> "SplitArguments":
        """The arguments with `eval_dataset` as the data set; files, configuration and revision are of the other."""
        own = {"data_files": None, "data_dir": None, "dataset_config": None, "dataset_revision": None}
        other = replace(self, dataset=self.eval_dataset, eval_dataset=None, **own)
        other.argument = "--eval_dataset"
        return other
