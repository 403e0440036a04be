"""The folder of a run of ``radzero predict``: its lines, its record, and how an interrupted run is resumed.

``predictions.jsonl`` has a line per item, ``run.json`` what makes the run this one and not another, and beside them lie
the files of the writers (:mod:`radzero.prediction.writers`).
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import normalize

from radzero import __version__
from radzero._files import write_whole
from radzero.prediction.inputs import Item

if TYPE_CHECKING:
    from radzero.prediction.model import RadZero
    from radzero.prediction.writers import Writer

_NAME_BYTES = 240
"""Longest part of an item's name within a folder name, in bytes; file systems allow 255, and a hash follows."""


def run_identity(
    model: "RadZero",
    sentences: Sequence[str],
    *,
    threshold: float,
    precision: str,
    writers: Sequence["Writer"] = (),
) -> dict[str, Any]:
    """The entries of ``run.json`` by which two runs are the same run."""
    identity = {
        "model": model.name,
        "sha256": model.sha256,
        "dtype": str(model.dtype).removeprefix("torch."),
        "precision": precision,
        "sentences": list(sentences),
        "threshold": threshold,
        "overlays": any(writer.name == "overlays" for writer in writers),
    }
    for writer in writers:
        identity |= writer.identity()
    return {**identity, "version": __version__}


def item_folder(kind: Path, name: str) -> Path:
    """Make the folder for an item's files: its name, and a few letters of a hash, so that no two items share it."""
    stem = re.sub(r"[^\w.-]+", "-", normalize("NFC", Path(name).stem))[:80]
    stem = stem.encode()[:_NAME_BYTES].decode(errors="ignore")
    folder = kind / f"{stem}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Line(NamedTuple):
    """What a line says: of which item, whether it failed, and the files that were written beside it."""

    name: str
    failed: bool
    files: list[str]


class OutputFolder:
    """The folder of one run; its lines are whole or absent after any crash.

    Attributes:
        folder: where everything is.
        lines: path of ``predictions.jsonl``.
        done: names of items of this run that have a reading there.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        items: Sequence[Item] = (),
        *,
        file_keys: Sequence[str] = ("overlays", "results"),
    ) -> None:
        """Start a run, or resume one. An earlier run that wrote no line is ignored.

        Args:
            folder: made if needed.
            identity: what makes two runs the same; see :func:`run_identity`.
            items: of this run. Their error lines of an earlier run are removed, so that they are tried again, and so
                are the readings of items whose files have changed since, or are others of the same relative name.
            file_keys: entries of a line that list files; an item whose files are gone is read again.

        Raises:
            ValueError: when the folder holds a run of another model or other sentences, or a damaged one.
            OSError: when it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines = folder / "predictions.jsonl"
        self._order = {item.name: k for k, item in enumerate(items)}
        self._file_keys = file_keys
        note = folder / "run.json"
        stamps = {item.name: item.stamp() for item in items}
        earlier: dict[str, Any] = {}
        earlier_stamps: dict[str, Any] = {}
        if note.exists():
            try:
                earlier = json.loads(note.read_text(encoding="utf-8"))
                earlier_stamps = dict(earlier.get("files", {}))
            except (ValueError, AttributeError, TypeError) as error:
                raise ValueError(f"{note}: is damaged ({error}); name another output folder") from error
            if differs := _differences(earlier, identity):
                if self._has_lines():
                    raise ValueError(f"{folder}: was run {', and '.join(differs)}; name another output folder")
                earlier_stamps = {}
        elif self.lines.exists():
            raise ValueError(f"{folder}: holds predictions.jsonl of an unknown run; name another output folder")
        stale = {name for name, stamp in stamps.items() if earlier_stamps.get(name, stamp) != stamp}
        again = {stamp[0] for stamp in stamps.values()}  # files that an earlier run called by another name
        stale |= {name for name, stamp in earlier_stamps.items() if name not in stamps and stamp[0] in again}
        earlier_stamps = {name: stamp for name, stamp in earlier_stamps.items() if name not in stale}
        self.done = self._keep_whole_lines(stale)
        content = {**identity, "files": {**earlier_stamps, **stamps}}
        write_whole(note, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

    def _has_lines(self) -> bool:
        return self.lines.exists() and b"\n" in self.lines.read_bytes()

    def _keep_whole_lines(self, stale: set[str]) -> set[str]:
        """Remove the lines of items that are read again, and a torn last line; give the names that have a reading."""
        if not self.lines.exists():
            return set()
        kept: list[bytes] = []
        done: set[str] = set()
        for number, line in enumerate(self.lines.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                continue
            name, failed, files = self._parse(line, number)
            if name in stale or (name in self._order and (failed or not self._all_there(files))):
                continue
            kept.append(line)
            if not failed:
                done.add(name)
        write_whole(self.lines, b"".join(kept))
        return done

    def _all_there(self, files: list[str]) -> bool:
        return all((self.folder / name).is_file() for name in files)

    def _parse(self, line: bytes, number: int) -> _Line:
        try:
            record = json.loads(line)
            files = [name for key in self._file_keys for name in record.get(key, ())]
            return _Line(str(record["image"]), "error" in record, files)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.lines}: line {number} is damaged ({type(error).__name__}: {error}); name another output folder"
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """The lines, parsed."""
        return [json.loads(line) for line in self.lines.read_bytes().splitlines()]

    def sort_lines(self) -> None:
        """Put the lines in the order of this run's items, those of other runs first, as if none was tried twice."""
        lines = self.lines.read_bytes().splitlines(keepends=True)
        ranked = sorted(range(len(lines)), key=lambda k: (self._order.get(self._parse(lines[k], k + 1).name, -1), k))
        if ranked != list(range(len(lines))):
            write_whole(self.lines, b"".join(lines[k] for k in ranked))


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What tells a run from an earlier one, in words: "with overlays, now without"; see :func:`run_identity`."""
    keys = sorted({*earlier, *now} - {"version", "files"})
    changed = [key for key in keys if earlier.get(key) != now.get(key)]
    if "model" in changed:
        changed = [key for key in changed if key != "sha256"]  # it follows from the model
    return [_difference(key, earlier.get(key), now.get(key)) for key in changed]


def _difference(key: str, before: Any, now: Any) -> str:
    if key == "sentences" and isinstance(before, list):
        new, gone = ([text for text in a if text not in b] for a, b in ((now, before), (before, now)))
        parts = [f"{_some(new)} not asked then"] if new else []
        parts += [f"{_some(gone)} not asked now"] if gone else []
        return f"with other sentences ({', '.join(parts)})" if parts else "with its sentences in another order"
    if key == "sha256":
        return "with other weights of this model"
    if key == "results":
        return f"with DICOM results {_listed(before)}, now {_listed(now)}"
    if isinstance(before, bool):
        return f"with {key}, now without" if before else f"without {key}, now with"
    return f"with {key} {before}, now {now}"


def _some(sentences: Sequence[str]) -> str:
    return f"{sentences[0]!r}" + (f" and {len(sentences) - 1} more" if len(sentences) > 1 else "")


def _listed(kinds: Sequence[str] | None) -> str:
    return ",".join(kinds or ("none",))
