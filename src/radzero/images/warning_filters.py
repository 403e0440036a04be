"""Python's warning filters belong to the whole process, so a thread that changes them has to have them alone.

Two threads that read films at once would otherwise hear each other's warnings, some of which hold names, and might
leave the filters as the other had them.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """No warning is shown; other threads that want this, or :func:`recorded`, wait."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    """Every warning is kept in the list that is given, and none is shown; other threads wait."""
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
