"""Read many items into an output folder, note the reason for each that is refused, and resume an interrupted run."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from radzero._processes import process_pool
from radzero.images import Radiograph, RadiographError, ReadLimits, read_radiograph
from radzero.images.radiograph import DicomHeader
from radzero.prediction.inputs import Item
from radzero.prediction.output_folder import OutputFolder
from radzero.prediction.reading import Reading
from radzero.prediction.writers import Writer

if TYPE_CHECKING:
    from radzero.prediction.model import RadZero


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        read: number of items with a reading, with those that an earlier run had read.
        resumed: number of items that an earlier run had read.
        refused: name of a refused item -> reason.
        without_results: name of an item that was read but cannot have every wanted kind of DICOM result -> reason.
        written: files for the whole run, which the writers wrote at its end.
    """

    read: int = 0
    resumed: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    without_results: dict[str, str] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)


def usual_workers(items: int) -> int:
    """Return the number of worker processes: one per core up to 16, or 0 for fewer than 16 items.

    So few items are read before the processes have started.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16) if items >= 16 and cores > 1 else 0


def predict_items(
    model: "RadZero",
    items: Sequence[Item],
    sentences: Sequence[str],
    output: OutputFolder,
    *,
    writers: Sequence[Writer] = (),
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int = 0,
    limits: ReadLimits | None = None,
    on_item: Callable[[str, Reading | None, str | None], None] = lambda name, reading, error: None,
) -> Outcome:
    """Read items into an output folder, with one JSON line for each, in their order.

    An item that cannot be read, or that the model fails on, gets a line with ``error`` and does not stop the run. The
    batches of a resumed run are those of an uninterrupted one, so that the bytes of its lines are the same.

    Args:
        model: model that is asked.
        items: items to read; those that have a reading in the folder are skipped.
        sentences: sentences that are asked about every item.
        output: folder that the lines are written to.
        writers: outputs to write beside the lines (:mod:`radzero.prediction.writers`).
        threshold: threshold of contours and regions, 0..1.
        batch_size: images per pass through the network.
        workers: processes that read ahead and write; with 0 this process does all. The number changes nothing that is
            written.
        limits: limits of file and image sizes; the defaults of :class:`ReadLimits` when None.
        on_item: function that is called for every item with its name, its reading or None, and the reason of a refusal
            or None; both are None for an item that an earlier run had read.

    Raises:
        OSError: when the folder cannot be written.
        ChildProcessError: when a worker process was killed.
    """
    batches = [items[k : k + batch_size] for k in range(0, len(items), batch_size)]
    ahead = -(-workers // batch_size)  # in batches, so that every worker has an item to read
    read = partial(_read, limits=limits, keep_header=any(writer.needs_header for writer in writers))
    write = partial(_write, writers=tuple(writers), folder=output.folder, threshold=threshold)
    outcome = Outcome()
    with (
        output.lines.open("a", encoding="utf-8", errors="backslashreplace") as lines,  # names that are not UTF-8
        _workers(workers) as submit,
    ):
        written = _Lines(lines, outcome, on_item, at_once=2 * batch_size + workers)
        reads: deque[list[Future[Radiograph | RadiographError]]] = deque()
        for position, batch in enumerate(batches):
            while position + ahead >= (begun := position + len(reads)) and begun < len(batches):
                whole = all(item.name in output.done for item in batches[begun])
                reads.append([] if whole else [submit(read, item) for item in batches[begun]])
            names = [item.name for item in batch]
            images = dict(zip(names, (future.result() for future in reads.popleft()), strict=False))
            answers = _answer(model, images, sentences) if images else {}
            for name in names:
                if name in output.done:
                    written.skip(name)
                elif isinstance(answer := answers[name], Reading):
                    written.put(name, answer, submit(write, answer, getattr(images[name], "header", None)))
                else:
                    reason = answer.reason.value if isinstance(answer, RadiographError) else "model"
                    written.refuse(name, model.name, answer, reason)
        written.close()
    output.sort_lines()
    for writer in writers:
        outcome.written += writer.end(output)
    return outcome


class _Lines:
    """Writer of the lines of predictions.jsonl in the order of the items, while workers finish in any order."""

    def __init__(
        self,
        file: TextIO,
        outcome: Outcome,
        on_item: Callable[[str, Reading | None, str | None], None],
        *,
        at_once: int,
    ) -> None:
        self._file, self._outcome, self._on_item, self._at_once = file, outcome, on_item, at_once
        self._waiting: deque[tuple[Callable[[], None], Future[Any] | None]] = deque()

    def skip(self, name: str) -> None:
        """Skip an item that an earlier run had read."""

        def work() -> None:
            self._outcome.read += 1
            self._outcome.resumed += 1
            self._on_item(name, None, None)

        self._put(work, None)

    def refuse(self, name: str, model: str, error: Exception, reason: str) -> None:
        """Write the line of an item without a reading."""

        def work() -> None:
            self._write({"image": name, "model": model, "error": str(error), "reason": reason})
            self._outcome.refused[name] = str(error)
            self._on_item(name, None, str(error))

        self._put(work, None)

    def put(self, name: str, reading: Reading, finished: "Future[dict[str, Any]]") -> None:
        """Write the line of a reading, once the writers have written their files for it."""

        def work() -> None:
            record = finished.result()
            self._write(record)
            self._outcome.read += 1
            if without := record.get("results_refused"):
                self._outcome.without_results[name] = without
            self._on_item(name, reading, None)

        self._put(work, finished)

    def close(self) -> None:
        """Write all lines that are still waiting."""
        self._flush(0)

    def _put(self, work: Callable[[], None], future: "Future[Any] | None") -> None:
        self._waiting.append((work, future))
        self._flush(self._at_once)

    def _flush(self, most: int) -> None:
        while self._waiting:
            work, future = self._waiting[0]
            if len(self._waiting) <= most and future is not None and not future.done():
                return
            self._waiting.popleft()
            work()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


# -- work of the worker processes -------------------------------------------------------------------------


@contextmanager
def _workers(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """Return a function that submits work to ``count`` processes, or does it at once in this process when that is 0."""
    if count == 0:
        yield _at_once
        return
    try:
        with process_pool(count) as pool:
            yield pool.submit
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of {count} worker processes was killed, most often for lack of memory; give fewer --workers"
        ) from error


def _at_once(work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    done: Future[Any] = Future()
    done.set_result(work(*arguments))
    return done


def _read(item: Item, *, limits: ReadLimits | None, keep_header: bool) -> Radiograph | RadiographError:
    (path,) = item.paths
    try:
        return read_radiograph(path, limits=limits, keep_header=keep_header)
    except RadiographError as error:
        return error


def _write(
    reading: Reading, header: DicomHeader | None, *, writers: Sequence[Writer], folder: Path, threshold: float
) -> dict[str, Any]:
    """Let every writer write a reading, with each sentence's map upsampled once; return the reading's line."""
    begun = [writer.begin(reading, header, folder) for writer in writers]
    at_work = [writer for writer in begun if writer is not None]
    if reading.grid is not None and at_work:
        for shown in reading.sentence_maps(threshold):
            for writer in at_work:
                writer.add(shown)
    record = reading.to_dict()
    for writer in at_work:
        record |= writer.finish()
    return record


# -- work of the model ---------------------------------------------------------------------------------


def _answer(
    model: "RadZero", images: Mapping[str, Radiograph | RadiographError], sentences: Sequence[str]
) -> dict[str, Reading | Exception]:
    """Return for every item a reading or the error; when the batch fails, each item is tried alone."""
    answers: dict[str, Reading | Exception] = {s: image for s, image in images.items() if isinstance(image, Exception)}
    read = {name: image for name, image in images.items() if isinstance(image, Radiograph)}
    try:
        return answers | dict(zip(read, model.predict(read.values(), sentences, batch_size=len(images)), strict=True))
    except (RuntimeError, ValueError, MemoryError):  # one item, or the batch as a whole, may be the cause
        for name, image in read.items():
            try:
                answers[name] = model.predict(image, sentences)[0]
            except (RuntimeError, ValueError, MemoryError) as error:
                answers[name] = type(error)(f"{name}: the model failed on it: {error}")
    return answers
