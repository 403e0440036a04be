"""Keep the output folder of ``radzero predict``, and resume an interrupted run in it.

``predictions.jsonl`` has a line per item. ``run.json`` records what two runs must share to be the same run. The writers
(:mod:`radzero.prediction.writers`) put their files beside them.
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
"""Longest part of an item's name within a folder name, in bytes: file systems allow 255, and a hash follows."""


def run_identity(
    model: "RadZero",
    sentences: Sequence[str],
    *,
    threshold: float,
    precision: str,
    writers: Sequence["Writer"] = (),
) -> dict[str, Any]:
    """Return the entries of ``run.json`` that two runs must share to be the same run."""
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
    """Make the folder of an item's files of one kind.

    Its name is the item's, with a few letters of a hash, so that no two items share it. A file in it is written by
    :func:`radzero._files.replacing`, so that it is whole or absent after any crash.

    Args:
        kind: folder of all items' files of this kind.
        name: name of the item.
    """
    stem = cut(re.sub(r"[^\w.-]+", "-", normalize("NFC", Path(name).stem))[:80], _NAME_BYTES)
    folder = kind / f"{stem}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cut(text: str, most_bytes: int) -> str:
    """Return as much of a text, from its beginning, as fits into ``most_bytes`` bytes of UTF-8."""
    return text.encode()[:most_bytes].decode(errors="ignore")


class _Line(NamedTuple):
    """The parsed line of an item: its name, whether it failed, and the files that the writers wrote for it."""

    name: str
    failed: bool
    files: list[str]


class OutputFolder:
    """The output folder of one run, in which every line is whole or absent after any crash.

    Attributes:
        folder: path of the folder.
        lines: path of ``predictions.jsonl``.
        done: names of items that have a reading in the folder.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        items: Sequence[Item] = (),
        *,
        file_keys: Sequence[str] = (),
    ) -> None:
        """Start a run, or resume one. An earlier run that wrote no line is ignored.

        Args:
            folder: path of the folder, which is made if needed.
            identity: entries that two runs must share to be the same run; see :func:`run_identity`.
            items: items of this run. Three kinds of lines of an earlier run are removed, so that their items are read
                again: errors, readings of files that have changed since, and readings of other files of the same name.
            file_keys: entries of a line that list files (:func:`radzero.prediction.writers.file_keys`); an item whose
                files are missing is read again.

        Raises:
            ValueError: when the folder holds a damaged run, or another run, such as one of another model.
            OSError: when the folder cannot be written.
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
        again = {
            stamp[0] for stamp in stamps.values()
        }  # paths of files that an earlier run may have given another name
        stale |= {name for name, stamp in earlier_stamps.items() if name not in stamps and stamp[0] in again}
        earlier_stamps = {name: stamp for name, stamp in earlier_stamps.items() if name not in stale}
        self.done = self._keep_whole_lines(stale)
        content = {**identity, "files": {**earlier_stamps, **stamps}}
        write_whole(note, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

    def _has_lines(self) -> bool:
        return self.lines.exists() and b"\n" in self.lines.read_bytes()

    def _keep_whole_lines(self, stale: set[str]) -> set[str]:
        """Remove lines of items to read again, and an incomplete last line; return the names that have a reading."""
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
        """Return the parsed lines."""
        return [json.loads(line) for line in self.lines.read_bytes().splitlines()]

    def sort_lines(self) -> None:
        """Sort the lines into the order of this run's items, after the lines of items that this run did not have.

        The file is then the same as if no item had been read twice.
        """
        lines = self.lines.read_bytes().splitlines(keepends=True)
        ranked = sorted(range(len(lines)), key=lambda k: (self._order.get(self._parse(lines[k], k + 1).name, -1), k))
        if ranked != list(range(len(lines))):
            write_whole(self.lines, b"".join(lines[k] for k in ranked))


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words how a run differs from an earlier one, such as "with overlays, now without"."""
    keys = sorted({*earlier, *now} - {"version", "files"})
    changed = [key for key in keys if earlier.get(key) != now.get(key)]
    if "model" in changed:
        changed = [key for key in changed if key != "sha256"]  # another model has other weights, which need no mention
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
    if isinstance(before, bool) or isinstance(now, bool):  # the entry of an output is absent where the output is
        return f"with {key}, now without" if before else f"without {key}, now with"
    return f"with {key} {before}, now {now}"


def _some(sentences: Sequence[str]) -> str:
    return f"{sentences[0]!r}" + (f" and {len(sentences) - 1} more" if len(sentences) > 1 else "")


def _listed(kinds: Sequence[str] | None) -> str:
    return ",".join(kinds or ("none",))
