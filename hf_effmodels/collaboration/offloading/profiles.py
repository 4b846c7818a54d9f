"""What each cut point of a network costs: published for three networks on a Jetson Nano (power mode 1, fixed clocks,
224 pixels; MAHPPO, https://arxiv.org/abs/2205.11854)."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..._numbers import check_from_zero, check_positive

#: An image of 224 × 224 pixels, 8 bits for each of three colours.
IMAGE_BITS = 224 * 224 * 3 * 8


@dataclass(frozen=True)
class SplitProfile:
    """Point 0 sends the image as it is, the last point computes everything on the device; those between send features.

    Attributes:
        bits: sent at each point.
        seconds: on the device up to there.
        watts: meanwhile.
        joules: as published (seconds · watts, rounded).
        time_scale: what observations divide the computing left by; None for the seconds of the last point.
    """

    bits: tuple[float, ...]
    seconds: tuple[float, ...]
    watts: tuple[float, ...]
    joules: tuple[float, ...]
    time_scale: float | None = None

    def __post_init__(self):
        for name in ("bits", "seconds", "watts", "joules"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list):
                raise ValueError(f"{name}: got {values!r}, accepted is a number for each point.")
            for value in values:
                check_from_zero(**{name: value})
        if self.time_scale is not None:
            check_positive(time_scale=self.time_scale)
        lengths = {len(self.bits), len(self.seconds), len(self.watts), len(self.joules)}
        if len(lengths) != 1 or len(self.bits) < 2:
            raise ValueError(
                f"bits, seconds, watts, joules: got {sorted(lengths)} points, accepted are as many of each."
            )
        if self.bits[-1] != 0 or self.seconds[0] != 0:
            raise ValueError(
                "bits, seconds: the first point computes nothing on the device, the last one sends nothing."
            )

    @property
    def last(self) -> int:
        """The point that computes everything on the device."""
        return len(self.bits) - 1


def _profile(*rows: tuple[float, float, float, float], time_scale: float | None = None) -> SplitProfile:
    return SplitProfile(*zip((IMAGE_BITS, 0.0, 0.0, 0.0), *rows, strict=True), time_scale=time_scale)


#: Network -> its profile: bits, seconds, watts and joules of points 1 to 5.
PROFILES = {
    "vgg11": _profile(
        (200704, 0.015589, 2.204, 0.034358),
        (100352, 0.045, 2.6344, 0.118548),
        (50176, 0.100595, 2.8618, 0.287883),
        (25088, 0.136817, 3.0338, 0.415075),
        (0, 0.1893, 2.5795, 0.488299),
        time_scale=0.092876,  # as released
    ),
    "resnet18": _profile(
        (100352, 0.004359, 2.2885, 0.009976),
        (50176, 0.01647, 2.6328, 0.043362),
        (25088, 0.025477, 2.8815, 0.073412),
        (25088, 0.03678, 3.013, 0.110818),
        (0, 0.045887, 2.1454, 0.098446),
    ),
    "mobilenetv2": _profile(
        (200704, 0.005392, 1.8811, 0.010143),
        (50176, 0.009008, 2.4805, 0.022344),
        (25088, 0.015418, 2.5565, 0.039416),
        (12544, 0.024955, 2.2014, 0.054936),
        (0, 0.052676, 1.4797, 0.077945),
    ),
}


def profile_from(content: Mapping) -> SplitProfile:
    """A profile out of JSON."""
    names = ("bits", "seconds", "watts", "joules")
    missing = [name for name in names if not isinstance(content.get(name), list | tuple)]
    if missing:
        raise ValueError(f"profile: it has no list {missing[0]!r}, accepted are the files of measure-split.")
    return SplitProfile(*(tuple(map(float, content[n])) for n in names), time_scale=content.get("time_scale"))
