"""Process one image at a time: read it, ask the model, make and send results; each step is recorded before the next."""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Protocol

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from radzero._files import write_whole
from radzero.errors import RadZeroError
from radzero.images import RadiographError, ReadLimits, read_radiograph
from radzero.pacs.ledger import Ledger, QueuedResult, Task
from radzero.prediction.model import RadZero
from radzero.results import ResultError, make_possible_results, read_header, result_header
from radzero.results.identity import MANUFACTURER


class UnreachableError(RadZeroError, RuntimeError):
    """A server does not answer, or refuses for the time being; the run can be resumed."""


class NotTakenError(UnreachableError):
    """A server answers, but does not give one image or store one result; other images and results may succeed."""


class LostError(NotTakenError):
    """A result in the outbox is gone or damaged; the image's results must be made again."""


class Destination(Protocol):
    """Destination that results are sent to."""

    name: str

    def holds(self, result: Dataset) -> bool:
        """Return whether the destination is known to have a result already."""
        ...

    def store(self, result: Dataset) -> None:
        """Send a result.

        Raises:
            UnreachableError: when the result is not known to have arrived.
        """
        ...


@dataclass
class Tally:
    """Counts and problems of a run; images are named as in the ledger.

    Attributes:
        done: number of images whose results this run finished storing.
        earlier: number of images that were finished before.
        refused: image -> reason why it can have no result.
        left_out: image -> why it has no result of some kinds.
        warned: image -> warnings to consider before a result is trusted.
        failed: image or series -> why it could not be fetched or its results not be stored; the next run tries again.
        stored: number of results sent by this run.
    """

    done: int = 0
    earlier: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warned: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stored: int = 0


