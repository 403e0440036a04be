"""Reading many files: find them, read what can be read, say why the rest cannot, and go on where a run stopped."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radzero import __version__
from radzero.images import Radiograph, RadiographError, read_radiograph
from radzero.reading import RadZero, Reading

NOT_IMAGES = frozenset(
    {
        *(".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".rst", ".html", ".xml", ".yaml", ".yml", ".log"),
        *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tgz", ".tar", ".7z", ".py", ".sh"),
        *(".parquet", ".npy", ".npz", ".pkl", ".pt", ".safetensors"),
    }
)
"""In folders, files with these endings are not taken for films but counted; a file named outright is always tried."""


@dataclass(frozen=True)
class Inputs:
    """Files to read, in order, and what was left aside in folders."""

    files: list[Path]
    left_out: list[Path]


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        read: films with a reading, those of an earlier run included.
        resumed: how many of them were there already.
        refused: file -> reason.
    """

    read: int = 0
    resumed: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def find_inputs(inputs: Iterable[str | Path]) -> Inputs:
    """Files named by paths, folders (searched to any depth, hidden files left alone) and glob patterns.

    Raises:
        ValueError: naming every input that is nothing and matches nothing.
    """
    files: dict[Path, None] = {}
    left_out: list[Path] = []
    nothing: list[str] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            for found in sorted(p for p in path.rglob("*") if p.is_file()):
                if any(part.startswith(".") for part in found.relative_to(path).parts):
                    continue
                if found.suffix.lower() in NOT_IMAGES:
                    left_out.append(found)
                else:
                    files[found] = None
        elif path.exists():
            files[path] = None
        elif matches := sorted(glob.glob(str(item), recursive=True)):
            inner = find_inputs(matches)
            files.update(dict.fromkeys(inner.files))
            left_out += inner.left_out
        else:
            nothing.append(str(item))
    if nothing:
        raise ValueError(f"no such file, folder or match: {', '.join(nothing)}")
    return Inputs(list(files), left_out)


class OutputFolder:
    """``predictions.jsonl``, ``run.json`` and ``overlays/`` of one run; lines are whole or absent after any crash."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Begin, or go on with, a run.

        Raises:
            ValueError: when the folder holds a run of another model or other sentences.
            OSError: when it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines = folder / "predictions.jsonl"
        note = folder / "run.json"
        if note.exists():
            earlier = json.loads(note.read_text(encoding="utf-8"))
            changed = sorted(k for k in identity if k != "version" and earlier.get(k) != identity[k])
            if changed:
                raise ValueError(
                    f"{folder}: holds a run with other {' and '.join(changed)}; name another output folder"
                )
        elif self.lines.exists():
            raise ValueError(f"{folder}: holds predictions.jsonl of an unknown run; name another output folder")
        note.write_text(json.dumps(identity, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self.done = self._whole_lines()

    def _whole_lines(self) -> set[str]:
        """Images with a whole reading. Error lines and a torn last line leave the file, to be tried again."""
        if not self.lines.exists():
            return set()
        kept: list[bytes] = []
        done: set[str] = set()
        for line in self.lines.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            record = json.loads(line)
            if "error" not in record:
                kept.append(line)
                done.add(record["image"])
        temporary = self.lines.with_suffix(".partial")
        temporary.write_bytes(b"".join(kept))
        os.replace(temporary, self.lines)
        return done

    def overlay_folder(self, source: str) -> Path:
        """Where a film's overlays go: its name, and a few letters of its path's hash so that no two films share it."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem)[:80]
        return self.folder / "overlays" / f"{stem}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"


def predict_files(
    model: RadZero,
    files: Sequence[Path],
    sentences: Sequence[str],
    output: OutputFolder,
    *,
    overlays: bool = True,
    threshold: float = 0.5,
    batch_size: int = 8,
    on_file: Callable[[str, Reading | None, str | None], None] = lambda source, reading, error: None,
) -> Outcome:
    """Read files into an output folder, one JSON line each, in their order.

    A file that cannot be read becomes a line with ``error`` and does not stop the rest.

    Args:
        model: who reads.
        files: what to read; those that the folder has already are passed over.
        sentences: asked of every film.
        output: where lines and overlays go.
        overlays: whether to draw them.
        threshold: of the contour.
        batch_size: films per pass through the network.
        on_file: called for every file with its reading, or None and the reason; both None for one done earlier.
    """
    outcome = Outcome()
    pending: list[Radiograph] = []
    with output.lines.open("a", encoding="utf-8", errors="backslashreplace") as lines:  # names that are no UTF-8

        def write(record: dict[str, Any]) -> None:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            lines.flush()

        def flush() -> None:
            for reading in model.stream(pending, sentences, batch_size=batch_size) if pending else ():
                record = reading.to_dict()
                if overlays:
                    record["overlays"] = _save_overlays(reading, output, threshold)
                write(record)
                outcome.read += 1
                on_file(reading.source, reading, None)
            pending.clear()

        for path in files:
            source = str(path)
            if source in output.done:
                outcome.read += 1
                outcome.resumed += 1
                on_file(source, None, None)
                continue
            try:
                film = read_radiograph(path)
            except RadiographError as error:
                flush()
                write({"image": source, "model": model.name, "error": str(error), "reason": error.reason.value})
                outcome.refused[source] = str(error)
                on_file(source, None, str(error))
                continue
            pending.append(film)
            if len(pending) == batch_size:
                flush()
        flush()
    return outcome


def run_identity(model: RadZero, sha256: str, sentences: Sequence[str], threshold: float) -> dict[str, Any]:
    """What makes two runs the same run."""
    return {
        "model": model.name,
        "sha256": sha256,
        "sentences": list(sentences),
        "threshold": threshold,
        "version": __version__,
    }


def _save_overlays(reading: Reading, output: OutputFolder, threshold: float) -> list[str]:
    folder = output.overlay_folder(reading.source)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, sentence in enumerate(reading.sentences):
        slug = re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")[:60]
        path = folder / f"{index:02d}-{slug}.png"
        reading.overlay(index, threshold=threshold).save(path)
        written.append(path.relative_to(output.folder).as_posix())
    return written
