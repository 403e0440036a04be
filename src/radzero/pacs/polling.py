"""The radiographs of a DICOMweb server, each asked and its results stored: once, or again every so many seconds."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from pydicom.datadict import tag_for_keyword

from radzero.pacs.dicomweb import DicomWeb
from radzero.pacs.process import Processor, UnreachableError


def query_keys(texts: Iterable[str]) -> dict[str, str]:
    """QIDO keys from texts ``KEY=VALUE``.

    Raises:
        ValueError: for a text of another form, and for a key that is no DICOM attribute.
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
    """Process what a server has; what an earlier run left is sent first.

    Args:
        source: the server.
        processor: what each radiograph goes through.
        modalities: such as CR and DX.
        query: further QIDO keys, see :func:`query_keys`.
        watch: seconds between two looks at the server; None looks once.
        on_image: called after each radiograph that was found.
        on_problem: called with a kind ("failed", "refused", "left out", "warning", "unreachable") and why.

    Raises:
        UnreachableError: when the server is away and is not watched.
        OSError, sqlite3.Error: when the state cannot be kept.
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
    for uid in ledger.films_lost():  # which are not among those that this query finds
        if uid not in tally.failed:
            tally.failed[uid] = f"{uid}: its results are to be made again; ask for it with a wider --query"
            on_problem("failed", tally.failed[uid])
