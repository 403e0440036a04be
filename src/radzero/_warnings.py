"""Silence or collect Python warnings in one thread, while other threads go on undisturbed.

Python's warning filters belong to the whole process: ``warnings.catch_warnings`` in one thread changes what every other
thread hears, so threads that read radiographs would have to wait for each other. Here one filter is added once, in
front of all others, and stays there. It takes a warning only in a thread that is inside :func:`quiet` or
:func:`recorded`, and asks nothing of any other thread.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(threading.local):
    """The pattern of the permanent filter: it "matches", and so hides, whatever this thread collects.

    Attributes:
        heard: the texts collected in this thread; None while the thread collects nothing.
    """

    heard: list[str] | None = None

    def match(self, text: str) -> bool:
        """Take a warning's text, as the compiled pattern of a filter does; whether the filter applies."""
        if self.heard is None:
            return False
        self.heard.append(text)
        return True


_COLLECTOR = _Collector()
_FILTER = ("ignore", _COLLECTOR, Warning, None, 0)
_LOCK = threading.Lock()


def _install() -> None:
    """Put the filter in front, where ``catch_warnings`` or ``simplefilter`` elsewhere have taken it from there.

    A module remembers which of its warnings were shown once, and asks no filter about those; it forgets that when the
    filters are said to have changed.
    """
    with _LOCK:
        filters: list[object] = warnings.filters  # type: ignore[assignment]
        if not filters or filters[0] is not _FILTER:
            filters[:] = [_FILTER, *(entry for entry in filters if entry is not _FILTER)]
        warnings._filters_mutated()  # type: ignore[attr-defined]


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Collect the texts of this thread's warnings in the list that is given; none is shown."""
    _install()
    before, _COLLECTOR.heard = _COLLECTOR.heard, []
    try:
        yield _COLLECTOR.heard
    finally:
        _COLLECTOR.heard = before


@contextmanager
def quiet() -> Iterator[None]:
    """Show no warning of this thread."""
    with recorded():
        yield
