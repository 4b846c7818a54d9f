"""Few-shot learning by episodes, the meta stage of weak-to-strong (https://arxiv.org/abs/2402.03749): a network that
tells classes it has never seen by a few pictures of each. The classifier is Meta-Baseline's
(https://arxiv.org/abs/2003.04390), by cosines to the classes' mean features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ...data.seeded import SeededDataset
from ...run.values import SET, check_fields

#: Of cosines, before it is learnt; in a configuration under this name, where it was.
INITIAL_SCALE, SCALE_FIELD = 10.0, "episode_scale"
#: Label of a picture that shows what its class looks like.
SUPPORT = -100


@dataclass
class EpisodeArguments:
    """Few-shot learning: an episode has `--way` classes, of each `--shot` pictures to know it by, and `--query`
    others to tell."""

    episodes_per_epoch: int | None = field(
        default=None,
        metadata={
            "accepts": "[1, inf)",
            "help": "Train on episodes, so many in an epoch, in place of the classes that there are: logits are "
            "cosines to the mean features of each class, times a number that is learnt. The classifier's own head "
            "stays as it is. --per_device_train_batch_size counts pictures, of whole episodes.",
        },
    )
    way: int = field(default=5, metadata={"accepts": "[2, inf)", "help": "Classes of an episode."})
    shot: int = field(default=1, metadata={"accepts": "[1, inf)", "help": "Pictures of a class that it is known by."})
    query: int = field(default=15, metadata={"accepts": "[1, inf)", "help": "Pictures of a class to tell."})
    few_shot_dataset: str | None = field(
        default=None,
        metadata={
            "help": "At the end measure episodes of other classes than those of --dataset, from this data set (of the "
            "same columns); as --dataset."
        },
    )
    few_shot_split: str | None = field(
        default=None,
        metadata={"goes_with": {"few_shot_dataset": SET}, "help": "Its split; found as --eval_split is."},
    )
    few_shot_classes: list[str] | None = field(
        default=None, metadata={"goes_with": {"few_shot_dataset": SET}, "help": "Its classes to take; by default all."}
    )
    eval_episodes: int = field(
        default=800,
        metadata={"goes_with": {"few_shot_dataset": SET}, "accepts": "[2, inf)", "help": "Episodes to measure."},
    )

    def __post_init__(self):
        check_fields(self)
        if self.few_shot_classes is not None:
            self.few_shot_classes = [str(name) for name in self.few_shot_classes]

    @property
    def shape(self) -> "Shape":
        return Shape(self.way, self.shot, self.query)


@dataclass(frozen=True)
class Shape:
    """Of an episode: classes; pictures of each that it is known by, and others."""

    way: int
    shot: int
    query: int

    @property
    def size(self) -> int:
        """Pictures; those of a class stand together, the known ones first."""
        return self.way * (self.shot + self.query)


def episode_logits(features: torch.Tensor, shape: Shape, scale: torch.Tensor | float) -> torch.Tensor:
    """scale · cosine of each picture to tell and the mean feature of each class: (episodes · way · query, way), in
    float32 at least.

    Args:
        features: (episodes · `shape.size`, width), of whole episodes.
    """
    features = features if features.dtype.itemsize > 4 else features.float()
    grouped = features.unflatten(0, (-1, shape.way, shape.shot + shape.query))
    centres = F.normalize(grouped[:, :, : shape.shot].mean(2), dim=-1)
    queries = F.normalize(grouped[:, :, shape.shot :].flatten(1, 2), dim=-1)
    return (scale * queries @ centres.transpose(1, 2)).flatten(0, 1)


def episode_labels(count: int, shape: Shape, device=None) -> torch.Tensor:
    """Which of its episode's classes each picture to tell is of, for `count` pictures of whole episodes."""
    return torch.arange(shape.way, device=device).repeat_interleave(shape.query).repeat(count // shape.size)


class CosineHead(nn.Module):
    """`episode_logits` with a scale that is learnt."""

    def __init__(self, shape: Shape, scale: float = INITIAL_SCALE):
        super().__init__()
        self.shape = shape
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return episode_logits(features, self.shape, self.scale)


class Episodes(SeededDataset):
    """Pictures of one episode after the other. Which they are depends on the seed, the epoch and the episode alone.

    Args:
        dataset: the training set of an image classification, whose `source` and `transform` are used.
        shape: of an episode.
        count: episodes in an epoch.

    Raises:
        ValueError: too few classes with enough pictures.
    """

    def __init__(self, dataset, shape: Shape, count: int):
        super().__init__(dataset.seed)
        self.source, self.transform, self.num_channels = dataset.source, dataset.transform, dataset.num_channels
        self.shape, self.count = shape, count
        self.members = members_of(self.source.labels, shape, self.source.split)

    def __len__(self) -> int:
        return self.count * self.shape.size

    def sample_of_epoch(self, epoch: int, index: int, rng: np.random.Generator | None):
        episode, place = divmod(index, self.shape.size)
        number, at = divmod(place, self.shape.shot + self.shape.query)
        chosen = drawn(self.members, self.shape, (self.seed, epoch, episode), number)
        picture = self.source.read(int(chosen[at]), self.num_channels)
        label = SUPPORT if at < self.shape.shot else number
        return {"pixel_values": self.transform(picture, rng), "labels": label}

    def sample(self, index: int, rng: np.random.Generator | None):
        return self.sample_of_epoch(0, index, rng)


def members_of(labels: np.ndarray, shape: Shape, split: str) -> list[np.ndarray]:
    """Numbers of the pictures of each class that has enough for an episode.

    Raises:
        ValueError: there are fewer of these classes than an episode has.
    """
    each = shape.shot + shape.query
    members = [np.flatnonzero(labels == number) for number in np.unique(labels)]
    enough = [numbers for numbers in members if len(numbers) >= each]
    if len(enough) < shape.way:
        raise ValueError(
            f"--way: got {shape.way}, but {split} has {len(enough)} classes of {each} pictures or more (--shot "
            f"{shape.shot} and --query {shape.query}), {len(members)} in all."
        )
    return enough


def drawn(members: Sequence[np.ndarray], shape: Shape, seed: tuple[int, ...], number: int) -> np.ndarray:
    """Pictures of class `number` of the episode that has this seed: all different, the known ones first."""
    classes = np.random.default_rng((*seed, 7)).choice(len(members), shape.way, replace=False)
    rng = np.random.default_rng((*seed, 7, number))
    return rng.choice(members[classes[number]], shape.shot + shape.query, replace=False)


def few_shot_accuracy(
    features: torch.Tensor, labels: np.ndarray, shape: Shape, episodes: int, split: str
) -> tuple[float, float]:
    """The mean over episodes of the share of pictures that are told right, and half of its interval of 95 %.

    Args:
        features: of all pictures, (pictures, width).
        labels: their classes.
    """
    members, found = members_of(labels, shape, split), []
    expected = episode_labels(shape.size, shape)
    for episode in range(episodes):
        chosen = np.concatenate([drawn(members, shape, (0, 0, episode), number) for number in range(shape.way)])
        logits = episode_logits(features[torch.from_numpy(chosen)], shape, 1.0)
        found.append(float((logits.argmax(1).cpu() == expected).float().mean()))
    return float(np.mean(found)), 1.96 * float(np.std(found, ddof=1)) / math.sqrt(episodes)
