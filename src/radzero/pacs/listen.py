"""Receive images by C-STORE and make results of them; an image is safe on disk before it is acknowledged."""

import hashlib
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from radzero._files import flush, flush_folder
from radzero.images.dicom_header import TransferSyntax
from radzero.pacs.process import NotTakenError, Processor, UnreachableError

FILM_CLASSES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
_SUCCESS, _NO_ROOM, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_HAS_IT = 0x0111  # duplicate SOP instance: an earlier try arrived


@dataclass(frozen=True)
class Peer:
    """Application entity that results are sent to: its title, host and port."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Peer":
        """Parse AET@HOST:PORT.

        Raises:
            ValueError: when the text has another form, or the title is not valid.
        """
        from pynetdicom import AE

        title, at, address = text.partition("@")
        host, colon, port = address.rpartition(":")
        if not (at and colon and host and port.isdecimal() and port.isascii() and 0 < int(port) < 65536):
            raise ValueError(f"{text!r}: name a peer as AET@HOST:PORT")
        try:
            AE(ae_title=title)
        except ValueError as error:
            raise ValueError(
                f"{text!r}: the title has 1 to 16 characters of ASCII, no backslash, and not blanks alone"
            ) from error
        return cls(title, host.strip("[]"), int(port))


class DimseDestination:
    """Send results by C-STORE.

    A peer cannot be asked what it has. Where the process died while it sent a result, the result is sent again under
    the same UID; an archive takes it for the same object.

    Args:
        peer: application that results are sent to.
        title: our own application title.
    """

    def __init__(self, peer: Peer, title: str) -> None:
        self.peer, self.title = peer, title
        self.name = f"{peer.title}@{peer.host}:{peer.port}"

    def holds(self, result: Dataset) -> bool:
        """Return False, because a peer cannot be asked."""
        return False

    def store(self, result: Dataset) -> None:
        """Send a result.

        Raises:
            UnreachableError: when the peer did not confirm that it stored the result.
        """
        from pynetdicom import AE

        entity = AE(ae_title=self.title)
        # the default transfer syntax must be offered for a result that is not compressed (PS3.5, 10.1)
        entity.add_requested_context(result.SOPClassUID, [result.file_meta.TransferSyntaxUID, ImplicitVRLittleEndian])
        association = entity.associate(self.peer.host, self.peer.port, ae_title=self.peer.title)
        if not association.is_established:
            if association.rejected_contexts:
                raise NotTakenError(f"{self.name} takes no {UID(result.SOPClassUID).name}")
            raise UnreachableError(f"{self.name} takes no association")
        try:
            status = association.send_c_store(result)
        except ValueError as error:
            raise NotTakenError(f"{self.name} takes no {UID(result.SOPClassUID).name} ({error})") from error
        finally:
            association.release()
        code = status.get("Status")
        if code is None or (code not in (_SUCCESS, _HAS_IT) and code >> 12 != 0xB):
            if code is None:
                raise UnreachableError(f"{self.name} answered nothing to {result.SOPInstanceUID}")
            raise NotTakenError(f"{self.name} answered status {code:04X} to {result.SOPInstanceUID}")


class Listener:
    """A storage SCP with an inbox.

    Args:
        processor: processor of the images.
        inbox: folder of images that are not finished.
        title: our application title.
        host, port: address to listen on; port 0 takes a free one.
        callers: titles of the applications that may send; any may when empty.
        on_film: called after every image with its name in the ledger (its UID) and the problem, if any.
        retry_s: seconds until an image whose results could not be sent is tried again; doubled each time up to an hour.
    """

    def __init__(
        self,
        processor: Processor,
        inbox: Path,
        *,
        title: str,
        host: str,
        port: int,
        callers: tuple[str, ...] = (),
        on_film: Callable[[str, str | None], None] = lambda uid, problem: None,
        retry_s: float = 30.0,
    ) -> None:
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
        from pynetdicom.sop_class import Verification

        self.processor, self.inbox, self._on_film, self._retry = processor, inbox, on_film, retry_s
        inbox.mkdir(parents=True, exist_ok=True)
        self._films: queue.SimpleQueue[Path | None] = queue.SimpleQueue()  # signal handlers may put into it, too
        self._retry_at: dict[Path, float] = {}
        self._tries: Counter[Path] = Counter()
        self._stopping = threading.Event()
        self._entity = entity = AE(ae_title=title)
        if callers:
            entity.require_calling_aet = list(callers)
        entity.require_called_aet = False
        readable = [uid for uid in ALL_TRANSFER_SYNTAXES if uid in {syntax.value for syntax in TransferSyntax}]
        for storage in FILM_CLASSES:
            entity.add_supported_context(storage, readable)
        entity.add_supported_context(Verification)
        self.server: Any = entity.start_server(
            (host, port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._arrive)]
        )

    @property
    def port(self) -> int:
        """Port that the listener listens on."""
        return int(self.server.server_address[1])

    def run(self) -> None:
        """Work on the images that an earlier run left, then on those that arrive, until :meth:`stop`."""
        for left in sorted(self.inbox.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns):
            self._films.put(left)
        while True:
            due = [path for path, at in self._retry_at.items() if at <= time.monotonic()]
            for path in due:
                self._try(path)
            try:
                until = min(self._retry_at.values(), default=None)
                film = self._films.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                continue
            if film is None:
                break
            if film not in self._retry_at:
                self._try(film)
        for association in self._entity.active_associations:  # a sender that is cut off sends its image again
            association.abort()
        self.server.shutdown()

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopping.is_set()

    def _try(self, path: Path) -> None:
        """Work on an image; where its results cannot be sent, plan the next try."""
        self._retry_at.pop(path, None)
        pause = min(self._retry * 2 ** self._tries[path], max(self._retry, 3600))
        if self._work(path, pause):
            del self._tries[path]
        else:
            self._tries[path] += 1
            self._retry_at[path] = time.monotonic() + pause

    def stop(self) -> None:
        """Take no more images; :meth:`run` ends after the image that it works on, and the others stay in the inbox.

        A signal handler may call this.
        """
        self._stopping.set()
        self._films.put(None)

    def _work(self, path: Path, pause: float) -> bool:
        """Work on an image, and return whether it needs no further work now."""
        if self._stopping.is_set() or not path.exists():  # an image sent twice is done already
            return True
        name = path.stem.partition("_")[0]
        try:
            content = path.read_bytes()
            name = self.processor.ledger.name(name, content)
            self.processor.process(name, lambda: content)
        except (UnreachableError, OSError, sqlite3.Error) as error:  # the disk may fail, too
            self._on_film(name, f"{error}; tried again in {pause:g} seconds")
            return False
        path.unlink(missing_ok=True)
        self._on_film(name, self.processor.tally.refused.get(name))
        return True

    def _arrive(self, event: Any) -> int:
        """Write an image to the inbox, and acknowledge it only then."""
        if self.stopping:
            return _NO_ROOM
        uid = str(event.request.AffectedSOPInstanceUID)
        if not UID(uid).is_valid:
            return _CANNOT_UNDERSTAND
        content = event.encoded_dataset()
        # another image may come under the same UID; every one that was acknowledged is worked on
        path = self.inbox / f"{uid}_{hashlib.sha256(content).hexdigest()[:16]}.dcm"
        partial = path.with_name(f"{uid}.{threading.get_ident()}.partial")
        try:
            with partial.open("wb") as file:
                file.write(content)
                flush(file)
            partial.replace(path)
            flush_folder(self.inbox)
        except OSError:
            partial.unlink(missing_ok=True)
            return _NO_ROOM
        self._films.put(path)
        return _SUCCESS
