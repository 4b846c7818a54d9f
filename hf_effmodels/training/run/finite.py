"""A run whose numbers are no longer finite ends, and says where and with what settings."""

import math
from collections.abc import Mapping
from numbers import Real

from transformers import TrainingArguments


class NotFiniteError(ArithmeticError):
    """A loss, a gradient or a metric is infinite or not a number."""


def check_finite(values: Mapping, step: int, args: TrainingArguments, learning_rate: float | None = None) -> None:
    """Raise `NotFiniteError` for the first value that is not finite.

    Not for the norm of gradients under `--fp16`, where a step with an infinite one is left out and the next one scaled
    down; nor for an infinite signal-to-noise ratio: that is what equal images have.
    """
    for name, value in values.items():
        if not isinstance(value, Real) or math.isfinite(value):
            continue
        if (name == "grad_norm" and args.fp16) or ("psnr" in name and value == math.inf):
            continue
        rate = args.learning_rate if learning_rate is None else learning_rate
        precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "float32"
        raise NotFiniteError(
            f"step {step}: {name} is {value}. The run ends here, with --learning_rate {args.learning_rate:g} (at this "
            f"step {rate:g}), --optim {getattr(args.optim, 'value', args.optim)}, --max_grad_norm "
            f"{args.max_grad_norm:g}, in {precision}. Mostly a smaller learning rate, a longer warm-up or clipped "
            "gradients help; the checkpoints of earlier steps are as they were."
        )
