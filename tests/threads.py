"""Several calls of one model at the same time, deterministically."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import nn


def run_together(model: nn.Module, calls: list[Callable[[], Any]]) -> list:
    """What each call returns, made in a thread of its own.

    Whenever a thread comes to the middle of `model` (half of its sub-modules have run) it waits until all others are
    there, too: whatever a call leaves on a module is by then overwritten by the last. The calls must run the same
    modules equally often.
    """
    order = []
    leaves = [m for m in model.modules() if not any(m.children())]
    handles = [leaf.register_forward_pre_hook(lambda module, args: order.append(module)) for leaf in leaves]
    calls[0]()
    for handle in handles:
        handle.remove()
    barrier = threading.Barrier(len(calls), timeout=60)
    handle = order[len(order) // 2].register_forward_pre_hook(lambda module, args: (barrier.wait(), None)[1])

    def guarded(call):
        try:
            return call()
        except BaseException:
            barrier.abort()  # the others need not wait
            raise

    try:
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(guarded, call) for call in calls]
            errors = [e for e in (f.exception() for f in futures) if e is not None]
            for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
                raise error
            return [future.result() for future in futures]
    finally:
        handle.remove()
