"""One film at a time: read, ask, make results, send them; every step written down before the next begins."""

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
from radzero.pacs.ledger import Ledger, Parcel, Task
from radzero.prediction.model import RadZero
from radzero.results import ResultError, make_possible_results, read_header, result_header
from radzero.results.identity import MANUFACTURER


class UnreachableError(RadZeroError, RuntimeError):
    """A server that does not answer, or refuses for the time being; the run can be given again."""


class NotTakenError(UnreachableError):
    """A server that answers, but does not give one film or take one result; others may fare better."""


class LostError(NotTakenError):
    """A result in the outbox that is gone or damaged; the film's results are to be made again."""


class Destination(Protocol):
    """Where results go."""

    name: str

    def holds(self, result: Dataset) -> bool:
        """Whether a result is there already."""
        ...

    def store(self, result: Dataset) -> None:
        """Send a result.

        Raises:
            UnreachableError: when it did not arrive.
        """
        ...


@dataclass
class Tally:
    """What a run did.

    Attributes:
        done: films whose results are stored, by this run.
        earlier: films that an earlier run had finished.
        refused: film -> reason.
        left_out: film -> why it has no result of some kinds.
        warned: film -> what is to be known of it before a result is trusted.
        failed: film -> why it could not be fetched or its results not be stored; tried again by the next run.
        stored: results sent by this run.
    """

    done: int = 0
    earlier: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warned: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stored: int = 0


class Processor:
    """Turns films into stored results.

    Args:
        model: that answers.
        task: what is asked.
        destination: where results go.
        ledger: what was done.
        limits: of films.
    """

    def __init__(
        self, model: RadZero, task: Task, destination: Destination, ledger: Ledger, limits: ReadLimits | None = None
    ) -> None:
        self.model, self.task, self.destination, self.ledger, self.limits = model, task, destination, ledger, limits
        self.tally = Tally()

    def process(self, uid: str, fetch: Callable[[], bytes]) -> None:
        """See to one film.

        Args:
            uid: its SOP Instance UID, or what :meth:`~radzero.pacs.ledger.Ledger.name` calls it.
            fetch: its file; called when it is needed.

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
        except Exception as error:  # a defect of the program's; it must not keep the other films
            frame = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{type(error).__name__}, {Path(frame.filename).name}:{frame.lineno}"
            raise NotTakenError(f"{uid}: RadZero fails on it ({at}); please report that") from error
        self.ledger.ready(uid, results)
        self.send(uid)

    def attempt(self, uid: str, work: Callable[[], None]) -> None:
        """Do something about a film; when the server does not give or take just this, note it and go on."""
        self.tally.failed.pop(uid, None)
        try:
            work()
        except NotTakenError as error:
            self.tally.failed[uid] = str(error)

    def problems(self, uid: str) -> dict[str, str]:
        """What became of a film other than its results: kind of problem -> why."""
        tally = self.tally
        said = {"refused": tally.refused, "left out": tally.left_out, "failed": tally.failed, "warning": tally.warned}
        return {what: why[uid] for what, why in said.items() if uid in why}

    def send(self, uid: str) -> None:
        """Send what waits of a film's results.

        One that the destination does not take keeps back no other.

        Raises:
            UnreachableError: when the destination does not take one.
            LostError: when one is not there any more; all of its film are then to be made again.
        """
        problems = []
        for parcel in self.ledger.waiting(uid):
            result = self._unpack(uid, parcel)
            try:
                if not (parcel.tried and self.destination.holds(result)):
                    self.ledger.sending(uid, parcel.uid)
                    self.destination.store(result)
                    self.tally.stored += 1
            except NotTakenError as error:
                problems.append(str(error))
            else:
                self.ledger.stored(uid, parcel.uid)
        if problems:
            raise NotTakenError("; ".join(problems))
        self.ledger.done(uid)
        self.tally.done += 1

    def _unpack(self, uid: str, parcel: Parcel) -> Dataset:
        try:
            content = parcel.read()
        except (FileNotFoundError, ValueError) as error:
            self.ledger.forget(uid)
            raise LostError(
                f"{uid}: its result {parcel.path.name} is gone or damaged and is to be made again"
            ) from error
        return pydicom.dcmread(BytesIO(content))

    def _results(self, content: bytes, uid: str) -> list[Dataset]:
        try:
            film = read_radiograph(content, limits=self.limits, name=uid, keep_header=True)
        except RadiographError:
            _refuse_own(read_header(content, limits=self.limits), uid)  # a secondary capture is a picture in colour
            raise
        header = result_header(film.header, uid)
        _refuse_own(header, uid)
        try:
            reading = self.model.predict(film, self.task.sentences)[0]
        except MemoryError as error:
            raise NotTakenError(f"{uid}: there was not enough memory for it") from error
        except RuntimeError as error:  # of torch, which has no class of its own for a CPU's memory
            if "memory" in str(error):
                raise NotTakenError(f"{uid}: there was not enough memory for it") from error
            raise ResultError(f"{uid}: the model failed on it: {error}") from error
        said = list(reading.film_warnings)  # those of sentences are the same for every film
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
    """Results as files ``STUDY/UID.dcm``.

    Args:
        folder: made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"folder {folder.resolve()}"

    def _path(self, result: Dataset) -> Path:
        return self.folder / str(result.StudyInstanceUID) / f"{result.SOPInstanceUID}.dcm"

    def holds(self, result: Dataset) -> bool:
        """Whether the file is there."""
        return self._path(result).is_file()

    def store(self, result: Dataset) -> None:
        """Write the file, whole or not at all.

        Raises:
            UnreachableError: when it cannot be written, as to a share that is away.
        """
        path, content = self._path(result), BytesIO()
        result.save_as(content, enforce_file_format=True)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())
        except OSError as error:
            raise UnreachableError(f"{path}: cannot be written ({error.strerror})") from error
