"""What an option is where it is not given, and between which numbers it may be: of every command, as a table."""

import argparse
import re
import runpy
from pathlib import Path

import pytest

from hf_effmodels import cli
from hf_effmodels.prediction.predictor import Options

NONE = None
#: Command -> option -> (the least it may be, what it is where it is not given, the most it may be); None: unsaid.
NUMBERS = {
    "export": {
        "--image-size": (1, NONE, 16384),
        "--min-agreement": (0.0, NONE, 1.0),
        "--threshold": (0.0, NONE, 1.0),
        "--nms-threshold": (0.0, NONE, 1.0),
        "--max-detections": (1, NONE, 10**6),
    },
    "predict": {
        "--top-k": (NONE, 5, NONE),
        "--threshold": (NONE, 0.5, NONE),
        "--max-new-tokens": (NONE, 64, NONE),
        "--points": (NONE, 16, NONE),
        "--batch-size": (NONE, 8, NONE),
    },
    "chat": {
        "--max-new-tokens": (NONE, 128, NONE),
        "--temperature": (NONE, 0.0, NONE),
        "--seed": (0, 0, 2**32 - 1),
    },
    "demo": {"--port": (NONE, 7860, NONE)},
    "benchmark": {
        "--batch": (NONE, [1], NONE),
        "--threads": (NONE, [1], NONE),
        "--rounds": (NONE, 20, NONE),
        "--length": (NONE, 256, NONE),
        "--new-tokens": (NONE, 64, NONE),
    },
    "prune": {
        "--tolerance": (NONE, 0.05, NONE),
        "--candidates": (1, 1, NONE),
        "--retraining-steps": (0, 0, NONE),
        "--learning-rate": (NONE, 1e-4, NONE),
        "--calibration-batches": (1, 16, NONE),
        "--batch-size": (1, 8, NONE),
        "--block-size": (1, 256, NONE),
        "--max-documents": (1, NONE, NONE),
    },
    "quantize": {
        "--samples": (1, 64, NONE),
        "--segment-length": (1, 512, NONE),
        "--eval-samples": (0, 64, NONE),
        "--bits": (1, 4, NONE),
        "--group-size": (NONE, 128, NONE),
        "--activation-bits": (1, NONE, NONE),
        "--window": (1, 2, NONE),
        "--overlap": (0, 1, NONE),
        "--kld-weight": (NONE, 1.0, NONE),
        "--rank": (1, 5, NONE),
        "--lambda1": (NONE, 1.5, NONE),
        "--lambda2": (NONE, 1.0, NONE),
        "--rounding-lr": (NONE, 0.01, NONE),
        "--step-lr": (NONE, 0.001, NONE),
        "--rounding-weight": (NONE, 0.1, NONE),
        "--damping": (NONE, 0.01, NONE),
        "--cfp-rounds": (1, 1, NONE),
        "--batch-size": (1, 4, NONE),
        "--epochs": (0, 3, NONE),
        "--seed": (0, 0, NONE),
        "--max-documents": (1, NONE, NONE),
    },
    "split": {"--bits": (1, NONE, 8), "--image-size": (1, NONE, 16384)},
    "serve-tail": {
        "--port": (1, 8000, 65535),
        "--max-bytes": (1, 64 * 1024 * 1024, 2**40),
        "--max-images": (1, 64, 2**30),
        "--max-pixels": (1, 2**25, 2**50),
        "--workers": (1, 1, 1024),
        "--queue": (0, 64, 2**30),
        "--timeout": (NONE, 30.0, NONE),
    },
    "measure-split": {
        "--bandwidth": (NONE, [1e6, 1e7, 1e8], NONE),
        "--device-slowdown": (NONE, 1.0, NONE),
        "--watts": (NONE, 2.5, NONE),
        "--repeats": (1, 5, 10**6),
        "--shrink": (1, NONE, 2**20),
        "--bits": (1, NONE, 8),
        "--image-size": (1, NONE, 16384),
    },
    "offload": {
        "--steps": (NONE, 500_000, NONE),
        "--seed": (0, 0, 2**32 - 1),
        "--learning-rate": (NONE, 1e-4, NONE),
        "--devices": (NONE, 5, NONE),
        "--channels": (NONE, 2, NONE),
        "--tasks": (NONE, 200, NONE),
        "--slot": (NONE, 0.5, NONE),
        "--energy-weight": (NONE, 1.0, NONE),
        "--bandwidth": (NONE, 1e6, NONE),
    },
    "assign": {"--bytes": (NONE, 4, NONE)},
    "assemble": {"--fusion-hidden-size": (1, NONE, 2**20)},
}
#: Command -> option -> the word or the place that it is where it is not given.
WORDS = {
    "export": {"--precision": "float32"},
    "predict": {"--template": "a photo of a {}."},
    "demo": {"--host": "127.0.0.1"},
    "benchmark": {"--backends": ["eager"], "--mode": ["infer"], "--against": [], "--model-config": "{}"},
    "prune": {
        "--way": "width",
        "--method": "activation",
        "--select-layers": "influence",
        "--device": "cpu",
        "--split": "train",
        "--text-unit": "document",
    },
    "quantize": {
        "--device": "cpu",
        "--method": "cbq",
        "--target": "both",
        "--rounding": "hard",
        "--rounding-init": "fraction",
        "--split": "train",
        "--text-unit": "document",
    },
    "serve-tail": {"--host": "127.0.0.1"},
    "offload": {"--profile": "resnet18"},
}
OPTIONS = [(command, option) for command, options in NUMBERS.items() for option in options]


