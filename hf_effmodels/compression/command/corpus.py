"""The text that a step reads: its options, and what they name."""

import argparse

from ..._option_types import count
from ..._places import check_place


def add_corpus(sub: argparse.ArgumentParser, text_unit: str = "line") -> None:
    """Declare the options; what a model reads as it did in training is by default a `document`, as it is there."""
    sub.add_argument(
        "--dataset", help="a text file, a folder, a Hub id, or pydoc_topics, as the causal-lm recipes take it"
    )
    sub.add_argument("--dataset-config", help="configuration of the data set on the Hub")
    sub.add_argument("--split", default="train", help="split of the data set")
    sub.add_argument("--text-column", help="column of the texts")
    sub.add_argument("--text-unit", default=text_unit, choices=("document", "paragraph", "line"), help="of text files")
    sub.add_argument("--streaming", action="store_true", help="read the data set while it is used")
    sub.add_argument("--max-documents", type=count, help="use only the first documents")


def check_named(arguments) -> None:
    """ValueError or OSError where no data set is named, or one that is nowhere; nothing heavy is imported."""
    if arguments.dataset is None:
        raise ValueError("--dataset is missing: name a text file, a folder, a Hub id, or pydoc_topics.")
    if "/" in arguments.dataset:
        check_place("--dataset", arguments.dataset)


def find_texts(arguments):
    """Training and held-out documents, as the causal-lm recipes find them."""
    from ...training.data.text.arguments import TextArguments
    from ...training.data.text.documents import load_texts

    check_named(arguments)
    streaming = {"streaming": True, "eval_documents": 1000} if arguments.streaming else {}
    return load_texts(
        TextArguments(
            dataset=arguments.dataset,
            dataset_config=arguments.dataset_config,
            train_split=arguments.split,
            text_column=arguments.text_column,
            text_unit=arguments.text_unit,
            **streaming,
        )
    )
