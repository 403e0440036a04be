"""What was done to which film, kept so that a run that is killed at any moment goes on without doing it twice.

A film goes through three states: nothing known of it; its results lie in the outbox, all of them or none; every
result is stored and the film is done. Whether a result that was being sent when the process died has arrived is asked
of its destination, since its UID is the same whenever it is made.
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
    """What is asked of every film, and what becomes of the answers.

    Attributes:
        sentences: asked.
        kinds: of DICOM results.
        threshold: of their regions.
    """

    sentences: tuple[str, ...]
    kinds: tuple[str, ...]
    threshold: float

    def identity(self, model: RadZero, destination: str) -> str:
        """A hash of all that makes two tasks the same, the model and where results go included."""
        parts = [model.sha256 or model.name, self.sentences, sorted(self.kinds), self.threshold, destination]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Parcel:
    """A result that waits in the outbox.

    Attributes:
        uid: its SOP Instance UID.
        path: its file.
        tried: whether it was being sent once, and may have arrived.
        sha256: of the file.
    """

    uid: str
    path: Path
    tried: bool
    sha256: str

    def read(self) -> bytes:
        """The file, as it was written.

        Raises:
            OSError: when it is gone or cannot be read.
            ValueError: when it is not what was written.
        """
        content = self.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"{self.path} is damaged")
        return content


class Ledger:
    """A folder with ``ledger.sqlite`` and ``outbox/``, of one process at a time, and when it makes it, of one user.

    Raises:
        OSError, sqlite3.Error: when the folder cannot be written, or another process works in it.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self.outbox = folder / "outbox"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # films and results of patients lie in it
        self.outbox.mkdir(exist_ok=True)
        self.task = task
        self._database = sqlite3.connect(folder / "ledger.sqlite", isolation_level=None, timeout=2)
        self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # a second process would send everything again
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_TABLES)
        columns = {row[1] for row in self._database.execute("PRAGMA table_info(results)")}
        if "sha256" not in columns:  # of a folder of an earlier day; what waits there is made again
            self._database.execute("ALTER TABLE results ADD COLUMN sha256 TEXT")
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Let others work in the folder."""
        self._database.close()

    def name(self, uid: str, content: bytes) -> str:
        """What a film is called here: its SOP Instance UID, or, where that was another file's first, UID and hash.

        The first file that is named so has the UID; in a folder of an earlier day, that of which results were made is
        taken to be the same.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        self._database.execute("INSERT OR IGNORE INTO files VALUES (?, ?, ?)", (self.task, uid, sha256))
        query = "SELECT sha256 FROM files WHERE task=? AND uid=?"
        (first,) = self._database.execute(query, (self.task, uid)).fetchone()
        return uid if sha256 == first else f"{uid}-{sha256[:16]}"

    def state(self, film: str) -> str | None:
        """None, "ready" (results wait), "lost" (they are to be made again), "done" or "refused"."""
        query = "SELECT state FROM films WHERE task=? AND uid=?"
        row = self._database.execute(query, (self.task, film)).fetchone()
        return str(row[0]) if row else None

    def reason(self, film: str) -> str:
        """Why a film was refused."""
        query = "SELECT reason FROM films WHERE task=? AND uid=?"
        return str(self._database.execute(query, (self.task, film)).fetchone()[0])

    def counts(self) -> dict[str, int]:
        """How many films are in each state."""
        query = "SELECT state, COUNT(*) FROM films WHERE task=? GROUP BY state"
        return dict(self._database.execute(query, (self.task,)).fetchall())

    def refuse(self, film: str, reason: str) -> None:
        """Note that a film can have no result, and why."""
        self._drop(film, ())
        self._database.execute("INSERT OR REPLACE INTO films VALUES (?, ?, 'refused', ?)", (self.task, film, reason))

    def ready(self, film: str, results: Sequence[Dataset]) -> None:
        """Put a film's results into the outbox, all of them or none."""
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
            # where they are made a second time, it stays known what may have arrived
            again = "ON CONFLICT (task, film, uid) DO UPDATE SET sha256=excluded.sha256"
            # of the same film in another file (another transfer syntax, say) the same result may be stored
            stored = "EXISTS (SELECT 1 FROM results WHERE task=:task AND uid=:uid AND stored=1)"
            row = f"(:task, :film, :uid, 0, {stored}, :sha256)"
            self._database.executemany(f"INSERT INTO results VALUES {row} {again}", rows)
            self._drop(film, [row["uid"] for row in rows])
            self._database.execute("INSERT OR REPLACE INTO films VALUES (?, ?, 'ready', '')", (self.task, film))

    def forget(self, film: str) -> None:
        """Note that a film's results are to be made again, since one in the outbox is lost."""
        self._database.execute("UPDATE films SET state='lost' WHERE task=? AND uid=?", (self.task, film))

    def _drop(self, film: str, wanted: Sequence[str]) -> None:
        """Forget results of a film other than these, of an earlier time that they were made, and that wait."""
        query = "SELECT uid FROM results WHERE task=? AND film=? AND stored=0"
        for (uid,) in self._database.execute(query, (self.task, film)).fetchall():
            if uid not in wanted:
                self._path(uid).unlink(missing_ok=True)
                delete = "DELETE FROM results WHERE task=? AND film=? AND uid=?"
                self._database.execute(delete, (self.task, film, uid))

    def waiting(self, film: str) -> list[Parcel]:
        """Results of a film that are not known to be stored."""
        query = "SELECT uid, sent, sha256 FROM results WHERE task=? AND film=? AND stored=0 ORDER BY rowid"
        rows = self._database.execute(query, (self.task, film)).fetchall()
        return [Parcel(str(uid), self._path(uid), bool(sent), str(sha256)) for uid, sent, sha256 in rows]

    def films_waiting(self) -> list[str]:
        """Films with results that are not known to be stored."""
        return self._films_that_are("ready")

    def films_lost(self) -> list[str]:
        """Films whose results are to be made again."""
        return self._films_that_are("lost")

    def _films_that_are(self, state: str) -> list[str]:
        query = "SELECT uid FROM films WHERE task=? AND state=? ORDER BY rowid"
        return [str(row[0]) for row in self._database.execute(query, (self.task, state)).fetchall()]

    def sending(self, film: str, uid: str) -> None:
        """Note, before a result is sent, that it may from now on have arrived."""
        query = "UPDATE results SET sent=1 WHERE task=? AND film=? AND uid=?"
        self._database.execute(query, (self.task, film, uid))

    def stored(self, film: str, uid: str) -> None:
        """Note that a result has arrived."""
        query = "UPDATE results SET stored=1 WHERE task=? AND film=? AND uid=?"
        self._database.execute(query, (self.task, film, uid))

    def done(self, film: str) -> None:
        """Note that all of a film's results have arrived, and empty its outbox."""
        query = "SELECT uid FROM results WHERE task=? AND film=?"
        for (uid,) in self._database.execute(query, (self.task, film)).fetchall():
            self._path(uid).unlink(missing_ok=True)
        self._database.execute("UPDATE films SET state='done' WHERE task=? AND uid=?", (self.task, film))

    def _path(self, uid: str) -> Path:
        return self.outbox / f"{self.task}-{uid}.dcm"  # another task may have the same result for another place
