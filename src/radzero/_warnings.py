"""Silence or collect Python warnings in one thread, without an effect on other threads.

Python's warning filters belong to the whole process: ``warnings.catch_warnings`` in one thread changes which warnings
every other thread shows, so threads that read radiographs would have to wait for each other. Here one filter is kept in
front of all others. It applies only in a thread that is inside :func:`quiet` or :func:`recorded`.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(threading.local):
    """The pattern of the permanent filter: while a thread collects warnings, it matches, and so hides, all of them.

    Attributes:
        heard: the texts collected in this thread; None while the thread collects nothing.
    """

    heard: list[str] | None = None

    def match(self, text: str) -> bool:
        """Collect a warning's text, called like a filter's compiled pattern; return whether the filter applies."""
        if self.heard is None:
            return False
        self.heard.append(text)
        return True


_COLLECTOR = _Collector()
_FILTER = ("ignore", _COLLECTOR, Warning, None, 0)
_LOCK = threading.Lock()


def _install() -> None:
    """Put the filter in front again, in case ``catch_warnings`` or ``simplefilter`` elsewhere moved or removed it.

    Python remembers for each module which warnings were shown once, and asks no filter about those; it forgets them
    when ``_filters_mutated`` says that the filters have changed.
    """
    with _LOCK:
        filters: list[object] = warnings.filters  # type: ignore[assignment]
        if not filters or filters[0] is not _FILTER:
            filters[:] = [_FILTER, *(entry for entry in filters if entry is not _FILTER)]
        warnings._filters_mutated()  # type: ignore[attr-defined]


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Give a list in which the texts of this thread's warnings are collected; none of the warnings is shown."""
    _install()
    before, _COLLECTOR.heard = _COLLECTOR.heard, []
    try:
        yield _COLLECTOR.heard
    finally:
        _COLLECTOR.heard = before


@contextmanager
def quiet() -> Iterator[None]:
    """Hide all warnings of this thread."""
    with recorded():
        yield
