"""Benchmarks: our presets beside their peers, interleaved run by run, with parameters, multiply-adds and memory."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None, prog: str = "benchmark.py") -> None:
    """`python scripts/benchmark.py`, `hf-effmodels benchmark`: measure, print the table, write the files."""
    from .arguments import check, check_names, make_parser

    arguments = make_parser(prog).parse_args(argv)
    check(arguments)
    check_names(arguments.presets, arguments.mode)
    from .command import run

    run(arguments)
