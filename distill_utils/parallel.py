"""Many calls in several processes of one thread each, which is how small networks train fastest.

The processes are started once and kept, since starting one means importing torch and reading the images again.
joblib would be shorter, but its workers outlive a study that is killed.
"""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from distill_utils import settings
from distill_utils.training import progress_bar


def run_all(function: Callable, calls: list[tuple], *, workers: int | None = None, what: str, unit: str,
            done: int = 0) -> list:
    """Call function(*arguments) for every tuple of arguments, under one progress bar.

    function: importable from a module of the package; workers: processes (default: one per core); done: how many
    units were finished before, so that the bar shows the whole. The first exception is raised, waiting calls are
    dropped. Returns the results in the order of the calls.
    """
    with progress_bar(done + len(calls), what, unit=unit, initial=done) as bar:
        if not calls:
            return []
        pool = _pool(workers or settings.cores())
        try:
            futures = [pool.submit(function, *arguments) for arguments in calls]
            for future in as_completed(futures):
                future.result()
                bar.update()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _pool.cache_clear()
            raise


@functools.cache
def _pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_init_worker)


def _init_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()


def _exit_with_parent(parent) -> None:
    parent.join()
    os._exit(1)  # a worker of a killed study would wait for its next call forever
