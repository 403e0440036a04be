"""Worker processes that end after their work, after Ctrl-C, and when their parent was killed."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any


def worker_context(preload: str) -> BaseContext:
    """Return the multiprocessing context of all worker processes.

    On Linux workers are forked from a server process that has imported a module once, because an import of torch and
    transformers takes four seconds of a core. The server is a fresh Python without threads or GPU. Elsewhere each
    worker is a fresh Python: Windows cannot fork, and libraries of macOS may crash after a fork.

    Args:
        preload: module that the workers need. It has an effect only before the first worker of this process starts.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    _preload(preload)
    return multiprocessing.get_context("forkserver")


def _preload(module: str) -> None:
    multiprocessing.set_forkserver_preload([module])


@contextmanager
def process_pool(
    count: int, preload: str, begin: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of worker processes.

    Workers ignore Ctrl-C, since the parent handles it. When an exception ends the block, the workers are
    terminated at once.

    Args:
        count: number of processes.
        preload: module of the work; see :func:`worker_context`.
        begin: function that each process calls first; None for no call.
        *arguments: arguments of ``begin``.
    """
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(count, worker_context(preload), _begin, (begin, arguments))
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Make the calling worker exit when its parent is gone; without this, a pool's workers would wait forever."""
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends SIGINT to every process
    end_with_parent()
    if begin is not None:
        begin(*arguments)


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
