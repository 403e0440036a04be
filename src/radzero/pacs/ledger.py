"""Record the state of every image, so that a run that was killed at any moment is resumed and stores nothing twice.

An image goes through three states: nothing is known of it; its results lie in the outbox, all of them or none; every
result is stored and the image is done. Where the process died while it sent a result, the destination is asked whether
it has the result; that works because a result has the same UID whenever it is made.
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from radzero._files import write_whole
from radzero.prediction.model import RadZero

_TABLES = """
CREATE TABLE IF NOT EXISTS films (task TEXT, uid TEXT, state TEXT, reason TEXT, PRIMARY KEY (task, uid));
CREATE TABLE IF NOT EXISTS results (
    task TEXT, film TEXT, uid TEXT, sent INTEGER, stored INTEGER, sha256 TEXT, PRIMARY KEY (task, film, uid)
);
CREATE TABLE IF NOT EXISTS files (task TEXT, uid TEXT, sha256 TEXT, PRIMARY KEY (task, uid));
"""


@dataclass(frozen=True)
class Task:
    """Sentences that are asked about every image, and the results that are made of the answers.

    Attributes:
        sentences: sentences that are asked.
        kinds: kinds of DICOM results.
        threshold: similarity (0..1) from which a pixel belongs to a result's region.
    """

    sentences: tuple[str, ...]
    kinds: tuple[str, ...]
    threshold: float

    def identity(self, model: RadZero, destination: str) -> str:
        """Return a hash of the task, the model and the destination; tasks with the same hash are the same."""
        parts = [model.sha256 or model.name, self.sentences, sorted(self.kinds), self.threshold, destination]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class QueuedResult:
    """A result that waits in the outbox.

    Attributes:
        uid: SOP Instance UID of the result.
        path: file of the result.
        tried: whether sending it has begun before, so that it may have arrived.
        sha256: SHA-256 of the file as it was written.
    """

    uid: str
    path: Path
    tried: bool
    sha256: str

    def read(self) -> bytes:
        """Return the content of the file, as it was written.

        Raises:
            OSError: when the file does not exist or cannot be read.
            ValueError: when its content has changed.
        """
        content = self.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"{self.path} is damaged")
        return content


class Ledger:
    """State of a task's images in a folder with ``ledger.sqlite`` and ``outbox/``.

    One process at a time can work in the folder. A folder that is made here can be read by its owner alone.

    Raises:
        OSError, sqlite3.Error: when the folder cannot be written, or another process works in it.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self.outbox = folder / "outbox"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # images and results of patients lie in it
        self.outbox.mkdir(exist_ok=True)
        self.task = task
        self._database = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None, timeout=2)
        self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # a second process would send everything again
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_TABLES)
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(results)")}
        if "sha256" not in columns:  # the folder is of an earlier version; results that wait in it are made again
            self._database.execute("ALTER TABLE results ADD COLUMN sha256 TEXT")
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the ledger, so that another process can work in the folder."""
        self._database.close()

    def name(self, uid: str, content: bytes) -> str:
        """Return an image's name in the ledger: its SOP Instance UID, with a hash if another file had the UID first.

        The first file with a UID is named by the UID alone. In a folder of an earlier version, which kept no hashes of
        files, the first file that comes is taken for the one that the results were made of.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        self._database.execute("INSERT OR IGNORE INTO files VALUES (?, ?, ?)", (self.task, uid, sha256))
        query = "SELECT sha256 FROM files WHERE task=? AND uid=?"
        (first,) = self._database.execute(query, (self.task, uid)).fetchone()
        return uid if sha256 == first else f"{uid}-{sha256[:16]}"

    def state(self, film: str) -> str | None:
        """Return None, "ready" (results wait), "lost" (results must be made again), "done" or "refused"."""
        query = "SELECT state FROM films WHERE task=? AND uid=?"
        row = self._database.execute(query, (self.task, film)).fetchone()
        return str(row[0]) if row else None

    def reason(self, film: str) -> str:
        """Return why an image was refused."""
        query = "SELECT reason FROM films WHERE task=? AND uid=?"
        return str(self._database.execute(query, (self.task, film)).fetchone()[0])

    def counts(self) -> dict[str, int]:
        """Return the number of images in each state."""
        query = "SELECT state, COUNT(*) FROM films WHERE task=? GROUP BY state"
        return dict(self._database.execute(query, (self.task,)).fetchall())

    def refuse(self, film: str, reason: str) -> None:
        """Record that an image can have no result, and why."""
        self._drop(film, ())
        self._database.execute("INSERT OR REPLACE INTO films VALUES (?, ?, 'refused', ?)", (self.task, film, reason))

    def ready(self, film: str, results: Sequence[Dataset]) -> None:
        """Put an image's results into the outbox, all of them or none."""
        rows = []
        for result in results:
            buffer = BytesIO()
            result.save_as(buffer, enforce_file_format=True)
            content, uid = buffer.getvalue(), str(result.SOPInstanceUID)
            write_whole(self._path(uid), content)
            sha256 = hashlib.sha256(content).hexdigest()
            rows.append({"task": self.task, "film": film, "uid": uid, "sha256": sha256})
        with self._database:  # commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            # where results are made a second time, the record of those that may have arrived is kept
            again = "ON CONFLICT (task, film, uid) DO UPDATE SET sha256=excluded.sha256"
            # the same result may be stored already for another file of the image (another transfer syntax, say)
            stored = "EXISTS (SELECT 1 FROM results WHERE task=:task AND uid=:uid AND stored=1)"
            row = f"(:task, :film, :uid, 0, {stored}, :sha256)"
            self._database.executemany(f"INSERT INTO results VALUES {row} {again}", rows)
            self._drop(film, [row["uid"] for row in rows])
            self._database.execute("INSERT OR REPLACE INTO films VALUES (?, ?, 'ready', '')", (self.task, film))

    def forget(self, film: str) -> None:
        """Record that an image's results must be made again, because one in the outbox is lost."""
        self._database.execute("UPDATE films SET state='lost' WHERE task=? AND uid=?", (self.task, film))

    def _drop(self, film: str, wanted: Sequence[str]) -> None:
        """Delete an image's waiting results that were made earlier and are not among the wanted UIDs."""
        query = "SELECT uid FROM results WHERE task=? AND film=? AND stored=0"
        for (uid,) in self._database.execute(query, (self.task, film)).fetchall():
            if uid not in wanted:
                self._path(uid).unlink(missing_ok=True)
                delete = "DELETE FROM results WHERE task=? AND film=? AND uid=?"
                self._database.execute(delete, (self.task, film, uid))

    def waiting(self, film: str) -> list[QueuedResult]:
        """Return an image's results that are not known to be stored."""
        query = "SELECT uid, sent, sha256 FROM results WHERE task=? AND film=? AND stored=0 ORDER BY rowid"
        rows = self._database.execute(query, (self.task, film)).fetchall()
        return [QueuedResult(str(uid), self._path(uid), bool(sent), str(sha256)) for uid, sent, sha256 in rows]

    def films_waiting(self) -> list[str]:
        """Return the names of the images with results that wait in the outbox."""
        return self._films_that_are("ready")

    def films_lost(self) -> list[str]:
        """Return the names of the images whose results must be made again."""
        return self._films_that_are("lost")

    def _films_that_are(self, state: str) -> list[str]:
        query = "SELECT uid FROM films WHERE task=? AND state=? ORDER BY rowid"
        return [str(row[0]) for row in self._database.execute(query, (self.task, state)).fetchall()]

    def sending(self, film: str, uid: str) -> None:
        """Record, before a result is sent, that it may have arrived from now on."""
        query = "UPDATE results SET sent=1 WHERE task=? AND film=? AND uid=?"
        self._database.execute(query, (self.task, film, uid))

    def stored(self, film: str, uid: str) -> None:
        """Record that a result has arrived."""
        query = "UPDATE results SET stored=1 WHERE task=? AND film=? AND uid=?"
        self._database.execute(query, (self.task, film, uid))

    def done(self, film: str) -> None:
        """Record that all of an image's results have arrived, and delete them from the outbox."""
        query = "SELECT uid FROM results WHERE task=? AND film=?"
        for (uid,) in self._database.execute(query, (self.task, film)).fetchall():
            self._path(uid).unlink(missing_ok=True)
        self._database.execute("UPDATE films SET state='done' WHERE task=? AND uid=?", (self.task, film))

    def _path(self, uid: str) -> Path:
        return self.outbox / f"{self.task}-{uid}.dcm"  # another task may have the same result for another place
