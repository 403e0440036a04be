"""Worker processes that end when they should: after their work, after Ctrl-C, and when their parent was killed."""

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
    """A pool of spawned processes.

    Ctrl-C is the parent's to see to; when that or anything else ends the block early, the workers are ended at once.

    Args:
        count: how many processes.
        begin: called in each of them first, with the arguments.
        *arguments: of ``begin``.
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
    """To be called in a worker: it ends when its parent is gone, for which a pool's workers would wait forever."""
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process
    end_with_parent()
    if begin is not None:
        begin(*arguments)


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
