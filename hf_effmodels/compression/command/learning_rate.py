"""`scale-lr`: the learning rate for another batch size."""

from ..._option_types import finite, number
from ...training.optim.batch_scaling import optimizer_settings, scale_learning_rate
from .words import as_yaml


def add(command) -> None:
    sub = command(
        "scale-lr", _scale_lr, as_yaml, "The learning rate for another batch size, and the paper's optimizer."
    )
    sub.add_argument("--new-batch-tokens", required=True, type=number, help="tokens of the new batch, such as 128k")
    sub.add_argument(
        "--learning-rate", type=finite, help="that is right for --batch-tokens (default: the paper's 2e-4)"
    )
    sub.add_argument("--batch-tokens", type=number, help="(default: the paper's 2 million)")
    sub.add_argument("--exponent", type=finite, default=0.5, help="of the batches' ratio: 1 is linear, 0 none")


def _scale_lr(arguments) -> dict:
    settings = optimizer_settings(arguments.new_batch_tokens, arguments.exponent)
    if (arguments.learning_rate is None) != (arguments.batch_tokens is None):
        raise ValueError("--learning-rate, --batch-tokens: one without the other; accepted are both or neither.")
    if arguments.learning_rate is not None:
        rate = scale_learning_rate(
            arguments.learning_rate, arguments.batch_tokens, arguments.new_batch_tokens, arguments.exponent
        )
        settings |= {"learning_rate": rate, "min_lr": rate / 10}
    return settings
