"""Arguments of `train-codec`: imports nothing heavy, so that wrong ones are told at once."""

from dataclasses import dataclass, field
from pathlib import Path

from ..._files import check_folder
from ..._written import check_report
from ...training.run.values import check_fields
from .kinds import PRIORS

REPORT, PICTURE = "rate_accuracy.json", "rate_accuracy.png"


def folder_of(beta: float) -> str:
    """Of what is made for a β."""
    return f"beta-{beta:g}"


@dataclass
class CodecArguments:
    """What learns, and how long."""

    model: str | None = field(
        default=None, metadata={"missing": "name a trained classifier.", "help": "A folder or an id of the Hub."}
    )
    output: str | None = field(
        default=None,
        metadata={"missing": "name a folder.", "help": "Folder for the halves, the table and the picture."},
    )
    at: str | None = field(
        default=None,
        metadata={
            "missing": "name a module of a quarter of the image's side (hf-effmodels split --list).",
            "help": "Module whose output the bottleneck imitates; it is in the place of this and all before.",
        },
    )
    features: list[str] | None = field(
        default=None, metadata={"help": "Modules behind it that are imitated, too (published: the further stages)."}
    )
    betas: list[float] = field(
        default_factory=lambda: [0.16],
        metadata={
            "accepts": "[0, inf)",
            "help": "Weights of the bits, a bottleneck for each (published: 0.01 to 5.12).",
        },
    )
    channels: list[int] = field(
        default_factory=lambda: [24],
        metadata={
            "accepts": "[1, inf)",
            "help": "Of the code; several are the widths of a slimmable encoder, which learn together.",
        },
    )
    prior: str = field(
        default="factorized",
        metadata={
            "help": "What says how many bits the code takes: factorized (published), or told by a side code, "
            "scale_hyperprior and mean_scale_hyperprior (for images whose sides are multiples of 16)."
        },
    )
    first_epochs: int = field(default=10, metadata={"accepts": "[1, inf)", "help": "In which features are imitated."})
    second_epochs: int = field(
        default=10, metadata={"accepts": "[1, inf)", "help": "In which the rest of the network learns."}
    )
    first_batch: int = field(
        default=64, metadata={"accepts": "[1, inf)", "help": "Pictures of a step of the first stage."}
    )
    second_batch: int = field(
        default=128, metadata={"accepts": "[1, inf)", "help": "Pictures of a step of the second stage."}
    )
    first_learning_rate: float = field(
        default=1e-3, metadata={"accepts": "(0, inf)", "help": "Of Adam, in the first stage."}
    )
    second_learning_rate: float = field(
        default=1e-3, metadata={"accepts": "(0, inf)", "help": "Of SGD, in the second stage."}
    )
    qualities: list[int] = field(
        default_factory=lambda: [10, 30, 60, 90],
        metadata={
            "accepts": "[1, 100]",
            "help": "Of JPEG and WebP pictures, which the network is shown for comparison.",
        },
    )
    seed: int = field(
        default=0, metadata={"accepts": "[0, 4294967294]", "help": "Of weights, order, noise and augmentation."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    json: bool = field(default=False, metadata={"help": "Print the table as JSON."})

    def __post_init__(self):
        check_fields(self)
        if self.prior not in PRIORS:
            raise ValueError(f"--prior: got {self.prior!r}, accepted are {', '.join(PRIORS)}.")
        if not self.betas or len({folder_of(beta) for beta in self.betas}) < len(self.betas):
            raise ValueError(f"--betas: got {self.betas}, accepted are one and more that differ in six digits.")
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise ValueError(f"--channels: got {self.channels}, accepted are different whole numbers from 1.")

    def check_places(self) -> None:
        """FileExistsError for an output where something would be lost."""
        output = Path(self.output)
        check_folder(output, accepts_content=True)
        check_report(output / REPORT, ("bottlenecks", "pictures"), "train-codec")
        if (output / PICTURE).exists() and not (output / REPORT).exists():
            raise FileExistsError(
                f"--output: {output / PICTURE} is there, and no {REPORT} beside it: name another folder."
            )