class Processor:
    """Turn images into stored results.

    Args:
        model: model that answers.
        task: sentences to ask, and results to make.
        destination: destination of the results.
        ledger: state of the images.
        limits: limits on the files that are read.
    """

    def __init__(
        self, model: RadZero, task: Task, destination: Destination, ledger: Ledger, limits: ReadLimits | None = None
    ) -> None:
        self.model, self.task, self.destination, self.ledger, self.limits = model, task, destination, ledger, limits
        self.tally = Tally()

    def process(self, uid: str, fetch: Callable[[], bytes]) -> None:
        """Process one image, unless it is done or refused already.

        Args:
            uid: name of the image: its SOP Instance UID, or as :meth:`~radzero.pacs.ledger.Ledger.name` returns it.
            fetch: function that returns the image's file; called only when the file is needed.

        Raises:
            UnreachableError: from ``fetch`` or the destination.
            OSError, sqlite3.Error: when the state folder cannot be written.
        """
        state = self.ledger.state(uid)
        if state == "done":
            self.tally.earlier += 1
            return
        if state == "refused":
            self.tally.refused[uid] = self.ledger.reason(uid)
            return
        if state == "ready":
            with suppress(LostError):
                self.send(uid)
                return
        self._make(uid, fetch)

    def _make(self, uid: str, fetch: Callable[[], bytes]) -> None:
        content = fetch()
        try:
            results = self._results(content, uid)
        except (RadiographError, ResultError) as error:
            self.ledger.refuse(uid, str(error))
            self.tally.refused[uid] = str(error)
            return
        except UnreachableError:
            raise
        except Exception as error:  # a defect of the program, which must not stop the other images
            frame = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{type(error).__name__}, {Path(frame.filename).name}:{frame.lineno}"
            raise NotTakenError(f"{uid}: RadZero fails on it ({at}); please report that") from error
        self.ledger.ready(uid, results)
        self.send(uid)

    def attempt(self, uid: str, work: Callable[[], None]) -> None:
        """Do some work on an image; a failure of this image or result alone is recorded in the tally, not raised."""
        self.tally.failed.pop(uid, None)
        try:
            work()
        except NotTakenError as error:
            self.tally.failed[uid] = str(error)

    def problems(self, uid: str) -> dict[str, str]:
        """Return the problems of an image: kind of problem -> reason."""
        tally = self.tally
        said = {"refused": tally.refused, "left out": tally.left_out, "failed": tally.failed, "warning": tally.warned}
        return {what: why[uid] for what, why in said.items() if uid in why}

    def send(self, uid: str) -> None:
        """Send an image's results that wait in the outbox.

        A result that the destination does not store does not stop the others.

        Raises:
            UnreachableError: when the destination does not store one of the results, or does not answer.
            LostError: when one of the results is gone or damaged; all results of the image must then be made again.
        """
        problems = []
        for queued in self.ledger.waiting(uid):
            result = self._unpack(uid, queued)
            try:
                if not (queued.tried and self.destination.holds(result)):
                    self.ledger.sending(uid, queued.uid)
                    self.destination.store(result)
                    self.tally.stored += 1
            except NotTakenError as error:
                problems.append(str(error))
            else:
                self.ledger.stored(uid, queued.uid)
        if problems:
            raise NotTakenError("; ".join(problems))
        self.ledger.done(uid)
        self.tally.done += 1

    def _unpack(self, uid: str, queued: QueuedResult) -> Dataset:
        try:
            content = queued.read()
        except (FileNotFoundError, ValueError) as error:
            self.ledger.forget(uid)
            raise LostError(
                f"{uid}: its result {queued.path.name} is gone or damaged and is to be made again"
            ) from error
        return pydicom.dcmread(BytesIO(content))

    def _results(self, content: bytes, uid: str) -> list[Dataset]:
        try:
            film = read_radiograph(content, limits=self.limits, name=uid, keep_header=True)
        except RadiographError:
            _refuse_own(read_header(content, limits=self.limits), uid)  # our results are in colour, which is refused
            raise
        header = result_header(film.header, uid)
        _refuse_own(header, uid)
        try:
            reading = self.model.predict(film, self.task.sentences)[0]
        except MemoryError as error:
            raise NotTakenError(f"{uid}: there was not enough memory for it") from error
        except RuntimeError as error:  # torch has no error class of its own for a CPU's memory
            if "memory" in str(error):
                raise NotTakenError(f"{uid}: there was not enough memory for it") from error
            raise ResultError(f"{uid}: the model failed on it: {error}") from error
        said = list(reading.film_warnings)  # warnings on sentences are the same for every image
        if uid.startswith(f"{header.SOPInstanceUID}-"):
            said.append("another file came under this UID before; results of both are kept")
        if said:
            self.tally.warned[uid] = f"{uid}: {'; '.join(said)}"
        made = make_possible_results(reading, header, self.task.kinds, threshold=self.task.threshold)
        if made.left_out:
            self.tally.left_out[uid] = "; ".join(made.left_out.values())
        return made.results


def _refuse_own(header: Dataset, uid: str) -> None:
    if header.get("Manufacturer") == MANUFACTURER and header.SOPClassUID == SecondaryCaptureImageStorage:
        raise ResultError(f"{uid}: is itself a result of RadZero")


class FolderDestination:
    """Write results as files ``STUDY/UID.dcm``.

    Args:
        folder: folder of the results; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"folder {folder.resolve()}"

    def _path(self, result: Dataset) -> Path:
        return self.folder / str(result.StudyInstanceUID) / f"{result.SOPInstanceUID}.dcm"

    def holds(self, result: Dataset) -> bool:
        """Return whether the file exists."""
        return self._path(result).is_file()

    def store(self, result: Dataset) -> None:
        """Write the file, whole or not at all.

        Raises:
            UnreachableError: when the file cannot be written, for example to a network share that is not mounted.
        """
        path, content = self._path(result), BytesIO()
        result.save_as(content, enforce_file_format=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())
        except OSError as error:
            raise UnreachableError(f"{path}: cannot be written ({error.strerror})") from error
