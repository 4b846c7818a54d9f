"""One row of a benchmark in a process of its own: `python -m hf_effmodels.benchmarking.worker '{"preset": ...}'`.

It builds and warms up, prints a line that describes itself, and then does one timed run for each line it reads. A
process of its own gives every row its own threads, memory and allocator.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

#: A timed run repeats short calls until it takes about this many seconds.
LEAST_SECONDS = 0.1


def main(row: dict) -> None:
    import torch

    torch.set_num_threads(row["threads"])
    torch.manual_seed(0)
    from ..quantization.stored import count_parameters
    from .peers import PEERS
    from .workloads import make_call

    model = PEERS[row["peer"]].build(row["preset"], row["folded"], row["overrides"])
    parameters = count_parameters(model)
    call = make_call(model, row)
    for _ in range(2):
        call()
    allocated = peak_allocation(call) if row["backend"] == "eager" else None
    began = time.perf_counter()
    call()
    repeats = max(1, round(LEAST_SECONDS / max(time.perf_counter() - began, 1e-6)))
    _say({"parameters": parameters, "repeats": repeats, "allocated_bytes": allocated})
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        _say({"seconds": wall / repeats, "cpu_seconds": cpu / repeats, "peak_bytes": peak})


def peak_allocation(call: Callable[[], object]) -> int:
    """The most memory in bytes that tensors made during `call` take at once: activations, in training gradients too.

    PyTorch's allocator reports every block it gives out and takes back; what was there before the call does not count.
    """
    from torch.profiler import ProfilerActivity, profile

    with _silent_standard_error(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        most = max(most, current)
    return most


@contextmanager
def _silent_standard_error():
    """The profiler's C++ side says there when it starts and stops, whatever its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _say(facts: dict) -> None:
    sys.__stdout__.write(json.dumps(facts) + "\n")
    sys.__stdout__.flush()


if __name__ == "__main__":
    row = json.loads(sys.argv[1])
    # Standard output speaks to the parent: what libraries print goes to standard error.
    sys.stdout = sys.stderr
    try:
        main(row)
    except Exception as error:
        # An image of one pixel, a batch beyond the memory, a configuration without a field: one line for the user, not
        # this process's insides.
        kind, said = type(error).__name__, str(error)
        if isinstance(error, LookupError | AttributeError):  # which say a name alone
            said = f"{kind}: {said}".removesuffix(": ")
        _say({"error": said or kind})
        sys.exit(2)
