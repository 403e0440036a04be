"""Worker processes that end after their work, after Ctrl-C, and when their parent was killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def process_pool(
    count: int, begin: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool of spawned processes.

    Workers ignore Ctrl-C, since the parent handles it. When an exception ends the block, the workers are
    terminated at once.

    Args:
        count: number of processes.
        begin: function that each process calls first; None for no call.
        *arguments: arguments of ``begin``.
    """
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _begin, (begin, arguments))
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
