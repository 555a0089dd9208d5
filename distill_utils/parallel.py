"""Many runs in several processes of one thread each, which is how small networks train fastest.

The processes are started once and kept: starting one means importing torch and reading the images again.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from distill_utils import progress, settings


def run_all(
    function: Callable, calls: list[tuple], *, workers: int | None = None, what: str, unit: str, done: int = 0
):
    """Call function(*arguments) for every tuple of arguments, under one progress bar.

    function: importable from a module of the package; workers: processes (default: one per core); done: how many
    units were finished before, so that the bar shows the whole. The first exception is raised, what waits is dropped.
    """
    with progress.bar(done + len(calls), what, unit=unit, initial=done) as bar:
        if not calls:
            return
        pool = _pool(workers or settings.cores())
        try:
            for future in as_completed([pool.submit(function, *arguments) for arguments in calls]):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _pool.cache_clear()
            raise


@functools.cache
def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _begin() -> None:
    """One thread for work, and one that ends the process with its parent: a worker of a killed study would wait for
    its next call for ever. An interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)
