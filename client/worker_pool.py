"""Processes that share the work on many cases: as many as fit, and none left behind however this one ends."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import ParamSpec, TypeVar

from client.free_memory import available_bytes
from common.errors import WorkError

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """Processes that wait for work."""

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self._executor = executor

    def submit(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Hands a call to the next process that is free, and returns what it will return; all must be picklable."""
        with interrupts_wait():
            return self._executor.submit(call, *arguments, **named)


def num_workers(bytes_each: int) -> int:
    """Returns how many processes this machine has cores and free memory for, at least 1."""
    return max(1, min(len(os.sched_getaffinity(0)), available_bytes() // bytes_each))


@contextmanager
def worker_pool(num_processes: int, ended: str, begin: Callable[[], None] | None = None) -> Iterator[WorkerPool]:
    """Gives processes that see no Ctrl-C, and that end with this one, even if it is killed.

    Args:
        num_processes: how many.
        ended: what to say where the system ends one of them.
        begin: is called in each before anything else.

    Raises:
        WorkError: the system ended a process, mostly for want of memory.
    """
    executor = ProcessPoolExecutor(num_processes, get_context("spawn"), _begin, (begin,))
    try:
        yield WorkerPool(executor)
    except BrokenProcessPool as error:
        raise WorkError(ended) from error
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits until the block ends; a process that is started in it never sees one, not even while it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(begin: Callable[[], None] | None) -> None:
    """Ends this process with a parent that was killed: an executor's processes would wait for it for good."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
