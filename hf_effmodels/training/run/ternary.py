"""Training with ternary weights (BitNet b1.58), for the tasks whose networks are made of linear layers."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedModel, Trainer

from ...quantization.bitnet158.configuration_bitnet158 import BitNet158Config
from ...quantization.bitnet158.conversion import convert_to_bitlinear


@dataclass
class TernaryArguments:
    """Whether, and how, linear layers are trained with weights of -1, 0 and 1."""

    bitnet: Literal["none", "mean", "median"] = field(
        default="none",
        metadata={
            "help": "Train all linear layers but the head with weights of -1, 0 and 1 (BitNet b1.58) and inputs of 8 "
            "bits, scaled by the mean or the median of the weights' magnitudes."
        },
    )
    bitnet_warmup_steps: int = field(
        default=0,
        metadata={
            "accepts": "[0, inf)",
            "help": "With --bitnet: go from full-precision to ternary weights over that many steps.",
        },
    )


def make_ternary(model: PreTrainedModel, args: TernaryArguments) -> None:
    """Change the model's layers as `--bitnet` says.

    Raises:
        ValueError: there are none, the model is quantised already, or a warm-up without `--bitnet`.
    """
    if args.bitnet == "none":
        if args.bitnet_warmup_steps:
            raise ValueError(f"--bitnet_warmup_steps: got {args.bitnet_warmup_steps}, but --bitnet is none.")
        return
    try:
        convert_to_bitlinear(model, BitNet158Config(scale=args.bitnet))
    except ValueError as error:
        raise ValueError(f"--bitnet: got {args.bitnet}, but for {error}") from error


def add_warm_start(trainer: Trainer, args: TernaryArguments) -> None:
    if args.bitnet_warmup_steps:
        from ...quantization.bitnet158.warm_start import WarmStart

        trainer.add_callback(WarmStart(args.bitnet_warmup_steps))
