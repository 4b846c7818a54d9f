"""Every test runs on one thread, without network, without a GPU and away from the user's caches."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest  # noqa: E402
import torch  # noqa: E402

from .pictures import undrawn  # noqa: E402

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--cases", action="store", default=None, help="folder of parity cases, searched recursively (tests/parity)"
    )


def pytest_collection_finish():
    leave_what_stays_alone()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    result = yield
    if nextitem is None or nextitem.path != item.path:
        leave_what_stays_alone()
    return result


def leave_what_stays_alone():
    """Millions of objects of the libraries and the tests themselves live as long as the process: each full collection
    of garbage would go through them all, half a second each time, and a training run asks for several. More come with
    every file, since libraries import and remember a part at its first use."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def drawn_where_looked_at(request):
    """To render the figures of its reports is most of a small run's time: only tests marked `draws` do."""
    if request.node.get_closest_marker("draws"):
        yield
    else:
        with undrawn():
            yield
