"""Where signatures are checked, and how a process that folds all day is set up."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, ProcessPoolExecutor

_COLLECTOR_THRESHOLDS = (20_000, 50, 100)


def verification_pool(workers: int) -> Executor:
    """Processes that check signatures for :class:`~.projector.Projector`.

    Folding keeps the interpreter lock busy, so threads would wait for it after every signature;
    processes do not. They ignore SIGINT and SIGTERM and end with the pool or with this process. The
    program must be importable (``if __name__ == "__main__"``), because each worker starts a new
    interpreter.

    Args:
        workers: processes, at least 1; more than there are cores is of no use.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _settle_worker)
    for ready in [pool.submit(_settled) for _ in range(workers)]:
        ready.result()
    return pool


def tune_collector() -> None:
    """Let the cyclic garbage collector run less often, for the whole process.

    A projector keeps many small objects without cycles; looking through them after every 700 new
    ones takes a third of the time of a fold.
    """
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def _settle_worker() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _settled() -> bool:
    return True
