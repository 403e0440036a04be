"""Reading many files: find them, read what can be read, say why the rest cannot, and go on where a run stopped."""

import glob
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO
from unicodedata import normalize

from radzero import __version__
from radzero.answer import PNG_LEVEL, Reading
from radzero.files import write_whole
from radzero.images import Radiograph, RadiographError, ReadLimits, read_radiograph
from radzero.processes import process_pool
from radzero.results import ResultError, make_possible_results, read_header

if TYPE_CHECKING:
    from radzero.reading import RadZero

NOT_IMAGES = frozenset(
    {
        *(".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".rst", ".html", ".xml", ".yaml", ".yml", ".log"),
        *(".pdf", ".doc", ".docx", ".xls", ".xlsx", ".zip", ".gz", ".tgz", ".tar", ".7z", ".py", ".sh"),
        *(".parquet", ".npy", ".npz", ".pkl", ".pt", ".safetensors"),
    }
)
"""In folders and glob matches, files with these endings are not taken for films but counted; a file named outright is
always tried."""
NOT_IMAGE_NAMES = frozenset(("dicomdir", "license", "readme", "lockfile", "version"))
"""Names of files without an ending that lie on hospital disks beside the films."""
_NAME_BYTES = 240
"""Of a film's name in its folder's: file systems take names of 255 bytes."""


@dataclass(frozen=True)
class Inputs:
    """What to read.

    Attributes:
        files: in order; those that are not there, links to nothing too, are among them, to be refused by name.
        left_out: files of other kinds in folders, and what ``radzero predict`` wrote there.
        unsearched: folders that could not be looked into, and why.
    """

    files: list[Path]
    left_out: list[Path]
    unsearched: dict[Path, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        read: films with a reading, those of an earlier run included.
        resumed: how many of them were there already.
        refused: file -> reason.
        without_results: file that was read but can have no DICOM result -> reason.
    """

    read: int = 0
    resumed: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    without_results: dict[str, str] = field(default_factory=dict)


def find_inputs(inputs: Iterable[str | Path], *, exclude: Path | None = None) -> Inputs:
    """Files named by paths, folders (searched to any depth, hidden files left alone) and glob patterns.

    In folders and among matches a file is taken once, however many links lead to it, and the output folders of earlier
    runs are left out.

    Args:
        inputs: paths and patterns.
        exclude: a folder that is not searched, such as the output when it lies inside an input.

    Raises:
        ValueError: naming the inputs, when all of them are nothing and match nothing.
    """
    shut = exclude.resolve() if exclude else None
    files: dict[Path, None] = {}
    left_out: dict[Path, None] = {}
    unsearched: dict[Path, str] = {}
    nothing: list[str] = []
    seen: set[str] = set()

    def sort_in(found: Path) -> None:
        real = os.path.realpath(found)
        if real in seen or (shut and shut in Path(real).parents):
            return
        seen.add(real)
        named = found.suffix.lower() in NOT_IMAGES or found.name.lower() in NOT_IMAGE_NAMES
        (left_out if named else files)[found] = None

    def refuse(error: OSError) -> None:
        unsearched[Path(error.filename)] = error.strerror or str(error)

    def search(folder: Path) -> None:
        found: list[Path] = []
        searched: set[str] = set()
        for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
            if (real := os.path.realpath(place)) in searched:  # a link back
                folders[:] = []
                continue
            searched.add(real)
            own = "run.json" in names and "predictions.jsonl" in names
            folders[:] = [] if own else [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(place, name)
                if own:
                    if shut != Path(place).resolve():
                        left_out[path] = None
                elif not name.startswith(".") and (path.is_file() or path.is_symlink()):
                    found.append(path)
        for path in sorted(found):
            sort_in(path)

    for item in inputs:
        path = Path(item)
        if path.is_dir():
            search(path)
        elif path.exists() or path.is_symlink():
            seen.add(os.path.realpath(path))
            files[path] = None
        elif matches := sorted(glob.glob(str(item), recursive=True)):
            for match in map(Path, matches):
                if match.is_dir():
                    search(match)
                else:
                    sort_in(match)
        else:
            nothing.append(str(item))
    if nothing and not files:
        raise ValueError(f"no such file, folder or match: {', '.join(nothing)}")
    return Inputs([*files, *map(Path, nothing)], list(left_out), unsearched)


class _Line(NamedTuple):
    """What a line of predictions.jsonl says: of which film, whether it failed, and the files written beside it."""

    source: str
    failed: bool
    drawn: list[str]


class OutputFolder:
    """``predictions.jsonl``, ``run.json`` and ``overlays/`` of one run; lines are whole or absent after any crash.

    Attributes:
        folder: where all is.
        lines: path of ``predictions.jsonl``.
        done: files of this run that have a reading there.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], files: Sequence[Path] = ()) -> None:
        """Begin, or go on with, a run. One that was interrupted before its first line binds nobody.

        Args:
            folder: made if needed.
            identity: what makes two runs the same; see :func:`run_identity`.
            files: of this run. Their error lines of an earlier run are taken away, to be tried again, and so are the
                readings of files that have changed on disk since, or are others of the same relative name.

        Raises:
            ValueError: when the folder holds a run of another model or other sentences, or a damaged one.
            OSError: when it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines = folder / "predictions.jsonl"
        self._order = {str(path): k for k, path in enumerate(files)}
        note = folder / "run.json"
        stamps = {str(path): _stamp(path) for path in files}
        earlier: dict[str, Any] = {}
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
        else:
            earlier_stamps = {}
        stale = {source for source, stamp in stamps.items() if earlier_stamps.get(source, stamp) != stamp}
        again = {stamp[0] for stamp in stamps.values()}  # films that an earlier run called by another path
        stale |= {source for source, stamp in earlier_stamps.items() if source not in stamps and stamp[0] in again}
        earlier_stamps = {source: stamp for source, stamp in earlier_stamps.items() if source not in stale}
        self.done = self._keep_whole_lines(stale)
        content = {**identity, "files": {**earlier_stamps, **stamps}}
        write_whole(note, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))

    def _has_lines(self) -> bool:
        return self.lines.exists() and b"\n" in self.lines.read_bytes()

    def _keep_whole_lines(self, stale: set[str]) -> set[str]:
        """Takes away what is to be done again, and a torn last line; gives back the files that have a reading."""
        if not self.lines.exists():
            return set()
        kept: list[bytes] = []
        done: set[str] = set()
        for number, line in enumerate(self.lines.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                continue
            source, failed, drawn = self._parse(line, number)
            if source in stale or (source in self._order and (failed or not self._all_there(drawn))):
                continue
            kept.append(line)
            if not failed:
                done.add(source)
        write_whole(self.lines, b"".join(kept))
        return done

    def _all_there(self, drawn: list[str]) -> bool:
        """Whether the overlays and results of a line are still on disk."""
        return all((self.folder / name).is_file() for name in drawn)

    def _parse(self, line: bytes, number: int) -> _Line:
        try:
            record = json.loads(line)
            return _Line(
                str(record["image"]), "error" in record, [*record.get("overlays", ()), *record.get("results", ())]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.lines}: line {number} is damaged ({type(error).__name__}: {error}); name another output folder"
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """The lines, parsed."""
        return [json.loads(line) for line in self.lines.read_bytes().splitlines()]

    def sort_lines(self) -> None:
        """Puts the lines in the order of this run's files, those of other runs first, as if none was tried twice."""
        lines = self.lines.read_bytes().splitlines(keepends=True)
        ranked = sorted(range(len(lines)), key=lambda k: (self._order.get(self._parse(lines[k], k + 1).source, -1), k))
        if ranked != list(range(len(lines))):
            write_whole(self.lines, b"".join(lines[k] for k in ranked))


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what tells a run from an earlier one: "with overlays, now without"; see :func:`run_identity`."""
    keys = sorted({*earlier, *now} - {"version", "files"})
    changed = [key for key in keys if earlier.get(key) != now.get(key)]
    if "model" in changed:
        changed = [key for key in changed if key != "sha256"]  # is another as well, of course
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


def _stamp(path: Path) -> list[Any]:
    """What tells a file from another of the same name, and from itself after a change."""
    try:
        status = path.stat()
    except OSError:
        return [str(path.absolute())]
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def usual_workers(films: int) -> int:
    """Worker processes for a number of films: one per core, or none for what is done before they have started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16) if films >= 16 and cores > 1 else 0


