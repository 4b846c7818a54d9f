"""Agents that decide where real networks are cut: the cell is simulated, what is computed and sent is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .environment import OffloadingEnvironment
from .profiles import SplitProfile
from .training import Decide

#: Computes (1, channels, height, width) at one cut point: logits (1, labels), and the bytes that were sent for it.
Point = Callable[[torch.Tensor], tuple[torch.Tensor, int]]


@dataclass(frozen=True)
class Driven:
    """What came of it.

    Attributes:
        logits: of each device, (images, labels), in the order of its images.
        points: of each device, at which point each image was cut.
        bytes_sent: really, over all devices.
        seconds, joules: of a task, simulated, in the mean.
    """

    logits: list[torch.Tensor]
    points: list[list[int]]
    bytes_sent: int
    seconds: float
    joules: float


def split_point(classifier) -> Point:
    """A `SplitClassifier` as a cut point."""

    def compute(pixel_values: torch.Tensor) -> tuple[torch.Tensor, int]:
        output = classifier.logits(pixel_values)
        return output.logits, output.bytes_sent

    return compute


def local_point(model: torch.nn.Module) -> Point:
    """A whole network as the last point: nothing is sent."""

    @torch.no_grad()
    def compute(pixel_values: torch.Tensor) -> tuple[torch.Tensor, int]:
        weight = next(model.parameters())
        return model(pixel_values=pixel_values.to(weight.device, weight.dtype)).logits, 0

    return compute


def drive(
    decide: Decide,
    environment: OffloadingEnvironment,
    points: Sequence[Point],
    images: Sequence[Sequence[torch.Tensor]],
    *,
    seed: int = 0,
    most_slots: int = 5000,
) -> Driven:
    """Let the devices of a cell classify their images, each where its agent says when its turn has come.

    The cell says when a device begins a task, what it observes, and what that costs; then its image is computed at
    that point by the network that `points` has for it. It begins as the published test does (all at 50 m, the first
    task on the device).

    Args:
        decide: `OffloadingAgents.decide`, or a baseline.
        environment: the cell; it stays as it is.
        points: for each point of its profile what computes there: `split_point` of a `SplitClassifier` (of the
            point 0 one of `splitting.whole.whole`), and last `local_point`.
        images: of each device as many, (channels, height, width) each.
        seed: of the cell.
        most_slots: after which it is given up.

    Raises:
        ValueError: other numbers of points, devices or images; a cell that has not finished in time.
    """
    s, profile = environment.settings, environment.profile
    if len(points) != profile.last + 1:
        raise ValueError(f"points: got {len(points)} for a profile of {profile.last + 1}, accepted are as many.")
    counts = {len(own) for own in images}
    if len(images) != s.devices or len(counts) != 1 or not min(counts):
        raise ValueError(
            f"images: got {[len(own) for own in images]}, accepted are as many for each of {s.devices} devices."
        )
    (count,) = counts
    cell = _Told(profile, replace(s, fixed=True, tasks=count, max_slots=most_slots))
    observation, _ = cell.reset(seed=seed)
    logits: list[list[torch.Tensor]] = [[] for _ in images]
    taken: list[list[int]] = [[] for _ in images]
    sent, seconds, joules, ended = 0, 0.0, 0.0, False
    while True:
        for device, point in cell.begun:
            image = images[device][len(taken[device])]
            answer, size = points[point](image[None])
            logits[device].append(answer)
            taken[device].append(point)
            sent += size
        cell.begun.clear()
        if ended:
            break
        observation, _, done, cut, spent = cell.step(decide(observation))
        seconds, joules = seconds + spent["seconds"], joules + spent["joules"]
        if cut:
            raise ValueError(f"most_slots: after {most_slots} slots {int(cell.left.sum())} tasks are not done yet.")
        ended = done
    tasks = s.devices * count
    return Driven([torch.cat(rows) for rows in logits], taken, sent, seconds / tasks, joules / tasks)


class _Told(OffloadingEnvironment):
    """A cell that tells which device has begun a task, and at which point."""

    def __init__(self, profile: SplitProfile, settings):
        super().__init__(profile, settings)
        self.begun: list[tuple[int, int]] = []

    def _begin(self, device: int) -> None:
        if self.left[device]:
            self.begun.append((device, int(self.next_point[device])))
        super()._begin(device)
