"""Process the radiographs of a DICOMweb server and store their results, once or at an interval of some seconds."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from pydicom.datadict import tag_for_keyword

from radzero.pacs.dicomweb import DicomWeb
from radzero.pacs.process import Processor, UnreachableError


def query_keys(texts: Iterable[str]) -> dict[str, str]:
    """Parse QIDO keys from texts ``KEY=VALUE``.

    Raises:
        ValueError: when a text has another form, or a key is not a DICOM attribute.
    """
    keys = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"{text!r}: a query is KEY=VALUE, such as StudyDate=20260101-")
        if tag_for_keyword(key) is None and not re.fullmatch("[0-9A-Fa-f]{8}", key):  # servers ignore unknown keys
            raise ValueError(f"{key!r}: is no DICOM attribute; name it by keyword (StudyDate) or tag (00080020)")
        keys[key] = value
    return keys


def poll(
    source: DicomWeb,
    processor: Processor,
    modalities: tuple[str, ...],
    query: Mapping[str, str],
    *,
    watch: float | None = None,
    on_image: Callable[[], None] = lambda: None,
    on_problem: Callable[[str, str], None] = lambda kind, why: None,
) -> None:
    """Process the radiographs that a server has, after sending the results that an earlier run left.

    Args:
        source: the server.
        processor: processor of each radiograph.
        modalities: modalities to look for, such as CR and DX.
        query: further QIDO keys, see :func:`query_keys`.
        watch: seconds to wait between two passes over the server; None makes one pass.
        on_image: called after each radiograph that the server lists.
        on_problem: called with a kind ("failed", "refused", "left out", "warning", "unreachable") and the reason.

    Raises:
        UnreachableError: when a server does not answer and ``watch`` is None.
        OSError, sqlite3.Error: when the state folder cannot be written.
    """
    while True:
        try:
            _once(source, processor, modalities, query, on_image, on_problem)
        except UnreachableError as error:
            if watch is None:
                raise
            on_problem("unreachable", str(error))
        if watch is None:
            return
        time.sleep(watch)


def _once(
    source: DicomWeb,
    processor: Processor,
    modalities: tuple[str, ...],
    query: Mapping[str, str],
    on_image: Callable[[], None],
    on_problem: Callable[[str, str], None],
) -> None:
    tally, ledger = processor.tally, processor.ledger
    tally.earlier, tally.failed = 0, {}

    def note_series(series: str, why: str) -> None:
        tally.failed[series] = why
        on_problem("failed", f"series {series}: {why}")

    def attempt(uid: str, work: Callable[[], None]) -> None:
        before = processor.problems(uid)
        processor.attempt(uid, work)
        for kind, why in processor.problems(uid).items() - before.items():
            on_problem(kind, why)

    waiting = dict.fromkeys(ledger.films_waiting())
    for uid in waiting:
        attempt(uid, partial(processor.send, uid))
    for film in source.films(modalities, query, note_series):
        if film.instance not in waiting or ledger.state(film.instance) == "lost":
            attempt(film.instance, partial(processor.process, film.instance, partial(source.fetch, film)))
        on_image()
    for uid in ledger.films_lost():  # those that this query does not find
        if uid not in tally.failed:
            tally.failed[uid] = f"{uid}: its results are to be made again; ask for it with a wider --query"
            on_problem("failed", tally.failed[uid])
