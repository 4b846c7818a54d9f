"""Which device runs which part: greedily, as in ED-ViT (https://arxiv.org/abs/2410.11650).

Its algorithm was not read: this is what is told of it, that sub-models are fitted to memory and compute of devices.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .._numbers import check_from_zero, check_positive


@dataclass(frozen=True)
class Need:
    """What a part takes.

    Attributes:
        memory: bytes of its weights.
        macs: multiply-adds of an image.
    """

    memory: int
    macs: int

    def __post_init__(self):
        check_from_zero(memory=self.memory, macs=self.macs)


@dataclass(frozen=True)
class Device:
    """What a device has.

    Attributes:
        memory: bytes for weights.
        macs: multiply-adds that it can spend on an image.
    """

    memory: int
    macs: int

    def __post_init__(self):
        check_positive(memory=self.memory, macs=self.macs)


def assign(parts: Mapping[str, Need], devices: Mapping[str, Device]) -> dict[str, str]:
    """Name of each part -> name of its device.

    The part that computes most comes first; each goes to the device that has most multiply-adds left, of those
    that have memory and multiply-adds enough; of equal ones to the first.

    Raises:
        ValueError: no devices, or a part that fits nowhere; says what is left on each.
    """
    if not devices:
        raise ValueError("devices: got none, accepted are 1 and more.")
    left = {name: [device.memory, device.macs] for name, device in devices.items()}
    found = {}
    for part, need in sorted(parts.items(), key=lambda item: (-item[1].macs, -item[1].memory)):
        fitting = [name for name, (memory, macs) in left.items() if need.memory <= memory and need.macs <= macs]
        if not fitting:
            rest = "; ".join(f"{name} {memory} bytes and {macs}" for name, (memory, macs) in left.items())
            raise ValueError(
                f"parts: {part} needs {need.memory} bytes and {need.macs} multiply-adds, which no device has left "
                f"({rest}). Smaller parts (decompose --macs), or more devices."
            )
        chosen = max(fitting, key=lambda name: left[name][1])
        found[part] = chosen
        left[chosen][0] -= need.memory
        left[chosen][1] -= need.macs
    return {part: found[part] for part in parts}