@pytest.fixture(scope="module")
def parsers():
    read_by = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "update_options.py"))["_read_by"]
    others = {command: read_by(command, ["one", "two"]) for command in {*NUMBERS, *WORDS} & {*cli.PASSED_ON}}
    return {**cli._parser()[1], **others}


def action_of(parsers, command, option):
    (action,) = (a for a in parsers[command]._actions if option in a.option_strings)
    return action


@pytest.mark.parametrize("command, option", OPTIONS)
def test_numbers_that_are_not_given_and_those_that_are_too_small_or_too_large(parsers, command, option):
    least, default, most = NUMBERS[command][option]
    action = action_of(parsers, command, option)
    assert action.default == default
    for bound, step in ((least, -1), (most, 1)):
        if bound is not None:
            kind = type(bound)
            assert action.type(str(bound)) == bound and isinstance(action.type(str(bound)), kind)
            with pytest.raises(argparse.ArgumentTypeError, match="accepted are"):
                action.type(str(bound + step * (0.01 if kind is float else 1)))


def test_predictions_from_python_are_those_of_the_command():
    numbers = {name: default for name, (_, default, _) in NUMBERS["predict"].items()}
    assert Options() == Options(
        top_k=numbers["--top-k"],
        threshold=numbers["--threshold"],
        prompt=None,
        max_new_tokens=numbers["--max-new-tokens"],
        steps=None,
        points=numbers["--points"],
        labels=(),
        template="a photo of a {}.",
    )


@pytest.mark.parametrize("command", WORDS)
def test_words_that_are_not_given(parsers, command):
    assert {name: action_of(parsers, command, name).default for name in WORDS[command]} == WORDS[command]


def test_all_numbers_that_are_not_given_are_in_the_table(parsers):
    def numbers(default):
        return default if isinstance(default, list) else [default]

    for command, parser in parsers.items():
        for action in parser._actions:
            given = [n for n in numbers(action.default) if isinstance(n, (int, float)) and not isinstance(n, bool)]
            assert not given or action.option_strings[-1] in NUMBERS[command], (command, action.option_strings)


def test_the_help_tells_the_numbers_that_are_meant(parsers):
    units = {"64 MiB": 64 * 2**20, "2^25": 2**25, "the paper's 500000": 500_000, "the paper's 1e-4": 1e-4}
    told = 0
    for command, parser in parsers.items():
        for action in parser._actions:
            for said in re.findall(r"default: ([^);,]+)", action.help or ""):
                if action.default is not None and (said in units or re.fullmatch(r"\d+(\.\d+)?", said)):
                    assert units.get(said, None) == action.default or float(said) == action.default, (command, said)
                    told += 1
    assert told >= 15
