"""Which text a language model is trained on, and how it is cut."""

from dataclasses import dataclass, field
from typing import Literal

from ...run.values import SET
from ..arguments import SplitArguments


@dataclass
class TextArguments(SplitArguments):
    """Which text, and how it becomes blocks of tokens."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a data set on the Hub, a file, a folder, or pydoc_topics.",
            "help": "A data set on the Hub, a local folder of one, a format with data_files or data_dir (text, json, "
            "parquet, csv, ...), a .txt, .json, .jsonl, .parquet or .csv file, or pydoc_topics (the texts of Python's "
            "own help).",
        },
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the text; by default 'text' or the only one that holds texts."}
    )
    text_unit: Literal["document", "paragraph", "line"] = field(
        default="document", metadata={"help": "What counts as one document in local text files."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Read the training text while training, instead of preparing all of it."}
    )
    shuffle_blocks: int = field(
        default=1024,
        metadata={
            "goes_with": {"streaming": SET},
            "accepts": "[1, inf)",
            "help": "With streaming: that many successive blocks are shuffled at a time.",
        },
    )
    eval_documents: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, inf)",
            "help": "With streaming: evaluate on that many documents; the first of the training text (not trained on) "
            "where there is no split to evaluate on.",
        },
    )
    max_train_documents: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Use only the first documents."}
    )
    max_eval_documents: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Use only the first documents."}
    )
    block_size: int = field(
        default=1024, metadata={"accepts": "[2, 16777216]", "help": "Tokens of a training sequence."}
    )
    document_attention: Literal["shared", "separate"] = field(
        default="shared",
        metadata={
            "help": "shared: tokens see what precedes them in the block. separate: only what precedes them in their "
            "document, and positions count from its beginning."
        },
    )
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"accepts": "[1, 1024]", "help": "Processes that tokenize."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.streaming and self.eval_fraction is not None:
            raise ValueError("--eval_fraction: a stream has no known length; --eval_holdout is a number of documents.")
        if self.eval_documents is not None and not self.streaming:
            raise ValueError("--eval_documents goes with --streaming true; use --eval_holdout or --eval_fraction.")
        if self.eval_documents is not None and self.eval_holdout is not None:
            raise ValueError("--eval_documents and --eval_holdout exclude each other.")
