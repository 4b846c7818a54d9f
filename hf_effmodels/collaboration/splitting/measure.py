"""What each point at which a network can be cut costs: seconds on either side, and the bits in between."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from ..._files import write_bytes, write_json
from ..._numbers import check_positive, check_whole
from ..codecs.wire import ChannelCodec, UniformCodec
from ..offloading.profiles import SplitProfile
from .checks import check_watts
from .halves import evaluating, split
from .points import Trace, input_shape

#: Everything on the server, everything on the device.
IMAGE, WHOLE = "image", "whole"


@dataclass(frozen=True)
class PointCost:
    """Of one image.

    Attributes:
        at: a module, `image` (the picture is sent) or `whole` (nothing is).
        bits: that are sent, without names and shapes.
        head_seconds: on the device, with encoding, as slow as `device_slowdown` says.
        tail_seconds: on the server, with decoding.
    """

    at: str
    bits: int
    head_seconds: float
    tail_seconds: float

    def latency(self, bandwidth: float) -> float:
        """Seconds over a link of `bandwidth` bits per second."""
        check_positive(bandwidth=bandwidth)
        return self.head_seconds + self.bits / bandwidth + self.tail_seconds


def measure_split(
    model: nn.Module,
    points: Sequence[str] | None = None,
    *,
    bits: int | None = None,
    shrink: int | None = None,
    image_size: tuple[int, int] | None = None,
    repeats: int = 5,
    device_slowdown: float = 1.0,
    processor_time: bool = False,
) -> list[PointCost]:
    """The costs of sending the image, of each point, and of sending nothing, in this order.

    Args:
        model: a classifier of images.
        points: modules; by default up to eight of `split_points`, each with fewer bytes than those before; with
            `shrink` of those that give channels of maps.
        bits: of each number that is sent, 1 to 8; by default as computed.
        shrink: send so many times fewer channels, by 1×1 convolutions (of random weights: they cost the same).
        image_size: height and width; by default the configuration's, or 224.
        repeats: of each measurement, of which the median counts.
        device_slowdown: the device is simulated by this machine, so many times slower.
        processor_time: count the processor's seconds, of all threads, instead of the clock's: of one thread these are
            what the clock would say on a machine without other work.
    """
    clock = time.process_time if processor_time else time.perf_counter
    check_whole(1, repeats=repeats)
    check_positive(device_slowdown=device_slowdown)
    if shrink is not None:
        check_whole(1, shrink=shrink)
    trace = Trace(model, image_size)
    names = list(points) if points else _smaller_and_smaller(trace.points(), maps_only=shrink is not None)
    codecs = [_codec(trace.cut(name).point.shape, bits, shrink) for name in names]
    shape = input_shape(model, image_size)
    weight = next(model.parameters())
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    in_one = evaluating(model)
    with torch.inference_mode():
        whole = _seconds(lambda: in_one(pixels), repeats, clock)
    image_bits = 8 * shape[1] * shape[2] * shape[3]
    costs = [PointCost(IMAGE, image_bits, 0.0, whole)]
    for name, codec in zip(names, codecs, strict=True):
        head, tail = split(model, name, codec=codec, image_size=image_size)
        sent = head(pixels)
        size = sum(value.numel() * value.itemsize for value in sent.values())
        before = _seconds(lambda head=head: head(pixels), repeats, clock)
        after = _seconds(lambda tail=tail, sent=sent: tail(sent, shape), repeats, clock)
        costs.append(PointCost(head.facts.at, 8 * size, device_slowdown * before, after))
    return [*costs, PointCost(WHOLE, 0, device_slowdown * whole, 0.0)]


def profile_of(costs: Sequence[PointCost], watts: float) -> SplitProfile:
    """What the simulated cell computes with, for a device that draws `watts` while it computes."""
    check_watts(watts)
    seconds = tuple(cost.head_seconds for cost in costs)
    return SplitProfile(
        bits=tuple(float(cost.bits) for cost in costs),
        seconds=seconds,
        watts=tuple(watts if second else 0.0 for second in seconds),
        joules=tuple(watts * second for second in seconds),
    )


def save_costs(file: str | Path, costs: Sequence[PointCost], watts: float) -> None:
    """The costs and the profile as JSON, which `hf-effmodels offload --profile FILE` reads."""
    write_json(file, {"points": [asdict(cost) for cost in costs], "profile": asdict(profile_of(costs, watts))})


def draw_latencies(file: str | Path, costs: Sequence[PointCost], lowest: float, highest: float) -> None:
    """A PNG of the milliseconds of an image over the bandwidth (bits per second), a line for each point; needs
    matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("picture: it needs matplotlib, pip install matplotlib") from error
    import io

    steps = [lowest * (highest / lowest) ** (step / 50) for step in range(51)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for cost in costs:
        name = {IMAGE: "all on the server", WHOLE: "all on the device"}.get(cost.at, f"after {cost.at}")
        style = "-" if name.startswith("after") else "--"
        axes.loglog([1e-6 * step for step in steps], [1e3 * cost.latency(step) for step in steps], style, label=name)
    axes.set_xlabel("Mbit/s")
    axes.set_ylabel("milliseconds of an image")
    axes.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(file, buffer.getvalue())


def _smaller_and_smaller(points, maps_only: bool) -> list[str]:
    found, smallest = [], float("inf")
    for point in points:
        if point.num_bytes < smallest:
            found, smallest = [*found, point], point.num_bytes
    found = found[:-1] if len(found) > 1 else found  # the last one is the logits themselves
    return [point.name for point in found if len(point.shape) == 4 or not maps_only][-8:]


def _codec(shape: tuple[int, ...], bits: int | None, shrink: int | None) -> nn.Module | None:
    if shrink is not None:
        if len(shape) != 4:
            raise ValueError(f"shrink: got {shrink}, but features of shape {list(shape)} have no channels of maps.")
        return ChannelCodec(shape[1], shrink, 8 if bits is None else bits)
    return None if bits is None else UniformCodec(bits)


def _seconds(call: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = clock()
        call()
        times.append(clock() - began)
    return statistics.median(times)
