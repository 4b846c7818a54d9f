"""Training of vision transformers with binary blocks (BiViT)."""

from dataclasses import dataclass, field
from typing import Literal

from transformers import PreTrainedModel

from ...quantization.bivit.configuration_bivit import BiVitConfig
from ...quantization.bivit.conversion import convert_to_bivit


@dataclass
class BinaryBlockArguments:
    """Whether, and how, the blocks of a vision transformer are trained with weights of one bit."""

    bivit: Literal["none", "layers", "all"] = field(
        default="none",
        metadata={
            "help": "Train the linear layers in the blocks of a vision transformer with binary weights (BiViT); all: "
            "with binary queries, keys, values and attention, too."
        },
    )
    bivit_skip: list[str] | None = field(
        default=None,
        metadata={
            "goes_with": {"bivit": ("layers", "all")},
            "help": "Parts of names of layers that stay real, such as 'attention' in the first of BiViT's two stages.",
        },
    )
    bivit_binary_inputs: bool = field(
        default=False,
        metadata={
            "goes_with": {"bivit": ("layers", "all")},
            "help": "The binary layers see the signs of their inputs.",
        },
    )


def make_blocks_binary(model: PreTrainedModel, args: BinaryBlockArguments) -> None:
    """Change the model's blocks as `--bivit` says.

    Raises:
        ValueError: there are no such layers, the model is quantised already, or it has no attention to change.
    """
    if args.bivit == "none":
        return
    options = {"attention": args.bivit == "all", "binary_inputs": args.bivit_binary_inputs}
    try:
        convert_to_bivit(model, BiVitConfig(skip=args.bivit_skip, **options))
    except ValueError as error:
        option = "--bivit_skip" if str(error).startswith("skip:") else "--bivit"
        said = str(error).replace("accepted is attention=False", "accepted is --bivit layers")
        raise ValueError(
            f"{option}: got {args.bivit_skip if 'skip' in option else args.bivit}, but for {said}"
        ) from error
