"""How notebooks run under test: as a reader runs them, one thread each, their checks apart from those of make run.

Options are in pyproject.toml. nbval would compare warnings (which hold a process id) and HTML (which holds random
ids), and would notice a kernel that died only when the cell's time is up: both are mended here.
"""

import json
import os
import time
from pathlib import Path
from queue import Empty

from nbval.kernel import RunningKernel

ROOT = Path(__file__).resolve().parent

# Set before torch is imported, here and in the kernels, which inherit it. More than one: tools/stress/flakes.py.
os.environ["OMP_NUM_THREADS"] = os.environ.get("TEST_THREADS", "1")
os.environ["DISTILL_BUILD"] = str(ROOT / "build" / "test")


def pytest_collectstart(collector):
    if collector.nodeid.endswith(".ipynb"):
        collector.skip_compare += ("stderr", "text/html")


def pytest_collection_modifyitems(items):
    """Notebooks first, the longest of the last measured run before the others: two workers then end together."""
    path = ROOT / "results" / "timings.json"
    timings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def place(item):
        if item.path.suffix != ".ipynb":
            return 1.0
        return -timings.get(item.path.stem, {}).get("seconds", 0.0)

    items.sort(key=place)  # stable: cells stay in their order


_await_reply = RunningKernel.await_reply


def _await_reply_of_the_living(kernel, msg_id, timeout=None):
    end = time.monotonic() + (timeout or 60)
    while True:
        try:
            return _await_reply(kernel, msg_id, timeout=min(5.0, max(0.1, end - time.monotonic())))
        except Empty:
            if not kernel.is_alive():
                raise RuntimeError("the kernel died while it ran this cell (out of memory?)") from None
            if time.monotonic() >= end:
                raise


RunningKernel.await_reply = _await_reply_of_the_living