def predict_files(
    model: "RadZero",
    files: Sequence[Path],
    sentences: Sequence[str],
    output: OutputFolder,
    *,
    overlays: bool = True,
    threshold: float = 0.5,
    results: Sequence[str] = (),
    batch_size: int = 8,
    workers: int = 0,
    limits: ReadLimits | None = None,
    on_file: Callable[[str, Reading | None, str | None], None] = lambda source, reading, error: None,
) -> Outcome:
    """Read files into an output folder, one JSON line each, in their order.

    A file that cannot be read, or that the model fails on, becomes a line with ``error`` and does not stop the rest.
    Batches are the same whether a run is continued or not, so that its bytes are the same too.

    Args:
        model: who reads.
        files: what to read; those that the folder has already are passed over.
        sentences: asked of every film.
        output: where lines and overlays go.
        overlays: whether to draw them.
        threshold: of the contour.
        results: kinds of DICOM objects to write of DICOM films (:class:`radzero.results.ResultKind`); a film that can
            have none says why in its line's ``results_refused``.
        batch_size: films per pass through the network.
        workers: processes that read films ahead and draw; 0 does it all here. They change nothing that is written.
        limits: of file and film sizes.
        on_file: called for every file with its reading, or None and the reason; both None for one done earlier.

    Raises:
        OSError: when the folder cannot be written.
        ChildProcessError: when a worker was killed.
    """
    batches = [[str(path) for path in files[k : k + batch_size]] for k in range(0, len(files), batch_size)]
    ahead = -(-workers // batch_size)  # batches, so that every worker has a film to read
    finish = partial(_finish, folder=output.folder, overlays=overlays, threshold=threshold, results=tuple(results))
    outcome = Outcome()
    with (
        output.lines.open("a", encoding="utf-8", errors="backslashreplace") as lines,  # names that are no UTF-8
        _hands(workers) as submit,
    ):
        written = _Lines(lines, outcome, on_file, at_once=2 * batch_size + workers)
        reads: deque[list[Future[Radiograph | RadiographError]]] = deque()
        for position, batch in enumerate(batches):
            while position + ahead >= (begun := position + len(reads)) and begun < len(batches):
                whole = all(source in output.done for source in batches[begun])
                reads.append([] if whole else [submit(_read, source, limits) for source in batches[begun]])
            films = dict(zip(batch, (read.result() for read in reads.popleft()), strict=False))
            answers = _answer(model, films, sentences) if films else {}
            for source in batch:
                if source in output.done:
                    written.skip(source)
                elif isinstance(answer := answers[source], Reading):
                    written.put(source, answer, submit(finish, answer))
                else:
                    reason = answer.reason.value if isinstance(answer, RadiographError) else "model"
                    written.refuse(source, model.name, answer, reason)
        written.close()
    output.sort_lines()
    return outcome


class _Lines:
    """Lines of predictions.jsonl in the order of the films, though films are drawn in any."""

    def __init__(
        self,
        file: TextIO,
        outcome: Outcome,
        on_file: Callable[[str, Reading | None, str | None], None],
        *,
        at_once: int,
    ) -> None:
        self._file, self._outcome, self._on_file, self._at_once = file, outcome, on_file, at_once
        self._waiting: deque[tuple[Callable[[], None], Future[Any] | None]] = deque()

    def skip(self, source: str) -> None:
        """A film that an earlier run has done."""

        def work() -> None:
            self._outcome.read += 1
            self._outcome.resumed += 1
            self._on_file(source, None, None)

        self._put(work, None)

    def refuse(self, source: str, model: str, error: Exception, reason: str) -> None:
        """A film without a reading."""

        def work() -> None:
            self._write({"image": source, "model": model, "error": str(error), "reason": reason})
            self._outcome.refused[source] = str(error)
            self._on_file(source, None, str(error))

        self._put(work, None)

    def put(self, source: str, reading: Reading, finished: "Future[_Finished]") -> None:
        """A film with a reading, whose line waits for its pictures."""

        def work() -> None:
            record, without = finished.result()
            self._write(record)
            self._outcome.read += 1
            if without:
                self._outcome.without_results[source] = without
            self._on_file(source, reading, None)

        self._put(work, finished)

    def close(self) -> None:
        """Write all that is still waited for."""
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


# -- what worker processes do -------------------------------------------------------------------------


class _Finished(NamedTuple):
    """A film's line, when its pictures are written, and why it has no or not all DICOM results, or ""."""

    record: dict[str, Any]
    without: str


@contextmanager
def _hands(workers: int) -> Iterator[Callable[..., Future[Any]]]:
    """What takes work besides the model: other processes, or this one, at once."""
    if workers == 0:
        yield _at_once
        return
    try:
        with process_pool(workers) as pool:
            yield pool.submit
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of {workers} worker processes was killed, most often for lack of memory; give fewer --workers"
        ) from error


