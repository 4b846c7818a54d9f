"""Processes for tests, forked from a server that has imported what they need and computed nothing yet.

A process that is forked from the tests' own inherits what torch cannot share: autograd refuses to work in one once
anything was compiled before.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable

from accelerate import debug_launcher

from .pictures import undrawn

_CLEAN = multiprocessing.get_context("forkserver")
_CLEAN.set_forkserver_preload(
    [
        *("hf_effmodels.training", "hf_effmodels.training.run.trainer", "hf_effmodels.hub", __name__),
        # What a run imports on its way: a second for each process that would do it by itself.
        *("evaluate", "matplotlib.figure", "sklearn.datasets", "sklearn.metrics"),
    ]
)


def run_apart(function: Callable, *args, timeout: float = 300) -> int:
    """Run a function of a module in a process of its own; its exit code (-9 if it was killed)."""
    process = _CLEAN.Process(target=_call, args=(dict(os.environ), function, args))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{function.__name__} was not done after {timeout} s")
    return process.exitcode


def run_in_two(function: Callable, *args) -> None:
    """Run a function of a module in two processes that know each other (gloo).

    Raises:
        AssertionError: one of them failed; its traceback is on stderr.
    """
    code = run_apart(_launch, function, args)
    assert code == 0, f"{function.__name__}: a process failed (exit code {code}), its traceback is above"


def _launch(function: Callable, args: tuple) -> None:
    debug_launcher(function, args, num_processes=2)


def _call(environment: dict[str, str], function: Callable, args: tuple) -> None:
    os.environ.clear()  # the server has that of the time it was started
    os.environ.update(environment)
    # As in a program of one's own. The server's way would make it the parent of a loader's workers, which would then
    # outlive a process that is killed, and keep the server alive with them.
    multiprocessing.set_start_method("fork", force=True)
    gc.freeze()
    with undrawn():
        function(*args)
