"""The arguments of training sub-models together, for the tasks that offer it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..run.arguments import read_mapping
from ..run.values import SET

#: What a sub-model can be called: it is part of the names of metrics, and the name of a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass
class SortedArguments:
    """Whether, and which, sub-models of the network learn with it: for the arguments of a task, before
    `RecipeArguments`."""

    sorted_submodels: dict | str | None = field(
        default=None,
        metadata={
            "help": "Train the first layers, neurons, heads or channels of the network as networks of their own, with "
            "the whole (SortedNet): a mapping of names to sizes, such as '{half: {num_hidden_layers: 6}}'. Each is "
            "evaluated, and saved in the folder submodels."
        },
    )
    submodels_per_step: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, inf)",
            "goes_with": {"sorted_submodels": SET},
            "help": "How many of the sub-models and the whole are drawn for each step; by default all take part.",
        },
    )
    submodel_calibration_samples: int = field(
        default=2048,
        metadata={
            "accepts": "[1, inf)",
            "goes_with": {"sorted_submodels": SET},
            "help": "Of networks with batch norms: training samples from which each sub-model, and the whole, take "
            "their statistics before they are evaluated or saved.",
        },
    )

    def __post_init__(self):
        self.sorted_submodels = self._read_submodels() or None
        super().__post_init__()

    def _read_submodels(self) -> dict[str, dict]:
        submodels = read_mapping("sorted_submodels", self.sorted_submodels)
        for name, sizes in submodels.items():
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"--sorted_submodels: got the name {name!r}, accepted are letters, digits, '_', '.' and '-'."
                )
            if not isinstance(sizes, Mapping) or not sizes:
                raise ValueError(
                    f"--sorted_submodels: got {sizes!r} for {name}, accepted are sizes such as "
                    "{num_hidden_layers: 4}; the whole network always takes part."
                )
        if self.submodels_per_step is not None and self.submodels_per_step > len(submodels) + 1:
            raise ValueError(
                f"--submodels_per_step: got {self.submodels_per_step}, accepted are 1 to {len(submodels) + 1}, the "
                "sub-models and the whole."
            )
        return submodels
