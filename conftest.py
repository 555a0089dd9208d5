"""How notebooks run under test: as a reader runs them, one thread each, the longest first. Copy it as it is.

Needs nbval, and lives with nbmake beside it. Options for nbval and the number of processes are pytest's own.
nbval would compare warnings (they hold a process id) and HTML (it holds random ids), and would notice a dead kernel
only when the cell's time is up; both are changed here. With `pytest --no-network` a cell fails that reaches for the
network, also where it catches the error. Notebooks under `strict` of [tool.notebook_rules] are compared as a whole.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from queue import Empty

import pytest
from nbval.kernel import RunningKernel

try:
    import notebook_rules
except ImportError:  # it is not copied, or lies in a folder that is not on pytest's pythonpath
    notebook_rules = None

ROOT = Path(__file__).resolve().parent

# Set before torch is imported, here and in the kernels, which inherit it. More than one: tools/stress/flakes.py.
os.environ["OMP_NUM_THREADS"] = os.environ.get("TEST_THREADS", "1")
os.environ["DISTILL_BUILD"] = str(ROOT / "build" / "test")  # checks of tests apart from those of make run

NO_NETWORK = """
def _guard():
    import socket

    class NetworkUsed(BaseException):  # not an Exception: a cell that catches those would hide it
        pass

    here = {"", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}

    def guarded(function, place):
        def call(*arguments, **keywords):
            address = arguments[place] if len(arguments) > place else None
            host = address[0] if isinstance(address, tuple) else address
            host = host.decode() if isinstance(host, bytes) else host
            local = isinstance(address, tuple) or place == 0  # else the path of a Unix socket
            if local and host is not None and host not in here and not str(host).startswith("127."):
                raise NetworkUsed(f"a cell reaches for {host}: notebooks are tested without a network")
            return function(*arguments, **keywords)

        return call

    socket.getaddrinfo = guarded(socket.getaddrinfo, 0)
    socket.socket.connect = guarded(socket.socket.connect, 1)


_guard()
del _guard
"""


def pytest_addoption(parser):
    parser.addoption("--no-network", action="store_true", help="a notebook that reaches for a network fails")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if config.getoption("--no-network"):  # IPython runs what lies in this folder before the first cell of a kernel
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        startup = Path(folder.name, "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "no_network.py").write_text(NO_NETWORK, encoding="utf-8")
        os.environ["IPYTHONDIR"] = folder.name


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):  # a notebook of nbval
        collector.skip_compare += ("stderr", "text/html")
        if notebook_rules and notebook_rules.settings(ROOT).is_strict(collector.path):
            collector.compare_outputs = True


def pytest_collection_modifyitems(items):
    """Notebooks first, the longest of the last measured run before the others: all workers then end together."""
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
