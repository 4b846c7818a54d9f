"""The processes that share the inputs of one call: those that accelerate or torchrun have started."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from ..training.run.launch import WORLD_SIZES

#: The first to be done waits for the last.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process among them.

    Attributes:
        index, count: its number, from 0, and how many there are.
        device: its own; None where it is alone.
        wait: returns when all have called it.
    """

    index: int = 0
    count: int = 1
    device: str | None = None
    wait: Callable[[], None] = lambda: None


def find_processes(device: str | None) -> Processes:
    """Those that have been started together; `device` is where the user wants to compute, None for anywhere."""
    if not any(name in os.environ for name in WORLD_SIZES):
        return Processes()
    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
    place = str(state.device) if state.num_processes > 1 else None
    return Processes(state.process_index, state.num_processes, place, state.wait_for_everyone)
