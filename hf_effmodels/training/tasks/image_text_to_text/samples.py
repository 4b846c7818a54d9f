"""One question about a picture (or about none), and rows of a data set that become such questions when read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from ...data.errors import SampleError, of_sample
from ...data.fingerprints import facts, picture
from ...data.images import read_image, where
from ...data.splits import HELD_OUT, grouped_choice


@dataclass(frozen=True)
class Sample:
    """What is asked and answered.

    Attributes:
        turns: pairs of a prompt and the answer that is learned behind it; later prompts follow earlier answers.
        image: whatever `read_image` takes; None for a text without.
        ask: the prompt of a generated answer, where it is not the last prompt of `turns` (with all before it).
        references: what a generated answer is compared with.
        facts: what the scores are split by.
    """

    turns: tuple[tuple[str, str], ...]
    image: object | None = None
    ask: str | None = None
    references: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def question(self) -> str:
        """What is put before a generated answer."""
        if self.ask is not None:
            return self.ask
        return "".join(prompt + answer for prompt, answer in self.turns[:-1]) + self.turns[-1][0]


@dataclass(frozen=True)
class Samples:
    """Samples, made of rows when they are read.

    Attributes:
        rows: of a data set.
        make: row -> sample; raises a ValueError for what is wrong with the row. Goes to worker processes: no lambda.
        split: where they come from, for messages.
        numbers: of the rows in use.
        groups: of each row; rows of one group, such as the captions of an image, are held out together. Or what gives
            them, where it has to read the images for it.
    """

    rows: Sequence
    make: Callable[[object], Sample]
    split: str
    numbers: np.ndarray
    groups: np.ndarray | Callable[[], np.ndarray] | None = None

    @classmethod
    def of(
        cls, rows: Sequence, make: Callable[[object], Sample], split: str, groups: Sequence | None = None
    ) -> "Samples":
        if not len(rows):
            raise ValueError(f"{split} is empty.")
        return cls(rows, make, split, np.arange(len(rows)), None if groups is None else np.asarray(groups))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        number = int(self.numbers[index])
        try:
            return self.make(self.rows[number])
        except (ValueError, KeyError, TypeError, OSError) as error:
            said = f"there is no {error}" if isinstance(error, KeyError) else error
            raise SampleError(f"row {number} of {self.split}: {said}") from error

    def where(self, index: int, sample: Sample) -> str:
        """The place of a sample for messages: its row, the split, and the file of its image."""
        return where(int(self.numbers[index]), self.split, sample.image)

    def read_image(self, index: int) -> None:
        """Read the image of sample `index`, if it has one; a ValueError or OSError that names it if it cannot be."""
        sample = self[index]
        if sample.image is None:
            return
        try:
            read_image(sample.image)
        except (ValueError, OSError) as error:
            raise of_sample(error, self.where(index, sample)) from error

    def facts(self) -> dict[str, int | str]:
        """What is known again of them, see `data.fingerprints`."""
        return facts(
            len(self),
            texts=lambda index: "\0".join(part for turn in self[index].turns for part in turn),
            pictures=lambda index: picture(self[index].image),
        )

    def select(self, chosen: list[int]) -> "Samples":
        return replace(self, numbers=self.numbers[chosen])

    def without_images(self) -> list[Sample]:
        """All samples, without the images, which need not fit into memory together."""
        return [replace(self[index], image=None) for index in range(len(self))]

    def evenly(self, limit: int | None) -> "Samples":
        """At most `limit` of them, evenly spread."""
        if limit is None or limit >= len(self):
            return self
        return replace(self, numbers=self.numbers[np.linspace(0, len(self) - 1, limit).round().astype(np.int64)])

    def held_out(self, number: int) -> tuple["Samples", "Samples"]:
        """The rest, and `number` of them (or a few more or fewer, to have whole groups), the same in every run."""
        if self.groups is None:
            groups = np.arange(len(self))
        else:
            groups = (self.groups() if callable(self.groups) else self.groups)[self.numbers]
        chosen = grouped_choice(groups, number, self.split)
        rest, held_out = (replace(self, numbers=self.numbers[mask]) for mask in (~chosen, chosen))
        return rest, replace(held_out, split=f"{self.split}{HELD_OUT}")