def _at_once(work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    done: Future[Any] = Future()
    done.set_result(work(*arguments))
    return done


def _read(source: str, limits: ReadLimits | None) -> Radiograph | RadiographError:
    try:
        return read_radiograph(Path(source), limits=limits)
    except RadiographError as error:
        return error


def _finish(reading: Reading, *, folder: Path, overlays: bool, threshold: float, results: tuple[str, ...]) -> _Finished:
    record, without = reading.to_dict(), ""
    if overlays and reading.similarity is not None:  # LiT and CLIP have no maps
        record["overlays"] = _save_overlays(reading, folder, threshold)
    if results:
        try:
            record["results"], without = _save_results(reading, folder, results, threshold)
        except ResultError as error:
            without = str(error)
        if without:
            record["results_refused"] = without
    return _Finished(record, without)


# -- the model's part ---------------------------------------------------------------------------------


def _answer(
    model: "RadZero", films: Mapping[str, Radiograph | RadiographError], sentences: Sequence[str]
) -> dict[str, Reading | Exception]:
    """A reading or the reason against it of every film; when the batch fails, each film is tried alone."""
    answers: dict[str, Reading | Exception] = {s: film for s, film in films.items() if isinstance(film, Exception)}
    read = {source: film for source, film in films.items() if isinstance(film, Radiograph)}
    try:
        return answers | dict(zip(read, model.predict(read.values(), sentences, batch_size=len(films)), strict=True))
    except (RuntimeError, ValueError, MemoryError):  # of one film, or of all together: see which
        for source, film in read.items():
            try:
                answers[source] = model.predict(film, sentences)[0]
            except (RuntimeError, ValueError, MemoryError) as error:
                answers[source] = type(error)(f"{source}: the model failed on it: {error}")
    return answers


def run_identity(
    model: "RadZero",
    sentences: Sequence[str],
    *,
    threshold: float,
    overlays: bool,
    precision: str,
    results: Sequence[str] = (),
) -> dict[str, Any]:
    """What makes two runs the same run."""
    return {
        "model": model.name,
        "sha256": model.sha256,
        "dtype": str(model.dtype).removeprefix("torch."),
        "precision": precision,
        "sentences": list(sentences),
        "threshold": threshold,
        "overlays": overlays,
        **({"results": list(results)} if results else {}),
        "version": __version__,
    }


def _film_folder(kind: Path, source: str) -> Path:
    """Where a film's files go: its name, and a few letters of its path's hash, so that no two films share it."""
    stem = re.sub(r"[^\w.-]+", "-", normalize("NFC", Path(source).stem))[:80]
    stem = stem.encode()[:_NAME_BYTES].decode(errors="ignore")
    folder = kind / f"{stem}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save_results(reading: Reading, output: Path, kinds: Sequence[str], threshold: float) -> tuple[list[str], str]:
    """Paths of what was written, and why there is nothing of some kinds, or ""."""
    header = read_header(reading.source)
    folder = _film_folder(output / "dicom", reading.source)
    written = []
    made = make_possible_results(reading, header, kinds, threshold=threshold)
    for result in made.results:
        kind = result.file_meta.MediaStorageSOPClassUID.keyword.removesuffix("Storage")
        path = folder / f"{result.SeriesNumber}-{result.InstanceNumber:03d}-{kind}.dcm"
        result.save_as(path, enforce_file_format=True)
        written.append(path.relative_to(output).as_posix())
    return written, "; ".join(made.left_out.values())


def _save_overlays(reading: Reading, output: Path, threshold: float) -> list[str]:
    folder = _film_folder(output / "overlays", reading.source)
    written = []
    digits = max(2, len(str(len(reading.sentences) - 1)))
    for index, sentence in enumerate(reading.sentences):
        slug = re.sub(r"[\W_]+", "-", normalize("NFC", sentence.lower())).strip("-")[:60]
        path = folder / f"{index:0{digits}d}-{slug}.png"
        reading.overlay(index, threshold=threshold).save(path, compress_level=PNG_LEVEL)
        written.append(path.relative_to(output).as_posix())
    return written
